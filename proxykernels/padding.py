"""A convolution's padding, as users write it, in numbers that pad both sides alike."""

from collections.abc import Sequence

from torch import Tensor

from . import window_checks

Pair = tuple[int, int]


def symmetric(
    weight: Tensor, padding: int | Sequence[int] | str, stride: Pair, dilation: Pair
) -> tuple[Tensor, Pair, Pair]:
    """Padding in numbers, and the weight [C_out, C_in / groups, kernel_h, kernel_w] and dilation that go with it.

    'same' pads one more on the right where the total is odd. We pad that much on both sides, and put a tap of weight 0
    in front of the kernel (with its dilation written out), so that the output starts where torch's does.

    Returns:
        (weight, padding, dilation).

    Raises:
        TypeError, ValueError: padding is no number, pair of numbers, 'same' or 'valid', or is 'same' with a stride.
    """
    if not isinstance(padding, str):
        return weight, window_checks.pair("padding", padding, 0), dilation
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
