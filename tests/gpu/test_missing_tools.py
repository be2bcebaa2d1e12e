"""What a GPU needs beside this package, and a machine may lack: said in a sentence, before any work."""

import re
import shutil
import sys
import sysconfig
import threading
import tomllib
from pathlib import Path

import pytest

from proxykernels.kernels import backends, rehearsal


@pytest.mark.parametrize("platform, package", [("linux", "triton"), ("win32", "triton-windows")])
def test_without_triton(monkeypatch, platform, package):
    monkeypatch.setattr(sys, "platform", platform)
    for name in [name for name in sys.modules if name.startswith("proxykernels.kernels.gpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ModuleNotFoundError, match=rf"need Triton, .* `pip install {package}` .* \.to\('cpu'\)"):
        backends.gpu_backend()


def test_no_other_triton_is_installed_beside_a_torch_for_rocm():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if name.startswith("triton")]


@pytest.mark.triton
def test_compiling_is_told_when_it_takes_long(monkeypatch, capsys):
    """Not of a kernel or two that are there at once; then now and then; not where it is silenced."""
    pytest.importorskip("triton")
    from proxykernels.kernels.gpu import compile_progress

    class Kernel:
        __name__ = "_kernel"

        def _do_compile(self, key, warmup):
            times[0] += 1.3
            return key

    times, kernel = [0.0], Kernel()
    progress = compile_progress.Progress(lambda: times[0])
    progress.follow([kernel, object()])  # the other has nothing to compile
    told = []
    for key in range(10):
        assert kernel._do_compile(key, warmup=False) == key
        told.append(capsys.readouterr().err)
    assert [line.split(" GPU")[0] for line in told if line] == [
        "proxykernels: 2",
        "proxykernels: 6",
        "proxykernels: 10",
    ]
    assert "2 GPU kernels compiled in 3 s" in told[1] and "kept in " in told[1]
    monkeypatch.setenv("PROXYKERNELS_PROGRESS", "0")
    for key in range(10):
        kernel._do_compile(key, warmup=False)
    assert not capsys.readouterr().err


@pytest.mark.triton
def test_how_many_of_a_rehearsal_are_left_is_told(capsys):
    pytest.importorskip("triton")
    from proxykernels.kernels.gpu import compile_progress

    class Kernel:
        __name__ = "_kernel"

        def _do_compile(self, key, warmup):
            all_are_known.wait()
            with lock:
                times[0] += 2.5
            return key

    times, kernel, all_are_known, lock = [0.0], Kernel(), threading.Event(), threading.Lock()
    compile_progress.Progress(lambda: times[0]).follow([kernel])

    def work() -> None:
        if rehearsal.under_way():
            assert not any(kernel._do_compile(key, warmup=False) for key in range(3))
            all_are_known.set()

    rehearsal.rehearsed(work, lambda: None)
    first, *_ = capsys.readouterr().err.splitlines()
    assert re.match(r"proxykernels: 1 of 3 GPU kernels compiled in \d+ s", first)


@pytest.mark.triton
def test_all_kernels_are_told_of():
    pytest.importorskip("triton")
    from proxykernels.kernels.gpu import backend

    folder = Path(backend.__file__).parent
    written = {
        name for path in folder.glob("*.py") for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.M)
    }
    assert len(written) >= 15 and {kernel.__name__ for kernel in backend.COMPILED} == written
    launches = [name for path in folder.glob("*.py") for name in re.findall(r"launch\(\n +(\w+),", path.read_text())]
    assert sorted(launches) == sorted(written)
    assert not [path for path in folder.glob("*.py") if re.search(r"_kernel\[", path.read_text())]


@pytest.mark.parametrize(
    "compiler, include, missing",
    [(None, "/nowhere", "a C compiler and Python.h"), ("/usr/bin/gcc", "/nowhere", "Python.h")],
)
def test_without_what_compiles_the_launcher(monkeypatch, compiler, include, missing):
    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": include})
    backends._look_for_a_compiler.cache_clear()
    with pytest.warns(RuntimeWarning, match=f"first launched, and {missing} cannot be found .* python3-dev"):
        backends._look_for_a_compiler()
    backends._look_for_a_compiler.cache_clear()
