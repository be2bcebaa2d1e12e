"""The benchmarks of conversion and early exit, from end to end on the shipped images."""

import csv
from pathlib import Path

import anytime
import pytest
import torch
import torchvision_nets
from common import data

import proxykernels as pk


def rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open()))


@pytest.mark.slow
def test_torchvision_nets(tmp_path, capsys):
    arguments = "--nets resnet18 --batch 1 --T 8 --longest 16 --repeats 1".split()
    assert torchvision_nets.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "all counts equal the step loop's" in printed and "times as long" in printed
    (speed,) = rows(tmp_path / "torchvision_speed.csv")
    assert speed["net"] == "resnet18" and float(speed["ms_an_image"]) > 0
    rates = rows(tmp_path / "torchvision_rates.csv")
    assert [(row["method"], row["T"]) for row in rates] == [
        ("max", "8"), ("max", "16"), ("percentile", "8"), ("percentile", "16"),
    ]  # fmt: skip
    assert (tmp_path / "torchvision_rates.png").stat().st_size > 10_000


def test_another_count_than_the_step_loops_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torchvision_nets, "output_counts", lambda net, images, T: torch.ones(len(images), 10))
    arguments = "--nets resnet18 --parts equality --batch 1 --T 2".split()
    assert torchvision_nets.main([*arguments, "--out", str(tmp_path)]) == 1
    assert "counts differ from the step loop's" in capsys.readouterr().out


def test_images_must_not_vanish(capsys):
    with pytest.raises(SystemExit):
        torchvision_nets.main(["--size", "16"])
    assert "--size must be at least 32" in capsys.readouterr().err


@pytest.mark.slow
def test_anytime(tmp_path, capsys, monkeypatch):
    sample = data.fashion_mnist_sample()
    monkeypatch.setattr(anytime, "fashion_mnist", lambda split, root: sample)
    monkeypatch.setattr(anytime, "CALIBRATION_IMAGES", 32)
    monkeypatch.setattr(anytime, "LEADS", (2, 4))
    anytime.main(["--images", "20", "--longest", "12", "--exit-images", "20", "--out", str(tmp_path)])
    curves = rows(tmp_path / "anytime.csv")
    assert len({row["network"] for row in curves if row["T"]}) == 6
    assert {row["T"] for row in curves} == {"4", "8", "12", ""}
    assert (tmp_path / "anytime.png").stat().st_size > 10_000
    exits = rows(tmp_path / "early_exit_proxy.csv")
    images, labels = sample[0][:20], sample[1][:20]
    net = anytime.nets.load("small", 0.0)[0]
    for row in exits[:2]:
        stop = None if row["margin"] == "none" else pk.margin(int(row["margin"]))
        result = pk.simulate(net, images, 32, chunk=2, stop=stop)
        assert float(row["mean_steps"]) == pytest.approx(result.steps.float().mean().item(), abs=0.01)
        assert float(row["accuracy"]) == pytest.approx(anytime.strict_accuracy(result.count(), labels), abs=1e-4)
    assert exits[0]["margin"] == "none" and exits[0]["fixed_steps"] != "none" and float(exits[0]["lost"]) == 0
    assert (tmp_path / "early_exit_converted.csv").exists() and "steps on average" in capsys.readouterr().out
