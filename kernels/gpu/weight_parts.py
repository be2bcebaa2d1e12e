"""Weights as the Triton convolution takes them, in one launch: weight_layouts.float16_parts, with channels last."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..weight_layouts import check_parts

BLOCK, NUM_WARPS = 1024, 4  # inputs of an output channel at a time


@triton.jit
def _power_of_two(exponent):
    """2**exponent, float32, for int32 exponents of normal numbers."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["C", "taps", "K"])
def _float16_parts_kernel(
    weight_pointer,  # [C_out, C, taps] float32, float16 or bfloat16
    high_pointer,  # [C_out, K] float16, input c of tap t at t * C + c
    low_pointer,  # the same, or None
    unit_pointer,  # [C_out] float32
    C,
    taps,
    K,  # C * taps and zeros
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight_pointer += row * C * taps
    place = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, C * taps, BLOCK):
        weight = tl.load(weight_pointer + first + place, mask=first + place < C * taps, other=0.0)
        largest = tl.maximum(largest, tl.abs(weight.to(tl.float32)))
    most = tl.max(largest)
    exponent = (most.to(tl.int32, bitcast=True) >> 23) - 126  # most < 2**exponent
    exponent = tl.where(most > 0, exponent, 0)
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


def float16_parts(weight: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """weight_layouts.float16_parts of weights [C_out, C, kernel_h, kernel_w], with inputs in channels-last order."""
    check_parts(weight)
    weight = weight.contiguous()
    C_out, C, taps = weight.shape[0], weight.shape[1], weight.shape[2] * weight.shape[3]
    K = triton.cdiv(C * taps, 16) * 16
    high = torch.empty(C_out, K, dtype=torch.float16, device=weight.device)
    low = torch.empty_like(high) if weight.dtype == torch.float32 else None
    unit = torch.empty(C_out, device=weight.device)
    with torch.cuda.device_of(weight):
        _float16_parts_kernel[(C_out,)](
            weight_pointer=weight,
            high_pointer=high,
            low_pointer=low,
            unit_pointer=unit,
            C=C,
            taps=taps,
            K=K,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return high, low, unit
