"""Potentials of neurons that never fire, with their gradients, by the kernels: one launch, and a few to go back."""

import torch
from torch import Tensor

from ..kernels import ops
from ..kernels.neuron_models import Neuron
from ..spikes.spike_autograd import Function, applied


def potentials(current: Tensor, v: Tensor, neuron: Neuron) -> Tensor:
    """The potentials [T, N, P, C] of leaky neurons that never fire, on currents of that shape.

    Args:
        v: the potentials [N, P, C] before the first step.
    """
    model, (v_reset, v_rest) = neuron.model, neuron.scalars
    return applied(_Potentials, current, v, neuron.channels, model, v_reset, v_rest)


class _Potentials(Function):
    """The gradient of a potential is its own, and decay times that of the next one: they are the potentials of neurons
    that rest at 0, on the gradients in reverse order. So derivatives of any order exist."""

    @staticmethod
    def forward(current: Tensor, v: Tensor, channels: Tensor, model: str, v_reset: float, v_rest: float) -> Tensor:
        return ops.potentials(current, v, Neuron(model, channels, (v_reset, v_rest)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        current, v, channels, ctx.model, ctx.v_reset, ctx.v_rest = inputs
        ctx.dtype = current.dtype
        ctx.save_for_backward(v, channels, output)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        v, channels, after = ctx.saved_tensors
        at_zero = Neuron(ctx.model, channels, (ctx.v_reset, 0.0))
        back = potentials(gradient.float().flip(0), torch.zeros_like(v), at_zero).flip(0)
        of_channels = None
        if ctx.needs_input_grad[2]:
            of_decay = back * (torch.cat([v.unsqueeze(0), after[:-1]]) - ctx.v_rest)
            of_decay = of_decay.flatten(0, -2).sum(0)
            of_channels = torch.stack([torch.zeros_like(of_decay), of_decay])
        return back.to(ctx.dtype), channels[1] * back[0], of_channels, None, None, None
