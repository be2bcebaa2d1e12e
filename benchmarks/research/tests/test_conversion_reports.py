"""The benchmarks of conversion and early exit, from end to end on the shipped images."""

import csv
from pathlib import Path

import pytest
import torch
from accuracy import anytime, anytime_table
from images import torchvision_nets, torchvision_nets_table

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


@pytest.mark.long
def test_another_count_than_the_step_loops_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torchvision_nets_table, "output_counts", lambda net, images, T: torch.ones(len(images), 10))
    arguments = "--nets resnet18 --parts equality --batch 1 --T 2".split()
    assert torchvision_nets.main([*arguments, "--out", str(tmp_path)]) == 1
    assert "counts differ from the step loop's" in capsys.readouterr().out


def test_images_must_not_vanish(capsys):
    with pytest.raises(SystemExit):
        torchvision_nets.main(["--size", "16"])
    assert "--size must be at least 32" in capsys.readouterr().err


@pytest.fixture
def few_images(monkeypatch):
    """The shipped images in place of the data set, and few of them."""
    sample = pk.samples.fashion_mnist()
    monkeypatch.setattr(anytime_table, "fashion_mnist", lambda split, root: sample)
    monkeypatch.setattr(anytime_table, "CALIBRATION_IMAGES", 32)
    monkeypatch.setattr(anytime_table, "MARGINS", (2, 4))
    return sample[0][:20], sample[1][:20]


@pytest.mark.slow
def test_anytime(tmp_path, capsys, few_images):
    images, labels = few_images
    anytime.main(f"--images 20 --longest 12 --exit-steps 16 --out {tmp_path}".split())
    table = rows(tmp_path / "anytime_small.csv")
    assert len({row["network"] for row in table}) == 7  # the ReLU network, one by proxy, five conversions
    assert (tmp_path / "anytime_small.png").stat().st_size > 10_000
    ours = [row for row in table if row["network"] == anytime_table.PROXY]
    assert [row["margin"] or row["steps"] for row in ours] == ["1", "2", "4", "8", "12", "2", "4"]
    net, _ = anytime_table.nets.load("small", None)
    for row in ours:
        if row["margin"]:
            result = pk.simulate(net, images, 16, chunk=2, stop=pk.stop.margin(int(row["margin"])))
        else:
            result = pk.simulate(net, images, int(row["steps"]))
        assert float(row["steps"]) == pytest.approx(result.steps.float().mean().item(), abs=0.01)
        assert float(row["accuracy"]) == pytest.approx(anytime_table.strict_accuracy(result.count(), labels), abs=1e-4)
        assert float(row["synops"]) == pytest.approx(result.synops.total / 20, abs=1)
        assert float(row["microjoules"]) == pytest.approx(1e6 * result.synops.joules / 20, abs=1e-3)
    assert "every image would need" in capsys.readouterr().out
    better = {"margin": "2", "steps": "9", "accuracy": "0.99", "microjoules": "1"}
    anytime_table.report("mine", [{"margin": "", "steps": "8", "accuracy": "0.9", "microjoules": "1"}, better])
    assert "no fixed number of steps reaches that" in capsys.readouterr().out


def test_a_line_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        anytime.main(["--networks", "trained-by-proxy,mine"])
    assert "'mine' is none of trained-by-proxy, converted-max" in capsys.readouterr().err
