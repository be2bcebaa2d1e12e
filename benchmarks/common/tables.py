"""Tables and plots that are never half written: beside their place first, then renamed over it."""

import csv
import io
import os
import tempfile
from pathlib import Path


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write rows in place of whatever ``path`` held; makes its folder."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, text.getvalue().encode())


def save_figure(path: Path, figure) -> None:
    """Save a matplotlib figure as PNG; makes its folder."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, picture.getvalue())


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
