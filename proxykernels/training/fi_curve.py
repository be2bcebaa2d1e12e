"""The firing rate of leaky neurons as a function of a constant current: their activation in the twin of ProxyNet.

A neuron that starts at u0 above v_rest, on a current I that stays the same, comes to the threshold after n steps,

    n(I) = log(1 + (1 - decay) d / x) / -log(decay)
    d = theta - v_rest - u0,  x = I - (1 - decay) (theta - v_rest)

x is the current above the rheobase, below which the neuron never fires. A hard reset puts it at u0 = v_reset - v_rest;
a soft one takes theta from a potential of theta, u0 = -v_rest. Its rate is 1 / n, and 1 where n is 1 or less.

At the rheobase the slope of 1 / n is infinite, and currents that are sums of spikes go up and down, so that a neuron
fires a little below it too. Here the rate is linear between the points where n is 4, 2 and 1, and goes on from 4 to 2
down to 0. That of neurons that rest for R steps begins at the same current, and is right where n is 2 and 1. Without
rest, and with v_reset = v_rest = 0, it is

    rate(I) = (1 + decay) (1 + decay^2) / (4 decay^2) (I / theta - (1 - decay) / (1 + decay^2))        up to 1/2
    rate(I) = 1 + (1 + decay) / (2 decay) (I / theta - 1)                                              from 1/2 to 1

which leaves 1 / n by less than 0.03 where that is above 1/5 and the decay at least 1/2, and which becomes I / theta,
the ReLU of integrate-and-fire neurons, as the decay goes to 1.

Hunsberger and Eliasmith ("Training spiking deep networks for neuromorphic hardware", 2016, arXiv:1611.05141) bound the
slope by gamma log(1 + exp(x / gamma)) in the place of x. That leaves neurons that never fire a rate that falls as
1 / |x| only, and costs a logarithm and an exponential a neuron where this costs one multiplication.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..neurons import CubaLIFNeuron, LIFNeuron, RefractoryLIFNeuron, Value

LEAST_DECAY = 1 / 3  # the curve of smaller ones is nearly a step
GREATEST_CURRENT_DECAY = 0.999  # a filter that forgets nothing has no constant output


def rate(neuron: LIFNeuron, current: Tensor) -> Tensor:
    """Spikes a step, from 0 to 1, of leaky neurons on currents [N, C, ...]; differentiable.

    Current-based neurons see currents that are 1 / (1 - current_decay) times as large. Refractory ones rest R steps
    after each spike: 1 / (2 + R) and 1 / (1 + R) stand for 1/2 and 1. Of an adaptive threshold, the adaptation is left
    out.
    """
    points = _Points.of(neuron)
    resting = neuron.refractory if isinstance(neuron, RefractoryLIFNeuron) else 0
    below = _line(current, points.onset, 0.0, points.two, 1 / (2 + resting))
    above = _line(current, points.two, 1 / (2 + resting), points.one, 1 / (1 + resting))
    return torch.minimum(below, above).clamp(0, 1 / (1 + resting))


def line(neuron: LIFNeuron, current: Tensor) -> Tensor:
    """The lower part of :func:`rate` carried on both ways, for a last layer, whose twin is linear."""
    points = _Points.of(neuron)
    return _line(current, points.onset, 0.0, points.two, 0.5)


def onset(neuron: LIFNeuron) -> Value:
    """The current above which :func:`rate` is above 0: a number, or [C]."""
    return _Points.of(neuron).onset


def slope(neuron: LIFNeuron) -> Value:
    """Of :func:`rate` by the current, from the onset to the rate 1/2 of a neuron that does not rest."""
    points = _Points.of(neuron)
    return 0.5 / (points.two - points.onset)


class _Points(NamedTuple):
    """Currents: where the rate is 0, and with which neurons come to the threshold in two steps and in one."""

    onset: Value
    two: Value
    one: Value

    @classmethod
    def of(cls, neuron: LIFNeuron) -> "_Points":
        theta = neuron.v_threshold - neuron.v_rest
        start = (0.0 if neuron.v_reset is None else neuron.v_reset) - neuron.v_rest
        decay = _within(neuron.decay, LEAST_DECAY, 1.0)
        one = theta - decay * start
        two = one - decay / (1 + decay) * (theta - start)
        onset = two - 2 * decay**2 / ((1 + decay) * (1 + decay**2)) * (theta - start)
        gain: Value = 1.0
        if isinstance(neuron, CubaLIFNeuron):
            gain = 1 - _within(neuron.current_decay, 0.0, GREATEST_CURRENT_DECAY)
        return cls(onset * gain, two * gain, one * gain)


def _line(current: Tensor, left: Value, low: float, right: Value, high: float) -> Tensor:
    """The line from (left, low) to (right, high), at currents [N, C, ...]; numbers, or values [C]."""
    slope = (high - low) / (right - left)
    shift = low - left * slope
    return torch.addcmul(_along(shift, current), current, _along(slope, current))


def _along(value: Value, current: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=current.dtype, device=current.device)
    return value.view(-1, *[1] * (current.ndim - 2)) if value.ndim else value


def _within(value: Value, least: float, greatest: float) -> Value:
    return value.clamp(least, greatest) if isinstance(value, Tensor) else min(max(value, least), greatest)
