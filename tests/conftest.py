"""Without a GPU the Triton kernels are run by Triton's interpreter, which must be chosen before they are imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from proxykernels import ops  # noqa: E402
from proxykernels.kernels import cpu, packed_reference  # noqa: E402

INSTRUCTION_SETS = [target for target in ("amx", "avx512", "avx2", "portable") if cpu.load(target)]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=[*INSTRUCTION_SETS, "reference"])
def backend(request, monkeypatch):
    """Each way that CPU tensors can take, forced: every instruction set of this machine, and no C++ library at all."""
    kernels = packed_reference if request.param == "reference" else cpu.load(request.param)
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
