"""Neurons with a surrogate derivative as one function of autograd: packed spikes and states forward, gradients back.

Kept for the backward pass: the input as it came (spikes as bits), the weights and the state before the first step. The
currents are computed anew, then one scan goes forward and back through all steps (ops.scan_backward).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import ops
from ..handles import new_handle
from ..kernels.neurons import Neuron
from ..kernels.surrogates import Surrogate
from .inputs import Input


def fire(
    given: Input,
    source: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    v: Tensor,
    neuron: Neuron,
    surrogate: Surrogate,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run neurons on an input.

    Args:
        given: what kind of input it is.
        source: what has the input's gradient: the handle of spikes, or x itself; None: it has none.
        x: the input, in the form that ``given`` takes.
        weight, bias: of a convolution, [C_out, C_in / groups, kernel_h, kernel_w] and [C_out]; or None.
        v: the state before the first step, [N, P, C] or [N, states, P, C].
        neuron: its ``channels`` may have a gradient.

    Returns:
        Words (or periods), the handle of the spikes, and the state after the last step.
    """
    kept, handle, after = _Fire.apply(source, x, weight, bias, v, neuron.channels, neuron, given, surrogate)
    return kept, handle, after


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, source, x, weight, bias, v, channels, neuron: Neuron, given: Input, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor]:
        neuron = neuron._replace(channels=channels)
        kept, after = given.fire(x, weight, bias, v, neuron)
        ctx.save_for_backward(x, weight, bias, v, channels)
        ctx.neuron, ctx.given, ctx.surrogate = (neuron.model, neuron.scalars), given, surrogate
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(kept)
        ctx.T = x.shape[0] if not hasattr(given, "T") else given.T
        return kept, new_handle((ctx.T, after.shape[0], *after.shape[-2:]), after.device), after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _, grad_spikes: Tensor | None, grad_v: Tensor | None):
        if grad_spikes is None and grad_v is None:
            return (None,) * 9
        x, weight, bias, v, channels = ctx.saved_tensors
        model, scalars = ctx.neuron
        neuron = Neuron(model, channels, scalars)
        current = ctx.given.currents(x, weight, bias, v, neuron)
        if grad_spikes is None:
            grad_spikes = torch.zeros((), device=v.device).expand(ctx.T, v.shape[0], *v.shape[-2:])
        grad_current, grad_start, sums = ops.scan_backward(grad_spikes, grad_v, current, v, neuron, ctx.surrogate)
        del current, grad_spikes
        wanted = dict(zip(("source", "x", "weight", "bias", "v", "channels"), ctx.needs_input_grad, strict=False))
        return (
            _like(x, ctx.given.input_gradient(grad_current, weight)) if wanted["source"] else None,
            None,
            _like(weight, ctx.given.weight_gradient(grad_current, weight, x)) if wanted["weight"] else None,
            _like(bias, sums[0]) if wanted["bias"] else None,
            _like(v, grad_start) if wanted["v"] else None,
            _like(channels, sums[1 : 1 + len(channels)]) if wanted["channels"] else None,
            None, None, None,
        )  # fmt: skip


def _like(tensor: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the type of its tensor; of packed spikes, their handle's float32."""
    return gradient.to(tensor.dtype if tensor.is_floating_point() else torch.float32)
