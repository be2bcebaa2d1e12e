"""Early exit: the library asks which samples are decided, and goes on without them."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ..kernels import heap
from .early_exit import Stop, decided_by


class Asked:
    """A rule as the library asks it, of samples whose outputs have ``shape``.

    Attributes:
        steps: int64 [N], those that each sample ran; the library writes them.
        error: what the rule raised, which is no answer: the run ends, and the error goes on from there.
    """

    def __init__(self, stop: Stop, shape: tuple[int, ...], N: int, T: int):
        self._stop, self._shape = stop, shape
        self.steps = torch.full((N,), T, dtype=torch.int64, device=heap.CPU)
        self.error: BaseException | None = None

    def __call__(self, _: Any, counts: int, n: int, t: int, decided: int) -> None:
        """As engine.h has it: ``counts`` and ``decided`` are addresses."""
        try:
            told = decided_by(self._stop, _int32(counts, (n, *self._shape)), t, n)
            torch.frombuffer((ctypes.c_uint8 * n).from_address(decided), dtype=torch.uint8).copy_(told)
        except BaseException as error:  # none passes through the library
            self.error = error


def _int32(address: int, shape: tuple[int, ...]) -> Tensor:
    """A copy of the numbers that lie there."""
    size = torch.Size(shape).numel()
    return torch.frombuffer((ctypes.c_int32 * size).from_address(address), dtype=torch.int32).view(shape).clone()
