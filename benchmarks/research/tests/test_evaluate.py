"""evaluate.py: the anytime curve, its files, and its exit status."""

import csv
import re
import shutil
from pathlib import Path

import evaluate
import pytest
import torch
from accuracy import every_step
from common import accuracy, checkout, conversion, data, nets, twins, weights_file

import proxykernels as pk


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """The shipped images as the test set."""
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
    return ["--root", str(tmp_path), "--out", str(tmp_path / "results")]


def save(path: Path, recorded: float, **more: str) -> Path:
    """The shipped net under another name, with another accuracy on record, here at T = 8."""
    net, _ = nets.load("small", 0.0)
    about = {"net": "small", "v_threshold": "1.0", "T": "8", "reset": "hard", "test_accuracy": str(recorded)}
    path.write_bytes(weights_file.content(net.state_dict(), about | more))
    return path


@pytest.mark.slow
def test_curve_is_that_of_a_run_at_each_length(arguments, tmp_path):
    weights = save(tmp_path / "mine.safetensors", 0.5)
    assert evaluate.main(["--weights", str(weights), "--T", "12", *arguments]) == 0
    rows = list(csv.DictReader((tmp_path / "results" / "accuracy_mine.csv").open()))
    net, _ = nets.load("small", 0.0)
    images, labels = pk.samples.fashion_mnist()
    for T in (1, 5, 12):
        measured = accuracy.strict_accuracy(pk.simulate(net, images, T).count(), labels)
        assert float(rows[T - 1]["accuracy"]) == pytest.approx(measured, abs=1e-4)
    assert float(rows[0]["ties"]) > float(rows[11]["ties"]) and len(rows) == 12
    assert (tmp_path / "results" / "accuracy_mine.png").stat().st_size > 10_000
    assert not list((tmp_path / "results").glob("*.tmp"))


@pytest.mark.slow
def test_the_twin_is_converted(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(conversion, "CALIBRATION", 64)
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    weights, results = str(save(tmp_path / "mine.safetensors", 0.999)), tmp_path / "results"
    assert evaluate.main(["--weights", weights, "--T", "8", "--converted", *arguments]) == 0  # no record is of it
    twin = float(re.search(r"ReLU twin ([\d.]+)%", capsys.readouterr().out)[1]) / 100
    curve = list(csv.DictReader((results / "accuracy_mine_converted.csv").open()))
    assert float(curve[3]["accuracy"]) > 0.8 and float(curve[7]["accuracy"]) > twin - 0.05 > 0.85
    assert not (results / "accuracy_mine.csv").exists()
    leaky = str(save(tmp_path / "leaky.safetensors", 0.5, decay="0.9"))
    with pytest.raises(SystemExit, match="leaky neurons, whose twin is no ReLU network; leave --converted out"):
        evaluate.main(["--weights", leaky, "--converted", *arguments])


def test_a_net_below_its_record_fails(arguments, tmp_path, capsys):
    assert evaluate.main(["--weights", str(save(tmp_path / "worse.safetensors", 0.999)), *arguments]) == 1
    assert "below the accuracy recorded for it" in capsys.readouterr().err


@pytest.mark.long
def test_a_net_runs_with_the_precision_that_it_was_trained_with(arguments, tmp_path, capsys):
    accuracies = {}
    for precision in ("float32", "int8"):
        weights = save(tmp_path / f"{precision}.safetensors", 0.999, snn_precision=precision)
        assert evaluate.main(["--weights", str(weights), *arguments]) == 1
        shown = capsys.readouterr().out
        assert f"{precision}, T = 8" in shown
        accuracies[precision] = (tmp_path / "results" / f"accuracy_{precision}.csv").read_text()
    assert accuracies["float32"] != accuracies["int8"]


@pytest.mark.slow
def test_shipped_nets_are_found(arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(every_step, "evaluate", lambda *_, **__: every_step.Curve([1.0] * 32, [0.0] * 32))
    assert evaluate.main(arguments) == 0
    shown = capsys.readouterr().out
    assert [line.partition(":")[0] for line in shown.splitlines() if "% at T" in line] == ["paper", "small"]
    for name, least in (("paper", 0.93), ("small", 0.91)):
        assert f"{name}: 100.00% at T = 32" in shown
        assert float(weights_file.read(nets.shipped()[name])[1]["test_accuracy"]) >= least


def test_bad_input_ends_in_one_sentence(arguments, tmp_path):
    with pytest.raises(SystemExit, match="evaluate.py: .*missing; train.py writes such a file"):
        evaluate.main(["--weights", str(tmp_path / "none.safetensors"), *arguments])
    net = nets.paper(width=0.02, linear_norm=True)  # without what its twin's normalisation has learnt
    about = {
        "net": "paper-fashion",
        "v_threshold": "2.0",
        "T": "8",
        "method": "ann",
        "width": "0.02",
        "linear_norm": "true",
    }
    (tmp_path / "half.safetensors").write_bytes(weights_file.content(net.state_dict(), about))
    with pytest.raises(SystemExit, match="lacks the statistics of the ReLU twin"):
        evaluate.main(["--weights", str(tmp_path / "half.safetensors"), *arguments])
    path = save(tmp_path / "cut.safetensors", 0.5)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SystemExit, match="is damaged"):
        evaluate.main(["--weights", str(path), *arguments])


@pytest.mark.slow
def test_the_weights_for_cifar10_are_whole():
    """Their images are not shipped; of noise, too, every layer makes spikes."""
    model, whole, about = twins.load(checkout.WEIGHTS / "begun" / "cifar10.safetensors.gz")
    assert whole and about["method"] == "ann" and about["width"] == "0.375"
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rates = pk.simulate(conversion.converted(model, images), images, 16).rates
    assert len(rates) == 12 and all(0.005 < rate < 0.5 for rate in rates.values())
