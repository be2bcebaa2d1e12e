"""Counts of a layer in SurrogateNet: spikes, neurons, and the memory that a backward pass keeps."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import checks
from ..running.synops import Counters
from ..spikes import Spikes


class PartTally:
    """Spikes of one layer, its neurons times steps, and the bytes that a backward pass keeps for it."""

    def __init__(self, counters: Counters | None):
        """``counters``: shared by all layers, they count on a GPU; None: spikes are not counted."""
        self.counters, self.spikes = counters, list[Tensor]()
        self.neurons = 0
        self.kept_bytes = 0.0

    @property
    def rate(self) -> float:
        """Spikes per neuron and step."""
        counted = 0 if self.counters is None else self.counters.total(self)
        return (sum(map(int, self.spikes)) + counted) / max(1, self.neurons)

    def add(self, x: Any, y: Spikes | Tensor, *, first: bool) -> None:
        """Count a chunk of the layer's input (a tuple if there are several) and of its output."""
        if isinstance(y, Spikes) and self.counters is not None:
            if self.counters.take(y):
                self.counters.add(y, self)
            else:
                self.spikes.append(y._total())
        self.neurons += math.prod(y.shape)
        # Counts input and output, since a pooling layer keeps its input for the backward pass.
        self.kept_bytes += sum(_bytes(part) for part in (*(x if isinstance(x, tuple) else (x,)), y))


def rates_of(tallies: Mapping[str, PartTally]) -> dict[str, float]:
    return {name: tally.rate for name, tally in tallies.items()}


def _bytes(x: Spikes | Tensor) -> float:
    """Bytes kept of an input: one bit per spike, four bytes per real value, and next to nothing if it is constant."""
    return math.prod(x.shape) * (1 / 8 if isinstance(x, Spikes) else 0 if checks.is_constant(x) else 4)
