"""Layers without neurons: pooling of spikes, of firing rates and of real values, and flattening."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..calls import spike_ops, window_checks
from ..kernels import value_checks_cache
from ..spikes import Spikes, pack
from ..spikes.spike_tensor import dense_like, found, keeps_packed
from ..spikes.spikes import flatten
from .base import WithoutSynapses, each_step, each_step_of_spikes, kept_values
from .keywords import flag, taken_by_position

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # torch pools only these


class MaxPool2d(nn.Module):
    """Max pooling of every step: the OR of spikes, or torch's maximum on a tensor.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y (T, N, C, H_out, W_out).

    Raises:
        TypeError, ValueError: as :func:`proxykernels.max_pool2d`.
    """

    @taken_by_position
    def __init__(self, kernel_size, stride=None, padding=0, *, ceil_mode: bool = False):
        super().__init__()
        flag("ceil_mode", ceil_mode)
        window_checks.pooling(kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, 5, "(T, N, C, H, W)")
        window = self.kernel_size, self.stride, self.padding
        if isinstance(x, Tensor) and not checks.is_constant(x) and (spikes := found(x)) is not None:
            return dense_like(max_pool(spikes, window, self.ceil_mode), x)
        return max_pool(x, window, self.ceil_mode)

    def extra_repr(self) -> str:
        return described(self)


class AvgPool2d(nn.AvgPool2d):
    """Average pooling of every step. The result is a tensor of real values, also for Spikes.

    Args: those of nn.AvgPool2d.

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y [T, N, C, H_out, W_out], for Spikes in float32.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value. RuntimeError: a window does not fit.
    """

    def __init__(
        self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        window_checks.pooling(kernel_size, stride, padding)
        window_checks.divisor(divisor_override)
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Tensor:
        checks.steps_of(x, 5, "(T, N, C, H, W)")
        window_checks.divisor(self.divisor_override)
        x = checks.frames(x)
        return each_step_of_spikes(super().forward, x)


class SumPool2d(AvgPool2d):
    """Sum pooling of every step: the sum over each window, for Spikes the number of spikes.

    Args:
        kernel_size, stride, padding: as in nn.AvgPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y [T, N, C, H_out, W_out], for Spikes in float32.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value. RuntimeError: a window does not fit.
    """

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__(kernel_size, stride, padding, divisor_override=1)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average pooling of every step to a given size; otherwise as :class:`AvgPool2d`.

    Args:
        output_size: as in nn.AdaptiveAvgPool2d: a number or (height, width), of which None keeps that of x.

    Shapes: x (T, N, C, H, W); y [T, N, C, height, width]. Spikes that already have that size stay Spikes.

    Raises:
        TypeError, ValueError: ``output_size`` is no such size, or x has another shape.
    """

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:  # type: ignore[override]  # torch's gives tensors only
        checks.steps_of(x, 5, "(T, N, C, H, W)")
        size: Any = self.output_of(x.shape[3:])
        if isinstance(x, Spikes) and x.shape[3:] == size:
            return x
        x = checks.frames(x)
        return each_step_of_spikes(lambda image: F.adaptive_avg_pool2d(image, size), x)

    def output_of(self, size: Sequence[int]) -> tuple[int, ...]:
        """Height and width of the output for an image's."""
        return window_checks.output_size(self.output_size, size)


class Flatten(nn.Module):
    """Flattens all dimensions after (T, N), in the order of nn.Flatten.

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y (T, N, C * H * W), of the same kind.

    Raises:
        TypeError, ValueError: x is something else, or has fewer than three dimensions.
    """

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, None, "(T, N, C, ...)")
        if isinstance(x, Spikes):
            return flatten(x)
        y = each_step(lambda image: image.flatten(1), x) if checks.is_repeated(x) else x.flatten(2)
        return value_checks_cache.note(y) if value_checks_cache.is_noted(x) else y


class MaxOfSums(WithoutSynapses):
    """Base of max pooling layers over sums in time; their state is the sums of their inputs so far."""

    dims = 2

    @taken_by_position
    def __init__(self, kernel_size, stride=None, padding=0, *, ceil_mode: bool = False):
        super().__init__()
        flag("ceil_mode", ceil_mode)
        size = window_checks.pair if self.dims == 2 else window_checks.single
        self.kernel_size: Any = size("kernel_size", kernel_size, 1)
        self.stride: Any = self.kernel_size if stride is None else size("stride", stride, 1)
        self.padding: Any = size("padding", padding, 0)
        self.ceil_mode = ceil_mode

    def affine(self, x: Tensor) -> Tensor:
        pool = F.max_pool2d if self.dims == 2 else F.max_pool1d
        return pool(x, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)

    def extra_repr(self) -> str:
        return described(self)


class MaxRatePool2d(MaxOfSums):
    """Max pooling of spike counts, for networks in which rates approximate activations.

    c_i[t] is the number of spikes of input i up to step t. The output has as many spikes as the input with the most:

        s[t] = max_i c_i[t] - max_i c_i[t-1]      (0 or 1, since no count grows by more than 1)

    :class:`MaxPool2d`, the OR of spikes, would fire more often than any input if inputs fire at different steps. This
    error does not vanish for large T.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), Spikes or a tensor of 0 and 1, behind a Dropout of 0 and its 1 / (1 - p);
    y (T, N, C, H_out, W_out), of the same values; state v [N, C, H, W]: the counts.

    Raises:
        TypeError, ValueError: x holds other values or needs a gradient, v holds no counts, or a window does not fit.
    """

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, 5, "(T, N, C, H, W)")
        counts = None if v is None else kept_values(v, x.shape[1:], x.device)
        window = self.kernel_size, self.stride, self.padding
        return max_rate_pool(x, counts, window, self.ceil_mode)


