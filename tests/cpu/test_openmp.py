"""One OpenMP runtime in the process, torch's; a library that was built without it runs on one thread, and says so."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu import abi

PROGRAM = """
import warnings, torch, proxykernels as pk
from proxykernels.kernels import backends
torch.set_num_threads(3)
x = torch.rand(8, 4, 32, 24, 24)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert pk.FusedIFConv2d(32, 32, 3).eval()(x).any()
torch.nn.functional.conv2d(x[0], torch.rand(32, 32, 3, 3))
print(backends.cpu_backend().max_threads(), *(str(warning.message).split(",")[0] for warning in said), sep="|")
for file in {line.split()[-1] for line in open("/proc/self/maps")}:
    if file.rpartition("/")[2].startswith(("libgomp", "libomp", "libiomp")):
        print(file)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is loaded is read from /proc")
def test_the_process_has_one_openmp_runtime():
    """Clang's own would be a second; see sources.SHARES_TORCH_RUNTIME."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, text=True, capture_output=True)
    said, *runtimes = done.stdout.splitlines()
    serial = b"clang version" in abi.LIBRARY.read_bytes()  # the compiler's signature
    assert said == ("1|proxykernels' C++ kernels run on one thread where torch has 3" if serial else "3")
    assert len(runtimes) == 1, runtimes


def test_kernels_on_one_thread_say_so_where_torch_has_more(monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda: SimpleNamespace(max_threads=lambda: 1))
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        if threads == 1:
            assert backends.cpu_backend.__wrapped__().max_threads() == 1
        else:
            with pytest.warns(RuntimeWarning, match="on one thread where torch has 2.*`CC=gcc CXX=g\\+\\+ pip install"):
                backends.cpu_backend.__wrapped__()
