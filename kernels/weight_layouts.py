"""The layouts of convolution weights that kernels take, computed in plain torch on the weights' device."""

import math
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 2.0**100  # of what is summed: 2**27 such values stay finite in float32


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN, infinite or so large that sums would be: one pass over the memory in the usual case."""
    values = values.detach()
    single = values if values.dtype in (torch.float32, torch.float16, torch.bfloat16) else values.float()
    if single.dtype == torch.float32 and single.is_contiguous():  # a product starts sooner
        flat = single.view(-1)
        norm = flat.dot(flat)
    else:
        norm = torch.linalg.vector_norm(single, dtype=torch.float32)
    # If it overflows, look closer.
    return math.isfinite(norm.item()) or bool((single.float().abs() <= LARGEST).all())


def fault(values: Tensor) -> str:
    """What values that are not finite contain, for messages."""
    if bool(torch.isfinite(values.detach().float()).all()):
        return f"values beyond 2**100 = {LARGEST:.2g}, whose sums would be infinite"
    return "NaN or infinite values"


def require_finite(name: str, values: Tensor) -> None:
    """Refuse parameters with which no neuron, or every neuron, would fire."""
    if not is_finite(values):
        refuse_infinite(name, values)


def refuse_infinite(name: str, values: Tensor) -> NoReturn:
    """The error of parameters that are not finite."""
    raise ValueError(
        f"{name} must be finite (in float32, and with batch normalisation's statistics where they are folded in), "
        f"and holds {fault(values)}; load or train it again"
    )


def float16_parts(weight: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weights [C_out, K] as (high, low, unit): ``weight = 2 * unit * (high + low)``; the 2 is a spike in the kernel.

    high and low are float16 [C_out, K], contiguous whatever the weight's strides, with zeros up to a multiple of 16
    inputs for wide loads; unit is float32 [C_out]. Each channel is scaled by a power of two, which is exact, so that
    its largest weight m comes to lie in [2**14, 2**15). high then has float16's 11 bits of a weight, and low the next
    11 bits and a sign:

        float32:   |error| <= max(2**-23 |weight|, 2**-39 m)    two products; float32's own rounding is 2**-24 |weight|
        bfloat16:  exact above 2**-31 m, else |error| <= 2**-39 m      one product, low is None
        float16:   exact above 2**-28 m, else |error| <= 2**-39 m      one product, low is None

    The second bounds are where float16 becomes subnormal: without the scaling, the low part of any weight below 1/8
    would be. They hold where m >= 2**-105. Weights of at most 23 bits, such as a dyadic grid's, are exact. These are
    errors of the weights; tensor cores add those of their sums (conv2d_kernel.py).
    """
    check_parts(weight)
    # The kernel takes the parts for rows, and they keep the strides of ``wide``, as a padding by nothing does.
    wide = F.pad(weight.float().contiguous(), (0, -weight.shape[1] % 16))
    exponent = torch.frexp(wide.abs().amax(1)).exponent  # m < 2**exponent
    shift = (15 - exponent).clamp(-112, 120)  # 2**shift and the unit must be normal numbers
    scaled = wide * _power_of_two(shift)[:, None]
    high = scaled.half()
    low = (scaled - high).half() if weight.dtype == torch.float32 else None
    return high, low, _power_of_two(-shift - 1)


def check_parts(weight: Tensor) -> None:
    """Refuse weights of types that have no such parts."""
    if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(
            f"weight must be float32, float16 or bfloat16 on a GPU, got {weight.dtype}; convert it by weight.float()"
        )


ONE_DIGIT, TWO_DIGITS, THREE_DIGITS = 7, 13, 23  # bits of a weight, without its sign
MOST_OF_THREE = 127 * (1 + 256 + 65536)  # the largest whole number of three digits
MOST_INPUTS_OF_TWO = 1 << 17  # of a neuron: the sums of more could leave 32 bits


