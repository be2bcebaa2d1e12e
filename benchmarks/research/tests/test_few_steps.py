"""evaluate.py few-steps: what is trained, what its neurons do, and the table that it leaves."""

import csv
import shutil

import pytest
import torch
from accuracy import few_steps
from accuracy import few_steps_table as table
from common import data
from equality import equal
from torch import nn

import proxykernels as pk


def test_levels_are_rounded_to_the_nearest_and_gradients_pass():
    relu = table.ClippedReLU(2.0, 4)
    x = torch.tensor([-1.0, 0.2, 0.3, 1.1, 1.9, 3.0], requires_grad=True)
    y = relu(x)
    assert y.tolist() == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert relu.threshold.grad == pytest.approx(
        1.0 + (y - x)[1:5].sum().item() / 2
    )  # what is clipped, and the rounding
    plain = table.ClippedReLU(2.0, None)
    torch.testing.assert_close(plain(x), x.clamp(0, 2))


def test_signed_neurons_take_spikes_back(generator):
    ann = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5))
    images = torch.rand(20, 1, 8, 8, generator=generator)
    with torch.no_grad():
        for parameter in ann.parameters():
            parameter.abs_()
    net = pk.convert(ann, images, v_init=0.5)  # nothing falls: the same as neurons without a sign
    counts = table.signed_counts(net, images, 16)
    assert equal(counts, pk.simulate(net, images, 16).count().float()) and counts.max() > 8
    neuron = nn.Module()
    neuron.linear = pk.FusedIFLinear(1, 1, v_threshold=1.0, v_reset=None, v_init=3.0)
    nn.init.constant_(neuron.linear.weight, -1.0)
    nn.init.zeros_(neuron.linear.bias)
    counts = [table.signed_counts(neuron, torch.tensor([[1.5], [0.0]]), T).flatten().tolist() for T in (1, 2, 3, 5)]
    assert counts == [[1.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 3.0]]  # one back, and none that was never fired


@pytest.mark.slow
def test_every_remedy_has_its_rows(tmp_path, monkeypatch):
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    monkeypatch.setattr(table, "STEPS", (4, 16))
    common = ["--images", "60", "--root", str(tmp_path), "--out", str(tmp_path)]
    few_steps.main(["--net", "resnet20", *common])
    deep = list(csv.DictReader((tmp_path / "few_steps_resnet20.csv").open()))
    assert [(row["converted"], row["T"]) for row in deep] == [(s, T) for s in table.STARTS for T in ("4", "16")]
    assert all(row["trained"] == "from random weights" and row["epochs"] == "1" for row in deep)
    few_steps.main(common)
    rows = list(csv.DictReader((tmp_path / "few_steps.csv").open()))
    assert len(rows) == 2 * (2 + 2 * (1 + 1 + len(table.TUNED)))
    assert len({(row["trained"], row["converted"], row["T"]) for row in rows}) == len(rows)
    assert all(0.5 < float(row["counts"]) < float(row["relu"]) + 0.1 for row in rows if row["T"] == "16")
