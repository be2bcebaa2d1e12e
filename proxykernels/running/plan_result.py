"""The figures of a network that the library ran."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor

from ..kernels.table import TALLIES, InputKind, Kind
from ..plan.operations import Operation, Slot
from ..plan.plan import Plan
from ..plan.written import Written
from .result import LOSES_CHARGE, MULTIPLY_ACCUMULATE_JOULES, NOT_CONVERTED, Result, SynOps
from .stream_state import as_state


class LaterStates(Mapping[int, Tensor]):
    """The states after a run, by the numbers of operations, as the library has them. Most results are only counted, so
    a second run gives the states once somebody asks for them."""

    def __init__(self, numbers: Sequence[int], run: Callable[[], Mapping[int, Tensor]]):
        """``run``: gives them all."""
        self._numbers, self._run = numbers, run
        self._states: Mapping[int, Tensor] | None = None

    def __getitem__(self, number: int) -> Tensor:
        if number not in self._numbers:
            raise KeyError(number)
        if self._states is None:  # threads that ask at once each have a run
            self._states = self._run()
        return self._states[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


@dataclass(eq=False)
class PlanFigures:
    """The figures of a network that the library ran, as running/result.py has them.

    Attributes:
        written: the output, and what was counted and kept with it.
        looks: the steps of the runs from rest that samples had in turn, up to their last; None: each had one.
        kind: of the input, an InputKind. scaled: whether it was spikes that a Dropout had scaled. constant: whether its
            steps were alike.
        kept: the states of some operations, by their numbers, as the library has them. start: those at the start; none
            of them: at rest.
    """

    plan: Plan
    written: Written
    looks: tuple[int, ...] | None
    kind: int
    scaled: bool
    constant: bool
    kept: Mapping[int, Tensor]
    start: dict[int, Tensor]

    def __getstate__(self) -> dict:
        """What copies and pickles take: the counts as numbers, and of the plan what logits need, without weights."""
        counted = {name: getattr(self, name) for name in ("rates", "places", "sums", "synops", "relu_joules")}
        return self.__dict__ | counted | {"plan": self.plan.without_weights(), "kept": dict(self.kept)}

    @cached_property
    def tally(self) -> list[int]:
        """For each operation its spikes, and then its additions of a weight to a potential."""
        return self.written.tally

    @property
    def _input(self) -> Slot:
        """What the input was run as."""
        return Slot(self.kind != InputKind.PACKED_SPIKES, self.kind == InputKind.HELD_VALUES, self.scaled)

    @property
    def samples(self) -> int:
        return self.written.shape[1]

    @cached_property
    def _ran(self) -> tuple[int, int]:
        """Steps, and runs from rest, of all samples."""
        T, N = self.written.shape[:2]
        if not self.written.layout.stops:
            return N * T, N
        if self.looks is None:
            return int(self.written.steps.sum()), N
        runs = [[run for run in self.looks if run <= steps] for steps in self.written.steps.tolist()]
        return sum(map(sum, runs)), sum(map(len, runs))

    @property
    def sample_steps(self) -> int:
        """Steps times samples."""
        return self._ran[0]

    def states(self, k: int) -> Tensor | None:
        """The states of an operation, as the library has them, if they were kept."""
        if k == self.plan.with_logits and self.written.layout.state is not None:
            return self.written.state
        return self.kept.get(k)

    @cached_property
    def rates(self) -> dict[str, float]:
        slots = self.plan.slots(self._input)
        return {op.name: self._rate(k, op) for k, op in self.plan.stateful() if not slots[k + 1].gives_values}

    def _rate(self, k: int, op: Operation) -> float:
        return self.tally[TALLIES * k] / (prod(op.shape) * self.sample_steps) if self.sample_steps else math.nan

    @cached_property
    def places(self) -> dict[str, int]:
        slots = self.plan.slots(self._input)
        return {
            op.name: 0 if slots[k + 1].gives_values else prod(op.shape) * self.sample_steps
            for k, op in self.plan.stateful()
        }

    @cached_property
    def sums(self) -> dict[str, int]:
        return {}

    @cached_property
    def synops(self) -> SynOps:
        done, products = SynOps(), self.plan.products(self._input, self._ran[1], self.sample_steps)
        for k, op in self.plan.stateful():
            parts = self.plan.parts(k)
            done.accumulates[op.name] = sum(self.plan.additions(part, self.tally[TALLIES * part + 1]) for part in parts)
            done.multiply_accumulates[op.name] = sum(products[part] for part in parts)
        return done

    @cached_property
    def relu_joules(self) -> float | None:
        if not self.constant or not self._stands_for_a_relu_network():
            return None
        return MULTIPLY_ACCUMULATE_JOULES * (self.samples * self.plan.relu_products)

    def _stands_for_a_relu_network(self) -> bool:
        _, last = self.plan.stateful()[-1]
        return last.neurons is not None and last.neurons.scale is not None

    @cached_property
    def state(self) -> dict[str, list[Tensor]]:
        found = {}
        for k, op in self.plan.stateful():
            states = self.states(k)
            if states is None:
                raise AttributeError(
                    "a run of an engine keeps no states: take engine.stream(), or proxykernels.simulate"
                )
            found[op.name] = [self.plan.as_simulated(k, states)]
        return found

    def logits(self, result: Result) -> Tensor:
        if self.written.logits is not None:
            return self.written.logits
        k = self.plan.with_logits
        state, start = (
            None if k is None or states is None else self.plan.as_simulated(k, states)
            for states in ((None, None) if k is None else (self.states(k), self.start.get(k)))
        )
        return logits_of(self.plan, result._total_counts, state, result._steps_or_T, start)


class ChangesFigures(PlanFigures):
    """The figures of a network of sigma-delta neurons: rates and operations are its layers'."""

    def _of_layers(self, value: Callable[[int, Operation], Any]) -> dict[str, Any]:
        """Layer name -> the value of its neurons, which are an operation of their own behind a pooling."""
        values = {op.name: value(k, op) for k, op in enumerate(self.plan.operations) if op.senders}
        return {op.name: values[op.name] for _, op in _layers(self.plan) if op.name in values}

    @cached_property
    def rates(self) -> dict[str, float]:
        return self._of_layers(self._rate)

    @cached_property
    def places(self) -> dict[str, int]:
        return {op.name: 0 for _, op in _layers(self.plan)} | self._of_layers(
            lambda k, op: prod(op.shape) * self.sample_steps
        )

    @cached_property
    def sums(self) -> dict[str, int]:
        return {op.name: 0 for _, op in _layers(self.plan)} | self._of_layers(
            lambda k, op: prod(self.plan.change_states(op)[0]) * self.sample_steps
        )

    @cached_property
    def synops(self) -> SynOps:
        accumulates, multiply_accumulates = (
            {op.name: self.tally[TALLIES * k + number] for k, op in _layers(self.plan)} for number in (1, 2)
        )
        return SynOps(accumulates, multiply_accumulates)

    def _stands_for_a_relu_network(self) -> bool:
        last = self.plan.operations[-2]
        return last.kind == Kind.SEND or last.senders is not None

    @cached_property
    def state(self) -> dict[str, list[Tensor]]:
        """Empty where none was asked for."""
        return as_state(self.plan, self.kept.__getitem__, self.samples) if self.kept else {}

    def logits(self, result: Result) -> Tensor:
        return result.potentials[-1]


def _layers(plan: Plan) -> list[tuple[int, Operation]]:
    """Operations that are layers of sigma-delta neurons, or their synapses, with their numbers."""
    return [(k, op) for k, op in enumerate(plan.operations) if op.kind == Kind.SEND]


def logits_of(
    plan: Plan, counts: Tensor, state: Tensor | None, steps: Tensor | int, start: Tensor | None
) -> Tensor:  # fmt: skip
    """The logits of the ReLU network that a network was converted from (running/result.py). ``start``: the state that
    the counts started from; None: rest."""
    if plan.readout is None or state is None:
        neurons = next((op.neurons for op in reversed(plan.operations) if op.neurons), None)
        raise AttributeError(NOT_CONVERTED if neurons is None or neurons.scale is None else LOSES_CHARGE)
    return plan.readout.logits(counts, state, steps, start)
