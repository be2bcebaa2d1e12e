"""Synaptic operations: what a simulation would cost on hardware that works spike by spike."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .. import checks
from ..layers import SpikingLayer
from ..spikes import Spikes
from .counters import Counters

# 32-bit floating point in 45 nm CMOS, 0.9 V: an addition takes 0.9 pJ, a multiplication 3.7 pJ. Horowitz, "Computing's
# energy problem (and what we can do about it)", ISSCC 2014, doi 10.1109/ISSCC.2014.6757323. Memory is not counted.
ACCUMULATE_JOULES = 0.9e-12
MULTIPLY_ACCUMULATE_JOULES = 4.6e-12


@dataclass
class SynOps:
    """Operations of a simulation, over all its samples and steps.

    Attributes:
        accumulates: layer name -> additions of a weight to a potential: one for each spike and each neuron that it
            reaches (padding is not reached).
        multiply_accumulates: layer name -> multiplications of a real-valued input (an image, averages) by a weight,
            with the addition; an input that is held is multiplied once for all steps.
    """

    accumulates: dict[str, int] = field(default_factory=dict)
    multiply_accumulates: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.accumulates.values()) + sum(self.multiply_accumulates.values())

    @property
    def joules(self) -> float:
        """The energy estimate usual in the field: 0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate (45 nm CMOS,
        Horowitz, ISSCC 2014), memory not counted."""
        additions, products = sum(self.accumulates.values()), sum(self.multiply_accumulates.values())
        return ACCUMULATE_JOULES * additions + MULTIPLY_ACCUMULATE_JOULES * products


class Tally:
    """Spikes and synaptic operations of one layer, summed over chunks and calls."""

    def __init__(self, name: str, layer: SpikingLayer, counters: Counters, with_synops: bool = True):
        """``counters``: of all layers; they count on a GPU. ``with_synops``: whether operations are counted, too."""
        self.name, self.layer, self.counters, self.with_synops = name, layer, counters, with_synops
        self.multiply_accumulates = self.places = 0
        self._spikes: list[Tensor] = []
        self._accumulates: list[Tensor] = []

    def add(self, x: Any, y: Spikes | Tensor, *, first: bool) -> None:
        """A chunk of the layer's input, a tuple if it has several, and its output; ``first``: of the steps from 0."""
        if isinstance(y, Spikes):
            self.places += math.prod(y.shape)
            if self.counters.take(y):
                self.counters.add(y, (self.name, "spikes"))
            else:
                self._spikes.append(y._total())
        for synapse, part in self.layer.terms(x) if self.with_synops else ():
            if isinstance(part, Spikes) and self.counters.take(part):
                self.counters.add(part, (self.name, "accumulates"), synapse.fan_out, synapse.reach(part))
            elif isinstance(part, Spikes):
                self._accumulates.append(synapse.accumulates(part))
            elif first or not checks.is_held(part):  # what is held is multiplied once
                steps = 1 if checks.is_held(part) else len(part)
                self.multiply_accumulates += steps * math.prod(y.shape[1:]) * synapse.fan_in

    @property
    def rate(self) -> float:
        """Spikes a neuron and step; nan if there were none of these, or the layer does not fire."""
        spikes = sum(map(int, self._spikes)) + self.counters.of((self.name, "spikes"))
        return spikes / self.places if self.places else math.nan

    @property
    def accumulates(self) -> int:
        return sum(map(int, self._accumulates)) + self.counters.of((self.name, "accumulates"))
