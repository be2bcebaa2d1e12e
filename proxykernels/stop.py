"""Rules for early exit, ``simulate(..., stop=...)``: when a sample need not be simulated any further.

    result = pk.simulate(net, images, T=64, stop=pk.stop.margin(3))
    result.steps                         # steps that each image took, [N]

A rule is a function of what a network has given so far; any function of one's own is one too.

margin      of counts of spikes: the first class leads by so many
settled     of sigma-delta neurons: the first class leads by as much as any output still changes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Stop", "margin", "settled"]

STOP_EVERY = 8  # steps between two looks of a rule
STOP_EVERY_CHANGES = 2  # the same, for sigma-delta neurons
LOOKS = (1, 4, 16, 64)  # steps after which logits are looked at
# Output spikes so far [n, classes] and steps so far, to bool [n]; of sigma-delta neurons potentials [t, n, classes].
Stop = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Margin:
    """What :func:`margin` gives for spikes: a function (counts, t) -> bool [n]."""

    lead: float
    of = "spikes"

    def __call__(self, seen: Tensor, t: int) -> Tensor:
        first, second = self._first_two(seen)
        return first - second >= self.lead

    def _first_two(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        if seen.ndim != 2 or seen.shape[1] < 2:
            raise ValueError(
                f"margin compares the {self.of} of classes, and the output must have the shape [N, classes] with at "
                f"least 2, got {list(seen.shape)}; give stop a rule of your own, or pk.stop.settled() for sigma-delta "
                "neurons"
            )
        return seen.topk(2, dim=1).values.unbind(1)  # type: ignore[return-value]


@dataclass(frozen=True)
class LogitMargin(Margin):
    """What :func:`margin` gives for logits: a function (logits, t) -> bool [n].

    Attributes:
        at: the steps after which it looks, ascending.
    """

    at: tuple[int, ...]
    of = "logits"

    def __call__(self, seen: Tensor, t: int) -> Tensor:
        first, second = self._first_two(seen)
        return (first - second) * t >= self.lead

    def runs(self, T: int) -> list[int]:
        """Steps of the runs up to T steps, after which it looks."""
        return [*(t for t in self.at if t < T), T]


@dataclass(frozen=True)
class Lengths:
    """The rule of ``lengths=``: each sample stops at its own end.

    Attributes:
        steps: of each sample.
    """

    steps: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int] | Tensor, T: int, stop: Stop | None) -> "Lengths":
        """Raises:
        TypeError, ValueError: they are no numbers of 1 to T steps, or there is another rule.
        """
        if stop is not None:
            raise ValueError("stop and lengths exclude each other: a sample stops by a rule, or at its end")
        listed = lengths.tolist() if hasattr(lengths, "tolist") else lengths
        if not isinstance(listed, list | tuple) or not all(isinstance(t, int) and t is not True for t in listed):
            raise TypeError(
                f"lengths must be the steps of each sample, integers [N], such as recordings.batch gives; got "
                f"{lengths!r}"
            )
        if wrong := [t for t in listed if not 1 <= t <= T]:
            raise ValueError(
                f"lengths must lie from 1 to T = {T}, got {wrong[0]}; T is the length of the longest sample"
            )
        return cls(tuple(listed))

    def __call__(self, seen: Tensor, t: int) -> Tensor:
        raise TypeError("lengths are asked by samples")

    def of_batch(self, N: int, device: torch.device) -> Tensor:
        """int64 [N].

        Raises:
            ValueError: there are others.
        """
        if len(self.steps) != N:
            raise ValueError(f"lengths must have an entry for each of the {N} samples, got {len(self.steps)}")
        return torch.tensor(self.steps, dtype=torch.int64, device="cpu").to(device)


def margin(
    lead: float, *, of: Literal["spikes", "logits"] = "spikes", at: Sequence[int] | None = None
) -> Margin:  # fmt: skip
    """A rule for ``simulate(..., stop=...)``: stop a sample when its first class leads.

    Output spikes need several steps to tell classes apart; logits differ from the first step on. After t steps they are
    off by up to about a constant over t, so the first one must lead by ``lead`` / t. What that constant is depends on
    the network: choose ``lead`` and ``at`` by the accuracy and the mean of ``result.steps`` on images that you do not
    report.

    Args:
        lead: above 0. For spikes: by how many the class that fired most must be ahead of the second. For logits: by
            how much the first must be ahead, times the steps.
        of: "spikes": looks at the counts of output spikes, every 8 steps or at the end of each chunk. "logits": looks
            at the logits, of a network that :func:`convert` made with soft reset. On a CPU samples that are not decided
            then start again, with more steps, which takes less time than to keep the states of all.
        at: for logits only: the steps after which they are looked at, ascending. Default: 1, 4, 16 and 64.

    Returns:
        A function (seen, t) -> bool [n] with the spikes so far, int32 [n, classes], or the logits, float32, of the n
        samples that are still simulated, and the steps so far. Any other function of the spikes is a rule as well.

    Raises:
        TypeError, ValueError: an argument is no number above 0, or numbers of steps; the message names it.

    Example:
        >>> result = pk.simulate(net, images, T=4, stop=pk.stop.margin(0.5, of="logits", at=[1]))
        >>> result.logits.argmax(1), result.steps
    """
    if of not in ("spikes", "logits"):
        raise ValueError(f"of must be 'spikes' or 'logits', got {of!r}")
    _check("lead", lead, " spikes" if of == "spikes" else "")
    if of == "spikes":
        if at is not None:
            raise ValueError(f"at={at!r} is for of='logits'; spikes are counted every 8 steps: leave at out")
        return Margin(float(lead))
    at = LOOKS if at is None else at
    looks = [*at] if isinstance(at, Sequence) else []
    if not looks or not all(isinstance(t, int) and t > 0 for t in looks) or sorted({*looks}) != looks:
        raise ValueError(f"at must be ascending numbers of steps, such as [1, 4], got {at!r}")
    return LogitMargin(float(lead), tuple(looks))


def settled(times: float = 1.0) -> Stop:
    """A rule for ``simulate(..., stop=...)`` and networks of sigma-delta neurons: stop a sample that has settled.

    It has when its first class leads by at least ``times`` as much as any output has changed in the last step. What
    neurons have not sent yet falls to a third a step, once it is below 1.5 thresholds, so all changes to come add up to
    about half of the last one.

    Args:
        times: above 0; 1/2 stops earlier, 2 later.

    Returns:
        A function (potentials, t) -> bool [n] with the outputs after each step so far, float32 [t, n, classes], of the
        n samples that are still simulated. Any other such function is a rule as well.

    Raises:
        TypeError, ValueError: ``times`` is not a number above 0.
    """
    _check("times", times)

    def decided(potentials: Tensor, t: int) -> Tensor:
        if potentials.ndim != 3 or potentials.shape[2] < 2:
            raise ValueError(
                f"settled compares the potentials [t, N, classes] of at least 2 classes, got {list(potentials.shape)}; "
                "give stop a rule of your own, or pk.stop.margin(3) for IF neurons"
            )
        if len(potentials) < 2:
            return torch.zeros(potentials.shape[1], dtype=torch.bool, device=potentials.device)
        first, second = potentials[-1].topk(2, dim=1).values.unbind(1)
        return first - second >= times * (potentials[-1] - potentials[-2]).abs().amax(1)

    return decided


def _check(name: str, value: float, unit: str = "") -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number{' of' * bool(unit)}{unit}, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be above 0{unit}, got {value}")


def check_rule(stop: Stop | None) -> None:
    """``stop`` is a rule on the counts of spikes, or None.

    Raises:
        TypeError: it is not.
    """
    if stop is not None and not callable(stop):
        raise TypeError(
            f"stop must be a rule such as proxykernels.stop.margin(8), a function of (counts, t), got {stop!r}"
        )


def decided_by(stop: Stop, seen: Tensor, t: int, n: int) -> Tensor:
    """Which of n samples a rule stops, bool [n], given what it looks at. Where there are none it is not asked."""
    if not n:
        return torch.zeros(0, dtype=torch.bool, device=seen.device)
    decided = stop(seen, t)
    if not isinstance(decided, Tensor) or decided.dtype != torch.bool or decided.shape != (n,):
        raise TypeError(f"stop must return a bool tensor [{n}], one for each sample; got {decided!r}")
    return decided
