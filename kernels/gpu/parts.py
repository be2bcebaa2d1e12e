"""Chooses the parts into which the Triton convolution splits weights, one for each product: int8 digits where possible,
otherwise float16 numbers."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import constant_cache
from ..weight_cache import WHOLE_BITS
from ..weight_layouts import THREE_DIGITS, join_small_groups, places_of
from .weight_parts import float16_parts, int8_digits


class Parts(NamedTuple):
    """A layer's weights as the kernel reads them.

    Attributes:
        first, second, third: [C_out, K], float16 or int8 (weight_layouts.py). K = kernel_h * kernel_w * C_in / groups,
            in this order, padded with zeros to a multiple of 16. The third, or the second and third, may be None.
        unit: float32 [C_out], the value of 1 in the accumulator.
        groups, group_C: groups, and input channels of each, after small groups were joined.
    """

    first: Tensor
    second: Tensor | None
    third: Tensor | None
    unit: Tensor
    groups: int
    group_C: int

    @property
    def digits(self) -> int:
        """The number of int8 digits; 0 if the parts are float16."""
        return (
            0 if self.first.dtype == torch.float16 else 1 + sum(part is not None for part in (self.second, self.third))
        )


def parts_of(weight: Tensor, groups: int, takes_digits: bool) -> Parts:
    """The parts of weights [C_out, C_in / groups, kernel_h, kernel_w].

    float32 weights (and float64 weights, which are taken as float32) become three digits, whose sums are the same in
    any order, so spikes are the same on every card. Weights that are known to be integers of few bits
    (weight_cache.WHOLE_BITS), such as those of simulate(precision=...), become one or two digits; examining the values
    would mean waiting for the device. float16 and bfloat16 weights become one float16 number, which costs less than
    three digits.

    Args:
        takes_digits: whether the device multiplies int8 faster than float16; if not, all weights are float16 numbers.

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
