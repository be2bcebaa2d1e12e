"""What SurrogateNet counts of a layer: spikes, neurons, and what a backward pass keeps."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import checks
from ..running.synops import Counters
from ..spikes import Spikes


class PartTally:
    """Spikes of one layer, its neurons in all steps, and the bytes of spikes that a backward pass keeps of it."""

    def __init__(self, counters: Counters | None):
        """``counters``: of all layers, which count on a GPU; None: nobody counts spikes."""
        self.counters, self.spikes = counters, list[Tensor]()
        self.neurons = 0
        self.kept_bytes = 0.0

    @property
    def rate(self) -> float:
        """Spikes a neuron and step."""
        counted = 0 if self.counters is None else self.counters.total(self)
        return (sum(map(int, self.spikes)) + counted) / max(1, self.neurons)

    def add(self, x: Any, y: Spikes | Tensor, *, first: bool) -> None:
        """A chunk of the layer's input, a tuple if it has several, and its output."""
        if isinstance(y, Spikes) and self.counters is not None:
            if self.counters.take(y):
                self.counters.add(y, self)
            else:
                self.spikes.append(y._total())
        self.neurons += math.prod(y.shape)
        # What comes in, and what goes out: a pooling keeps its own input.
        self.kept_bytes += sum(_bytes(part) for part in (*(x if isinstance(x, tuple) else (x,)), y))


def rates_of(tallies: Mapping[str, PartTally]) -> dict[str, float]:
    return {name: tally.rate for name, tally in tallies.items()}


def _bytes(x: Spikes | Tensor) -> float:
    """What is kept of an input: bits of spikes, real values; of a constant input hardly anything."""
    return math.prod(x.shape) * (1 / 8 if isinstance(x, Spikes) else 0 if checks.is_constant(x) else 4)
