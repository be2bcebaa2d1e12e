"""Without a GPU the Triton kernels are run by Triton's interpreter, which must be chosen before they are imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from proxykernels import ops
from proxykernels.kernels import cpu
from proxykernels.kernels.cpu import fallback

HAS_GPU = torch.cuda.is_available()

# Instruction set and kernel of the convolutions, forced one at a time; last, whatever is fastest.
WAYS = [
    ("amx", "tiles"),
    ("avx512", "lookup"),
    *((target, rows) for target in ("avx512", "avx2", "portable") for rows in ("events", "shorts")),
    (None, "dense"),
    (None, None),
]
BACKENDS = [f"{target or 'any'}-{kernel or 'chosen'}" for target, kernel in WAYS if cpu.load(target)] + ["reference"]
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.hookimpl(tryfirst=True)  # before the options -m and -k choose
def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped without one; with one, those of the Triton kernels run on it and are marked too."""
    for item in items:
        if HAS_GPU and "kernels_can_run" in item.fixturenames:
            item.add_marker(pytest.mark.gpu)
        elif not HAS_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def generator(request) -> torch.Generator:
    """Random numbers, drawn where the test's tensors are made."""
    on_gpu = "backend" in request.fixturenames and request.getfixturevalue("backend") == "cuda"
    return torch.Generator("cuda" if on_gpu else "cpu").manual_seed(0)


@pytest.fixture(params=[*BACKENDS, GPU])
def backend(request, monkeypatch):
    """Each way that CPU tensors can take; and a GPU, on which all tensors of the test are then made."""
    if request.param == "cuda":
        with torch.device("cuda"):
            yield request.param
        return
    target, _, kernel = request.param.partition("-")
    kernels = fallback
    if kernel:
        kernels = cpu.load(None if target == "any" else target, None if kernel == "chosen" else kernel)
    monkeypatch.setattr(ops, "_cpu", lambda: kernels)
    yield request.param


@pytest.fixture
def kernels_can_run():
    """Without a GPU the Triton kernels run only in Triton's interpreter, which is chosen at their import."""
    from triton.runtime.interpreter import InterpretedFunction

    from proxykernels.kernels.gpu import if_scan

    if not HAS_GPU and not isinstance(if_scan._if_scan_kernel, InterpretedFunction):
        pytest.fail(
            "There is no GPU, and Triton's interpreter was off when the kernels were imported. "
            "Run: TRITON_INTERPRET=1 python -m pytest -m triton",
            pytrace=False,
        )


@pytest.fixture
def triton_kernels(kernels_can_run, monkeypatch):
    """The whole library on the Triton kernels: on a GPU, or by the interpreter, which takes CPU tensors."""
    from proxykernels.kernels.gpu import words as gpu

    if HAS_GPU:
        with torch.device("cuda"):
            yield
        return
    monkeypatch.setattr(ops, "_cpu", lambda: gpu)
    monkeypatch.setattr(gpu, "fingerprint", fallback.fingerprint, raising=False)
    monkeypatch.setattr(ops, "PERIODS", 0)  # the C++ kernels' own form of spikes
    yield
