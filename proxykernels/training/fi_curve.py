"""The rate at which leaky neurons fire on a current: what stands for them in the twin of ProxyNet.

A neuron that starts at u0 above v_rest, on a current I that stays the same, comes to the threshold after n steps,

    n(I) = log(1 + (1 - decay) d / x) / -log(decay)
    d = theta - v_rest - u0,  x = I - (1 - decay) (theta - v_rest)

x is the current above the rheobase, below which the neuron never fires. A hard reset puts it at u0 = v_reset - v_rest;
a soft one takes theta from a potential of theta, u0 = -v_rest. Its rate is 1 / n, and 1 where n is 1 or less.

At the rheobase the slope of 1 / n is infinite, and currents that are sums of spikes go up and down, so that a neuron
fires below it too. Here the rate is the line through the points where n is 2 and 1, down to 0 and up to 1:

    rate(I) = 1 + (I - saturation) (1 + decay) / (2 decay d)        saturation = theta - v_rest - decay u0

It leaves 1 / n by less than 0.03 above a rate of 1/3 if the decay is at least 1/2, is 0 below (1 - decay) /
(1 + decay) theta (if v_reset = v_rest = 0; the rheobase is (1 - decay) theta), and becomes I / theta, the ReLU of
integrate-and-fire neurons, as the decay goes to 1.

Hunsberger and Eliasmith ("Training spiking deep networks for neuromorphic hardware", 2016, arXiv:1611.05141) bound the
slope by gamma log(1 + exp(x / gamma)) in the place of x. That leaves neurons that never fire a rate that falls as
1 / |x| only, and costs a logarithm and an exponential a neuron where this costs one multiplication.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..neurons import CubaLIFNeuron, LIFNeuron, RefractoryLIFNeuron, Value

LEAST_DECAY = 0.25  # the curve of smaller ones is nearly a step
GREATEST_CURRENT_DECAY = 0.999  # a filter that forgets nothing has no constant output


def rate(neuron: LIFNeuron, current: Tensor) -> Tensor:
    """Spikes a step, from 0 to 1, of leaky neurons on currents [N, C, ...]; differentiable.

    Current-based neurons see currents that are 1 / (1 - current_decay) times as large. Refractory ones rest R steps
    after each spike: 1 / (R + 1) and 1 / (R + 2) are the rates of the two points. Of an adaptive threshold, the
    adaptation is left out.
    """
    slope, shift = _line(neuron, current)
    y = torch.addcmul(shift, current, slope)
    if not isinstance(neuron, RefractoryLIFNeuron) or not neuron.refractory:
        return F.hardtanh(y, 0.0, 1.0)
    one, two = 1 / (neuron.refractory + 1), 1 / (neuron.refractory + 2)  # the rates where y is 1 and 1/2
    return torch.minimum(2 * two * y, one + 2 * (one - two) * (y - 1)).clamp(0, one)


def line(neuron: LIFNeuron, current: Tensor) -> Tensor:
    """:func:`rate` without its ends at 0 and 1: for a last layer, whose twin is linear."""
    slope, shift = _line(neuron, current)
    return torch.addcmul(shift, current, slope)


def onset(neuron: LIFNeuron) -> Value:
    """The current above which :func:`rate` is above 0: a number, or [C]."""
    return _Points.of(neuron).onset


class _Points(NamedTuple):
    """The currents where the rate is 0, and 1 without a refractory period."""

    onset: Value
    saturation: Value

    @classmethod
    def of(cls, neuron: LIFNeuron) -> "_Points":
        theta = neuron.v_threshold - neuron.v_rest
        start = (0.0 if neuron.v_reset is None else neuron.v_reset) - neuron.v_rest
        decay = _within(neuron.decay, LEAST_DECAY, 1.0)
        saturation = theta - decay * start
        onset = saturation - 2 * decay / (1 + decay) * (theta - start)
        gain: Value = 1.0
        if isinstance(neuron, CubaLIFNeuron):
            gain = 1 - _within(neuron.current_decay, 0.0, GREATEST_CURRENT_DECAY)
        return cls(onset * gain, saturation * gain)


def _line(neuron: LIFNeuron, current: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and shift of the line, to go with currents [N, C, ...]."""
    onset, saturation = (_along(value, current) for value in _Points.of(neuron))
    slope = 1 / (saturation - onset)
    return slope.to(current.dtype), (-onset * slope).to(current.dtype)


def _along(value: Value, current: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.float32, device=current.device)
    return value.view(-1, *[1] * (current.ndim - 2)) if value.ndim else value


def _within(value: Value, least: float, greatest: float) -> Value:
    return value.clamp(least, greatest) if isinstance(value, Tensor) else min(max(value, least), greatest)
