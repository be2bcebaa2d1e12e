"""Training on a GPU that is not there: forward and backward take the GPU's way, and give a CPU's gradients."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def guard(tmp_path_factory) -> Path:
    """pretend_cuda_guard.cpp, compiled against this torch."""
    made, torch_folder = tmp_path_factory.mktemp("guard") / "guard.so", Path(torch.__file__).parent
    options = ["-shared", "-fPIC", "-w", "-std=c++20", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
    options += [f"-Wl,-rpath,{torch_folder / 'lib'}", "-o", made]
    subprocess.run(["g++", FOLDER / "pretend_cuda_guard.cpp", *options, "-lc10", "-ltorch_cpu"], check=True)
    return made


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
def test_gradients_are_those_of_a_cpu(guard):
    environment = os.environ | {"LD_PRELOAD": str(guard), "TRITON_INTERPRET": "1"}
    command = [sys.executable, FOLDER / "train_on_pretend_gpu.py"]
    # A backward pass inside a backward pass waits for ever, if another thread starts it: the card has one worker.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert not done.returncode, done.stderr[-4000:]
    proxy, surrogate, *recurrent, python, counted, full, elementwise = (
        line.split() for line in done.stdout.splitlines()
    )
    assert proxy[0] == "proxy" and {"_if_conv2d_kernel", "convolution_backward"} <= set(proxy)
    assert surrogate[0] == "surrogate" and {"_if_conv2d_kernel", "_scan_backward_kernel"} <= set(surrogate)
    assert counted[0] == "counted" and int(counted[1]) <= 75 and int(counted[2]) <= 1, counted
    assert [line[0] for line in recurrent] == ["full", "elementwise"]
    for line in recurrent:
        assert {"_recurrent_scan_kernel", "_recurrent_backward_kernel", "_scan_backward_kernel"} <= set(line)
    assert python[0] == "python" and "_scan_backward_kernel" in python and "_recurrent_scan_kernel" not in python
    for line in (full, elementwise):  # of a backward pass of 16 steps
        assert int(line[1]) <= 20 and int(line[2]) == 0, line
