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
        values: float32 [T, N, P, C], what the library writes, if the rule looks at it; None: it looks at counts.
        error: what the rule raised, which is no answer: the run ends, and the error goes on from there.
    """

    def __init__(self, stop: Stop, shape: tuple[int, ...], N: int, T: int):
        self._stop, self._shape = stop, shape
        self.steps = torch.full((N,), T, dtype=torch.int64, device=heap.CPU)
        self.values: Tensor | None = None
        self.error: BaseException | None = None

    def __call__(self, context: Any, counts: int | None, samples: int, n: int, t: int, decided: int) -> None:
        """As engine.h has it: ``counts``, ``samples`` and ``decided`` are addresses."""
        try:
            told = decided_by(self._stop, self._seen(counts, samples, n, t), t, n)
            torch.frombuffer((ctypes.c_uint8 * n).from_address(decided), dtype=torch.uint8).copy_(told)
        except BaseException as error:  # none passes through the library
            self.error = error

    def _seen(self, counts: int | None, samples: int, n: int, t: int) -> Tensor:
        """What the rule looks at: counts [n, ...], or the outputs after each step [t, n, ...]."""
        if self.values is None:
            assert counts is not None
            return _int32(counts, (n, *self._shape))
        index = torch.frombuffer((ctypes.c_int64 * n).from_address(samples), dtype=torch.int64)
        return self.values[:t, index].transpose(2, 3).reshape(t, n, *self._shape)


def _int32(address: int, shape: tuple[int, ...]) -> Tensor:
    """A copy of the numbers that lie there."""
    size = torch.Size(shape).numel()
    return torch.frombuffer((ctypes.c_int32 * size).from_address(address), dtype=torch.int32).view(shape).clone()
