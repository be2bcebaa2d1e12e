"""What a run of the engine leaves behind."""

import math
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import SimpleNamespace

from torch import Tensor

from ..neurons import IFNeuron
from ..simulation.result import Result as SimulationResult
from ..simulation.result import logits
from ..simulation.synops import SynOps
from ..spikes import Spikes
from .plan import Plan


@dataclass(frozen=True)
class Counted:
    """What the library counted: int64 [operations, 2], spikes and additions of a weight to a potential.

    Attributes:
        sample_steps: steps times samples. held: whether the input was, which is multiplied once.
    """

    tally: Tensor
    sample_steps: int
    samples: int
    held: bool
    values: bool  # whether the input was values

    def rates(self, plan: Plan) -> dict[str, float]:
        spikes = self.tally[:, 0].tolist()
        return {
            op.name: math.nan if op.real or not self.sample_steps else spikes[k] / (prod(op.shape) * self.sample_steps)
            for k, op in plan.stateful()
        }

    def synops(self, plan: Plan) -> SynOps:
        additions, done = self.tally[:, 1].tolist(), SynOps()
        for k, op in plan.stateful():
            done.accumulates[op.name] = additions[k]
            once = self.held and all(window.slot == 0 for window in op.windows)
            done.multiply_accumulates[op.name] = plan.products(op) * (self.samples if once else self.sample_steps)
        return done


class Result(SimulationResult):
    """As the result of :func:`proxykernels.simulate`: spikes or potentials, count, logits, rates, steps, synops.

    It holds no states and no records: a run keeps none. :meth:`Engine.stream` goes on from call to call.
    """

    def __init__(self, plan: Plan, output: Spikes | Tensor, steps: Tensor, last: Tensor, counted: Counted):
        """``last``: the states of the last operation that has some, [N, ...]."""
        self._plan, self.output, self.steps, self._last_state, self._counted = plan, output, steps, last, counted
        self.records: dict = {}

    @property
    def state(self):
        raise AttributeError("a run of an engine keeps no states: take engine.stream(), or proxykernels.simulate")

    @cached_property
    def rates(self) -> dict[str, float]:
        return self._counted.rates(self._plan)

    @cached_property
    def synops(self) -> SynOps:
        return self._counted.synops(self._plan)

    @property
    def logits(self) -> Tensor:
        return logits_of(self._plan, self.count(), self._last_state, self.steps)


def logits_of(plan: Plan, counts: Tensor, state: Tensor, steps: Tensor) -> Tensor:
    """Of the ReLU network that a network was converted from: simulation/result.py."""
    neurons = plan.last.neurons
    if neurons is None or neurons.scale is None:
        layer = SimpleNamespace(scale=None)
    else:
        neuron = IFNeuron(neurons.channels[0], None)
        layer = SimpleNamespace(scale=neurons.scale, neuron=neuron, v_init=neurons.start[0])
    return logits(layer, counts, [state], (), steps)  # type: ignore[arg-type]
