"""A training run that is stopped or killed goes on as if nothing had happened."""

import csv
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from common.command import command
from safetensors.torch import load_file
from training import checkpoint as train_checkpoint
from training import run as train_run
from training import step as train_step
from training_runs import PLACES, assert_same, run_fixture, tensors  # noqa: F401 - a fixture


@pytest.fixture
def ctrl_c():
    """SIGINT as at a terminal: a job in the background is started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 8, 12])  # in the first stage, in its second epoch, in the second stage
def test_a_terminated_run_resumes_exactly(run, monkeypatch, step):
    options = "--ann-epochs 2 --epochs 1 --augment shift-mirror-erase --linear-norm --dropout 0.3 --width 2"
    options += " --smoothing 0.1 --average 0.9 --loss cross-entropy --schedule trapezoid"
    unbroken = run(options, "unbroken")
    done, watch = [], train_step.watch

    def terminate(*arguments):
        watch(*arguments)
        done.append(True)
        if len(done) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_step, "watch", terminate)
    with pytest.raises(SystemExit) as stop:
        run(options)
    assert stop.value.code == 143 and len(done) == step
    out = run(options + " --resume")
    assert_same(out, unbroken)
    published = load_file(out / "tiny.safetensors")
    assert all(torch.equal(published[k], v) for k, v in load_file(unbroken / "tiny.safetensors").items())


@pytest.mark.long
def test_a_run_terminated_while_it_is_measured_resumes_exactly(run, monkeypatch):
    options = "--ann-epochs 1 --epochs 1"
    unbroken = run(options, "unbroken")
    measure = train_run.ann_accuracy

    def terminate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the run went on")

    monkeypatch.setattr(train_run, "ann_accuracy", terminate)
    with pytest.raises(SystemExit) as stop:
        run(options)
    assert stop.value.code == 143
    monkeypatch.setattr(train_run, "ann_accuracy", measure)
    assert_same(run(options + " --resume"), unbroken)


def test_a_run_killed_after_its_log_was_written_logs_that_epoch_once(run, monkeypatch):
    options = "--init random --epochs 2"
    add = train_checkpoint.Log.add

    def kill(*arguments):
        add(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_checkpoint.Log, "add", kill)
    with pytest.raises(KeyboardInterrupt):
        run(options)
    monkeypatch.setattr(train_checkpoint.Log, "add", add)
    rows = list(csv.DictReader((run(options + " --resume") / "log.csv").open()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "5"), ("2", "10")]


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(run, tmp_path):
    options = "--init random --epochs 3 --augment shift-mirror"
    unbroken = run(options, "unbroken")
    given = (
        f"--preset plain --net tiny --T 4 --batch 40 --validation 56 --root {run.root} --out {tmp_path}/out {options}"
    )
    script = f"""
        import sys, time
        sys.path[:0] = {PLACES!r}
        import train
        from common import names, nets
        from training import step as train_step
        def tiny(v_threshold=1.0, v_reset=0.0, **options):
            return nets.build("4C3-P4-8C3-P2-24", v_threshold, v_reset, **options)
        nets.TRAINABLE["tiny"] = tiny
        names.TRAINABLE = list(nets.TRAINABLE)
        steps, watch = [], train_step.watch
        def stall(*arguments):
            watch(*arguments)
            steps.append(1)
            while len(steps) == 8:
                print("stalled", flush=True)
                time.sleep(0.1)
        train_step.watch = stall
        train.main({given.split()!r})
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert any(line == b"stalled\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert train_checkpoint.read(tmp_path / "out")["position"]["done"] == 5
    assert_same(run(options + " --resume"), unbroken)


def test_a_finished_run_says_so_and_asks_for_its_weights(run, capsys):
    out = run("--init random --epochs 1")
    capsys.readouterr()
    run("--init random --epochs 1 --resume")
    assert "; has ended; give more --epochs to train on" in capsys.readouterr().out
    (out / "tiny.safetensors").unlink()
    for epochs in (1, 2):
        with pytest.raises(SystemExit, match=r"tiny.safetensors, the run's best weights, is missing; start again"):
            run(f"--init random --epochs {epochs} --resume")
    assert train_checkpoint.read(out)["position"]["done"] == 5


@pytest.mark.slow
def test_more_epochs_go_on_from_a_finished_run(run):
    run("--init random --epochs 1 --schedule constant")
    out = run("--init random --epochs 2 --schedule constant --resume")
    assert_same(out, run("--init random --epochs 2 --schedule constant", "unbroken"))
    assert len(list(csv.DictReader((out / "log.csv").open()))) == 2


def test_ctrl_c_saves_and_resumes_exactly(run, monkeypatch, capsys, ctrl_c):
    options = "--init random --epochs 2 --schedule constant"
    unbroken = run(options, "unbroken")
    done, watch = [], train_step.watch

    def interrupt(*arguments):
        watch(*arguments)
        done.append(True)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_step, "watch", interrupt)
    with pytest.raises(SystemExit) as stop:
        run(options)
    assert stop.value.code == 130 and len(done) == 3
    assert "stopped; --resume goes on from here" in capsys.readouterr().err
    assert_same(run(options + " --resume"), unbroken)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_a_command_in_one_line(capsys, ctrl_c):
    def main():
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as stop:
        command(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip().endswith(": interrupted; the results written before are kept")
