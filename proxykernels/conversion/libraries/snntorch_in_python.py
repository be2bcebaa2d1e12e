"""Neurons of snnTorch whose steps are written in Python here: the reference code runs them, and no kernel.

They are those with equations that no kernel has. ``reset`` is what a neuron of snnTorch has of the step before:
whether its potential was left above the threshold.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...neurons import AnyNeuron, Value


@dataclass(frozen=True)
class _AboveThreshold(AnyNeuron):
    """Neurons that fire at h > v_threshold.

    Attributes:
        inhibition: 1: of all neurons of a sample, only the one with the largest h may fire, the first of several.
    """

    v_threshold: Value = 1.0
    inhibition: float = 0.0

    scalars: ClassVar[tuple[str, ...]] = ("inhibition",)

    def check(self) -> None:
        super().check()
        if bool((torch.as_tensor(self.v_threshold) < 0).any()):
            raise ValueError("v_threshold must not be negative: such neurons begin with a reset, without a spike")

    def fired(self, h: Tensor, fire: Any) -> Tensor:
        theta: Any = self.v_threshold
        if self.inhibition:
            largest, least = h.argmax(1, keepdim=True), theta - 1 - theta.abs()
            is_largest = torch.zeros_like(h, dtype=torch.bool).scatter_(1, largest, True)
            h = torch.where(is_largest, h, h.detach().minimum(least))
        return fire(h, theta.nextafter(torch.full_like(theta, torch.inf)), None)[0].to(h)

    def left_above(self, v: Tensor, spikes: Tensor, after_firing: bool) -> Tensor:
        """1 where a potential is above the threshold at the end of a step. ``after_firing``: it may have been reset in
        the step itself; else these are the neurons that fired."""
        above = v > self.v_threshold if after_firing or self.inhibition else spikes
        return above.detach().to(v)


@dataclass(frozen=True)
class SnnTorchNeuron(_AboveThreshold):
    """Leaky and Synaptic.

    With i = current_decay i + I, the potential is h = decay v + i, from which a reset of the step before takes off:

    Attributes:
        subtracts: 1: v_threshold. drops: 1: all of h. keeps: 1: decay v. None of them is 1: nothing.
        at_once: 1: the same is taken off in the step in which a neuron fires, but not twice.
    """

    decay: Value = 1.0
    current_decay: Value = 0.0
    subtracts: float = 0.0
    drops: float = 0.0
    keeps: float = 0.0
    at_once: float = 0.0

    scalars: ClassVar[tuple[str, ...]] = ("inhibition", "subtracts", "drops", "keeps", "at_once")
    states: ClassVar[int] = 3

    def step(self, state, current, fire):
        v, i, reset = state
        i = self.current_decay * i + current
        h = self.decay * ((1 - reset) * v if self.keeps else v) + i
        if self.subtracts:
            h = h - reset * self.v_threshold
        elif self.drops:
            h = h - h * reset
        spikes = self.fired(h, fire)
        v = h
        if self.at_once and self.subtracts:
            v = h - (spikes - reset) * self.v_threshold
        elif self.at_once and (self.drops or self.keeps):
            v = h - (spikes - reset) * h
        return spikes, (v, i, self.left_above(v, spikes, bool(self.at_once)))


@dataclass(frozen=True)
class AlphaNeuron(_AboveThreshold):
    """exc = alpha exc + I; inh = beta inh - I; h = tau (exc + inh), and what snnTorch does to them after a spike.

    Attributes:
        subtracts: 1: exc - v_threshold, inh = 0, and h plus the inh of the step before. drops: 1: all are 0.
    """

    alpha: Value = 0.9
    beta: Value = 0.8
    tau: Value = 1.0
    subtracts: float = 0.0
    drops: float = 0.0

    scalars: ClassVar[tuple[str, ...]] = ("inhibition", "subtracts", "drops")
    states: ClassVar[int] = 4

    def step(self, state, current, fire):
        _, before_exc, before_inh, reset = state
        exc, inh = self.alpha * before_exc + current, self.beta * before_inh - current
        h = self.tau * (exc + inh)
        if self.subtracts:
            exc, inh, h = exc - self.v_threshold * reset, inh - inh * reset, h + before_inh * reset
        elif self.drops:
            exc, inh, h = exc - exc * reset, inh - inh * reset, h - h * reset
        spikes = self.fired(h, fire)
        return spikes, (h, exc, inh, self.left_above(h, spikes, False))


def alpha_gain(alpha: Tensor, beta: Tensor) -> Tensor:
    """The factor of an Alpha neuron's potential, in the order in which snnTorch computes it."""
    alpha, beta = alpha.detach().clamp(0, 1), beta.detach().clamp(0, 1)
    return torch.log(alpha) / (torch.log(beta) - torch.log(alpha)) + 1
