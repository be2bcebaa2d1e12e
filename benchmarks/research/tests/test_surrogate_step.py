"""train_iteration.py surrogate: one training step of each contender, in processes of their own."""

import csv

import pytest
from iteration import surrogate_step, surrogate_step_table


@pytest.mark.slow
def test_contenders_are_compared(tmp_path):
    pytest.importorskip("spikingjelly")
    out = tmp_path / "surrogate_step.csv"
    surrogate_step.main(
        [
            "--batch=2",
            "--T=8",
            "--rounds=1",
            "--threads=1",
            f"--out={tmp_path}",
            "--contenders",
            "proxykernels,SpikingJelly",
        ]
    )
    ours, theirs = csv.DictReader(out.open())
    assert int(ours["output_spikes"]) == int(theirs["output_spikes"]) > 0
    assert float(theirs["gradient_difference"]) < 1e-4 and float(theirs["cpu_s"]) > 0


def test_a_contender_that_fails_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(surrogate_step_table, "in_a_process", lambda options, name: {"error": "no such module"})
    surrogate_step.main([f"--out={tmp_path}", "--contenders", "snnTorch"])
    assert "snnTorch is left out: no such module" in capsys.readouterr().err
