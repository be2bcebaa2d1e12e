"""train_iteration.py: what is timed is the same training step, and the table that it appends to."""

import csv
import shutil

import pytest
import torch
import train_iteration
from common import data, names, nets
from iteration import proxy_step
from speed import rivals

import proxykernels as pk


def tiny(v_threshold=2.0, v_reset=0.0, *, decay=None):
    return nets.build("4C3-P4-8C3-P2-24", v_threshold, v_reset, (1, 28, 28), 10, decay=decay)


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setitem(nets.NETS, "tiny", tiny)
    monkeypatch.setattr(names, "NETS", list(nets.NETS))
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
    options = "--net tiny --loops plain --batch 6 --T 9 --rounds 2"
    return [*options.split(), "--root", str(tmp_path), "--out", str(tmp_path / "results")]


def test_rows_are_appended(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # so little is quick emulated, too
    train_iteration.main(arguments)
    train_iteration.main([*arguments, "--precision", "bfloat16", "--snn-precision", "int8"])
    rows = list(csv.DictReader((tmp_path / "results" / "train_iteration.csv").open()))
    assert [row["contender"] for row in rows] == ["proxykernels", "plain"] * 2
    for column, second in ("precision", "bfloat16"), ("snn_precision", "int8"):
        assert [row[column] for row in rows] == ["float32"] * 2 + [second] * 2
    for row in rows:
        assert 0 < float(row["snn_cpu_s"]) <= float(row["cpu_s"]) and float(row["wall_s"]) > 0
        assert (row["weights"], row["counts_total"], row["rounds"]) == ("random", "60", "2")
        assert (
            int(row["counts_different"]) <= (12 if row["snn_precision"] == "int8" else 1)
            and float(row["mean_rate"]) > 0.01
        )
    assert [rows[0]["times_slower"], rows[0]["times_slower_cpu"]] == ["1.00", "1.00"]


def test_every_contender_takes_the_same_step(arguments):
    """The same gradient, from their own spikes; the weights and the statistics stay as they are."""
    options = train_iteration.parse(arguments)
    model, _ = proxy_step.load_model(options)
    images, labels = proxy_step.load_batch(options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    simulations = {"ours": model.snn} | proxy_step.loops(options, model.net, images)
    gradients = []
    for name, simulate in simulations.items():
        times = proxy_step.measure(options, model, {name: simulate}, images, labels)
        assert times[name].snn_cpu_s > 0
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * ours.abs().max().item())
    assert isinstance(model, pk.ProxyNet) and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_loop_that_does_not_run_here_is_left_out(arguments, monkeypatch, tmp_path, capsys):
    def build(*_):
        raise rivals.NotOffered("absent")

    monkeypatch.setattr(rivals, "build", build)
    train_iteration.main(arguments)
    assert "plain is left out: absent" in capsys.readouterr().err
    assert len(list(csv.DictReader((tmp_path / "results" / "train_iteration.csv").open()))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--T 0", "whole number of at least 1"),
        ("--batch 257", "--batch must be at most the 256 test images, got 257"),
        ("--weights none.safetensors", "none.safetensors is missing; train.py writes such a file"),
        ("--loops nothing", "nothing is none of plain, compiled"),
    ],
)
def test_bad_input_is_named(arguments, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        train_iteration.main([*arguments, *options.split()])
    said = capsys.readouterr().err.replace("'", "")  # with which argparse quotes choices before Python 3.12
    assert message in f"{stop.value.code} {said}"
