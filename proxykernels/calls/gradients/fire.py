"""Neurons with a surrogate derivative as one function of autograd: packed spikes and states forward, gradients back.

Kept for the backward pass: the input as it came (spikes as bits), the weights and the state before the first step. The
currents are computed again, then one scan goes forward and back through all steps (ops.scan_backward). Its gradients
are convolved in autocast's type if the forward pass was under autocast on a GPU.

With create_graph=True, or in torch.func, the gradient itself is differentiated. It is then a function that autograd
follows: the steps of kernels/reference_gradients.py, in the memory and time of T steps in plain torch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels import ops, unfused
from ...kernels.neuron_models import Neuron, Surrogate
from ...kernels.reference_gradients import surrogate_recurrent_scan, surrogate_scan
from ...spikes import spike_autograd
from ...spikes.spike_autograd import Function, applied, new_handle
from .input_kinds import ConstantCurrents, ConstantImage, Currents, ImageWindow, Input, SpikePeriods, SpikeWords, Values


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
            gradients = followed_gradients(given, saved, neuron, ctx.surrogate, grad_spikes, grad_v)
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


def followed_gradients(
    given: Input,
    operands: Sequence[Any],
    neuron: Neuron,
    surrogate: Surrogate,
    grad_spikes: Tensor,
    grad_v: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of ``operands``: handle, x, weight, bias, v and channels, as fire takes them, and behind these the
    weights of recurrent neurons.

    ``grad_spikes`` [T, N, P, C]; ``grad_v`` like v.
    """
    numbers = [k for k, operand in enumerate(operands) if operand is not None and operand.is_floating_point()]

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        handle, x, weight, bias, v, channels, *recurrent = (
            values[numbers.index(k)] if k in numbers else operand for k, operand in enumerate(operands)
        )
        current, its = _currents(given, handle, x, weight, bias), neuron._replace(channels=channels)
        if recurrent:
            spikes, after = surrogate_recurrent_scan(current.squeeze(3), v.squeeze(2), its, recurrent[0], surrogate)
            return spikes.unsqueeze(2), after.unsqueeze(2)
        spikes, after = surrogate_scan(current, v.transpose(-1, -2), its, surrogate)
        return spikes.transpose(-1, -2), after.transpose(-1, -2)

    (_, after), pull = torch.func.vjp(  # type: ignore[misc]  # without has_aux they are two
        run, *(operands[k] for k in numbers)
    )
    found = pull((grad_spikes, torch.zeros_like(after) if grad_v is None else grad_v))
    return [found[numbers.index(k)] if k in numbers else None for k in range(len(operands))]


def _currents(given: Input, handle: Any, x: Tensor, weight: Any, bias: Any) -> Tensor:
    """The currents [T, N, C, P]."""
    if isinstance(given, ConstantCurrents):
        return x.transpose(-1, -2).expand(given.T, *x.transpose(-1, -2).shape)
    if isinstance(given, Currents):
        return x.transpose(-1, -2)
    if isinstance(given, ConstantImage):
        current = _convolved(given.window, x, weight, bias)
        return current.expand(given.T, *current.shape)
    if isinstance(given, Values):
        images = x
    else:
        words = x if isinstance(given, SpikeWords) else ops.expand_periods(x, given.start, given.T)
        images = _spikes(given, handle, words, weight)
    return _convolved(given.window, images.flatten(0, 1), weight, bias).unflatten(0, images.shape[:2])


def _spikes(given: SpikeWords | SpikePeriods, handle: Tensor | None, words: Tensor, weight: Tensor) -> Tensor:
    """The spikes [T, N, C, H, W]."""
    C, size = weight.shape[1] * given.window.groups, given.window.size
    if handle is not None:
        return spike_autograd.Dense.apply(handle, words, (*handle.shape[:2], C, *size), torch.float32)
    spikes = ops.unpack(words, given.T, C, torch.float32)
    return spikes.unflatten(3, size)


def _convolved(window: ImageWindow, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The currents [n, C, P] of images [n, C_in, H, W], float32 as the kernels have them."""
    dtype = torch.promote_types(weight.dtype, torch.float32) if images.dtype != torch.bool else torch.float32
    with unfused.exact(images.device):
        current = F.conv2d(images.to(dtype), weight.to(dtype), None, *window.pairs, window.groups)
    current = current.float() if bias is None else current.float() + bias.float().view(-1, 1, 1)
    return current.flatten(2)
