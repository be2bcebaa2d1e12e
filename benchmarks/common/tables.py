"""Tables and plots that are never half written: beside their place first, then renamed over it."""

import csv
import io
import os
import tempfile
from pathlib import Path

from common import checkout


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none if there is no such file."""
    path = newest(path)
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
    figure.savefig(picture, format="png", dpi=120)
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
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(f"{path} could not be written ({error}); what was there is intact") from error
        raise
