"""Chooses the parts into which the Triton convolution splits weights, for a product each: int8 digits where possible,
else float16 numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import constant_cache
from ..weight_cache import WHOLE_BITS
from ..weight_layouts import THREE_DIGITS, join_small_groups, places_of
from .weight_parts import float16_parts, int8_digits


class Parts(NamedTuple):
    """What the kernel reads of weights.

    Attributes:
        first, second, third: [C_out, K], K = kernel_h * kernel_w * C_in / groups in this order and zeros up to a
            multiple of 16; the second, or the second and third, may be None. float16 or int8: see weight_layouts.py.
        unit: float32 [C_out].
        groups, group_C: groups, and input channels of each, after small ones were joined.
    """

    first: Tensor
    second: Tensor | None
    third: Tensor | None
    unit: Tensor
    groups: int
    group_C: int

    @property
    def digits(self) -> int:
        """How many of int8 there are; 0 where parts are float16."""
        return (
            0 if self.first.dtype == torch.float16 else 1 + sum(part is not None for part in (self.second, self.third))
        )


def parts_of(weight: Tensor, groups: int, takes_digits: bool) -> Parts:
    """The parts of weights [C_out, C_in / groups, kernel_h, kernel_w].

    float32 weights (and float64 ones, which are taken as float32) are three digits, whose sums are the same in any
    order: the same spikes on every card. Weights that are known to be whole (weight_cache.WHOLE_BITS), as those of
    simulate(precision=...) are, have one or two: to look would be to wait for the device. float16 and bfloat16 weights
    are one float16 number, which costs less than three digits.

    Args:
        takes_digits: whether the device multiplies int8 faster than float16; else all weights are float16 numbers.

    Raises:
        TypeError: the weights have another type than float64, float32, float16 or bfloat16.
    """
    bits = WHOLE_BITS.get(weight.untyped_storage())
    if takes_digits and (bits is not None or weight.dtype in (torch.float32, torch.float64)):
        places = places_of(THREE_DIGITS if bits is None else bits, weight[0].numel())
        return constant_cache.made(_digits, weight, groups, places)
    return constant_cache.made(_float16, weight, groups)


def _digits(weight: Tensor, groups: int, places: int) -> Parts:
    weight, groups = join_small_groups(_at_most_32_bits(weight), groups)
    digits, unit = int8_digits(weight, places)
    second, third = [*digits[1:], None, None][:2]
    return Parts(digits[0], second, third, unit, groups, weight.shape[1])


def _float16(weight: Tensor, groups: int) -> Parts:
    weight, groups = join_small_groups(_at_most_32_bits(weight), groups)
    high, low, unit = float16_parts(weight)
    return Parts(high, low, None, unit, groups, weight.shape[1])


def _at_most_32_bits(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype == torch.float64 else weight
