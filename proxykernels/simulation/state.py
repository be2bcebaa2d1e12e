"""A network while it is simulated: what its layers carry from chunk to chunk, and the samples still in the batch."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks, functional, packed
from ..layers import SpikingLayer
from ..spikes import Spikes
from .early_exit import Stop
from .synops import multiply_accumulates

POTENTIALS = ".v"  # behind a layer's name: its potentials


Watch = Callable[[str, Any], AbstractContextManager]  # of a layer's name and input: the context it computes in


def unwatched(name: str, x) -> AbstractContextManager:
    return nullcontext()


class Carrier(nn.Module):
    """A layer that hands its potentials from chunk to chunk, counts spikes and operations, and keeps records.

    A layer that a network calls more than once is that many populations of neurons: one state for each call. Neurons
    that repeat themselves are run once, ``ahead`` steps, at the first chunk; not if ``ahead`` is 0.
    """

    def __init__(
        self,
        name: str,
        layer: SpikingLayer,
        ahead: int,
        states: list[Tensor] | None,
        batch_statistics: bool,
        watch: Watch = unwatched,
    ):
        super().__init__()
        self.watch = watch
        self.name, self.layer, self.ahead, self.batch_statistics = name, layer, ahead, batch_statistics
        self.states = list(states or [])
        self.repeating: dict[int, Spikes] = {}  # call -> all steps of neurons that repeat themselves
        self.calls = self.start = 0
        self.spikes: list[Tensor] = []
        self.steps = 0
        self.accumulates: list[Tensor] = []
        self.multiply_accumulates = 0
        self.records: dict[str, list] = {}  # the name, or the name and POTENTIALS -> a part for each chunk
        self.retired: list[tuple[Tensor, list[Tensor]]] = []  # samples that were stopped, and their states

    def start_chunk(self, start: int) -> None:
        self.calls, self.start = 0, start

    def forward(self, x: Spikes | Tensor | tuple) -> Spikes:
        if self.records and self.calls:
            raise ValueError(f"record: layer {self.name} is called more than once a step, and its calls would mix")
        v = self.states[self.calls] if self.calls < len(self.states) else None
        try:
            with self.watch(self.name, x):
                y, state = self._spike(x, v)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {self.name}: {error}") from error
        self.states[self.calls : self.calls + 1] = [state]
        self.calls += 1
        self.spikes.append(y._total())
        self.steps += math.prod(y.shape)
        self._count_operations(x, y)
        if self.name in self.records:
            self.records[self.name].append(y)
        if self.name + POTENTIALS in self.records:
            self.records[self.name + POTENTIALS].append(self._potentials(x, v))
        return y

    def rate(self) -> float:
        """Spikes a neuron and step; nan if there were none of these."""
        return sum(int(s) for s in self.spikes) / self.steps if self.steps else math.nan

    def retire(self, decided: Tensor, index: Tensor) -> None:
        """Put the states of the samples that are decided (bool [n]) aside; ``index`` [n]: which samples these n are."""
        self.retired.append((index[decided], [v[decided] for v in self.states]))
        self.states = [v[~decided] for v in self.states]

    def final_states(self, index: Tensor) -> list[Tensor]:
        """The state of each call, of all samples; ``index``: those that were not retired."""
        if not self.retired:
            return self.states
        indices, states = zip(*self.retired, (index, self.states), strict=True)
        order = torch.cat(indices).argsort()
        return [torch.cat(parts)[order] for parts in zip(*states, strict=True)]

    def finished_records(self) -> dict[str, Spikes | Tensor]:
        return {
            key: torch.cat(parts) if key.endswith(POTENTIALS) else functional.cat_steps(parts)
            for key, parts in self.records.items()
        }

    def _spike(self, x: Spikes | Tensor | tuple, v: Tensor | None) -> tuple[Spikes, Tensor]:
        """One chunk of the layer's spikes, and its potentials."""
        layer, steps = self.layer, self.ahead
        held = isinstance(x, Tensor) and x.stride(0) == 0
        rests = v is None and not self.records
        if rests and held and len(x) < steps and layer.repeats(x.device, steps):
            whole = x[:1].expand(steps, *x.shape[1:])
            self.repeating[self.calls], v = layer.spike(whole, batch_statistics=self.batch_statistics)
        elif self.calls not in self.repeating:
            return layer.spike(x, v, batch_statistics=self.batch_statistics)
        return self.repeating[self.calls][self.start : self.start + len(x)], v

    def _count_operations(self, x, y: Spikes) -> None:
        for synapse, part in self.layer.terms(x):
            if isinstance(part, Spikes):
                self.accumulates.append(synapse.accumulates(part))
            elif self.start == 0 or not checks.is_held(part):  # what is held is multiplied once
                self.multiply_accumulates += multiply_accumulates(synapse, part, y.shape)

    def _potentials(self, x, v: Tensor | None) -> Tensor:
        """The potentials after each step, float32 [T, N, ...]; the layer itself returns the last ones only."""
        parts = x if isinstance(x, tuple) else (x,)
        steps = []
        for t in range(parts[0].shape[0]):
            step = tuple(part[t : t + 1] for part in parts)
            _, v = self.layer.spike(step if isinstance(x, tuple) else step[0], v)
            steps.append(v)
        return torch.stack(steps)


def ask_for_records(carriers: dict[str, Carrier], record: Iterable[str]) -> None:
    """Tell the layers what to record."""
    if isinstance(record, str):
        raise TypeError(f"record must be a list of layer names, got the string {record!r}; write [{record!r}]")
    for key in record:
        if not isinstance(key, str):
            raise TypeError(f"record must be a list of layer names, got {key!r} in it")
        name = key.removesuffix(POTENTIALS) if key not in carriers else key
        if name not in carriers:
            raise ValueError(f"record names a layer that net has not: {key!r}; it has {sorted(carriers)}")
        carriers[name].records[key] = []


def samples(x: Spikes | Tensor, index: Tensor) -> Spikes | Tensor:
    """The samples ``index`` [n] of a sequence (T, N, ...)."""
    if isinstance(x, Spikes):
        return Spikes(packed.samples(x._words, index), (x.T, len(index), *x.shape[2:]))
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
        """The rows of x (T, N, ...) that are still simulated."""
        return x if len(self.index) == self.N else samples(x, self.index)

    def whole(self, y: Spikes) -> Spikes:
        """The output of all samples, silent where they are not simulated any more."""
        if len(self.index) == self.N:
            return y
        return Spikes(packed.spread(y._words, self.index, self.N), (y.T, self.N, *y.shape[2:]))

    def retire(self, y: Spikes, t: int, carriers: Iterable[Carrier]) -> None:
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
        for carrier in carriers:
            carrier.retire(decided, self.index)
        self.index, self.counts = self.index[~decided], self.counts[~decided]
