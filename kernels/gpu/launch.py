"""Launches a Triton kernel: the one place through which all launches go."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import rehearsal

# Spikes must not depend on a default that differs between Triton releases.
OPTIONS = {"enable_fp_fusion": False}


def launch(
    kernel: Any, programs: int, *, results: Sequence[Tensor | None] = (), looked_at: bool = False, **operands: Any
) -> None:
    """Launch ``programs`` programs of a kernel, at least one.

    Args:
        results: what the launch writes, other than what it changes. In a rehearsal that lacks kernels they become 0.
        looked_at: whether a result decides, on the CPU, what is done next: such a launch is real in a rehearsal, too.
        operands: the kernel's arguments and options, by name.
    """
    operands |= OPTIONS
    tensor = next(operand for operand in operands.values() if isinstance(operand, Tensor))
    # Triton launches on the current device, which need not be the tensors' own.
    with torch.cuda.device_of(tensor):
        now = rehearsal.under_way()
        if looked_at:
            with rehearsal.interrupted():
                kernel[(programs,)](**operands)
        elif now is None or not now.lacks_kernels:
            kernel[(programs,)](**operands)
        else:
            kernel.warmup(grid=(programs,), **operands)
        if now is not None and now.lacks_kernels and not looked_at:
            for result in results:
                if result is not None:
                    result.zero_()
