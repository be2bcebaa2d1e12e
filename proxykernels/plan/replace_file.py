"""Writes a file as a whole: whoever reads it meanwhile, or finds it after a failure, has the one that was there."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def replace(path: str | os.PathLike, content: bytes) -> None:
    """Write ``content`` to a file beside the one that ``path`` names, or leads to, and put it in its place.

    The mode stays that of the file that was there; of a new one it is what the umask leaves.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    target = Path(os.path.realpath(path))
    beside = target.parent / f".{secrets.token_hex(8)}.tmp"  # not longer than the target's name may be
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)  # a device or a pipe stays one; a folder is refused
            return
        with open(beside, "xb") as file:
            file.write(content)
        if target.exists():
            os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
        os.replace(beside, target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
        raise
