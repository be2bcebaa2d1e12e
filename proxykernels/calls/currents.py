"""What makes the currents of a layer's neurons, over all time steps: spikes, real values, or constant ones.

With a surrogate derivative and an operand that requires a gradient, currents are differentiable. The kinds of inputs
below go forward and back. None of them holds a tensor: what they need of the forward pass is handed to them, as
autograd keeps it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..kernels import ops, unfused, value_checks_cache, weight_cache
from ..kernels.backends import CpuBackend
from ..kernels.neuron_models import Neuron, beside_currents
from ..neurons import IFNeuron
from ..spikes import Spikes, spike_autograd, storage
from ..spikes.storage import Periods, start
from ..surrogates import Surrogate
from . import window_checks

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
    return weight if x.scale == 1 else weight_cache.made(_times, weight, x.scale)


def _times(weight: Tensor, scale: float) -> Tensor:
    return value_checks_cache.computed_from(weight * scale, weight)


Fired = tuple[Tensor, Tensor]  # words or periods, and the state after the last step


@dataclass(frozen=True)
class ImageWindow:
    """A convolution: the input's size (H, W), pairs of stride, padding and dilation, and groups."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def pairs(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.stride, self.padding, self.dilation

    @property
    def convolution(self) -> tuple:
        """Stride, padding, dilation and groups, as functions of convolutions take them."""
        return self.stride, self.padding, self.dilation, self.groups

    def back(self, grad_current: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the input, [T, N, P_in, C_in]."""
        return unfused.conv2d_input_gradient(grad_current, weight, self.size, *self.convolution)

    def of_values(self, grad_current: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """The gradient of the weights, of real-valued inputs [T, N, C_in, H, W]."""
        return unfused.conv2d_weight_gradient(x, grad_current, weight.shape, *self.convolution)


@dataclass(frozen=True)
class SpikeWords:
    """Spikes as words."""

    T: int
    window: ImageWindow

    def piece(self, x: Tensor, start: int, stop: int) -> "tuple[SpikeWords, Tensor]":
        """The input in the steps start .. stop - 1."""
        return replace(self, T=stop - start), storage.cut(x, self.T, start, stop)

    def fire(self, words: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Fired:
        w = self.window
        return ops.if_conv2d(words, self.T, w.size, weight, bias, v, neuron, *w.pairs, w.groups)

    def currents(self, words: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Tensor:
        """[T, N, P, C]."""
        w = self.window
        return ops.conv2d_currents(words, self.T, w.size, weight, bias, v, beside_currents(neuron), *w.pairs, w.groups)

    def input_gradient(self, grad_current: Tensor, weight: Tensor) -> Tensor:
        """That of the spikes' handle."""
        return self.window.back(grad_current, weight)

    def weight_gradient(self, grad_current: Tensor, weight: Tensor, words: Tensor) -> Tensor:
        w = self.window
        return ops.conv2d_weight_gradient(words, w.size, grad_current, weight.shape, *w.pairs, w.groups)


@dataclass(frozen=True)
class SpikePeriods:
    """Spikes as periods, of the steps from ``start``."""

    T: int
    window: ImageWindow
    start: int

    def fire(self, periods: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Fired:
        w = self.window
        return ops.if_period_conv2d(periods, self.start, self.T, w.size, weight, bias, v, neuron, *w.pairs)

    def currents(self, periods: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Tensor:
        w = self.window
        its = beside_currents(neuron)
        return ops.period_conv2d_currents(periods, self.start, self.T, w.size, weight, bias, v, its, *w.pairs)

    def input_gradient(self, grad_current: Tensor, weight: Tensor) -> Tensor:
        return self.window.back(grad_current, weight)

    def weight_gradient(self, grad_current: Tensor, weight: Tensor, periods: Tensor) -> Tensor:
        words = ops.expand_periods(periods, self.start, self.T)
        return SpikeWords(self.T, self.window).weight_gradient(grad_current, weight, words)


@dataclass(frozen=True)
class Values:
    """Real values [T, N, C_in, H, W]."""

    T: int
    window: ImageWindow

    def piece(self, x: Tensor, start: int, stop: int) -> "tuple[Values, Tensor]":
        """The input in the steps start .. stop - 1."""
        return replace(self, T=stop - start), x[start:stop]

    def fire(self, x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Fired:
        return ops.if_conv2d_real(x, weight, bias, v, neuron, *self.window.pairs, self.window.groups)

    def currents(self, x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Tensor:
        return unfused.conv2d(x, weight, bias, *self.window.pairs, self.window.groups)

    def input_gradient(self, grad_current: Tensor, weight: Tensor) -> Tensor:
        return self.window.back(grad_current, weight).unflatten(2, self.window.size).movedim(-1, 2)

    def weight_gradient(self, grad_current: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return self.window.of_values(grad_current, weight, x)


@dataclass(frozen=True)
class ConstantImage:
    """Real values [N, C_in, H, W] that are the same at all T steps: convolved once."""

    T: int
    window: ImageWindow
    repeats: bool  # whether the neurons repeat themselves: kernels.backends.CpuBackend.find_periods

    def piece(self, x: Tensor, start: int, stop: int) -> "tuple[ConstantImage, Tensor]":
        """The input in the steps start .. stop - 1."""
        return replace(self, T=stop - start), x

    def fire(self, x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Fired:
        current = self.currents(x, weight, bias, v, neuron)
        return _fire_constant(current, self.T, v, neuron, self.repeats)

    def currents(self, x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, neuron: Neuron) -> Tensor:
        """[N, P, C]."""
        return unfused.conv2d(x.unsqueeze(0), weight, bias, *self.window.pairs, self.window.groups)[0]

    def input_gradient(self, grad_current: Tensor, weight: Tensor) -> Tensor:
        return self.window.back(grad_current.unsqueeze(0), weight)[0].unflatten(1, self.window.size).movedim(-1, 1)

    def weight_gradient(self, grad_current: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return self.window.of_values(grad_current.unsqueeze(0), weight, x.unsqueeze(0))


@dataclass(frozen=True)
class Currents:
    """The currents themselves, [T, N, P, C]."""

    T: int

    def fire(self, current: Tensor, weight: None, bias: None, v: Tensor, neuron: Neuron) -> Fired:
        return ops.if_scan(current, v, neuron)

    def currents(self, current: Tensor, *_: Any) -> Tensor:
        return current

    def input_gradient(self, grad_current: Tensor, weight: None) -> Tensor:
        return grad_current


@dataclass(frozen=True)
class ConstantCurrents(Currents):
    """Currents [N, P, C] that are the same at all T steps."""

    repeats: bool

    def fire(self, current: Tensor, weight: None, bias: None, v: Tensor, neuron: Neuron) -> Fired:
        return _fire_constant(current, self.T, v, neuron, self.repeats)


def _fire_constant(current: Tensor, T: int, v: Tensor, neuron: Neuron, repeats: bool) -> Fired:
    return ops.find_periods(current, T, neuron) if repeats else ops.if_scan(current, v, neuron, T)


def fire_several_times(
    given: "Input", x: Tensor, weight: Any, bias: Any, v: Tensor, neuron: Neuron
) -> tuple[Tensor, Tensor]:
    """As ``given.fire``, of neurons that fire several times in a step: float32 [T, N, P, C] and the last state. Their
    currents are computed first, for no kernel of a convolution has these neurons."""
    current = given.currents(x, weight, bias, v, neuron)
    return ops.if_scan(current, v, neuron, given.T if current.ndim == 3 else None)


Input = SpikeWords | SpikePeriods | Values | ConstantImage | Currents | ConstantCurrents


def input_of(x: Any, window: ImageWindow, repeats: bool) -> tuple[Input, Tensor | None, Tensor]:
    """What kind of input x (T, N, C_in, H, W) is, Spikes or a tensor; the handle of spikes; and its tensor.

    ``repeats``: whether the neurons, on a constant input, repeat themselves.
    """
    if isinstance(x, Tensor):
        if checks.is_constant(x):
            return ConstantImage(x.shape[0], window, repeats), None, x[0]
        return Values(x.shape[0], window), None, x
    kept, handle = x._kept, x._handle
    if isinstance(kept, storage.Periods) and window.groups == 1:
        return SpikePeriods(kept.T, window, kept.start), handle, kept.periods
    return SpikeWords(kept.T, window), handle, kept.words
