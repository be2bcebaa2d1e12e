"""What a GPU needs beside this package, and a machine may lack: said in a sentence, before any work."""

import shutil
import sys
import sysconfig

import pytest

from proxykernels.kernels import backends


def test_without_triton(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("proxykernels.kernels.gpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ModuleNotFoundError, match=r"need Triton, .* `pip install triton` .* \.to\('cpu'\)"):
        backends.gpu_backend()


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
