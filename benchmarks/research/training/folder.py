"""The folder of a training run: one run at a time, writable, and without what a killed run left behind."""

import fcntl
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

from training import checkpoint

LOCK = ".lock"  # held, not merely there: the system lets go of it when the process ends, however it ends


@contextmanager
def claim(folder: Path, resume: bool):
    """Make ``folder`` this run's own, within a ``with``.

    Raises:
        OSError: it cannot be written, another run writes there, or it holds a run, or with ``resume`` none.
    """
    if resume:
        checkpoint.find(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise OSError(f"--out {folder} cannot be written ({error}); give another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another run writes to --out {folder}; wait for its end, or give another --out") from error
        if not resume and (folder / checkpoint.STATE).exists():
            raise OSError(f"--out {folder} holds a run already; go on with --resume, or give another --out")
        try:
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp") as file:
                file.write(b"written")
        except OSError as error:
            raise OSError(f"--out {folder} cannot be written ({error}); give another --out") from error
        yield


def clean(folder: Path) -> None:
    """Remove what a run that was killed while it wrote left behind: files that no checkpoint names."""
    state = folder / checkpoint.STATE
    named = json.loads(state.read_text())["tensors"] if state.exists() else None
    for path in [*folder.glob("*.tmp"), *folder.glob("checkpoint-*.safetensors")]:
        if path.name != named:
            path.unlink()
