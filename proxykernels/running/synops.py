"""Counts of spikes and synaptic operations: the cost of a simulation on event-driven hardware."""

import copy
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import ops
from ..layers import SpikingLayer
from ..layers.synapses import Synapse
from ..spikes import Spikes, storage
from ..spikes.spikes import terms_of
from ..spikes.storage import Words


@dataclass
class _Job:
    """The spikes of one tensor of words, to be counted in one pass.

    Two sums are computed: 0, the number of spikes; 1, the spikes weighted by ``reach``.

    Attributes:
        reach: number of target neurons of a spike, by pixel, int32 [P]; None if sum 1 is not needed.
        claims: (who, sum, times): add ``times`` the sum 0 or 1 to the total of ``who``.
    """

    words: Tensor
    reach: Tensor | None = None
    claims: list[tuple[Hashable, int, int]] = field(default_factory=list)


class Counters:
    """Totals over all chunks, by name."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Forget all totals."""
        self._jobs: list[_Job] = []
        self._counts: dict[tuple, Tensor] = {}  # claims of a launch -> its sums
        self._totals: dict[Hashable, int] | None = None  # None until they are read from the device

    def copy(self) -> "Counters":
        """The totals so far, which later chunks do not change."""
        other = Counters()
        other._counts = {claims: counts.clone() for claims, counts in self._counts.items()}
        return other

    @staticmethod
    def take(x: Spikes) -> bool:
        """Whether these spikes are counted here: only spikes that are packed over time are."""
        return isinstance(x._kept, Words) and storage.over_time(x._kept.words)

    def add(self, x: Spikes, who: Hashable, times: int = 1, reach: Tensor | None = None) -> None:
        """Add ``times`` the spikes of a chunk to the total of ``who``; with ``reach``, int32 [P], weighted by it."""
        job = self._job(x._kept.words, reach)
        job.claims.append((who, int(reach is not None), times))

    def _job(self, words: Tensor, reach: Tensor | None) -> _Job:
        for job in self._jobs:
            if job.words is words and (reach is None or job.reach is None or job.reach is reach):
                job.reach = reach if job.reach is None else job.reach
                return job
        self._jobs.append(_Job(words, reach))
        return self._jobs[-1]

    def end_chunk(self) -> None:
        """Count what was added since the last chunk."""
        for first in range(0, len(self._jobs), storage.COUNTED):
            jobs = self._jobs[first : first + storage.COUNTED]
            key = first, *(tuple(job.claims) for job in jobs)
            words = [job.words for job in jobs]
            if key not in self._counts:
                self._counts[key] = storage.new_counts(len(words), words[0].device)
            ops.add_counts(words, [job.reach for job in jobs], self._counts[key])
        self._jobs, self._totals = [], None

    def forget_chunk(self) -> None:
        """Forget what was added since the last chunk."""
        self._jobs = []

    def total(self, who: Hashable) -> int:
        """The total of ``who``. The first call after a chunk waits for the GPU."""
        if self._totals is None:
            self._totals = {}
            sums = torch.cat([counts.sum(0) for counts in self._counts.values()]).tolist() if self._counts else []
            for claims, found in zip((claims for _, *rows in self._counts for claims in rows), sums, strict=True):
                for name, which, times in claims:
                    self._totals[name] = self._totals.get(name, 0) + times * found[which]
        return self._totals.get(who, 0)


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
            with the addition; a constant input is multiplied once for all steps.
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


class LayerTally:
    """Spikes and synaptic operations of one layer, summed over chunks and calls.

    Attributes:
        multiply_accumulates: those of the simulation. products: those of a ReLU network in one pass, zeros not skipped.
        places: neurons times steps and samples.
        fires: whether the layer has given spikes.
    """

    def __init__(self, name: str, layer: SpikingLayer, counters: Counters, with_synops: bool = True):
        """``counters``: of all layers; they count on a GPU. ``with_synops``: whether operations are counted, too."""
        self.name, self.layer, self.counters, self.with_synops = name, layer, counters, with_synops
        self.restart()

    def restart(self) -> None:
        """Forget all counts except ``counters``'."""
        self.multiply_accumulates = self.products = self.places = 0
        self.fires = False
        self._spikes: list[Tensor] = []
        self._accumulates: list[Tensor] = []

    def copy(self, counters: Counters) -> "LayerTally":
        """The counts so far; ``counters``: those of its own."""
        other = copy.copy(self)
        other.counters, other._spikes, other._accumulates = counters, list(self._spikes), list(self._accumulates)
        return other

    def add(self, x: Any, y: Spikes | Tensor, *, first: bool) -> None:
        """A chunk of the layer's input, a tuple if it has several, and its output; ``first``: of the steps from 0."""
        if isinstance(y, Spikes):
            self.fires = True
            self.places += math.prod(y.shape)
            if self.counters.take(y):
                self.counters.add(y, (self.name, "spikes"))
            else:
                self._spikes.append(y._total())
        for synapse, part in (*self.layer.terms(x), *self.layer.returning(y)) if self.with_synops else ():
            if first:
                self.products += synapse.products(tuple(part.shape))
            for term in terms_of(part):
                self._add_operations(synapse, term, y, first)

    def _add_operations(self, synapse: Synapse, x: Spikes | Tensor, y: Spikes | Tensor, first: bool) -> None:
        if isinstance(x, Spikes) and self.counters.take(x):
            self.counters.add(x, (self.name, "accumulates"), synapse.fan_out, synapse.reach(x))
        elif isinstance(x, Spikes):
            self._accumulates.append(synapse.accumulates(x))
        elif first or not checks.is_repeated(x):  # a constant input is multiplied once
            steps = 1 if checks.is_repeated(x) else len(x)
            self.multiply_accumulates += steps * math.prod(y.shape[1:]) * synapse.fan_in

    @property
    def rate(self) -> float:
        """Spikes a neuron and step; nan without samples."""
        spikes = sum(map(int, self._spikes)) + self.counters.total((self.name, "spikes"))
        return spikes / self.places if self.places else math.nan

    @property
    def accumulates(self) -> int:
        return sum(map(int, self._accumulates)) + self.counters.total((self.name, "accumulates"))
