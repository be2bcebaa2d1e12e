"""compare_methods.py on the shipped images, and the ReLU network that it converts."""

import csv
import shutil

import compare_methods
import pytest
import torch
from common import data, nets
from common.printed import written
from training import conversion

import proxykernels as pk


def tiny(v_threshold=1.0, v_reset=0.0, **options):
    return nets.build("4C3-P4-8C3-P2-24", v_threshold, v_reset, batch_norm=False, **nets.GRAY | options)


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """The shipped images as training and as test set, and a quick network."""
    monkeypatch.setitem(nets.TRAINABLE, "tiny", tiny)
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    options = "--net tiny --minutes 0.005 --T 4 --longest 6 --batch 32 --test 40"
    return [*options.split(), "--root", str(tmp_path), "--out", str(tmp_path / "results")]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_network_that_is_converted_is_the_twin(generator, batch_norm, clip):
    torch.manual_seed(0)
    net = nets.build("6C3-P2-5C3-16", 0.5, 0.0, (1, 8, 8), 4, batch_norm=batch_norm, dropout=0.1)
    images = torch.rand(20, 1, 8, 8, generator=generator)
    model, other = (pk.ProxyNet(net, 8, clip=each) for each in (clip, not clip))
    model(images)  # statistics learn, and those of the two networks differ
    other.statistics = model.statistics
    ann = conversion.relu_network(model.eval())
    torch.testing.assert_close(ann(images), model.ann(images))
    assert (ann(images) - other.eval().ann(images)).abs().max() > 0.003  # something is clipped
    rates = pk.simulate(conversion.converted(model, images), images, 200).count() / 200
    assert (rates.argmax(1) == ann(images).argmax(1)).all() and rates.max() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("neuron", ["if", "lif"])
def test_all_methods_leave_rows_and_a_plot(arguments, tmp_path, monkeypatch, capsys, neuron):
    monkeypatch.setattr(conversion, "CALIBRATION", 50)
    arguments += ["--neuron", neuron]
    stem, names = f"{compare_methods.STEMS[neuron]}_tiny_1", compare_methods.NAMES[neuron]
    for name in names:  # in this process: the memory is not looked at
        compare_methods.main([*arguments, "--method", written(name), "--seeds", "0,3"])
    compare_methods.main([*arguments, "--method", "proxy"])  # again: its rows are replaced
    folder = tmp_path / "results"
    rows = list(csv.DictReader((folder / f"{stem}.csv").open()))
    lines = sorted(compare_methods._lines(stem))
    assert len(lines) == {"if": 10, "lif": 5}[neuron]
    assert sorted((row["method"], row["seed"]) for row in rows) == [(name, seed) for name in lines for seed in "03"]
    assert all(int(row["steps"]) > 0 and float(row["seconds_an_epoch"]) > 0 for row in rows)
    curves = list(csv.DictReader((folder / f"{stem}_curves.csv").open()))
    assert [row["T"] for row in curves] == ["1", "2", "4", "6"] * len(rows)
    assert all(float(row["microjoules"]) > 0 and int(row["synops"]) > 0 for row in curves)
    last = {(row["method"], row["seed"]): row["accuracy"] for row in curves if row["T"] == "6"}
    assert last == {(row["method"], row["seed"]): row["accuracy_longest"] for row in rows}
    converted = {row["method"] for row in curves if row["by_logits"]}
    assert converted == {line for line in lines if "conver" in line}
    compare_methods.show(folder, stem)
    shown = capsys.readouterr().out
    assert "CPU minutes: right" in shown and ("by logits" in shown) == bool(converted)
    compare_methods.draw(folder, stem)
    assert (folder / f"{stem}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method nothing", " proxy,"),
        ("--method conversion --neuron lif", "--method of --neuron lif is one of proxy, clipped-relu-twin,"),
        ("--neuron lif --decay -1", "--decay must be within 0 .. 1, got -1.0"),
        ("--net nothing", " small"),
        ("--T 0", "whole number of at least 1"),
        ("--minutes 0", "--minutes must be positive, got [0.0]"),
        ("--T 8 --longest 7", "--longest must be at least --T 8, got 7"),
        ("--batch 257 --method proxy", "--batch must be at most the 256 training images, got 257"),
        ("--root /nowhere --method proxy", "is in none of /nowhere"),
    ],
)
def test_bad_input_is_named(arguments, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        compare_methods.main([*arguments, *options.split()])
    said = capsys.readouterr().err.replace("'", "")  # with which argparse quotes choices before Python 3.12
    assert message in f"{stop.value.code} {said}"
