"""What a run of a plan writes: one piece of memory. Tensors of its parts are made when somebody asks for them."""

import ctypes
from array import array
from ctypes import c_size_t, c_void_p
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..kernels import heap
from ..kernels.cpu.words import pixel_bytes
from ..kernels.table import TALLIES
from ..spikes import Spikes
from .plan import Plan

LINE = 64  # bytes; each part begins at one


@cache
def _sanitizer(name: str) -> Any:
    """A function of AddressSanitizer; None: the process runs without it."""
    return getattr(ctypes.CDLL(None), f"__asan_{name}_memory_region", None)


class Layout:
    """Where the parts lie, for runs of N samples and T steps.

    Attributes: bytes from the start of the memory, or None where there is no such part.
        tally: int64 [operations][TALLIES]. counts: int32 [N, ...]. output: packed spikes [N, T, P, bytes], or values
            float32 [T, N, P, C]. steps: int64 [N], those that each sample ran. state: float32 [N, 1, P, C], what logits
            are read from.
        logits: whether they are read, at the end of a run from rest.
        zeros: how many bytes are zero before the run; size: bytes of all.
        shape: of the output, (T, N, ...); real: whether it is values.
        gaps: start and size of what lies behind each part, a line at least, in a process with AddressSanitizer, which
            finds who writes past the end of a part; otherwise none.
    """

    def __init__(self, plan: Plan, N: int, T: int, counts: bool, state: bool, rests: bool, stops: bool):
        """``counts``: whether it has them; ``state``: likewise. ``rests``: whether the runs start at rest; ``stops``:
        whether samples may stop early."""
        op, self.size = plan.last, 0
        self.gaps: list[tuple[int, int]] = []
        C, H, W = op.image
        self.shape, self.real, self.stops = (T, N, *op.shape), bool(op.real), stops
        self.raw = (T, N, H * W, C) if self.real else (N, T, H * W, pixel_bytes(C))
        self.tallies = TALLIES * len(plan.operations)
        self.tally = self._place(8 * self.tallies)
        self.counts = self._place(4 * N * prod(op.shape)) if counts and not self.real else None
        self.zeros = self.size
        self.output = self._place(prod(self.raw) * (4 if self.real else 1))
        if stops and not self.real:  # a sample is silent once it has stopped
            self.zeros = self.size
        self.steps = self._place(8 * N) if stops else None
        self.all_steps = (array("q", [T]) * (N if stops else 0)).tobytes()  # of samples that do not stop
        C, H, W = plan.shaped.image
        self.state_shape = N, 1, H * W, C
        self.state = self._place(4 * prod(self.state_shape)) if state else None
        self.logits = state and rests

    def _place(self, size: int) -> int:
        start = self.size
        self.size += -(-size // LINE) * LINE
        if _sanitizer("poison") is not None:
            self.size += LINE
            self.gaps.append((start + size, self.size - start - size))
        return start


class Written:
    """What a run of a plan gave.

    Attributes:
        start: the address of the memory.
        kept: states of operations, by their numbers, apart from those that logits are read from.
        given_counts: counts that the layout has no part for; of a readout None.
        logits: float32 [N, ...], where the layout has them.
    """

    def __init__(self, layout: Layout, counts: Tensor | None, kept: dict[int, Tensor]):
        self.layout, self.kept, self.given_counts = layout, kept, counts
        self._memory = heap.empty(layout.size, dtype=torch.uint8)
        # Logits have memory of their own, since callers may keep only them.
        self.logits = torch.empty(layout.shape[1:], dtype=torch.float32, device=heap.CPU) if layout.logits else None
        start = self.start = self._memory.data_ptr()
        ctypes.memset(start, 0, layout.zeros)
        if layout.steps is not None:
            ctypes.memmove(start + layout.steps, layout.all_steps, len(layout.all_steps))

    def forbid_gaps(self, forbid: bool) -> None:
        """Whether an access to the gaps ends the process: while the library runs."""
        mark = _sanitizer("poison" if forbid else "unpoison")
        for gap, size in self.layout.gaps:
            mark(c_void_p(self.start + gap), c_size_t(size))

    def _part(self, start: int | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        assert start is not None
        size = prod(shape) * dtype.itemsize
        return self._memory[start : start + size].view(dtype).view(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def device(self) -> torch.device:
        return self._memory.device

    @property
    def raw(self) -> Tensor:
        """Packed spikes [N, T, P, bytes], or values [T, N, P, C]."""
        return self._part(self.layout.output, torch.float32 if self.layout.real else torch.uint8, self.layout.raw)

    @property
    def counts(self) -> Tensor | None:
        """int32 [N, ...]; None: of values."""
        if self.layout.counts is None:
            return self.given_counts
        return self._part(self.layout.counts, torch.int32, self.shape[1:])

    @property
    def steps(self) -> Tensor:
        """int64 [N], of a run whose samples may stop early."""
        return self._part(self.layout.steps, torch.int64, self.shape[1:2])

    @property
    def state(self) -> Tensor:
        """What logits are read from, float32 [N, 1, P, C]."""
        return self._part(self.layout.state, torch.float32, self.layout.state_shape)

    @property
    def tally(self) -> list[int]:
        """TALLIES numbers for each operation."""
        return self._part(self.layout.tally, torch.int64, (self.layout.tallies,)).tolist()

    def tensor(self) -> Spikes | Tensor:
        """(T, N, ...)."""
        if self.layout.real:
            return self.raw.transpose(2, 3).reshape(self.shape)
        return Spikes(self.raw, self.shape)
