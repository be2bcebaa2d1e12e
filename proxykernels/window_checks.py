"""What the windows of convolutions and pooling may be: each check names the argument and what it got."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import checks

LARGEST_WINDOW = 2**15  # strides, paddings and dilations: no sum or product of theirs leaves 32 bits


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """A window's height and width, each at least ``least``."""
    height, width = _lengths(name, value, least, 2)
    return height, width


def single(name: str, value: Any, least: int) -> int:
    """A window's length along one axis, at least ``least``."""
    return _lengths(name, value, least, 1)[0]


def _lengths(name: str, value: Any, least: int, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * axes
    if len(values) != axes or not all(checks.is_integer(v) for v in values):
        raise TypeError(f"{name} must be an integer{' or two of them' if axes == 2 else ''}, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if max(values) > LARGEST_WINDOW:
        raise ValueError(f"{name} must be at most {LARGEST_WINDOW}, got {value}")
    return values


def groups(groups: int, channels: int, weight: Tensor) -> int:
    """Groups that divide the outputs of weights [C_out, channels / groups, ...], and as many channels as they take."""
    if not checks.is_integer(groups):
        raise TypeError(f"groups must be an integer, got {groups!r}")
    outputs, each = weight.shape[:2]
    if groups < 1 or outputs % groups or (groups > 1 and channels == each):
        raise ValueError(
            f"groups must be at least 1 and divide {channels} inputs and {outputs} outputs, for weights "
            f"[C_out, C_in / groups, ...], got {groups}"
        )
    if channels != groups * each:
        kind = f"weights {list(weight.shape)}" + (f" in {groups} groups" if groups > 1 else "")
        raise ValueError(f"x must have C_in = {groups * each}, as {kind} take it, got {channels} channels")
    return int(groups)


def fits(size, kernel_size, padding, dilation) -> None:
    """A window must lie inside the padded image."""
    for n, k, p, d in zip(size, kernel_size, padding, dilation, strict=True):
        if d * (k - 1) + 1 > n + 2 * p:
            raise ValueError(
                f"kernel_size {tuple(kernel_size)} with dilation {tuple(dilation)} is larger than the input "
                f"{tuple(size)} padded by {tuple(padding)}"
            )


def pooling(kernel_size, stride, padding) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The windows of a pooling, in pairs; without a stride they lie side by side."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None else pair("stride", stride, 1)
    padding = pair("padding", padding, 0)
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        raise ValueError(f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    return kernel_size, stride, padding
