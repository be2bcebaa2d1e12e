"""Max pooling over all steps in one launch, from words to words (words.py has the layout): the OR of spikes, or the
maximum of spike counts.

For the latter a program keeps the counts of all inputs of its windows in registers, also of inputs that other windows
share, so no program waits for another. A window of too many inputs is pooled by rows, and their maxima by columns.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..unfused import output_size
from .counters import popcount
from .launch import launch
from .words import BITS

# Outputs of a program: of small windows four a thread, loaded at once, so that no two threads share a window; of larger
# ones fewer, so that no register is spilled.
MOST_OUTPUTS, SMALL_WINDOW, TILE = 512, 16, 2048
LARGEST_WINDOW = 4 * TILE  # inputs whose words and counts fit a program's registers
BLOCK = 1024  # outputs of a program of _max_pool_kernel; inputs whose counts a program adds up at a time
NUM_WARPS = 4


# Neither a new T, nor another batch, image or window, recompiles the kernel.
@triton.jit(
    do_not_specialize=["H", "W", "H_out", "W_out", "kernel_h", "kernel_w", "stride_h", "stride_w", "top", "left"]
)
def _max_pool_kernel(
    words_pointer,  # int32 [images, H * W, C]
    pooled_pointer,  # int32 [images, H_out * W_out, C], written
    C,
    H,
    W,
    H_out,
    W_out,
    kernel_h,
    kernel_w,
    stride_h,
    stride_w,
    top,  # padding
    left,
    BLOCK: tl.constexpr,
):
    # A program owns BLOCK outputs of one image.
    programs = tl.cdiv(H_out * W_out * C, BLOCK)
    image = (tl.program_id(0) // programs).to(tl.int64)
    output = tl.program_id(0) % programs * BLOCK + tl.arange(0, BLOCK)
    is_output = output < H_out * W_out * C
    pixel, channel = output // C, output % C
    first_y, first_x = pixel // W_out * stride_h - top, pixel % W_out * stride_w - left
    words_pointer += image * H * W * C
    pooled = tl.zeros((BLOCK,), tl.int32)
    for tap in range(kernel_h * kernel_w):
        y, x = first_y + tap // kernel_w, first_x + tap % kernel_w
        inside = is_output & (y >= 0) & (y < H) & (x >= 0) & (x < W)
        pooled |= tl.load(words_pointer + (y * W + x) * C + channel, mask=inside, other=0)
    tl.store(pooled_pointer + image * H_out * W_out * C + output, pooled, mask=is_output)


# Neither a new T, nor a new batch or image size, recompiles the kernel.
@triton.jit(do_not_specialize=["T", "N", "H", "W", "H_out", "W_out"])
def _max_rate_pool_kernel(
    words_pointer,  # int32 [ceil(T / 32), N, H * W, C]
    counts_pointer,  # float32 [N, H * W, C] of any strides: the spikes of each input so far
    pooled_pointer,  # int32 [ceil(T / 32), N, H_out * W_out, C], written
    after_pointer,  # float32 [N, H * W, C], written: the counts after all steps
    T,
    N,
    C,
    H,
    W,
    H_out,
    W_out,
    stride_n,
    stride_p,
    stride_c,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    TAPS: tl.constexpr,  # KERNEL_H * KERNEL_W, up to a power of 2
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program owns OUTPUTS outputs of one image, and in turn with the image's other programs blocks of its inputs.
    size, size_out = H * W * C, H_out * W_out * C
    programs = tl.cdiv(size_out, OUTPUTS)
    program, image = tl.program_id(0) % programs, (tl.program_id(0) // programs).to(tl.int64)
    words_pointer += image * size
    pooled_pointer += image * size_out
    counts_pointer += image * stride_n
    to_next_word, to_next_pooled = N.to(tl.int64) * size, N.to(tl.int64) * size_out

    tap = tl.arange(0, TAPS)[:, None]
    output = program * OUTPUTS + tl.arange(0, OUTPUTS)
    pixel, channel = (output // C)[None, :], (output % C)[None, :]
    y = pixel // W_out * STRIDE_H - PADDING_H + tap // KERNEL_W
    x = pixel % W_out * STRIDE_W - PADDING_W + tap % KERNEL_W
    inside = (tap < KERNEL_H * KERNEL_W) & (y >= 0) & (y < H) & (x >= 0) & (x < W) & (output < size_out)[None, :]
    place = (y * W + x) * C + channel  # [TAPS, OUTPUTS]
    start = (y * W + x).to(tl.int64) * stride_p + channel.to(tl.int64) * stride_c
    counts = tl.load(counts_pointer + start, mask=inside, other=-1).to(tl.int32)
    highest = tl.max(counts, axis=0)
    source = words_pointer
    for first in range(0, T, 32):
        word = tl.load(source + place, mask=inside, other=0)
        pooled = tl.zeros((OUTPUTS,), tl.int32)
        for bit in range(tl.minimum(T - first, 32)):
            counts += (word >> bit) & 1
            before = highest
            highest = tl.max(counts, axis=0)
            pooled |= (highest > before).to(tl.int32) << bit
        tl.store(pooled_pointer + output, pooled, mask=output < size_out)
        source += to_next_word
        pooled_pointer += to_next_pooled

    after_pointer += image * size
    for block in range(program, tl.cdiv(size, BLOCK), programs):
        neuron = block * BLOCK + tl.arange(0, BLOCK)
        fired = tl.zeros((BLOCK,), tl.int32)
        source = words_pointer
        for _ in range(0, T, 32):
            fired += popcount(tl.load(source + neuron, mask=neuron < size, other=0))
            source += to_next_word
        its_count = (neuron // C).to(tl.int64) * stride_p + (neuron % C).to(tl.int64) * stride_c
        counted = tl.load(counts_pointer + its_count, mask=neuron < size, other=0.0) + fired.to(tl.float32)
        tl.store(after_pointer + neuron, counted, mask=neuron < size)


def max_pool2d(
    words: Tensor,
    C: int,
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Max-pool images of ``size`` (H, W), P = H * W: the maximum of spikes is their OR.

    Returns words [ceil(T / 32), N, H_out * W_out, C], sized as torch does with ``ceil_mode`` False.
    """
    H_out, W_out = output_size(size, kernel_size, stride, padding, (1, 1))
    pooled = words.new_empty(*words.shape[:2], H_out * W_out, C)
    if not pooled.numel():  # an empty grid is an error of the driver
        return pooled
    images = words.shape[0] * words.shape[1]
    launch(
        _max_pool_kernel,
        images * triton.cdiv(H_out * W_out * C, BLOCK),
        results=(pooled,),
        words_pointer=words.contiguous(),
        pooled_pointer=pooled,
        C=C,
        H=size[0],
        W=size[1],
        H_out=H_out,
        W_out=W_out,
        kernel_h=kernel_size[0],
        kernel_w=kernel_size[1],
        stride_h=stride[0],
        stride_w=stride[1],
        top=padding[0],
        left=padding[1],
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return pooled


def fits(kernel_size: tuple[int, int]) -> bool:
    """Whether a program holds a row and a column of a window; if not all of it, there are two launches."""
    return max(kernel_size) <= LARGEST_WINDOW


def max_rate_pool2d(words: Tensor, T: int, counts: Tensor, size, kernel_size, stride, padding) -> tuple[Tensor, Tensor]:
    """Words of the outputs [ceil(T / 32), N, P_out, C], and the counts after all steps, from float32 [N, P, C] of any
    strides; backends.Backend has the rest."""
    if kernel_size[0] * kernel_size[1] <= LARGEST_WINDOW or not counts.numel():
        return _max_rate_pool2d(words, T, counts, size, kernel_size, stride, padding)
    rows = (1, kernel_size[1]), (1, stride[1]), (0, padding[1])
    columns = (kernel_size[0], 1), (stride[0], 1), (padding[0], 0)
    # A maximum grows by at most 1 a step, so spikes count it from where it was before the first step.
    fired, after = _max_rate_pool2d(words, T, counts, size, *rows)
    highest = F.max_pool2d(counts.transpose(1, 2).unflatten(2, tuple(size)), *rows)
    before = highest.flatten(2).transpose(1, 2)
    return _max_rate_pool2d(fired, T, before, highest.shape[2:], *columns)[0], after


def _max_rate_pool2d(words: Tensor, T: int, counts: Tensor, size, kernel_size, stride, padding):
    """max_rate_pool2d by windows that a program holds."""
    N, P, C = counts.shape
    H_out, W_out = output_size(size, kernel_size, stride, padding, (1, 1))
    pooled = words.new_empty(triton.cdiv(T, BITS), N, H_out * W_out, C)
    after = torch.empty(N, P, C, dtype=torch.float32, device=words.device)
    if not N * C:  # an empty grid is an error of the driver
        return pooled, after
    taps = triton.next_power_of_2(kernel_size[0] * kernel_size[1])
    outputs = MOST_OUTPUTS if taps <= SMALL_WINDOW else max(1, TILE // taps)
    launch(
        _max_rate_pool_kernel,
        N * triton.cdiv(H_out * W_out * C, outputs),
        results=(pooled, after),
        words_pointer=words.contiguous(),
        counts_pointer=counts,
        pooled_pointer=pooled,
        after_pointer=after,
        T=T,
        N=N,
        C=C,
        H=size[0],
        W=size[1],
        H_out=H_out,
        W_out=W_out,
        stride_n=counts.stride(0),
        stride_p=counts.stride(1),
        stride_c=counts.stride(2),
        KERNEL_H=kernel_size[0],
        KERNEL_W=kernel_size[1],
        STRIDE_H=stride[0],
        STRIDE_W=stride[1],
        PADDING_H=padding[0],
        PADDING_W=padding[1],
        TAPS=taps,
        OUTPUTS=outputs,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS if taps <= TILE else 4 * NUM_WARPS,
    )
    return pooled, after
