"""Operations from spikes to spikes without neurons: pooling, padding, flattening, reordering, joining."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from .. import checks
from ..kernels import ops, unfused
from ..spikes import Spikes, spike_autograd, storage
from ..spikes.storage import PooledWords, from_channels_last, to_channels_last
from . import window_checks

Output = TypeVar("Output", Spikes, Tensor)


def max_pool2d(
    x: Spikes,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
) -> Spikes:
    """Max pooling of spikes: at every step the OR over each window.

    Args:
        x: Spikes (T, N, C, H, W).
        kernel_size, stride, padding: as in torch.nn.functional.max_pool2d (stride defaults to kernel_size; padding at
            most half of the window).

    Returns:
        Spikes (T, N, C, H_out, W_out).

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value; the message names it.
    """
    if type(x) is not Spikes and torch.overrides.has_torch_function((x,)):  # such as what stands for Spikes in a plan
        return torch.overrides.handle_torch_function(max_pool2d, (x,), x, kernel_size, stride, padding)
    if not isinstance(x, Spikes):
        raise TypeError(
            f"x must be Spikes, got {type(x).__name__}; proxykernels.pack makes them of a tensor of 0 and 1"
        )
    if len(x.shape) != 5:
        raise ValueError(f"x must have the shape (T, N, C, H, W), got {x.shape}")
    kernel_size, stride, padding = window_checks.pooling(kernel_size, stride, padding)
    T, N, C, *size = x.shape
    window_checks.fits(size, kernel_size, padding, (1, 1))
    kept = x._kept
    if isinstance(kept, PooledWords) and (*kernel_size, *stride, *padding) == (2, 2, 2, 2, 0, 0):
        words = kept.pooled
    else:
        words = ops.max_pool2d(kept.words, C, size, kernel_size, stride, padding)
    out = unfused.output_size(size, kernel_size, stride, padding, (1, 1))
    handle = None
    if x._differentiable:
        handle = spike_autograd.MaxPool.apply(x._handle, kept.words, size, out, (kernel_size, stride, padding))
    return x._like(words, (T, N, C, *out), handle)


def max_rate_pool2d(
    x: Spikes, counts: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Spikes, Tensor]:
    """Max pooling of counts (see :class:`proxykernels.MaxRatePool2d`), from ``counts`` [N, C, H, W]; pairs only."""
    checks.not_traced()
    window_checks.fits(x.shape[3:], kernel_size, padding, (1, 1))
    T, N, C, *size = x.shape
    words, after = ops.max_rate_pool2d(x._words, T, to_channels_last(counts), size, kernel_size, stride, padding)
    y = x._like(words, (T, N, C, *unfused.output_size(size, kernel_size, stride, padding, (1, 1))))
    return y, from_channels_last(after, (N, C, *size))


def zero_pad2d(x: Spikes, padding: Sequence[int], spread: Sequence[int] = (1, 1)) -> Spikes:
    """Spikes (T, N, C, H, W) with silent pixels around and, with ``spread``, between them; see
    :class:`proxykernels.ZeroPad2d`."""
    (height, width), (left, right, top, bottom) = x.shape[3:], padding
    H, W = (
        (before + step * (n - 1) + 1 if n else before) + after
        for before, after, step, n in ((top, bottom, spread[0], height), (left, right, spread[1], width))
    )
    rows = slice(top, top + spread[0] * height, spread[0])
    columns = slice(left, left + spread[1] * width, spread[1])
    handle = None
    if x._differentiable:
        index = torch.arange(H * W, dtype=torch.int64, device=x.device).view(H, W)[rows, columns].flatten()
        handle = spike_autograd.Placed.apply(x._handle, index, H * W)
    return x._like(storage.place(x._words, (height, width), (H, W), rows, columns), (*x.shape[:3], H, W), handle)


def cat_samples(parts: Sequence[Spikes], *, collate_fn_map: Any = None) -> Spikes:
    """Spikes (T, N_1, ...), (T, N_2, ...), ... as one batch (T, N_1 + N_2 + ..., ...), as DataLoader collates them.

    ``collate_fn_map``: not used; torch passes it to every collate function.

    Raises:
        ValueError: the parts differ in more than the number of samples.
    """
    first = parts[0]
    for part in parts:
        if (part.T, part.shape[2:], part.scale) != (first.T, first.shape[2:], first.scale):
            raise ValueError(
                f"Spikes of a batch must have the same steps and sizes, got {first.shape} and {part.shape}; "
                "events(..., dt=dt, T=T) gives every recording T steps"
            )
    words = storage.cat_samples([part._words for part in parts])
    shape = (first.T, sum(part.shape[1] for part in parts), *first.shape[2:])
    return first._like(words, shape, spike_autograd.joined(1, parts))


default_collate_fn_map[Spikes] = cat_samples  # registers Spikes with torch's DataLoader
