"""Gradients that can be differentiated again: those of fire.py, computed by torch's operations step by step.

With create_graph=True, or in torch.func, a gradient is a function that autograd follows: the steps of
kernels/reference_gradients.py, in which the derivative of a surrogate's derivative is that of its formula. Memory and
time are those of T steps in plain torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels import ops, unfused
from ...kernels.neuron_models import Neuron
from ...kernels.reference_gradients import surrogate_recurrent_scan, surrogate_scan
from ...kernels.surrogates import Surrogate
from ...spikes import spike_autograd
from . import input_kinds


def gradients(
    given: input_kinds.Input,
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


def _currents(given: input_kinds.Input, handle: Any, x: Tensor, weight: Any, bias: Any) -> Tensor:
    """The currents [T, N, C, P]."""
    if isinstance(given, input_kinds.ConstantCurrents):
        return x.transpose(-1, -2).expand(given.T, *x.transpose(-1, -2).shape)
    if isinstance(given, input_kinds.Currents):
        return x.transpose(-1, -2)
    if isinstance(given, input_kinds.ConstantImage):
        current = _convolved(given.window, x, weight, bias)
        return current.expand(given.T, *current.shape)
    if isinstance(given, input_kinds.Values):
        images = x
    else:
        words = x if isinstance(given, input_kinds.SpikeWords) else ops.expand_periods(x, given.start, given.T)
        images = _spikes(given, handle, words, weight)
    return _convolved(given.window, images.flatten(0, 1), weight, bias).unflatten(0, images.shape[:2])


def _spikes(
    given: input_kinds.SpikeWords | input_kinds.SpikePeriods, handle: Tensor | None, words: Tensor, weight: Tensor
) -> Tensor:
    """The spikes [T, N, C, H, W]."""
    C, size = weight.shape[1] * given.window.groups, given.window.size
    if handle is not None:
        return spike_autograd.Dense.apply(handle, words, (*handle.shape[:2], C, *size), torch.float32)
    spikes = ops.unpack(words, given.T, C, torch.float32)
    return spikes.unflatten(3, size)


def _convolved(window: input_kinds.ImageWindow, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The currents [n, C, P] of images [n, C_in, H, W], float32 as the kernels have them."""
    dtype = torch.promote_types(weight.dtype, torch.float32) if images.dtype != torch.bool else torch.float32
    with unfused.exact(images.device):
        current = F.conv2d(images.to(dtype), weight.to(dtype), None, *window.pairs, window.groups)
    current = current.float() if bias is None else current.float() + bias.float().view(-1, 1, 1)
    return current.flatten(2)
