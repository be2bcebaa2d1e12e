"""Training runs for tests: train.py on the shipped images, with a quick network."""

import shutil
from pathlib import Path

import pytest
import torch
import train
from common import data, names, nets
from training import checkpoint as train_checkpoint

RESEARCH = Path(__file__).parents[1]
PLACES = [str(RESEARCH), str(RESEARCH.parent)]  # of what a process of its own imports


def tiny(v_threshold=1.0, v_reset=0.0, **options):
    """A network with everything in it that the big ones have, and quick."""
    return nets.build("4C3-P4-8C3-P2-24", v_threshold, v_reset, **nets.GRAY | options)


@pytest.fixture(name="run")
def run_fixture(tmp_path, monkeypatch):
    """train.py on the shipped images, as training and as test set: run("--epochs 2 ...") gives the folder it wrote."""
    monkeypatch.setitem(nets.TRAINABLE, "tiny", tiny)
    monkeypatch.setattr(names, "TRAINABLE", list(nets.TRAINABLE))
    root = tmp_path / "data"
    root.mkdir()
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, root / name.name)
        shutil.copy(name, root / name.name.replace("t10k", "train"))

    def call(options: str, out: str = "out") -> Path:
        always = f"--preset plain --net tiny --T 4 --batch 40 --validation 56 --root {root} --out {tmp_path / out}"
        train.main(f"{always} {options}".split())
        return tmp_path / out

    call.root = root
    return call


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """What a run ended with: weights, statistics and moments."""
    return flat(train_checkpoint.read(folder))


def flat(state: dict | list, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors in nested dictionaries and lists, by their paths."""
    found = {}
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, torch.Tensor):
            found[f"{path}{key}"] = value
        elif isinstance(value, dict | list):
            found |= flat(value, f"{path}{key}.")
    return found


def assert_same(folder: Path, other: Path) -> None:
    ours, theirs = tensors(folder), tensors(other)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    differing = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not differing
