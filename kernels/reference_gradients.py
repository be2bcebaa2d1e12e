"""The definition of gradients: autograd through the steps of reference.py, with a surrogate derivative for each spike.

With x = h - theta the distance of the potential from the threshold, a spike's derivative by x is

    ATan           a / (1 + (pi a x)^2)             a = alpha / 2
    FastSigmoid    height / (1 + slope |x|)^2
    Sigmoid        alpha s (1 - s)                  s = 1 / (1 + exp(-alpha x))
    Triangle       max(0, w - |x|) / w^2            w = width theta

Integer neurons have the straight-through estimator instead, whatever the surrogate: a derivative of 1 / theta where h
is from 0 to D theta, and 0 elsewhere.

The potential after a spike depends on the spike, v = h + s (v_reset - h) or v = h - s theta, and gradients pass that
way too, unless the reset is detached. On exactly representable data, and the triangle, every kernel is bit-equal.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .neuron_models import Neuron, Surrogate
from .reference import recurrent_scan, scan


def derivative(x: Tensor, theta: Tensor, surrogate: Surrogate) -> Tensor:
    """What stands for the derivative of a spike, at the distances x."""
    first, second = surrogate.numbers
    if surrogate.shape == "ATan":
        at = second * x
        return first / (1 + at * at)
    if surrogate.shape == "FastSigmoid":
        below = 1 + (second * x).abs()
        return first / (below * below)
    if surrogate.shape == "Sigmoid":
        e = torch.exp((-(first * x).abs()).clamp(min=-80))  # symmetric; of the smaller exponential
        s = 1 / (1 + e)
        return first * (e * s * s)
    w = first * theta
    return (w - x.abs()).clamp(min=0) * (1 / (w * w))


class SurrogateSpike(torch.autograd.Function):
    """``x >= 0``; backward, with the surrogate derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, theta: Tensor, surrogate: Surrogate) -> Tensor:
        return (x >= 0).float()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, theta, ctx.surrogate = inputs
        ctx.save_for_backward(x, theta)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, theta = ctx.saved_tensors
        return gradient * derivative(x, theta, ctx.surrogate), None, None


def fire(
    surrogate: Surrogate, h: Tensor, theta: Tensor, v_reset: float | None, subtracted: Tensor | None = None,
    whole: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """reference.fire, differentiable; spikes are float32."""
    subtracted = theta if subtracted is None else subtracted
    if whole is None:
        spike = SurrogateSpike.apply(h - theta, subtracted.detach(), surrogate)
    else:
        spike = whole(h / theta)
    resets = spike.detach() if surrogate.detach_reset else spike
    if v_reset is None:
        return spike, h - subtracted * resets
    by_reset = (resets - resets.detach()) * (v_reset - h)  # 0, with the gradient of the spike
    return spike, torch.where(spike.bool(), v_reset, h) + by_reset


def surrogate_scan(current: Tensor, v: Tensor | None, neuron: Neuron, surrogate: Surrogate) -> tuple[Tensor, Tensor]:
    """reference.scan, differentiable by currents, state and the neuron's channels."""
    return scan(current, v, neuron, partial(fire, surrogate))


def surrogate_recurrent_scan(
    current: Tensor, v: Tensor | None, neuron: Neuron, recurrent: Tensor, surrogate: Surrogate
) -> tuple[Tensor, Tensor]:
    """reference.recurrent_scan, differentiable by the recurrent weights as well."""
    return recurrent_scan(current, v, neuron, recurrent, partial(fire, surrogate))
