"""What makes the currents of a layer's neurons, forward and back: spikes, real values, or constant ones.

None of these holds a tensor: what they need of the forward pass is handed to them, as autograd keeps it.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ... import checks
from ...kernels import ops, unfused
from ...kernels.neuron_models import Neuron
from ...spikes import storage

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
        return ops.conv2d_currents(words, self.T, w.size, weight, bias, v, neuron, *w.pairs, w.groups)

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
        return ops.period_conv2d_currents(periods, self.start, self.T, w.size, weight, bias, v, neuron, *w.pairs)

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
