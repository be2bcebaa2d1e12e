"""Without a GPU the Triton kernels are run by Triton's interpreter, which must be chosen before they are imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from proxykernels import ops  # noqa: E402
from proxykernels.kernels import cpu, packed_reference  # noqa: E402

# Instruction set and kernel of the convolutions, forced one at a time; last, whatever is fastest.
WAYS = [
    ("amx", "tiles"),
    ("avx512", "events"),
    ("avx2", "events"),
    ("portable", "events"),
    (None, "dense"),
    (None, None),
]
BACKENDS = [f"{target or 'any'}-{kernel or 'chosen'}" for target, kernel in WAYS if cpu.load(target)] + ["reference"]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """Each way that CPU tensors can take."""
    target, _, kernel = request.param.partition("-")
    kernels = packed_reference
    if kernel:
        kernels = cpu.load(None if target == "any" else target, None if kernel == "chosen" else kernel)
    monkeypatch.setattr(ops, "_cpu", lambda: kernels)
    return request.param


@pytest.fixture
def kernels_can_run():
    """Without a GPU the Triton kernels run only in Triton's interpreter, which is chosen at their import."""
    from triton.runtime.interpreter import InterpretedFunction

    from proxykernels.kernels import if_scan

    if not torch.cuda.is_available() and not isinstance(if_scan._if_scan_kernel, InterpretedFunction):
        pytest.fail(
            "There is no GPU, and Triton's interpreter was off when the kernels were imported. "
            "Run: TRITON_INTERPRET=1 python -m pytest -m triton",
            pytrace=False,
        )
