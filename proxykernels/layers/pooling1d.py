"""Pooling along one axis, as in pooling.py on images of one row; and the mean over the neurons of a class."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..calls import window_checks
from ..spikes import Spikes
from ..spikes.spike_tensor import keeps_packed
from .base import as_images, as_row, each_step_of_spikes, kept_values
from .keywords import flag, taken_by_position
from .pooling import MaxOfSums, described, max_pool, max_rate_pool


class MaxPool1d(nn.Module):
    """Max pooling of every step along one axis: the OR of spikes, or torch's maximum on a tensor.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool1d (stride defaults to kernel_size).

    Shapes: x (T, N, C, L), Spikes or a tensor; y (T, N, C, L_out), of the same kind.

    Raises:
        TypeError, ValueError: as :class:`MaxPool2d`.
    """

    @taken_by_position
    def __init__(self, kernel_size, stride=None, padding=0, *, ceil_mode: bool = False):
        super().__init__()
        flag("ceil_mode", ceil_mode)
        self.kernel_size, self.stride, self.padding = _window(kernel_size, stride, padding)
        self.ceil_mode = ceil_mode

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, 4, "(T, N, C, L)")
        return as_row(max_pool(as_images(x), _of_one_row(self), self.ceil_mode))

    def extra_repr(self) -> str:
        return described(self)


class MaxRatePool1d(MaxOfSums):
    """Max pooling of spike counts along one axis; equation and source: :class:`MaxRatePool2d`.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool1d (stride defaults to kernel_size).

    Shapes: x (T, N, C, L), with values as there; y (T, N, C, L_out); state v [N, C, L]: the counts.

    Raises:
        TypeError, ValueError: as :class:`MaxRatePool2d`.
    """

    dims = 1

    @taken_by_position
    def __init__(self, kernel_size, stride=None, padding=0, *, ceil_mode: bool = False):
        super().__init__(*_window(kernel_size, stride, padding), ceil_mode=ceil_mode)

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, 4, "(T, N, C, L)")
        counts = None if v is None else kept_values(v, x.shape[1:], x.device).unsqueeze(-2)
        spikes, counts = max_rate_pool(as_images(x), counts, _of_one_row(self), self.ceil_mode)
        return as_row(spikes), counts.squeeze(-2)


class AvgPool1d(nn.AvgPool1d):
    """Average pooling of every step along one axis; a tensor, as :class:`AvgPool2d` gives.

    Args: those of nn.AvgPool1d.

    Shapes: x (T, N, C, L), Spikes or a tensor; y [T, N, C, L_out], for Spikes in float32.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value. RuntimeError: a window does not fit.
    """

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
        super().__init__(*_window(kernel_size, stride, padding), ceil_mode, count_include_pad)

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Tensor:
        checks.steps_of(x, 4, "(T, N, C, L)")
        x = checks.frames(x)
        return each_step_of_spikes(super().forward, x)


class AdaptiveAvgPool1d(nn.AdaptiveAvgPool1d):
    """Average pooling of every step along one axis to a given length; otherwise as :class:`AvgPool1d`.

    Args:
        output_size: as in nn.AdaptiveAvgPool1d, a number; None keeps the length of x.

    Shapes: x (T, N, C, L); y [T, N, C, output_size]. Spikes that already have that length stay Spikes.

    Raises:
        TypeError, ValueError: as :class:`AdaptiveAvgPool2d`.
    """

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:  # type: ignore[override]  # torch's gives tensors only
        checks.steps_of(x, 4, "(T, N, C, L)")
        size = self.output_of(x.shape[3:])
        if isinstance(x, Spikes) and x.shape[3:] == size:
            return x
        x = checks.frames(x)
        return each_step_of_spikes(lambda row: F.adaptive_avg_pool1d(row, size), x)

    def output_of(self, size: Sequence[int]) -> tuple[int, ...]:
        """The length of the output for the input's."""
        return window_checks.output_size(self.output_size, size)


class Voting(nn.Module):
    """The mean over each group of neighbouring neurons, which vote for one class: SpikingJelly's VotingLayer.

    Fang et al., "Incorporating learnable membrane time constant to enhance learning of spiking neural networks", ICCV
    2021, arXiv:2007.05785.

    Args:
        voters: neurons of a class.

    Shapes: x (T, N, classes * voters), Spikes or a tensor; y [T, N, classes], for Spikes in float32.

    Raises:
        TypeError, ValueError: voters is no number of at least 1, or does not divide the features of x.
    """

    def __init__(self, voters: int):
        super().__init__()
        self.voters = window_checks.single("voters", voters, 1)

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Tensor:
        checks.steps_of(x, 3, "(T, N, features)")
        voters = window_checks.single("voters", self.voters, 1)
        if x.shape[2] % voters:
            raise ValueError(f"x must have a multiple of {voters} features, got {list(x.shape)}")
        x = checks.frames(x)
        return each_step_of_spikes(self._means, x)

    def _means(self, step: Tensor) -> Tensor:
        return F.avg_pool1d(step.unsqueeze(1), self.voters).squeeze(1)

    def extra_repr(self) -> str:
        return f"voters={self.voters}"


def _window(kernel_size, stride, padding) -> tuple[int, int, int]:
    """The window of a pooling along one axis; without a stride windows lie side by side."""
    kernel_size = window_checks.single("kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None else window_checks.single("stride", stride, 1)
    padding = window_checks.single("padding", padding, 0)
    window_checks.pooling((1, kernel_size), (1, stride), (0, padding))
    return kernel_size, stride, padding


def _of_one_row(pool: MaxPool1d | MaxRatePool1d) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    return (1, pool.kernel_size), (1, pool.stride), (0, pool.padding)
