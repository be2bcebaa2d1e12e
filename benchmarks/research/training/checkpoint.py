"""What lets a stopped run go on: a checkpoint that is replaced as a whole, a log, and signals that wait for both."""

import json
import pickle
import signal
import sys
from pathlib import Path

import torch
from common import tables
from common.nets import FORMER_NAMES
from torch import nn
from tqdm import tqdm

FILE = "checkpoint.pt"
COLUMNS = ["stage", "epoch", "step", "loss", "snn", "ann", "mean_rate", "cpu_seconds", "seconds", "peak_mb"]


def save(
    folder: Path,
    position: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: nn.Module | None = None,
) -> None:
    """Write a checkpoint beside its place, then rename it over the last one.

    Args:
        position: the place in the run that the tensors belong to, and the options of the run under "options".
        average: that of the model's weights, if there is one.

    Raises:
        OSError: the folder cannot be written; the checkpoint that was there is intact.
    """
    parts = {"model": model, "optimizer": optimizer, "average": average}
    state = {name: part.state_dict() for name, part in parts.items() if part is not None}
    path, temporary = folder / FILE, folder / f"{FILE}.tmp"
    try:
        torch.save({"position": json.loads(json.dumps(position)), **state}, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError when the disk is full
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error}); the last checkpoint is intact") from error


def read(folder: Path) -> dict:
    """The checkpoint in ``folder``: "position", and the states of "model", "optimizer" and "average".

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint in {folder} ({FILE}); start without --resume")
    try:
        return torch.load(path, "cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the checkpoint in {folder} is damaged ({reason}); remove it and start again") from error


def restore(checkpoint: dict, **parts: nn.Module | None) -> None:
    """Load the states of the ``parts`` by their names; ValueError if they are of another network."""
    for name, part in parts.items():
        if part is None:
            continue
        try:
            part.load_state_dict(checkpoint[name])
        except RuntimeError as error:
            raise ValueError(f"the checkpoint is of another network: {str(error).splitlines()[1].strip()}") from error


def same_options(saved: dict, given: dict) -> None:
    """ValueError if a run is to be resumed with options that would make another run of it."""
    saved = saved | {"net": FORMER_NAMES.get(saved.get("net", ""), saved.get("net"))}
    changed = [key for key in given if json.loads(json.dumps(given[key])) != saved.get(key)]
    if changed:
        pairs = ", ".join(f"--{key.replace('_', '-')} {saved.get(key)}" for key in changed)
        raise ValueError(f"the checkpoint was written with {pairs}; give the same to --resume, or another --out")


class Log:
    """A CSV row at the end of each epoch, in ``folder/log.csv``.

    ``last`` is the last step that the run keeps: rows of later steps are removed.
    """

    def __init__(self, folder: Path, last: int):
        self.path = folder / "log.csv"
        try:
            self.rows = [row for row in tables.read_csv(self.path) if int(row["step"]) <= last]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} is not a log of train.py ({error!r}); remove it") from error

    def add(self, row: dict) -> None:
        """Write one epoch's figures; ``step`` counts optimizer steps from the start of the run."""
        self.rows.append({key: row.get(key, "") for key in COLUMNS})
        tables.write_csv(self.path, COLUMNS, self.rows)


class Termination:
    """SIGTERM or Ctrl-C, within a ``with``.

    It ends the program at once where that is safe, and otherwise waits to be asked about. A second Ctrl-C does not
    wait. ``how``: to go on, said at the end.
    """

    def __init__(self, how: str = "--resume goes on from here"):
        self.came, self.safe, self.how = 0, False, how

    def __enter__(self) -> "Termination":
        self.before = {number: signal.signal(number, self.take) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def take(self, number: int, _) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = number
        if self.safe:
            self.end()

    def end(self) -> None:
        """End the program, with the exit status by which a shell knows the signal."""
        tqdm.write(f"stopped; {self.how}", file=sys.stderr)
        raise SystemExit(128 + (self.came or signal.SIGTERM))
