"""Early exit: when a sample need not be simulated any further."""

from collections.abc import Callable
from numbers import Real

from torch import Tensor

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
