"""Threads of the engine that wake late, under ThreadSanitizer: no crash, no data race, the spikes of one thread."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxykernels.kernels.cpu import sources

HERE = Path(__file__).parent
SANITIZED = ["-O1", "-g1", "-fsanitize=thread"]


def build(folder: Path) -> Path:
    program, threads = folder / "engine_threads", "-pthread"
    flags = [*sources.FLAGS, *SANITIZED, threads, "-Wno-unknown-pragmas", "-DPK_TARGET=portable", f"-I{sources.FOLDER}"]
    units = (sources.FOLDER / f"{name}.cpp" for name in ("cost_model", *sources.ENGINE, *sources.TASKS))
    files = ["-include", HERE / "late_wakes.h", *units, HERE / "engine_threads.cpp"]
    subprocess.run(["g++", *flags, *files, "-o", program], check=True)
    return program


def run(program: Path, *neurons: str, seed: int = 0, seconds: int = 3) -> subprocess.CompletedProcess:
    command = ["setarch", "-R", program, str(seed), str(seconds), *neurons]  # its shadow memory has fixed addresses
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.parametrize(
    "name", ["c_threads", "engine_threads", "json_values", "kernel_costs", "lent_threads", "other_machine"]
)
def test_programs_are_sound(name):
    """They are compiled by slow tests alone, which take turns: what is renamed in the sources would be seen late."""
    folders = [f"-I{folder}" for folder in (sources.FOLDER, sources.LIBRARY, sources.LIBRARY / "include")]
    flags = ["-std=c++17", "-fsyntax-only", "-w", "-DPK_TARGET=portable", *folders]
    subprocess.run(["g++", *flags, HERE / f"{name}.cpp"], check=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_a_lent_thread_that_comes_late_returns(tmp_path):
    """Else a call of a layer would wait for it for ever, once in millions of calls."""
    flags = [*sources.FLAGS, "-pthread", "-DPK_TARGET=portable", f"-I{sources.FOLDER}"]
    subprocess.run(["g++", *flags, HERE / "lent_threads.cpp", "-o", tmp_path / "program"], check=True)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="setarch and libtsan are Linux's")
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_threads_that_wake_late(tmp_path):
    program = build(tmp_path)
    for neurons in ((), ("changes",), ("recurrent",)):
        done = run(program, *neurons)
        assert done.returncode == 0 and "0 wrong" in done.stdout and "ThreadSanitizer" not in done.stderr, (
            done.stdout + done.stderr
        )


DEFECTS = {
    # A thread that comes in the midst of a run shares work that is cut for the caller alone.
    "crew": ("team.h", "count <= 1 || alone", "count <= 1 || (!wakes && sleepers.load() == size - 1)", ()),
    # A part is over before what others wrote in it can be read.
    "done": ("team.h", "done.fetch_add(ran) + ran", "done.fetch_add(ran, std::memory_order_relaxed) + ran", ()),
    # A step begins before what others wrote in the last one can be read.
    "steps": ("shared_steps.h", "stays, std::memory_order_release", "stays, std::memory_order_relaxed", ("recurrent",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("file, old, new, neurons", DEFECTS.values(), ids=DEFECTS)
def test_a_race_is_found(tmp_path, monkeypatch, file, old, new, neurons):
    wrong = tmp_path / "src"
    shutil.copytree(sources.FOLDER, wrong)
    source = wrong / "engine" / file
    assert source.read_text().count(old) == 1
    source.write_text(source.read_text().replace(old, new))
    monkeypatch.setattr(sources, "FOLDER", wrong)
    done = run(build(tmp_path), *neurons)
    assert done.returncode, done.stdout + done.stderr
