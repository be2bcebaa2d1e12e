"""train.py's folder: refused at the start, one run at a time, cleaned after a kill; and how Ctrl-C ends a command."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
from common.command import command
from test_train_bad_input import refused
from training import folder
from training import step as train_step
from training_runs import assert_same, run_fixture, tensors  # noqa: F401 - a fixture

ONE = "--init random --epochs 1 --schedule constant"


@pytest.fixture
def ctrl_c():
    """SIGINT as at a terminal: a job in the background is started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_step(monkeypatch):
    """Refused at the start, that is before a step."""
    return lambda: monkeypatch.setattr(train_step, "gradient", lambda *_: pytest.fail("it trained"))


def test_an_out_that_cannot_be_written_is_refused_at_the_start(run, tmp_path, no_step):
    no_step()
    (tmp_path / "file").write_text("not a folder")
    assert f"--out {tmp_path}/file cannot be written" in refused(run, ONE, "file")
    assert "cannot be written" in refused(run, ONE, "file/below")
    with pytest.raises(SystemExit, match="^train.py: --out /proc/nothing cannot be written"):
        run(ONE + " --out /proc/nothing")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_full_disk_is_found_at_the_start(run, no_step):
    no_step()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        assert "cannot be written" in refused(run, ONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_finished_run_is_not_overwritten(run, no_step):
    out = run(ONE)
    before = tensors(out)
    no_step()
    assert "holds a run already; go on with --resume" in refused(run, ONE)
    assert_same(out, out) and before.keys() == tensors(out).keys()


def test_two_runs_into_one_folder(run, tmp_path, no_step):
    out = tmp_path / "out"
    out.mkdir()
    script = f"""
        import fcntl, time
        lock = open({str(out / folder.LOCK)!r}, "a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert f"another run writes to --out {out}" in refused(run, ONE)
        other.kill()
    run(ONE)  # the lock went with the process that held it
    with (out / folder.LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # and this run let go of it


@pytest.mark.costly
@pytest.mark.parametrize(
    "change",
    [
        [], None, 3, {"stage": None}, {"stage": "0"}, {"stage": -1}, {"stage": 7}, {"step": 1e3}, {"step": 999},
        {"epoch": True}, {"done": [1]}, {"best": "good"}, {"tensors": 5}, {"tensors": "../x"}, {"options": 3},
        {"groups": {}}, {"groups": []}, {"groups": [1]}, {"groups": [{"params": [0]}]},
    ],
)  # fmt: skip
def test_a_checkpoint_of_the_wrong_shape_or_type(run, change):
    out = run(ONE)
    state = json.loads((out / "checkpoint.json").read_text())
    shutil.copy(out / state["tensors"], out.parent / "x")  # a file of another folder, sound in itself
    (out / "checkpoint.json").write_text(json.dumps(state | change if isinstance(change, dict) and change else change))
    message = refused(run, ONE.replace("--epochs 1", "--epochs 2") + " --resume")
    assert "checkpoint" in message and "damaged" in message


def test_a_checkpoint_that_is_no_text(run):
    out = run(ONE)
    for content in (b"\xff\xfe\x00", b"[" * 100_000, b""):
        (out / "checkpoint.json").write_bytes(content)
        assert "is damaged" in refused(run, ONE + " --resume")


def test_what_a_killed_run_left_is_removed(run):
    out = run(ONE)
    kept = {path.name for path in out.iterdir()}
    for name in ("checkpoint-0-9-9.safetensors", "checkpoint.json.tmp", "log.csv-abc.tmp", "tiny.safetensors.tmp"):
        (out / name).write_text("half")
    run(ONE.replace("--epochs 1", "--epochs 2") + " --resume")
    assert not list(out.glob("*.tmp")) and len(list(out.glob("checkpoint-*"))) == 1
    assert len(kept) == len(list(out.iterdir()))


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
