"""The firing rate of leaky neurons as a function of a constant current: their activation in the twin of ProxyNet.

A neuron that starts at u0 above v_rest, on a current I that stays the same, comes to the threshold after n steps,

    n(I) = log(1 + (1 - decay) d / x) / -log(decay)
    d = theta - v_rest - u0,  x = I - (1 - decay) (theta - v_rest)

x is the current above the rheobase, below which the neuron never fires. A hard reset puts it at u0 = v_reset - v_rest;
a soft one takes theta from a potential of theta, u0 = -v_rest. Its rate is 1 / n, and 1 where n is 1 or less.

At the rheobase the slope of 1 / n is infinite. Currents that are sums of spikes fluctuate, so that a neuron also fires
a little below it. Here the rate is piecewise linear through the points where n is 4, 2 and 1; the line through 4 and 2
continues down to 0. For neurons with a refractory period of R steps, the rate begins at the same current and is exact
where n is 2 and 1. Without it, and with v_reset = v_rest = 0, the rate is

    rate(I) = (1 + decay) (1 + decay^2) / (4 decay^2) (I / theta - (1 - decay) / (1 + decay^2))        up to 1/2
    rate(I) = 1 + (1 + decay) / (2 decay) (I / theta - 1)                                              from 1/2 to 1

which differs from 1 / n by less than 0.03 if 1 / n is above 1/5 and the decay is at least 1/2. As the decay goes to 1,
it becomes I / theta, the ReLU of integrate-and-fire neurons.

Hunsberger and Eliasmith ("Training spiking deep networks for neuromorphic hardware", 2016, arXiv:1611.05141) bound the
slope by gamma log(1 + exp(x / gamma)) instead of x. That gives neurons that never fire a rate that falls only as
1 / |x|, and costs a logarithm and an exponential per neuron, where this costs one multiplication.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..neurons import CubaLIFNeuron, LIFNeuron, RefractoryLIFNeuron, Value

LEAST_DECAY = 1 / 3  # for smaller ones, the curve is nearly a step function
GREATEST_CURRENT_DECAY = 0.999  # a filter without decay has no constant output


def rate(neuron: LIFNeuron, current: Tensor) -> Tensor:
    """Spikes per step, from 0 to 1, of leaky neurons on currents [N, C, ...]; differentiable.

    Current-based neurons see currents that are 1 / (1 - current_decay) times as large. For refractory neurons, which
    rest R steps after each spike, 1 / (2 + R) and 1 / (1 + R) replace 1/2 and 1. Adaptation of a threshold is ignored.
    """
    points = _Points.of(neuron)
    resting = neuron.refractory if isinstance(neuron, RefractoryLIFNeuron) else 0
    below = _line(current, points.onset, 0.0, points.two, 1 / (2 + resting))
    above = _line(current, points.two, 1 / (2 + resting), points.one, 1 / (1 + resting))
    return torch.minimum(below, above).clamp(0, 1 / (1 + resting))


def line(neuron: LIFNeuron, current: Tensor) -> Tensor:
    """The lower line of :func:`rate`, extended in both directions; for a last layer, whose twin is linear."""
    points = _Points.of(neuron)
    return _line(current, points.onset, 0.0, points.two, 0.5)


def onset(neuron: LIFNeuron) -> Value:
    """The current above which :func:`rate` is above 0: a number, or [C]."""
    return _Points.of(neuron).onset


def slope(neuron: LIFNeuron) -> Value:
    """The slope of :func:`rate` between the onset and the rate 1/2, without a refractory period."""
    points = _Points.of(neuron)
    return 0.5 / (points.two - points.onset)


class _Points(NamedTuple):
    """Currents: at which the rate becomes 0, and with which neurons reach the threshold in two steps and in one."""

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
