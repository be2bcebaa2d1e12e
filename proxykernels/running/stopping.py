"""Early exit: the library asks which samples are decided, and goes on without them."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ..plan.library import STOP, Lead, LogitReadout
from ..plan.plan import Plan
from .early_exit import STOP_EVERY, LogitMargin, Stop, decided_by

NONE_GIVEN = 2  # in the place of an answer, as run.h has it
STOP_EVERY_CHANGES = 2  # steps between two looks of a rule on sigma-delta neurons


class Asked:
    """A rule as the library asks it, of a network.

    Args:
        every: steps between two looks; None: as many as are usual.

    Attributes:
        runs: the steps of runs from rest; None: there is one of each sample.
        values: float32 [T, N, P, C], what the library writes, if the rule looks at it; None: it looks at counts.
        error: what the rule raised, which is no answer: the run ends, and the error goes on from there.
    """

    runs: tuple[int, ...] | None = None

    def __init__(self, stop: Stop, plan: Plan, every: int | None = None):
        self._stop, self._shape = stop, plan.last.shape
        self._every = every or (STOP_EVERY_CHANGES if plan.changes else STOP_EVERY)
        self.values: Tensor | None = None
        self.error: BaseException | None = None

    def put(self, run: Any, functions: Any) -> None:
        run.stop, run.stop_every = STOP(self), self._every

    def __call__(
        self, context: Any, counts: int | None, v: int | None, samples: int, n: int, t: int, decided: int
    ) -> None:  # fmt: skip
        """As engine.h has it: ``counts``, ``v``, ``samples`` and ``decided`` are addresses."""
        try:
            told = decided_by(self._stop, self._seen(counts, samples, n, t), t, n)
            torch.frombuffer((ctypes.c_uint8 * n).from_address(decided), dtype=torch.uint8).copy_(told)
        except BaseException as error:  # none passes through the library
            ctypes.memset(decided, NONE_GIVEN, n)  # a signal may come once the answer stands there
            self.error = error

    def _seen(self, counts: int | None, samples: int, n: int, t: int) -> Tensor:
        """What the rule looks at: counts [n, ...], or the outputs after each step [t, n, ...]."""
        if self.values is None:
            assert counts is not None
            return _int32(counts, (n, *self._shape))
        index = torch.frombuffer((ctypes.c_int64 * n).from_address(samples), dtype=torch.int64)
        return self.values[:t, index].transpose(2, 3).reshape(t, n, *self._shape)


class AskedLead:
    """``margin(..., of="logits")``, which the library decides by itself, for up to T steps.

    Attributes: as of :class:`Asked`.
    """

    values: Tensor | None = None
    error: BaseException | None = None

    def __init__(self, stop: LogitMargin, plan: Plan, readout: LogitReadout | None, T: int):
        """Raises:
        ValueError: the network has no logits, or not of at least two classes.
        """
        shape = plan.last.shape
        if readout is None or len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                "margin(of='logits') needs logits [N, classes] of at least 2 classes, of a network of IF neurons that "
                f"convert made, with soft reset; this one gives {['N', *shape]}"
                f"{' and has no logits' if readout is None else ''}; of sigma-delta neurons take pk.stop.settled()"
            )
        self.of, self._readout, self.runs = (stop, T), readout, tuple(stop.runs(T))
        self._lead = Lead(readout.given, stop.lead)
        self._at = (ctypes.c_int64 * len(self.runs))(*self.runs)
        self._places = ctypes.addressof(self._at), len(self._at), ctypes.addressof(self._lead)

    def put(self, run: Any, functions: Any) -> None:
        run.stop, run.stop_reads = functions.leads, self._readout.operation + 1
        run.stop_at, run.stops, run.context = self._places


def _int32(address: int, shape: tuple[int, ...]) -> Tensor:
    """A copy of the numbers that lie there."""
    size = torch.Size(shape).numel()
    return torch.frombuffer((ctypes.c_int32 * size).from_address(address), dtype=torch.int32).view(shape).clone()
