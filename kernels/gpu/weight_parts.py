"""Splits weights into the parts that the Triton convolution takes, one for each product: int8 digits where possible,
otherwise float16 numbers.

One launch computes float16_parts and int8_digits of weight_layouts.py, with channels last.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import weight_cache
from ..weight_cache import BESIDE, WHOLE_BITS
from ..weight_layouts import (
    MOST_OF_THREE,
    ONE_DIGIT,
    THREE_DIGITS,
    TWO_DIGITS,
    check_parts,
    join_small_groups,
    places_of,
)
from .launch import launch

BLOCK, NUM_WARPS = 1024, 4  # inputs of an output channel at a time
LARGEST: tl.constexpr = tl.constexpr(MOST_OF_THREE)
ONE: tl.constexpr = tl.constexpr(ONE_DIGIT)
TWO: tl.constexpr = tl.constexpr(TWO_DIGITS)
THREE: tl.constexpr = tl.constexpr(THREE_DIGITS)


class Parts(NamedTuple):
    """A layer's weights as the kernel reads them.

    Attributes:
        first, second, third: [C_out, K], float16 or int8 (weight_layouts.py); K = kernel_h * kernel_w * group_C +
            beside, padded with zeros to a multiple of 16, inputs of a tap together. Second and third may be None.
        unit: float32 [C_out], the value of 1 in the accumulator.
        groups, group_C: groups, and input channels of each, after small groups were joined.
        beside, tap: input channels behind these, which have weights at one tap only (weight_cache.BESIDE).
    """

    first: Tensor
    second: Tensor | None
    third: Tensor | None
    unit: Tensor
    groups: int
    group_C: int
    beside: int = 0
    tap: int = 0

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
        return weight_cache.made(_digits, weight, groups, places)
    return weight_cache.made(_float16, weight, groups)


def _digits(weight: Tensor, groups: int, places: int) -> Parts:
    weight, *layout = _as_rows(weight, groups)
    digits, unit = int8_digits(weight, places)
    second, third = [*digits[1:], None, None][:2]
    return Parts(digits[0], second, third, unit, *layout)


def _float16(weight: Tensor, groups: int) -> Parts:
    weight, *layout = _as_rows(weight, groups)
    high, low, unit = float16_parts(weight)
    return Parts(high, low, None, unit, *layout)


def _as_rows(weight: Tensor, groups: int) -> tuple[Tensor, int, int, int, int]:
    """Weights with their zeros left out where channels have one tap only, and the last four fields of Parts."""
    beside = BESIDE.get(weight.untyped_storage())
    weight = _at_most_32_bits(weight)
    if beside is None:
        weight, groups = join_small_groups(weight, groups)
        return weight, groups, weight.shape[1], 0, 0
    C, (row, column) = beside
    rows = [weight[:, :C].permute(0, 2, 3, 1).flatten(1), weight[:, C:, row, column]]
    return torch.cat(rows, 1)[:, :, None, None], 1, C, weight.shape[1] - C, row * weight.shape[3] + column


def _at_most_32_bits(weight: Tensor) -> Tensor:
    return weight.float() if weight.dtype == torch.float64 else weight


@triton.jit
def _power_of_two(exponent):
    """2**exponent, float32, for int32 exponents of normal numbers."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _largest(weight_pointer, inputs, BLOCK: tl.constexpr):
    """The largest magnitude of a channel's weights, and the exponent of the least power of two above it (0 if all
    weights are 0)."""
    place = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, inputs, BLOCK):
        weight = tl.load(weight_pointer + first + place, mask=first + place < inputs, other=0.0)
        largest = tl.maximum(largest, tl.abs(weight.to(tl.float32)))
    most = tl.max(largest)
    exponent = (most.to(tl.int32, bitcast=True) >> 23) - 126  # most < 2**exponent
    return most, tl.where(most > 0, exponent, 0)


