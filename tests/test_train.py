"""The shipped weights, and the script that made them."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # its scripts import each other by plain names

import accuracy  # noqa: E402
import data  # noqa: E402
import nets  # noqa: E402
import train  # noqa: E402


def test_a_tie_and_silence_are_wrong():
    counts = torch.tensor([[3, 1, 0], [2, 2, 0], [0, 0, 0], [1, 2, 3]], dtype=torch.int32)
    assert accuracy.strict_accuracy(counts, torch.tensor([0, 0, 0, 0])) == 0.25
    assert accuracy.strict_accuracy(counts, torch.tensor([1, 1, 1, 2])) == 0.25


def test_shipped_net():
    """On the 256 images shipped: within three standard deviations of the accuracy recorded for all 10,000."""
    path = nets.WEIGHTS / "small.safetensors"
    assert path.stat().st_size <= 2_000_000
    with safe_open(path, "pt") as file:
        recorded = float(file.metadata()["test_accuracy"])
    assert recorded >= 0.88
    net, trained = nets.load("small", v_reset=0.0)
    measured, rates = accuracy.evaluate(net, *data.fashion_mnist_sample(), T=32)
    assert trained and abs(measured - recorded) < 3 * (recorded * (1 - recorded) / 256) ** 0.5
    assert all(0.01 < rate < 0.15 for rate in rates.values())


@pytest.fixture
def small_data(tmp_path) -> Path:
    """The shipped images as training and as test set."""
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    return tmp_path


def test_training_writes_weights_that_load(small_data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "weights"
    options = f"--warmup 1 --epochs 1 --T 4 --batch 64 --data {small_data} --out {out}"
    monkeypatch.setattr(sys, "argv", ["train.py", *options.split()])
    train.main()
    monkeypatch.setattr(nets, "WEIGHTS", out)
    net, trained = nets.load("small", v_reset=0.0)
    assert trained and [path.name for path in out.iterdir()] == ["small.safetensors"]
    measured, _ = accuracy.evaluate(net, *data.fashion_mnist_sample(), T=4)
    assert f"{measured:.2%}" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops(small_data):
    net = nets.small()
    images, labels = data.fashion_mnist("train", small_data)
    loader = [(images[:8], labels[:8])]
    with pytest.raises(SystemExit, match="the loss became nan in warm-up epoch 1; lower --lr"):
        train.train("warm-up", lambda x: torch.full((len(x), 10), torch.nan), net, loader, 1, 1e-3)
