"""Neurons with a surrogate derivative as one function of autograd: packed spikes and states forward, gradients back.

Kept for the backward pass: the input as it came (spikes as bits), the weights and the state before the first step. The
currents are computed anew, then one scan goes forward and back through all steps (ops.scan_backward). Its gradients are
convolved in autocast's type, where the forward pass was under autocast on a GPU. A gradient that is to be
differentiated in its turn (create_graph=True, torch.func) is computed by torch's operations alone
(second_derivatives.py).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels import ops
from ...kernels.neuron_models import Neuron
from ...kernels.surrogates import Surrogate
from ...spikes.spike_autograd import Function, applied, new_handle
from . import second_derivatives
from .input_kinds import Input


class Operands(NamedTuple):
    """What may have a gradient.

    Attributes:
        handle: of spikes, which has their gradient; None: they have none, or x are values.
        x: the input, in the form that its kind (inputs.Input) takes.
        weight, bias: of a convolution, [C_out, C_in / groups, kernel_h, kernel_w] and [C_out]; or None.
        v: the state before the first step, [N, P, C] or [N, states, P, C].
        channels: parameters of the neurons, as kernels.neurons.Neuron has them.
    """

    handle: Tensor | None
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    v: Tensor
    channels: Tensor


def fire(given: Input, operands: Operands, neuron: Neuron, surrogate: Surrogate) -> tuple[Tensor, Tensor, Tensor]:
    """Run neurons on an input; ``given``: what kind it is. The neuron's ``channels`` are those of the operands.

    Returns:
        Words (or periods), the handle of the spikes, and the state after the last step.
    """
    model = neuron.model, tuple(neuron.scalars)
    kept, handle, after = applied(_Fire, *operands, model, given, surrogate)
    return kept, handle, after


class _Fire(Function):
    @staticmethod
    def forward(
        handle, x, weight, bias, v, channels, model: tuple, given: Input, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept, after = given.fire(x, weight, bias, v, Neuron(model[0], channels, model[1]))
        return kept, new_handle((given.T, after.shape[0], *after.shape[-2:]), after.device), after

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        *tensors, ctx.model, ctx.given, ctx.surrogate = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.dtype = _type_of_gradients(inputs[4].device)
        ctx.mark_non_differentiable(output[0])

    @staticmethod
    def backward(ctx: Any, _, grad_spikes: Tensor | None, grad_v: Tensor | None):
        if grad_spikes is None and grad_v is None:
            return (None,) * 9
        given, wanted = ctx.given, ctx.needs_input_grad
        saved = ctx.saved_tensors  # read once, as checkpoints of torch allow
        handle, x, weight, bias, v, channels = saved
        neuron = Neuron(ctx.model[0], channels, ctx.model[1])
        if grad_spikes is None:
            zero = torch.zeros((), dtype=torch.float32, device=v.device)
            grad_spikes = zero.expand(given.T, v.shape[0], *v.shape[-2:])
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = second_derivatives.gradients(given, saved, neuron, ctx.surrogate, grad_spikes, grad_v)
            return *(g if needed else None for g, needed in zip(gradients, wanted, strict=False)), None, None, None
        current = given.currents(x, weight, bias, v, neuron)
        grad_current, grad_start, sums = ops.scan_backward(grad_spikes, grad_v, current, v, neuron, ctx.surrogate)
        del current, grad_spikes
        grad_current = grad_current.to(ctx.dtype)
        of_input: Any = given.input_gradient(grad_current, weight) if wanted[0] or wanted[1] else None
        return (
            of_input.float() if wanted[0] else None,  # as handles are
            _like(x, of_input) if wanted[1] else None,
            _like(weight, given.weight_gradient(grad_current, weight, x)) if wanted[2] else None,
            _like(bias, sums[0]) if wanted[3] else None,
            _like(v, grad_start) if wanted[4] else None,
            _like(channels, sums[1 : 1 + len(channels)]) if wanted[5] else None,
            None, None, None,
        )  # fmt: skip


def _type_of_gradients(device: torch.device) -> torch.dtype:
    """In which the gradients of currents are convolved."""
    lower = device.type == "cuda" and torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cuda") if lower else torch.float32


def _like(tensor: Tensor, gradient: Any) -> Tensor:
    """A gradient in the type of its tensor."""
    return gradient.to(tensor.dtype)
