"""Which parts of weights the Triton convolution multiplies: digits where they can be, else float16 numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import constants
from ..weight_cache import WHOLE
from ..weight_layouts import MOST_DIGIT_INPUTS, int8_digits, join_small_groups
from .weight_parts import float16_parts


class Parts(NamedTuple):
    """What the kernel reads of weights.

    Attributes:
        first, second: [C_out, K], K = kernel_h * kernel_w * C_in / groups in this order and zeros up to a multiple of
            16; the second may be None. float16 or int8: see weight_layouts.py.
        unit: float32 [C_out].
        groups, group_C: groups, and input channels of each, after small ones were joined.
    """

    first: Tensor
    second: Tensor | None
    unit: Tensor
    groups: int
    group_C: int


def parts_of(weight: Tensor, groups: int, takes_digits: bool) -> Parts:
    """The parts of weights [C_out, C_in / groups, kernel_h, kernel_w].

    They are digits where the weights are known to be whole (weight_cache.WHOLE), as those of simulate(precision=...)
    are: to look would be to wait for the device.

    Args:
        takes_digits: whether the device multiplies int8 faster than float16.

    Raises:
        TypeError: the weights have another type than float64 (taken as float32), float32, float16 or bfloat16.
    """
    whole = WHOLE.get(weight.untyped_storage())
    if takes_digits and whole is not None and weight[0].numel() <= MOST_DIGIT_INPUTS:
        return constants.made(_digits, weight, groups, whole.bits)
    return constants.made(_float16, weight, groups)


def _digits(weight: Tensor, groups: int, bits: int) -> Parts:
    weight, groups = join_small_groups(weight, groups)
    return Parts(*int8_digits(weight.permute(0, 2, 3, 1).flatten(1), bits), groups, weight.shape[1])


def _float16(weight: Tensor, groups: int) -> Parts:
    weight = weight.float() if weight.dtype == torch.float64 else weight
    weight, groups = join_small_groups(weight, groups)
    return Parts(*float16_parts(weight), groups, weight.shape[1])
