"""Helpers of neuron_ops.py for calls whose result carries a gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import checks
from ...kernels import unfused
from ...kernels.backends import CpuBackend
from ...spikes import Spikes, spike_autograd
from ...surrogates import Surrogate


def wants_gradient(surrogate: Surrogate | None, *operands: Any) -> bool:
    """Whether a call is to be differentiable: it has a surrogate derivative, and some operand requires a gradient."""
    if surrogate is None or not torch.is_grad_enabled():
        return False
    return any(isinstance(x, Tensor | Spikes) and x.requires_grad for x in operands)


def carrying(
    x: Spikes | Tensor, ndim: int, shape: str, surrogate: Surrogate | None, kernels: CpuBackend | None
) -> Spikes | Tensor:
    """checks.sequence. If it packs a tensor that requires a gradient, the spikes pass the gradient on."""
    if kernels is not None and isinstance(x, Spikes) and len(x.shape) == ndim:
        return x
    y = checks.sequence(x, ndim, shape, kernels)
    if y is not x and isinstance(x, Tensor) and isinstance(y, Spikes) and wants_gradient(surrogate, x):
        return y._like(y._kept, y.shape, spike_autograd.Pack.apply(x))
    return y


def convolved(x: Spikes | Tensor, weight: Tensor, bias: Tensor | None, window: tuple) -> Tensor:
    """The currents [T, N, C_out, P] of inputs (T, N, C_in, H, W), differentiable; all of them, as torch has them.

    ``window``: stride, padding, dilation and groups.
    """
    x = x.dense() if isinstance(x, Spikes) else x.float()
    with unfused.exact(x.device):
        images = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        currents = F.conv2d(images, weight.float(), None if bias is None else bias.float(), *window)
    return currents.unflatten(0, x.shape[:2]).flatten(3)
