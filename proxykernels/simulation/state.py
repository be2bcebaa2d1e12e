"""What goes on from chunk to chunk of a simulation: potentials, and the samples that are still simulated."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import checks, packed
from ..spikes import Spikes
from .early_exit import Stop


def check_layers(state: Mapping[str, Any], layers: Collection[str]) -> None:
    """A state that is given must be of layers that there are, and hold lists.

    Raises:
        TypeError, ValueError: it is not; the message names the layer.
    """
    for name, states in state.items():
        if not isinstance(states, list | tuple):
            raise TypeError(f"state of layer {name} must be a list of tensors, got {type(states).__name__}")
    unknown = set(state) - set(layers)
    if unknown:
        raise ValueError(f"state holds layers that net has not: {sorted(unknown)}; it has {sorted(layers)}")


def check_calls(name: str, given: int, calls: int) -> None:
    """A state that is given must have a tensor for each population, or none; known once the layer was called."""
    if given not in (0, calls):
        raise ValueError(
            f"state of layer {name} must have one tensor for each of its {calls} call(s) in a step, got {given}"
        )


class States:
    """The potentials of a layer, one tensor [N, ...] for each of its calls in a step.

    A layer that a network calls more than once is that many populations of neurons.
    """

    def __init__(self, given: list[Tensor] | None):
        self.now = list(given) if given is not None else []
        self.retired: list[tuple[Tensor, list[Tensor]]] = []  # samples that were stopped, and their potentials

    def of(self, call: int) -> Tensor | None:
        """None: at rest."""
        return self.now[call] if call < len(self.now) else None

    def set(self, call: int, v: Tensor) -> None:
        self.now[call : call + 1] = [v]

    def retire(self, decided: Tensor, index: Tensor) -> None:
        """Put those of the samples that are decided (bool [n]) aside; ``index`` [n]: which samples these n are."""
        self.retired.append((index[decided], [v[decided] for v in self.now]))
        self.now = [v[~decided] for v in self.now]

    def whole(self, index: Tensor) -> list[Tensor]:
        """Those of all samples; ``index``: the samples that were not retired."""
        if not self.retired:
            return self.now
        indices, states = zip(*self.retired, (index, self.now), strict=True)
        order = torch.cat(indices).argsort()
        return [torch.cat(parts)[order] for parts in zip(*states, strict=True)]


def samples(x: Spikes | Tensor, index: Tensor) -> Spikes | Tensor:
    """The samples ``index`` [n] of a sequence (T, N, ...)."""
    if isinstance(x, Spikes):
        return x._like(packed.samples(x._words, index), (x.T, len(index), *x.shape[2:]))
    if checks.is_held(x):
        once = x[0][index]
        return once.expand(len(x), *once.shape)
    return x[:, index]


class Batch:
    """The samples that are simulated: all of them, until ``stop`` finds some decided."""

    def __init__(self, N: int, T: int, stop: Stop | None, device: torch.device):
        self.N, self.stop = N, stop
        self.index = torch.arange(N, device=device)
        self.steps = torch.full((N,), T, device=device)
        self.counts: Tensor | int = 0

    def of(self, x: Spikes | Tensor) -> Spikes | Tensor:
        """The samples of x (T, N, ...) that are still simulated."""
        return x if len(self.index) == self.N else samples(x, self.index)

    def whole(self, y: Spikes) -> Spikes:
        """The output of all samples, silent where they are not simulated any more."""
        if len(self.index) == self.N:
            return y
        return y._like(packed.spread(y._words, self.index, self.N), (y.T, self.N, *y.shape[2:]))

    def retire(self, y: Spikes, t: int, states: Iterable[States]) -> None:
        """Stop the samples that are decided after step ``t``."""
        if self.stop is None:
            return
        self.counts = self.counts + y.count()
        decided = self.stop(self.counts, t)
        if not isinstance(decided, Tensor) or decided.dtype != torch.bool or decided.shape != self.index.shape:
            raise TypeError(f"stop must return a bool tensor [{len(self.index)}], one for each sample; got {decided!r}")
        if not decided.any():
            return
        self.steps[self.index[decided]] = t
        for state in states:
            state.retire(decided, self.index)
        self.index, self.counts = self.index[~decided], self.counts[~decided]
