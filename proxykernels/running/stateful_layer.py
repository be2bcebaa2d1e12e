"""What layers keep in a simulation by chunks: neurons their potentials from call to call, a dropout its mask, and for
``record`` a layer's spikes and its potentials after every step; and the counts of spikes and synaptic operations, the
cost of a simulation on event-driven hardware.
"""

import copy
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import ops
from ..layers import Dropout, Neurons, RunningMaxPool2d, SpikingLayer
from ..layers.base import BatchStatistics
from ..layers.synapses import Synapse
from ..spikes import Spikes, storage
from ..spikes.spike_tensor import given_bits
from ..spikes.spikes import cat_steps, terms_of
from ..spikes.storage import Words

Watch = Callable[[str, Any], AbstractContextManager]  # of a layer's name and input: the context it computes in
POTENTIALS = ".v"  # behind a layer's name: its potentials


def unwatched(name: str, x) -> AbstractContextManager:
    return nullcontext()


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

    def of_call(self, call: int) -> Tensor | None:
        """None: at rest."""
        return self.now[call] if call < len(self.now) else None

    def set(self, call: int, v: Tensor) -> None:
        self.now[call : call + 1] = [v]

    def retire(self, decided: Tensor, index: Tensor) -> None:
        """Put the states of the samples that are decided (bool [n]) aside; ``index`` [n]: which samples these n are."""
        self.retired.append((index[decided], [v[decided] for v in self.now]))
        self.now = [v[~decided] for v in self.now]

    def whole(self, index: Tensor | None) -> list[Tensor]:
        """The states of all samples; ``index``: the samples that were not retired, None: all."""
        if not self.retired:
            return self.now
        indices, states = zip(*self.retired, (index, self.now), strict=True)
        order = torch.cat(indices).argsort()
        return [torch.cat(parts)[order] for parts in zip(*states, strict=True)]


class StatefulLayer(nn.Module):
    """Takes a layer's place in the network, and keeps its state, records and counts.

    Attributes:
        states: the potentials. records: what was asked for. tally: rate and synaptic operations.
    """

    def __init__(
        self,
        name: str,
        layer: SpikingLayer,
        ahead: int,
        states: list[Tensor] | None,
        batch_statistics: BatchStatistics,
        tally: Any,
        watch: Watch = unwatched,
        seen: Callable[[Any], None] = lambda y: None,
    ):
        """
        Args:
            ahead: steps that neurons which repeat themselves are run at once; 0: they are not.
            tally: counts what goes in and comes out; here or in training/surrogate_net.py.
            seen: is shown what the layer gives.
        """
        super().__init__()
        self.name, self.watch, self.seen = name, watch, seen
        self.firing = _Firing(layer, ahead, batch_statistics)
        self.states, self.records, self.tally = States(states), Records(name, layer), tally
        self.calls = self.start = 0

    @property
    def is_readout(self) -> bool:
        """Whether the layer gives potentials, or integers."""
        layer = self.firing.layer
        return isinstance(layer, Neurons) and (layer.neuron.counts or not layer.neuron.fires)

    def start_chunk(self, start: int) -> None:
        self.calls, self.start = 0, start

    def restart(self) -> None:
        """Forget states and counts."""
        self.states.now = []
        self.firing.forget()
        self.tally.restart()

    def forward(self, x: Spikes | Tensor | tuple, v: Any = None) -> Spikes | Tensor:
        if v is not None:
            raise TypeError(
                f"layer {self.name} was called with a state, which simulations keep themselves: leave v out"
            )
        x = given_bits(x)
        if self.records and self.calls:
            raise ValueError(f"record: layer {self.name} is called more than once a step, and its calls would mix")
        v = self.states.of_call(self.calls)
        with checks.at(f"layer {self.name}"), self.watch(self.name, x):
            may_repeat = v is None and not self.records
            y, after = self.firing.spike(x, v, self.calls, self.start, may_repeat)
        self.states.set(self.calls, after)
        self.calls += 1
        self.tally.add(x, y, first=self.start == 0)
        self.records.add(x, v, y)
        self.seen(y)
        return y


class _Firing:
    """Computes the spikes of a layer for each chunk. Periodic neurons compute all steps in the first chunk."""

    def __init__(self, layer: SpikingLayer, ahead: int, batch_statistics: BatchStatistics):
        self.layer, self.ahead, self.batch_statistics = layer, ahead, batch_statistics
        self.repeating: dict[int, Spikes] = {}  # call -> all steps
        self.even: set[int] = set()  # calls whose input has been the same since they were at rest

    def spike(self, x, v: Tensor | None, call: int, start: int, may_repeat: bool) -> tuple[Spikes, Tensor]:
        """The chunk from step ``start``, and the potentials after it: of neurons that repeat themselves, after all."""
        constant = isinstance(x, Tensor) and x.stride(0) == 0
        if may_repeat and constant and len(x) < self.ahead and self.layer.repeats(x.device, self.ahead):
            whole = x[:1].expand(self.ahead, *x.shape[1:])
            self.repeating[call], v = self.layer.spike(whole, batch_statistics=self.batch_statistics)
        if isinstance(self.layer, RunningMaxPool2d) and constant and (v is None or call in self.even):
            self.even.add(call)
            y, added = self.layer.spike(x)  # as from rest: maxima grow evenly
            return y, added if v is None else v + added
        if v is None or call not in self.repeating:  # those that repeat themselves have a state from then on
            return self.layer.spike(x, v, batch_statistics=self.batch_statistics)
        return self.repeating[call][start : start + len(x)], v

    def forget(self) -> None:
        """The next chunk is the first."""
        self.repeating.clear()
        self.even.clear()


