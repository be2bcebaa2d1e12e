"""Checks of the windows of convolutions and pooling, and their padding. Each error names the argument."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from ..checks import is_integer
from ..kernels import unfused

Pair = tuple[int, int]

_output_size = lru_cache(256)(unfused.output_size)  # of integers
LARGEST_WINDOW = 2**15  # of strides, paddings and dilations too, so that sums and products fit 32 bits


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """A window's height and width, each at least ``least``."""
    height, width = _lengths(name, value, least, 2)
    return height, width


def single(name: str, value: Any, least: int) -> int:
    """A window's length along one axis, at least ``least``."""
    return _lengths(name, value, least, 1)[0]


def _lengths(name: str, value: Any, least: int, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * axes
    if len(values) != axes or not all(is_integer(v) for v in values):
        raise TypeError(f"{name} must be an integer{' or two of them' if axes == 2 else ''}, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if max(values) > LARGEST_WINDOW:
        raise ValueError(f"{name} must be at most {LARGEST_WINDOW}, got {value}")
    return tuple(map(int, values))  # NumPy's integers become int


def divisor(value: Any) -> int:
    """The divisor of an average pooling; 0, if None was given, means the number of inputs of a window."""
    if value is None:
        return 0
    if not is_integer(value):
        raise TypeError(f"divisor_override must be an integer, or None for the size of the window, got {value!r}")
    if value == 0:
        raise ValueError("divisor_override must not be 0, got 0; None divides by the size of the window")
    return int(value)


def output_size(wanted: Any, size: Sequence[int]) -> tuple[int, ...]:
    """The output size of an adaptive pooling of images or rows of ``size``; None keeps the size of an axis."""
    values = tuple(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else (wanted,) * len(size)
    if len(values) != len(size) or not all(n is None or is_integer(n) for n in values):
        raise TypeError(
            f"output_size must be an integer{' or two of them' if len(size) == 2 else ''}, or None for the size of the "
            f"input, got {wanted!r}"
        )
    if any(n is not None and n < 0 for n in values):
        raise ValueError(f"output_size must be at least 0, got {wanted}")
    return tuple(there if n is None else int(n) for n, there in zip(values, size, strict=True))


def convolution(
    size: Sequence[int], channels: int, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups_: Any
) -> tuple[Tensor, Pair, Pair, Pair, int, Pair]:
    """The window of a convolution of images of ``size`` (H, W) by weights [C_out, C_in / groups, kernel_h, kernel_w].

    Returns:
        The weight, stride, padding and dilation to convolve by (:func:`symmetric`), the groups, and the output's size.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; the message names it.
    """
    whole = True  # whether all are pairs already, as layers have them
    for value, least in ((stride, 1), (padding, 0), (dilation, 1)):
        whole = whole and type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int
        whole = whole and least <= min(value) and max(value) <= LARGEST_WINDOW
    if not whole:
        stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    if groups_ != 1 or type(groups_) is not int or channels != weight.shape[1]:
        groups_ = groups(groups_, channels, weight)
    if not whole:
        weight, padding, dilation = symmetric(weight, padding, stride, dilation)
    find = _output_size if whole and type(size[0]) is type(size[1]) is int else unfused.output_size
    size_out = find(tuple(size), weight.shape[2:], stride, padding, dilation)
    if min(size_out) < 1:
        fits(size, weight.shape[2:], padding, dilation)
    return weight, stride, padding, dilation, groups_, size_out


def groups(groups: int, channels: int, weight: Tensor) -> int:
    """A number of groups that fits weights [C_out, channels / groups, ...] and the input's ``channels``."""
    if not is_integer(groups):
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
    """Kernel size, stride and padding of a pooling as pairs; the stride defaults to the kernel size."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None else pair("stride", stride, 1)
    padding = pair("padding", padding, 0)
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        raise ValueError(f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    return kernel_size, stride, padding


def symmetric(
    weight: Tensor, padding: int | Sequence[int] | str, stride: Pair, dilation: Pair
) -> tuple[Tensor, Pair, Pair]:
    """Padding in numbers, with the weight [C_out, C_in / groups, kernel_h, kernel_w] and dilation to use with it.

    'same' pads one more on the right if the total is odd. Here both sides get that larger padding, and a tap of weight
    0 is put in front of the kernel (with its dilation written out), so that the output starts where torch's does.

    Returns:
        (weight, padding, dilation).

    Raises:
        TypeError, ValueError: padding is no number, pair of numbers, 'same' or 'valid', or is 'same' with a stride.
    """
    if not isinstance(padding, str):
        return weight, pair("padding", padding, 0), dilation
    if padding not in ("same", "valid"):
        raise ValueError(f"padding must be a number, two numbers, 'same' or 'valid', got {padding!r}")
    if padding == "valid":
        return weight, (0, 0), dilation
    if tuple(stride) != (1, 1):
        raise ValueError(f"padding='same' needs stride 1, got stride {tuple(stride)}")
    pads, steps = [], []
    for axis, d in zip((2, 3), dilation, strict=True):
        total = d * (weight.shape[axis] - 1)
        if total % 2:
            shape = list(weight.shape)
            shape[axis] = total + 2
            spread = weight.new_zeros(shape)
            spread.narrow(axis, 1, total + 1)[(slice(None),) * axis + (slice(None, None, d),)] = weight
            weight, d, total = spread, 1, total + 1
        pads.append(total // 2)
        steps.append(d)
    return weight, (pads[0], pads[1]), (steps[0], steps[1])
