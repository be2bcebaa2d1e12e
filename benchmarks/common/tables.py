"""Tables and plots that are never half written: beside their place first, then renamed over it."""

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from common import checkout


def check_out(folder: Path, tables: Mapping[str, Iterable[str]] | None = None, option: str = "--out") -> None:
    """Before any work: ``folder`` is there or made, and files can be written to it.

    Args:
        tables: names of tables in ``folder`` that rows will be added to, and the columns that they must have.
        option: the option that names ``folder``.

    Raises:
        OSError: it cannot be written. ValueError: a table has other columns, or is damaged.
    """
    place = checkout.place(folder / "any").parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, suffix=".tmp") as file:
            file.write(b"written")
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{option} {folder} cannot be written ({reason}); give another {option}") from error
    for name, columns in (tables or {}).items():
        check_table(folder / name, columns)


def check_table(path: Path, columns: Iterable[str]) -> None:
    """ValueError if rows cannot be added to the table ``path``, because it has other columns."""
    found, _ = _read(path, columns)
    if found and found != list(columns):
        others = ", ".join(name for name in found if name not in columns) or "their order"
        raise ValueError(f"{newest(path)} has other columns than this version writes ({others}); move it away")


def read_csv(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a table; none if there is no such file.

    Raises:
        ValueError: it lacks some of ``columns``, or is damaged.
    """
    return _read(path, columns)[1]


def _read(path: Path, columns: Iterable[str]) -> tuple[list[str], list[dict[str, str]]]:
    """The first line of a table, and the rows below it."""
    path = newest(path)
    if not path.is_file():
        return [], []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table ({error}); move it away") from error
    if lacking := [name for name in columns if name not in found]:
        raise ValueError(f"{path} has other columns than this version writes ({lacking[0]} is missing); move it away")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"{path} is damaged (row {number} has not {len(found)} cells); move it away")
    return found, rows


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows in place of whatever ``path`` held; makes its folder. Those of a changed tree: see checkout.py."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    publish(path, text.getvalue().encode())


def save_figure(path: Path, figure) -> None:
    """Save a matplotlib figure as PNG; makes its folder."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=240)
    publish(path, picture.getvalue())


def newest(path: Path) -> Path:
    """The file that a command goes on from: of a changed tree its own, if it has written one."""
    place = checkout.place(path)
    return place if place.is_file() else path


def publish(path: Path, content: bytes) -> None:
    """Write a table or a picture, or where checkout.py says that it belongs; makes the folder."""
    place = checkout.place(path)
    if place != path:
        checkout.say_scratch()
    place.parent.mkdir(parents=True, exist_ok=True)
    replace(place, content)


def replace(path: Path, content: bytes) -> None:
    """Write beside ``path`` and rename over it, which is atomic.

    Raises:
        OSError: the file cannot be written; what was there is intact.
    """
    handle, temporary = tempfile.mkstemp(".tmp", path.name + "-", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # only the owner can read mkstemp's files
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(f"{path} could not be written ({error}); what was there is intact") from error
        raise