def described(pool: Any) -> str:
    ceil = ", ceil_mode=True" if pool.ceil_mode else ""
    return f"kernel_size={pool.kernel_size}, stride={pool.stride}, padding={pool.padding}{ceil}"


def max_pool(x: Any, window: Any, ceil_mode: bool) -> Any:
    """The maximum of windows (kernel size, stride, padding) of images: Spikes, or a tensor."""
    if isinstance(x, Spikes):
        return spike_ops.max_pool2d(_filled_up(x, *window) if ceil_mode else x, *window)
    if x.dtype == torch.bool:  # torch has no max pooling of bool
        return max_pool(x.to(torch.uint8), window, ceil_mode).bool()
    kernel_size, stride, padding = window

    def pool(image: Tensor) -> Tensor:
        return F.max_pool2d(image, kernel_size, stride, padding, ceil_mode=ceil_mode)

    if x.dtype not in SIGNED:
        return each_step(pool, x)
    signed = SIGNED[x.dtype]
    least = torch.iinfo(signed).min  # represents 0: flipping the first bit keeps the order
    return each_step(lambda image: (pool(image.view(signed) ^ least) ^ least).view(x.dtype), x)


def max_rate_pool(x: Spikes | Tensor, counts: Tensor | None, window: Any, ceil_mode: bool) -> tuple[Spikes, Tensor]:
    """Spikes whose counts are the largest counts in each window of images, and the new counts."""
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("MaxRatePool2d has no gradient; train with MaxPool2d, or by ProxyNet")
    x = x if isinstance(x, Spikes) else _spikes_of(x)
    height, width = x.shape[3:]
    if counts is None:
        counts = torch.zeros((), dtype=torch.float32, device=x.device).expand(x.shape[1:])
    else:
        checks.spike_counts("v", counts)
    if ceil_mode:
        x = _filled_up(x, *window)
        counts = F.pad(counts, (0, x.shape[4] - width, 0, x.shape[3] - height))
    spikes, counts = spike_ops.max_rate_pool2d(x, counts, *window)
    return spikes, counts[..., :height, :width]


def _spikes_of(x: Tensor) -> Spikes:
    """Spikes of a tensor of 0 and 1, or of 0 and a scale, which a Dropout may give."""
    try:
        return pack(x)
    except ValueError:
        scale = float(x.max()) if x.is_floating_point() and x.numel() else 1.0
        if not (scale > 1 and ((x == 0) | (x == scale)).all()):
            raise ValueError(
                "x must hold spikes, 0 and 1, or behind a Dropout 0 and one value, and holds others, which cannot be "
                "counted; RunningMaxPool2d takes the maximum of real values over time"
            ) from None
    return Spikes(pack(x == scale)._kept, x.shape, scale)


def _filled_up(x: Spikes, kernel_size, stride, padding) -> Spikes:
    """Append silent pixels for the windows that ``ceil_mode`` adds beyond the padding."""
    kernel_size, stride, padding = window_checks.pooling(kernel_size, stride, padding)
    missing = []
    for n, k, s, p in zip(x.shape[3:], kernel_size, stride, padding, strict=True):
        windows = -(-(n + 2 * p - k) // s) + 1
        windows -= (windows - 1) * s >= n + p  # torch drops a window that lies entirely in the padding
        missing.append(max(0, (windows - 1) * s + k - n - 2 * p))
    return spike_ops.zero_pad2d(x, (0, missing[1], 0, missing[0])) if any(missing) else x


class RunningMaxPool2d(MaxOfSums):
    """Max pooling of real values whose mean over time matters, as after layers without neurons in converted networks.

    c_i[t] is the sum of input i up to step t. The outputs add up to max_i c_i, so their mean is the maximum of the
    means:

        y[t] = max_i c_i[t] - max_i c_i[t-1]

    A maximum of each step would be larger, since values fluctuate from step to step. :class:`MaxRatePool2d` is the same
    for spikes. The layer has a state, but no neurons.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), a tensor or Spikes; y [T, N, C, H_out, W_out], a tensor; state v [N, C, H, W]: the sums.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or x another shape.
    """

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, 3 + self.dims, f"(T, N, C, {'H, W' if self.dims == 2 else 'L'})")
        x = x.dense() if isinstance(x, Spikes) else x
        x = x if x.dtype in (torch.float32, torch.float64) else checks.counts(x)
        if v is None and checks.is_constant(x) and len(x):  # all maxima grow evenly
            y = self.affine(x[0])
            return checks.repeated(y, len(x)) if checks.is_repeated(x) else y.unsqueeze(0), len(x) * x[0]
        sums = x.new_zeros(x.shape[1:]) if v is None else kept_values(v, x.shape[1:], x.device)
        steps, before = [], self.affine(sums)
        for step in x:
            sums = sums + step
            after = self.affine(sums)
            steps.append(after - before)
            before = after
        return torch.stack(steps) if steps else before.new_zeros(0, *before.shape), sums


class RunningMaxPool1d(RunningMaxPool2d):
    """Max pooling of real values along one axis; equation: :class:`RunningMaxPool2d`.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool1d (stride defaults to kernel_size).

    Shapes: x (T, N, C, L), a tensor or Spikes; y [T, N, C, L_out], a tensor; state v [N, C, L]: the sums.

    Raises:
        TypeError, ValueError: as :class:`RunningMaxPool2d`.
    """

    dims = 1
