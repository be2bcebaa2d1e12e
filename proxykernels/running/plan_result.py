"""What a run of the engine leaves behind."""

import math
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import heap
from ..neurons import IFNeuron
from ..plan.library import TALLIES
from ..plan.plan import Kind, Operation, Plan, Slot
from ..spikes import Spikes
from .changes import as_state
from .result import Result as SimulationResult
from .result import logits
from .synops import MULTIPLY_ACCUMULATE_JOULES, SynOps


@dataclass(frozen=True)
class Counted:
    """What the library counted.

    Attributes:
        tally: of each operation spikes, and additions of a weight to a potential, in turn.
        sample_steps: steps times samples. runs: from rest, of all samples.
        given: what the input was run as. constant: whether its steps were alike.
    """

    tally: Any
    sample_steps: int
    samples: int
    runs: int
    given: Slot
    constant: bool

    def rates(self, plan: Plan) -> dict[str, float]:
        slots = plan.slots(self.given)
        return {
            op.name: math.nan
            if slots[k + 1].gives_values or not self.sample_steps
            else self.tally[TALLIES * k] / (prod(op.shape) * self.sample_steps)
            for k, op in plan.stateful()
        }

    def places(self, plan: Plan) -> dict[str, int]:
        slots = plan.slots(self.given)
        return {
            op.name: 0 if slots[k + 1].gives_values else prod(op.shape) * self.sample_steps for k, op in plan.stateful()
        }

    def synops(self, plan: Plan) -> SynOps:
        done, products = SynOps(), plan.products(self.given, self.runs, self.sample_steps)
        for k, op in plan.stateful():
            parts = plan.parts(k)
            done.accumulates[op.name] = sum(self.tally[TALLIES * part + 1] for part in parts)
            done.multiply_accumulates[op.name] = sum(products[part] for part in parts)
        return done

    def relu_joules(self, plan: Plan) -> float | None:
        _, last = plan.stateful()[-1]
        known = self.constant and last.neurons is not None and last.neurons.scale is not None
        return MULTIPLY_ACCUMULATE_JOULES * (self.samples * plan.relu_products) if known else None


class CountedChanges(Counted):
    """The same of a network of sigma-delta neurons, whose rates and operations are those of its layers."""

    def rates(self, plan: Plan) -> dict[str, float]:
        rates = {op.name: math.nan for _, op in _layers(plan)}
        for k, op in enumerate(plan.operations):
            if op.senders and self.sample_steps:
                rates[op.name] = self.tally[TALLIES * k] / (prod(op.shape) * self.sample_steps)
        return rates

    def places(self, plan: Plan) -> dict[str, int]:
        places = {op.name: 0 for _, op in _layers(plan)}
        fire = (op for op in plan.operations if op.senders)
        return places | {op.name: prod(op.shape) * self.sample_steps for op in fire}

    def sums(self, plan: Plan) -> dict[str, int]:
        """Values of z times steps and samples: more than places where a max pooling is before the neurons."""
        sums = {op.name: 0 for _, op in _layers(plan)}
        fire = (op for op in plan.operations if op.senders)
        return sums | {op.name: prod(plan.change_states(op)[0]) * self.sample_steps for op in fire}

    def synops(self, plan: Plan) -> SynOps:
        accumulates, multiply_accumulates = (
            {op.name: self.tally[TALLIES * k + number] for k, op in _layers(plan)} for number in (1, 2)
        )
        return SynOps(accumulates, multiply_accumulates)

    def relu_joules(self, plan: Plan) -> float | None:
        last = plan.operations[-2]
        known = self.constant and (last.kind == Kind.SEND or last.senders is not None)
        return MULTIPLY_ACCUMULATE_JOULES * (self.samples * plan.relu_products) if known else None


def _layers(plan: Plan) -> list[tuple[int, Operation]]:
    """Operations that are layers of sigma-delta neurons, or their synapses, with their numbers."""
    return [(k, op) for k, op in enumerate(plan.operations) if op.kind == Kind.SEND]


class Output(NamedTuple):
    """What the last operation gave: packed spikes [N, T, P, bytes] or values [T, N, P, C]; and of spikes the counts."""

    raw: Tensor
    shape: tuple[int, ...]
    counts: Tensor | None

    def tensor(self) -> Spikes | Tensor:
        """(T, N, ...)."""
        if self.counts is not None:
            return Spikes(self.raw, self.shape)
        return self.raw.transpose(2, 3).reshape(self.shape)


