"""The currents that convolutions and matrix products make of spikes or real values, over all time steps.

With a surrogate derivative and an operand that requires a gradient they are differentiable.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..checks import window_checks
from ..kernels import constant_cache, ops, unfused, value_checks_cache
from ..kernels.backends import CpuBackend
from ..neurons import IFNeuron
from ..spikes import Spikes, spike_autograd
from ..spikes.storage import Periods, start
from ..surrogates import Surrogate

Pair = tuple[int, int]  # height and width


def wants_gradient(surrogate: Surrogate | None, *operands: Any) -> bool:
    """Whether a call is to be differentiable: it has a surrogate derivative, and some operand requires a gradient."""
    if surrogate is None or not torch.is_grad_enabled():
        return False
    return any(isinstance(x, Tensor | Spikes) and x.requires_grad for x in operands)


def carrying(
    x: Spikes | Tensor, ndim: int, shape: str, surrogate: Surrogate | None, kernels: CpuBackend | None
) -> Spikes | Tensor:
    """checks.sequence. If it packs a tensor that requires a gradient, the spikes pass the gradient on."""
    y = checks.sequence(x, ndim, shape, kernels)
    if surrogate is not None and y is not x and isinstance(y, Spikes) and wants_gradient(surrogate, x):
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


def currents_in_parts(
    x: Spikes | Tensor, weight: Tensor, bias: Tensor | None, window: tuple, surrogate: Surrogate | None
) -> Iterator[Tensor]:
    """The currents [t, N, C_out, P] of inputs (T, N, C_in, H, W); for real values, a chunk of steps at a time."""
    if wants_gradient(surrogate, x, weight, bias):
        yield convolved(x, weight, bias, window)
        return
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if isinstance(x, Spikes):
        yield currents_of(x, weight, bias, *window).flatten(3)
        return
    if checks.is_repeated(x):
        yield checks.repeated(unfused.conv2d(x[:1].detach(), weight, bias, *window).transpose(2, 3)[0], len(x))
        return
    steps = len(x) if torch.compiler.is_compiling() else unfused.chunk_steps(math.prod(x.shape[1:]), x.device)
    for first in range(0, len(x), steps):
        yield unfused.conv2d(x[first : first + steps].detach(), weight, bias, *window).transpose(2, 3)


def currents_of(
    x: Spikes, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The currents [T, N, C_out, H_out, W_out], channels last in memory, of a convolution of spikes."""
    T, N, _, *size = x.shape
    shape = N, len(weight), *unfused.output_size(size, weight.shape[2:], stride, padding, dilation)
    silent = IFNeuron(v_threshold=math.inf, v_reset=None).on(shape[1], x.device)  # kernels need neurons
    v = start(0.0, shape, x.device, silent)
    operands = size, scaled(weight, x), None if bias is None else bias.float(), v, silent, stride, padding, dilation
    kept = x._kept
    if isinstance(kept, Periods) and groups == 1:
        currents = ops.period_conv2d_currents(kept.periods, kept.start, T, *operands)
    else:
        currents = ops.conv2d_currents(kept.words, T, *operands, groups)
    return currents.transpose(2, 3).unflatten(3, shape[2:])


def batch_moments(
    x: Spikes, weight: Tensor, bias: Tensor, stride: Pair, padding: Any, dilation: Pair, groups: int
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of the currents of a convolution of spikes, float64 [C_out], and the number of currents.

    One launch sums currents and squares, without storing currents. ``bias`` should be near the negative mean, or the
    variance loses digits. A matrix product counts as a convolution of images of one pixel.
    """
    T, N, _, *size = x.shape
    size, weight = size or [1, 1], weight.view(*weight.shape, *[1] * (4 - weight.ndim))
    weight, *window, size_out = window_checks.convolution(size, x.shape[2], weight, stride, padding, dilation, groups)
    pixels = math.prod(size_out)
    count = T * N * pixels
    if count < 2:
        raise ValueError(
            f"x must have at least two values for each channel of its currents, whose statistics this call normalises "
            f"by, got {count}: {T} steps of {N} samples of {pixels} pixels"
        )
    sums = ops.conv2d_current_sums(x._words, T, size, scaled(weight, x), bias, *window)
    mean, square = sums / count
    return mean, square - mean * mean, count


def scaled(weight: Tensor, x: Spikes) -> Tensor:
    """The weight times the value of a spike of x."""
    return weight if x.scale == 1 else constant_cache.made(_times, weight, x.scale)


def _times(weight: Tensor, scale: float) -> Tensor:
    return value_checks_cache.computed_from(weight * scale, weight)
