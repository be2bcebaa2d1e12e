"""Early exit: when a sample need not be simulated any further."""

from collections.abc import Callable, Iterable
from numbers import Real

import torch
from torch import Tensor

from .. import checks
from ..spikes import Spikes, word_ops
from .state import States

Stop = Callable[[Tensor, int], Tensor]  # output spikes so far [n, classes] and steps so far, to bool [n]


def margin(lead: float) -> Stop:
    """A rule for ``simulate(..., stop=...)``: stop a sample when its first class leads by ``lead`` output spikes.

    Args:
        lead: spikes, above 0, by which the class that fired most must be ahead of the second.

    Returns:
        A function (counts, t) -> bool [n] with the spikes so far, int32 [n, classes], of the n samples that are still
        simulated, and the steps so far. Any other such function is a rule as well.

    Raises:
        TypeError, ValueError: ``lead`` is not a number above 0.
    """
    if not isinstance(lead, Real) or isinstance(lead, bool):
        raise TypeError(f"lead must be a number of spikes, got {lead!r}")
    if not lead > 0:
        raise ValueError(f"lead must be above 0 spikes, got {lead}")

    def decided(counts: Tensor, t: int) -> Tensor:
        if counts.ndim != 2 or counts.shape[1] < 2:
            raise ValueError(
                f"margin compares classes, and the output must have the shape [N, classes] with at least 2, got "
                f"{list(counts.shape)}; give stop a rule of your own"
            )
        first, second = counts.topk(2, dim=1).values.unbind(1)
        return first - second >= lead

    return decided


def decided_by(stop: Stop, counts: Tensor, t: int) -> Tensor:
    """Which samples a rule stops, bool [n], given their spikes so far [n, ...]."""
    decided = stop(counts, t)
    if not isinstance(decided, Tensor) or decided.dtype != torch.bool or decided.shape != counts.shape[:1]:
        raise TypeError(f"stop must return a bool tensor [{len(counts)}], one for each sample; got {decided!r}")
    return decided


def samples(x: Spikes | Tensor, index: Tensor) -> Spikes | Tensor:
    """The samples ``index`` [n] of a sequence (T, N, ...)."""
    if isinstance(x, Spikes):
        return x._like(word_ops.samples(x._words, index), (x.T, len(index), *x.shape[2:]))
    if checks.is_constant(x):
        once = x[0][index]
        return once.expand(len(x), *once.shape)
    return x[:, index]


class Batch:
    """The samples that are simulated: all at first, fewer after ``stop`` has decided some."""

    def __init__(self, N: int, T: int, stop: Stop | None, device: torch.device):
        self.N, self.stop = N, stop
        self.index = torch.arange(N, device=device)
        self.steps = torch.full((N,), T, device=device)
        self.counts: Tensor | int = 0

    def active(self, x: Spikes | Tensor) -> Spikes | Tensor:
        """The samples of x (T, N, ...) that are still simulated."""
        return x if len(self.index) == self.N else samples(x, self.index)

    def whole(self, y: Spikes) -> Spikes:
        """The output of all samples, silent where they are not simulated any more."""
        if len(self.index) == self.N:
            return y
        return y._like(word_ops.spread(y._words, self.index, self.N), (y.T, self.N, *y.shape[2:]))

    def retire(self, y: Spikes, t: int, states: Iterable[States]) -> None:
        """Stop the samples that are decided after step ``t``."""
        if self.stop is None:
            return
        self.counts = self.counts + y.count()
        decided = decided_by(self.stop, self.counts, t)
        if not decided.any():
            return
        self.steps[self.index[decided]] = t
        for state in states:
            state.retire(decided, self.index)
        self.index, self.counts = self.index[~decided], self.counts[~decided]