def places_of(bits: int, inputs: int) -> int:
    """ONE_DIGIT, TWO_DIGITS or THREE_DIGITS: what weights of ``bits`` bits take, in a neuron of ``inputs`` inputs."""
    if bits <= ONE_DIGIT:
        return ONE_DIGIT
    return TWO_DIGITS if bits <= TWO_DIGITS and inputs <= MOST_INPUTS_OF_TWO else THREE_DIGITS


def int8_digits(weight: Tensor, places: int) -> tuple[list[Tensor], Tensor]:
    """Weights [C_out, K] as digits int8 [C_out, K], the lowest first, with zeros up to a multiple of 16 inputs for wide
    loads; and the unit, float32 [C_out], a power of two.

        ONE_DIGIT:     weight = unit * first
        TWO_DIGITS:    weight = unit * (first + 64 second)
        THREE_DIGITS:  weight = unit * (first + 256 second + 65536 third)

    Two digits have common sums, in which a spike counts 64 for the second; three have sums of their own.

    One and two digits are for weights that are, in each channel, whole multiples of a power of two that is 2**-126 at
    least, of so many bits (weight_cache.WHOLE_BITS). Three are for all: unit is the least in which the channel's
    largest weight m is at most MOST_OF_THREE. Weights are rounded to it, with an |error| of at most 2**-23 m where
    m >= 2**-103; none where all are multiples of it, as a dyadic grid of 23 bits is. These are the digits of the matrix
    tiles of a CPU (cpu/src/conv2d/amx_weights.h).
    """
    wide = F.pad(weight.float().contiguous(), (0, -weight.shape[1] % 16))
    most = wide.abs().amax(1)
    shift = (places - torch.frexp(most).exponent).clamp(max=126)  # 2**shift and the unit are normal numbers
    if places == THREE_DIGITS:
        shift -= (most * _power_of_two(shift) > MOST_OF_THREE).int()
    whole, unit = (wide * _power_of_two(shift)[:, None]).round().to(torch.int32), _power_of_two(-shift)
    if places == ONE_DIGIT:
        return [whole.to(torch.int8)], unit
    if places == TWO_DIGITS:
        second = ((whole + 32) >> 6).clamp(max=127)  # the first is then -32 .. 63
        return [(whole - 64 * second).to(torch.int8), second.to(torch.int8)], unit
    digits = []
    for _ in range(3):
        digits.append(((whole + 128) & 0xFF) - 128)
        whole = (whole - digits[-1]) >> 8
    return [digit.to(torch.int8) for digit in digits], unit


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent, float32, for int32 exponents of normal numbers; exact, as torch.pow need not be on a GPU."""
    return ((exponent + 127) << 23).view(torch.float32)


def join_small_groups(weight: Tensor, groups: int) -> tuple[Tensor, int]:
    """Join groups of few channels, as in a depthwise convolution, into fewer with block-diagonal weights.

    A product takes at least 16 inputs and 16 channels; up to there the zeros cost nothing, and words are read in rows.

    Returns:
        Weights [C_out, C_in / groups, kernel_h, kernel_w] and the number of groups, both for the joined groups.
    """
    width = max(weight.shape[1], len(weight) // groups)
    joined = max((n for n in range(1, 16 // width + 1) if groups % n == 0), default=1)
    return join_groups(weight, groups, joined), groups // joined


def join_groups(weight: Tensor, groups: int, joined: int) -> Tensor:
    """Weights of ``groups / joined`` groups that compute the same; each has ``joined`` old ones in a block diagonal."""
    if joined == 1:
        return weight
    C_out, C, kernel_h, kernel_w = weight.shape
    blocks = weight.unflatten(0, (groups // joined, joined, C_out // groups))
    wide = blocks.new_zeros(groups // joined, joined, C_out // groups, joined, C, kernel_h, kernel_w)
    wide.diagonal(dim1=1, dim2=3).copy_(blocks.movedim(1, -1))
    return wide.flatten(0, 2).flatten(1, 2)