@triton.jit(do_not_specialize=["C", "taps", "K"])
def _float16_parts_kernel(
    weight_pointer,  # [C_out, C, taps] float32, float16 or bfloat16
    high_pointer,  # [C_out, K] float16, input c of tap t at t * C + c
    low_pointer,  # the same, or None
    unit_pointer,  # [C_out] float32
    C,
    taps,
    K,  # C * taps, padded
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight_pointer += row * C * taps
    place = tl.arange(0, BLOCK)
    _, exponent = _largest(weight_pointer, C * taps, BLOCK)
    shift = tl.minimum(tl.maximum(15 - exponent, -112), 120)  # 2**shift and the unit must be normal numbers
    tl.store(unit_pointer + row, _power_of_two(-shift - 1))
    scale = _power_of_two(shift)
    for first in range(0, K, BLOCK):
        k = first + place
        source = k % C * taps + k // C
        weight = tl.load(weight_pointer + source, mask=k < C * taps, other=0.0).to(tl.float32)
        scaled = weight * scale
        high = scaled.to(tl.float16)
        tl.store(high_pointer + row * K + k, high, mask=k < K)
        if low_pointer is not None:
            tl.store(low_pointer + row * K + k, (scaled - high.to(tl.float32)).to(tl.float16), mask=k < K)


@triton.jit
def _nearest(x):
    """float32 with fewer than 24 bits before the point, rounded to int32, halves to even."""
    below = tl.floor(x)
    rest = x - below
    whole = below.to(tl.int32)
    return whole + ((rest > 0.5) | ((rest == 0.5) & (whole % 2 != 0))).to(tl.int32)


@triton.jit
def _balanced(whole):
    """The digit -128 .. 127 by which integers exceed a multiple of 256."""
    return ((whole + 128) & 0xFF) - 128


@triton.jit(do_not_specialize=["C", "taps", "K"])
def _int8_digits_kernel(
    weight_pointer,  # [C_out, C, taps] float32, float16 or bfloat16
    first_pointer,  # [C_out, K] int8, input c of tap t at t * C + c
    second_pointer,  # the same, or None
    third_pointer,  # the same, or None
    unit_pointer,  # [C_out] float32
    C,
    taps,
    K,  # C * taps, padded
    PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight_pointer += row * C * taps
    place = tl.arange(0, BLOCK)
    most, exponent = _largest(weight_pointer, C * taps, BLOCK)
    shift = tl.minimum(PLACES - exponent, 126)  # 2**shift and the unit are normal numbers
    if PLACES == THREE:
        shift -= (most * _power_of_two(shift) > LARGEST).to(tl.int32)
    tl.store(unit_pointer + row, _power_of_two(-shift))
    scale = _power_of_two(shift)
    for first in range(0, K, BLOCK):
        k = first + place
        source = k % C * taps + k // C
        weight = tl.load(weight_pointer + source, mask=k < C * taps, other=0.0).to(tl.float32)
        whole = _nearest(weight * scale)
        to = row * K + k
        if PLACES == ONE:
            tl.store(first_pointer + to, whole.to(tl.int8), mask=k < K)
        elif PLACES == TWO:
            second = tl.minimum((whole + 32) >> 6, 127)
            tl.store(first_pointer + to, (whole - 64 * second).to(tl.int8), mask=k < K)
            tl.store(second_pointer + to, second.to(tl.int8), mask=k < K)
        else:
            digit = _balanced(whole)
            tl.store(first_pointer + to, digit.to(tl.int8), mask=k < K)
            whole = (whole - digit) >> 8
            digit = _balanced(whole)
            tl.store(second_pointer + to, digit.to(tl.int8), mask=k < K)
            tl.store(third_pointer + to, ((whole - digit) >> 8).to(tl.int8), mask=k < K)


def float16_parts(weight: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """weight_layouts.float16_parts for weights [C_out, C, kernel_h, kernel_w], with inputs in channels-last order."""
    check_parts(weight)
    weight = weight.contiguous()
    C_out, C, taps = weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]
    K = triton.cdiv(C * taps, 16) * 16
    high = torch.empty(C_out, K, dtype=torch.float16, device=weight.device)
    low = torch.empty_like(high) if weight.dtype == torch.float32 else None
    unit = torch.empty(C_out, dtype=torch.float32, device=weight.device)
    launch(
        _float16_parts_kernel,
        C_out,
        results=(high, low, unit),
        weight_pointer=weight,
        high_pointer=high,
        low_pointer=low,
        unit_pointer=unit,
        C=C,
        taps=taps,
        K=K,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return high, low, unit


def int8_digits(weight: Tensor, places: int) -> tuple[list[Tensor], Tensor]:
    """weight_layouts.int8_digits for weights [C_out, C, kernel_h, kernel_w], with inputs in channels-last order."""
    check_parts(weight)
    weight = weight.contiguous()
    C_out, C, taps = weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]
    K = triton.cdiv(C * taps, 16) * 16
    count = (ONE_DIGIT, TWO_DIGITS, THREE_DIGITS).index(places) + 1
    digits = [torch.empty(C_out, K, dtype=torch.int8, device=weight.device) for _ in range(count)]
    unit = torch.empty(C_out, dtype=torch.float32, device=weight.device)
    first, second, third = [*digits, None, None][:3]
    launch(
        _int8_digits_kernel,
        C_out,
        results=(*digits, unit),
        weight_pointer=weight,
        first_pointer=first,
        second_pointer=second,
        third_pointer=third,
        unit_pointer=unit,
        C=C,
        taps=taps,
        K=K,
        PLACES=places,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return digits, unit
