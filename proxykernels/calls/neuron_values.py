"""The neurons of a call as one object: checked, with their state, in the form that kernels take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import ops
from ..kernels.neuron_models import Neuron
from ..neurons import AnyNeuron
from ..spikes import Spikes
from ..spikes.spike_autograd import Integers, applied
from ..spikes.storage import Periods, channels, from_channels_last, start
from .currents import Input
from .gradients import Operands, fire

FEW = 1 << 24  # neurons times steps; so few need no check of the memory
Fired = tuple[Any, Tensor]  # Spikes, the integers or the potentials [T, N, ...]; and the state


@dataclass(frozen=True)
class NeuronsOfCall:
    """The neurons of a call, and their initial state; both are checked.

    Attributes:
        neuron: the neuron model with its parameters.
        shape: [N, ...].
        v: the initial state, as the functions take it.
        device: where they are.
        kernels: what operators.direct returned, or the operators.
        start, parameters: the initial state and the neurons, as kernels take them.
    """

    neuron: AnyNeuron
    shape: tuple[int, ...]
    v: Tensor | float | None
    device: torch.device
    kernels: Any
    start: Tensor
    parameters: Neuron

    def repeat(self, T: int) -> bool:
        """Whether their spikes on a constant current are periodic: they start at rest and are reset to rest."""
        return T > 1 and self.v is None and self.neuron.repeats(self.device, T)

    def fired(self, T: int, kept: Any, after: Tensor, handle: Tensor | None = None) -> Fired:
        """The results of kernels in the form that users get: spikes, and the state [N, C, ...], or [N, states, C, ...]
        with several states."""
        shape, states = self.shape, self.neuron.states
        if states > 1:
            after = from_channels_last(after.flatten(0, 1), (shape[0] * states, *shape[1:]))
            after = after.unflatten(0, (shape[0], states))
        else:
            after = after.view(shape) if len(shape) < 3 else from_channels_last(after, shape)
        if self.neuron.counts:  # [T, N, P, C] of neurons that fire several times in a step
            sent = from_channels_last(kept.flatten(0, 1), (T * shape[0], *shape[1:]))
            return sent.unflatten(0, (T, shape[0])), after
        return Spikes(kept, (T, *shape), handle=handle), after

    def with_gradient(
        self,
        given: Input,
        handle: Tensor | None,
        x: Tensor,
        surrogate: Any,
        weight: Any = None,
        bias: Any = None,
    ) -> Fired:
        """Run the neurons on an input (gradients.py) with gradients for the input, the weights and the neurons."""
        bias = None if bias is None else bias.float()
        operands = Operands(handle, x, weight, bias, self.start, self.parameters.channels)
        words, handle, after = fire(given, operands, self.parameters, surrogate.kernel)
        if self.neuron.counts:
            return self.fired(given.T, applied(Integers, handle, words), after)
        kept = Periods(words, given.T) if getattr(given, "repeats", False) else words
        return self.fired(given.T, kept, after, handle)


def neurons_of(
    neuron: AnyNeuron,
    shape: Sequence[int],
    v: Tensor | float | None,
    device: torch.device,
    kernels: Any,
    numbers: bool,
    *,
    T: int,
    differentiable: bool,
) -> NeuronsOfCall:
    """The neurons of a call of T steps, after a check of the memory; ``numbers``: no parameter is a tensor."""
    if type(v) in (float, int) and v == neuron.rest:
        v = None
    kept = kernels is not ops and numbers
    if kept and v is None and T * math.prod(shape) <= FEW:
        return _at_rest(neuron, tuple(shape), device, kernels)
    checks.room(T, shape, device)
    if v is not None:
        checks.state(v, shape, neuron.states, device)
    if not differentiable:
        neuron, v = neuron.detach(), v.detach() if isinstance(v, Tensor) else v
    return _ready(neuron, tuple(shape), v, device, kernels, kept=kept)


def _ready(
    neuron: AnyNeuron, shape: tuple[int, ...], v: Any, device: torch.device, kernels: Any, *, kept: bool
) -> NeuronsOfCall:
    state = start(v, shape, device, neuron, kept=kept)
    return NeuronsOfCall(neuron, shape, v, device, kernels, state, neuron.on(channels(shape), device, kept=kept))


@lru_cache(256)
def _at_rest(neuron: AnyNeuron, shape: tuple[int, ...], device: torch.device, kernels: Any) -> NeuronsOfCall:
    """Neurons whose parameters are numbers and that start at rest, on a CPU. Cached, since nothing writes to them."""
    with torch.inference_mode(False):
        return _ready(neuron, shape, None, device, kernels, kept=True)