class Result(SimulationResult):
    """As the result of :func:`proxykernels.simulate`: spikes or potentials, count, logits, rates, steps, synops.

    It holds no records. One of an engine's run holds no states: :meth:`Engine.stream` goes on from call to call.
    """

    def __init__(
        self, plan: Plan, output: Output, steps: Tensor | None, kept: dict[int, Tensor], counted: Counted,
        start: dict[int, Tensor] | None = None,
    ):  # fmt: skip
        """``steps``: of each sample, None: all. ``kept``: the states of some operations, by their numbers, as the
        library has them; ``start``: those at the start, None: at rest."""
        self._plan, self._output, self._steps, self._counted = plan, output, steps, counted
        self._kept, self._start = kept, start or {}
        self.records: dict = {}

    @cached_property
    def output(self) -> Spikes | Tensor:  # type: ignore[override]  # made when it is asked for: a call may take less
        return self._output.tensor()

    @cached_property
    def steps(self) -> Tensor:  # type: ignore[override]
        T, N = self._output.shape[:2]
        return torch.full((N,), T, dtype=torch.int64, device=heap.CPU) if self._steps is None else self._steps

    def count(self, until: int | None = None) -> Tensor:
        counts = self._output.counts
        return self.spikes.count(until) if until is not None or counts is None else counts.clone()

    def __getstate__(self) -> dict:
        """What copies and pickles take: the counts as numbers, and of the plan what logits need, without weights."""
        counted = {"rates": self.rates, "places": self.places, "synops": self.synops, "relu_joules": self.relu_joules}
        return self.__dict__ | counted | {"_plan": self._plan.without_weights(), "_counted": None}

    @cached_property
    def state(self) -> dict[str, list[Tensor]]:  # type: ignore[override]
        stateful = self._plan.stateful()
        if any(k not in self._kept for k, _ in stateful):
            raise AttributeError("a run of an engine keeps no states: take engine.stream(), or proxykernels.simulate")
        return {op.name: [self._plan.as_simulated(k, self._kept[k])] for k, op in stateful}

    @cached_property
    def rates(self) -> dict[str, float]:
        return self._counted.rates(self._plan)

    @cached_property
    def places(self) -> dict[str, int]:
        return self._counted.places(self._plan)

    @cached_property
    def synops(self) -> SynOps:
        return self._counted.synops(self._plan)

    @cached_property
    def relu_joules(self) -> float | None:  # type: ignore[override]
        return self._counted.relu_joules(self._plan)

    @property
    def logits(self) -> Tensor:
        k = self._plan.with_logits
        state, start = (
            None if k is None or k not in states else self._plan.as_simulated(k, states[k])
            for states in (self._kept, self._start)
        )
        return logits_of(self._plan, self.count(), state, self.steps, start)


class ChangesResult(Result):
    """That of a network of sigma-delta neurons: ``potentials`` [T, N, ...] are the ReLU network's outputs as
    far as each step tells them, ``logits`` [N, ...] those of the last step."""

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"sums": self.sums}

    @cached_property
    def sums(self) -> dict[str, int]:
        """Layer name -> values of z times steps and samples."""
        return self._counted.sums(self._plan)  # type: ignore[attr-defined]

    @cached_property
    def state(self) -> dict[str, list[Tensor]]:  # type: ignore[override]
        """Empty where none was asked for."""
        return as_state(self._plan, self._kept.__getitem__, len(self.steps)) if self._kept else {}

    @property
    def logits(self) -> Tensor:
        return self.potentials[-1]


def logits_of(
    plan: Plan, counts: Tensor, state: Tensor | None, steps: Tensor, start: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Of the ReLU network that a network was converted from: running/result.py. ``start``: the state that the counts
    started from; None: rest."""
    neurons = next((op.neurons for op in reversed(plan.operations) if op.neurons), None)
    if neurons is None or neurons.scale is None:
        layer = SimpleNamespace(scale=None)
    else:
        layer = SimpleNamespace(
            scale=neurons.scale, neuron=IFNeuron(v_threshold=neurons.channels[0], v_reset=neurons.v_reset),
            v_init=neurons.start[0], rectifies=neurons.rectifies, limit=neurons.limit,
        )  # fmt: skip
    return logits(layer, counts, [state], () if start is None else (start,), steps)  # type: ignore[arg-type, list-item]
