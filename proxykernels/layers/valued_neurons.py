"""Neurons that hand on values instead of spikes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels.reference_gradients import SurrogateSpike
from ..spikes import Spikes
from .base import SpikingLayer, WithoutSynapses, kept_values

Fire = Callable[[Tensor], Tensor]  # of h - threshold: 1 where that is at least 0, with a surrogate derivative


class Rule(nn.Module):
    """What such neurons do in a step; its buffers and parameters are those of the neurons.

    Attributes:
        start: the values that a neuron starts from, the potential first.
        v_threshold: about where it fires.
    """

    start: tuple[float, ...] = (0.0,)
    v_threshold: float = 1.0

    def step(self, state: tuple[Tensor, ...], x: Tensor, fire: Fire) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What is handed on, and the state after the step, for currents [N, ...]."""
        raise NotImplementedError


class ValuedNeurons(WithoutSynapses):
    """Neurons that hand on values instead of spikes, which PyTorch computes step by step.

    Made by :func:`from_spikingjelly` of TernaryIFNode, TernaryLIFNode, LIAFNode and STBIFNode. The layer has a state,
    so networks may be run in parts. Engines and files refuse it.

    Args:
        rule: what the neurons do in a step, with their parameters.
        surrogate: the surrogate derivative of their spikes; None: they have none.

    Shapes: x (T, N, ...), Spikes or a tensor; y [T, N, ...]; state v [N, ...], or of several states [N, states, ...].
    """

    def __init__(self, rule: Rule, surrogate: Any = None):
        super().__init__()
        self.rule, self.surrogate = rule, surrogate

    @property
    def v_threshold(self) -> float:
        """About where the neurons fire."""
        return self.rule.v_threshold

    def _warn_without_gradient(self, *inputs: Spikes | Tensor) -> None:
        SpikingLayer._warn_without_gradient(self, *inputs)

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, None, "(T, N, ...)")
        x = x.dense() if isinstance(x, Spikes) else x
        x = x if x.is_floating_point() else x.float()
        start = self.rule.start
        if v is None:
            state = tuple(torch.full_like(x[0], value) for value in start)
        else:
            one = len(start) == 1
            v = kept_values(v, (len(x[0]), *[len(start)] * (not one), *x.shape[2:]), x.device)
            state = tuple(part.to(x.dtype) for part in ((v,) if one else v.unbind(1)))
        steps = []
        for step in x:
            y, state = self.rule.step(state, step, self._spikes)
            steps.append(y)
        after = state[0] if len(state) == 1 else torch.stack(state, 1)
        return torch.stack(steps), after.float()

    def _spikes(self, x: Tensor) -> Tensor:
        if self.surrogate is None:
            return (x >= 0).to(x.dtype)
        theta = x.new_tensor(self.rule.v_threshold)
        return SurrogateSpike.apply(x, theta, self.surrogate.kernel).to(x.dtype)

    def affine(self, x: Tensor) -> Tensor:
        return x
