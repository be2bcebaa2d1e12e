"""The result of a network that the library ran."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor

from ..kernels.table import TALLIES, InputKind, Kind
from ..plan.library import Given
from ..plan.operations import Operation, Slot
from ..plan.plan import Plan
from ..plan.written import Written
from ..spikes import Spikes
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


class PlanResult(Result):
    """The result of a network that the library ran."""

    def __init__(
        self, plan: Plan, written: Written, looks: tuple[int, ...] | None, given: Given,
        kept: Mapping[int, Tensor], start: dict[int, Tensor],
    ):  # fmt: skip
        """
        Args:
            written: the output, and what was counted and kept with it.
            looks: the steps of the runs from rest that samples had in turn, up to their last; None: each had one.
            given: the input.
            kept: the states of some operations, by their numbers, as the library has them. start: those at the start;
                none of them: at rest.
        """
        self._plan, self._written, self._looks, self._kept, self._start = plan, written, looks, kept, start
        self._kind, self._scaled, self._constant, self.records = given.kind, given.scaled, given.constant, {}

    def __getstate__(self) -> dict:
        """What copies and pickles take: the counts as numbers, and of the plan what logits need, without weights."""
        counted = {name: getattr(self, name) for name in ("rates", "places", "sums", "synops", "relu_joules")}
        return self.__dict__ | counted | {"_plan": self._plan.without_weights(), "_kept": dict(self._kept)}

    @property
    def _input(self) -> Slot:
        return Slot(self._kind != InputKind.PACKED_SPIKES, self._kind == InputKind.HELD_VALUES, self._scaled)

    @cached_property
    def output(self) -> Spikes | Tensor:  # type: ignore[override]  # made when it is asked for: a call may take less
        return self._written.tensor()

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._written.shape

    @property
    def _gives_integers(self) -> bool:
        neurons = self._plan.shaped.neurons
        return neurons is not None and neurons.counts

    @property
    def _total_counts(self) -> Tensor:
        counted = self._written.counts
        return self.spikes.count() if counted is None else counted

    @cached_property
    def steps(self) -> Tensor:
        return self._written.steps.clone() if self._written.layout.stops else super().steps

    @cached_property
    def _tally(self) -> list[int]:
        """For each operation its spikes, and then its additions of a weight to a potential."""
        return self._written.tally

    @cached_property
    def _ran(self) -> tuple[int, int]:
        """Steps, and runs from rest, of all samples."""
        T, N = self._written.shape[:2]
        if not self._written.layout.stops:
            return N * T, N
        if self._looks is None:
            return int(self._written.steps.sum()), N
        runs = [[run for run in self._looks if run <= steps] for steps in self._written.steps.tolist()]
        return sum(map(sum, runs)), sum(map(len, runs))

    def _states_of(self, k: int) -> Tensor | None:
        """The states of an operation, as the library has them, if they were kept."""
        if k == self._plan.with_logits and self._written.layout.state is not None:
            return self._written.state
        return self._kept.get(k)

    @cached_property
    def rates(self) -> dict[str, float]:  # type: ignore[override]
        slots = self._plan.slots(self._input)
        return {op.name: self._rate(k, op) for k, op in self._plan.stateful() if _fires(op, slots[k + 1])}

    def _rate(self, k: int, op: Operation) -> float:
        return self._tally[TALLIES * k] / (prod(op.shape) * self._ran[0]) if self._ran[0] else math.nan

    @cached_property
    def places(self) -> dict[str, int]:  # type: ignore[override]
        slots = self._plan.slots(self._input)
        return {
            op.name: prod(op.shape) * self._ran[0] if _fires(op, slots[k + 1]) else 0 for k, op in self._plan.stateful()
        }

    @cached_property
    def synops(self) -> SynOps:  # type: ignore[override]
        done, products = SynOps(), self._plan.products(self._input, self._ran[1], self._ran[0])
        for k, op in self._plan.stateful():
            parts = self._plan.parts(k)
            done.accumulates[op.name] = sum(
                self._plan.additions(part, self._tally[TALLIES * part + 1]) for part in parts
            )
            done.multiply_accumulates[op.name] = sum(products[part] for part in parts)
        return done

    @cached_property
    def relu_joules(self) -> float | None:  # type: ignore[override]
        if not self._constant or not self._stands_for_a_relu_network():
            return None
        return MULTIPLY_ACCUMULATE_JOULES * (self._shape[1] * self._plan.relu_products)

    def _stands_for_a_relu_network(self) -> bool:
        _, last = self._plan.stateful()[-1]
        return last.neurons is not None and last.neurons.scale is not None

    @cached_property
    def state(self) -> dict[str, list[Tensor]]:  # type: ignore[override]
        found = {}
        for k, op in self._plan.stateful():
            states = self._states_of(k)
            if states is None:
                raise AttributeError(
                    "a run of an engine keeps no states: take engine.stream(), or proxykernels.simulate"
                )
            found[op.name] = [self._plan.as_simulated(k, states)]
        return found

    @property
    def logits(self) -> Tensor:
        if self._written.logits is not None:
            return self._written.logits
        k, steps = self._plan.with_logits, self.steps if self._written.layout.stops else self._shape[0]
        state, start = (
            None if k is None or states is None else self._plan.as_simulated(k, states)
            for states in ((None, None) if k is None else (self._states_of(k), self._start.get(k)))
        )
        return logits_of(self._plan, self._total_counts, state, steps, start)


def _fires(op: Operation, given: Slot) -> bool:
    """Whether an operation gives spikes, one or several in a step; ``given``: its slot."""
    return not given.gives_values or (op.neurons is not None and op.neurons.counts)


class ChangesResult(PlanResult):
    """The result of a network of sigma-delta neurons: rates and operations are its layers'."""

    def _of_layers(self, value: Callable[[int, Operation], Any]) -> dict[str, Any]:
        """Layer name -> the value of its neurons, which are an operation of their own behind a pooling."""
        values = {op.name: value(k, op) for k, op in enumerate(self._plan.operations) if op.senders}
        return {op.name: values[op.name] for _, op in _layers(self._plan) if op.name in values}

    @cached_property
    def rates(self) -> dict[str, float]:  # type: ignore[override]
        return self._of_layers(self._rate)

    @cached_property
    def places(self) -> dict[str, int]:  # type: ignore[override]
        return {op.name: 0 for _, op in _layers(self._plan)} | self._of_layers(
            lambda k, op: prod(op.shape) * self._ran[0]
        )

    @cached_property
    def sums(self) -> dict[str, int]:
        return {op.name: 0 for _, op in _layers(self._plan)} | self._of_layers(
            lambda k, op: prod(self._plan.change_states(op)[0]) * self._ran[0]
        )

    @cached_property
    def synops(self) -> SynOps:  # type: ignore[override]
        accumulates, multiply_accumulates = (
            {op.name: self._tally[TALLIES * k + number] for k, op in _layers(self._plan)} for number in (1, 2)
        )
        return SynOps(accumulates, multiply_accumulates)

    def _stands_for_a_relu_network(self) -> bool:
        last = self._plan.operations[-2]
        return last.kind == Kind.SEND or last.senders is not None

    @cached_property
    def state(self) -> dict[str, list[Tensor]]:  # type: ignore[override]
        """Empty where none was asked for."""
        return as_state(self._plan, self._kept.__getitem__, self._shape[1]) if self._kept else {}

    @property
    def logits(self) -> Tensor:
        return self.potentials[-1]


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