class Masks:
    """Which units the Dropouts of a network keep in one forward pass: drawn where first asked for, then the same."""

    def __init__(self):
        self._kept: dict[tuple[str, int], Tensor] = {}  # layer's name, call -> units that are kept, bool [N, ...]

    def of_call(self, name: str, call: int, layer: Dropout, x: Spikes | Tensor) -> Tensor:
        """The mask of a layer's ``call``-th call in a step, on x (T, N, ...)."""
        kept = self._kept.get((name, call))
        if kept is None:
            kept = self._kept[name, call] = layer.draw(x)
        if tuple(kept.shape) != tuple(x.shape[1:]):
            raise ValueError(
                f"x has the shape {list(x.shape[1:])} a step, and had {list(kept.shape)} in the other twin"
            )
        return kept


class HeldDropout(nn.Module):
    """Takes the place of a :class:`Dropout` for a forward pass. ``masks`` None: nothing is dropped."""

    def __init__(self, name: str, layer: Dropout, masks: Masks | None):
        super().__init__()
        self.name, self.layer, self.masks = name, layer, masks
        self.calls = 0

    def start_chunk(self) -> None:
        self.calls = 0

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        with checks.at(f"layer {self.name}"):
            checks.steps_of(x, None, "(T, N, ...)")
            if self.masks is None or not self.layer.drops:
                return x
            kept = self.masks.of_call(self.name, self.calls, self.layer, x)
            self.calls += 1
            return self.layer.drop(x, kept)


class Records:
    """The records of one layer; false if nothing was asked for."""

    def __init__(self, name: str, layer: SpikingLayer):
        self.name, self.layer = name, layer
        self.parts: dict[str, list] = {}  # the name, or the name and POTENTIALS -> a part for each chunk

    def __bool__(self) -> bool:
        return bool(self.parts)

    def add(self, x: Spikes | Tensor | tuple, v: Tensor | None, y: Spikes | Tensor) -> None:
        """A chunk: the layer's input, the potentials it started from, and its spikes."""
        if self.name in self.parts:
            self.parts[self.name].append(y)
        if self.name + POTENTIALS in self.parts:
            self.parts[self.name + POTENTIALS].append(self._potentials(x, v))

    def whole(self) -> dict[str, Spikes | Tensor]:
        return {
            key: torch.cat(parts) if isinstance(parts[0], Tensor) else cat_steps(parts)
            for key, parts in self.parts.items()
        }

    def _potentials(self, x: Any, v: Tensor | None) -> Tensor:
        """The potentials after each step, float32 [T, N, ...]; the layer itself returns the last ones only."""
        parts = x if isinstance(x, tuple) else (x,)
        steps = []
        for t in range(parts[0].shape[0]):
            step = tuple(part[t : t + 1] for part in parts)
            given: Any = step if isinstance(x, tuple) else step[0]
            _, v = self.layer.spike(given, v)
            several = isinstance(self.layer, Neurons) and self.layer.states > 1
            steps.append(v[:, 0] if several else v)
        return torch.stack(steps)


def ask(records: Mapping[str, Records], wanted: Iterable[str]) -> None:
    """Tell the layers' records, by the layers' names, what ``record`` names."""
    if isinstance(wanted, str):
        raise TypeError(f"record must be a list of layer names, got the string {wanted!r}; write [{wanted!r}]")
    if not isinstance(wanted, Iterable):
        raise TypeError(f"record must be a list of layer names, got {wanted!r}; net has {sorted(records)}")
    for key in wanted:
        if not isinstance(key, str):
            raise TypeError(f"record must be a list of layer names, got {key!r} in it")
        name = key.removesuffix(POTENTIALS) if key not in records else key
        if name not in records:
            raise ValueError(f"record names a layer that net has not: {key!r}; it has {sorted(records)}")
        records[name].parts[key] = []


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
            read_counters([self])
        assert self._totals is not None
        return self._totals.get(who, 0)


def read_counters(several: Iterable[Counters]) -> None:
    """Read the totals of counters from a GPU, which is waited for once."""
    unread = list({id(counters): counters for counters in several if counters._totals is None}.values())
    sums = [counts.sum(0) for counters in unread for counts in counters._counts.values()]
    found = iter((torch.cat(sums) if len(sums) > 1 else sums[0]).tolist() if sums else [])
    for counters in unread:
        counters._totals = {}
        for claims in (claims for _, *rows in counters._counts for claims in rows):
            row = next(found)
            for name, which, times in claims:
                counters._totals[name] = counters._totals.get(name, 0) + times * row[which]


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
        elif isinstance(self.layer, Neurons) and self.layer.neuron.counts:
            self.fires = True
            self.places += math.prod(y.shape)
            self._spikes.append(y.sum(dtype=torch.float64))
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
