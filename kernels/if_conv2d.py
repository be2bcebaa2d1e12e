"""Convolution and integrate-and-fire neurons over all T steps in one launch, from packed spikes to packed spikes.

The convolution is an implicit matrix product: a row is one output pixel at one of 16 steps, a column is one output
channel, and the inner dimension runs over the taps of the kernel and the input channels. One word holds 32 steps of a
neuron, so one load feeds 32 rows; its bits become float16 numbers in registers, tensor cores sum in float32, and the
neurons take their currents from the accumulator, with their potentials in registers for all T steps. No current and no
dense spike is ever written to memory. The layout of the words is in gpu.py, the equations are in neurons.py.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .conv_weights import float16_parts, join_small_groups
from .neurons import if_step
from .stepwise import output_size


@triton.jit
def _four(x):
    """Split the last two dimensions of x [..., 2, 2] into four tensors, ordered as numbers of two bits."""
    even, odd = tl.split(x)
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _split_steps(x, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Split x [PIXELS * 16, CHANNELS] into 16 steps [PIXELS, CHANNELS]: step t is the result's [t % 4][t // 4].

    A tree of splits in registers. Sixteen masked sums would do the same, and take half a minute to compile.
    """
    x = tl.permute(tl.reshape(x, (PIXELS, 16, CHANNELS)), (0, 2, 1))
    r0, r1, r2, r3 = _four(tl.reshape(x, (PIXELS, CHANNELS, 4, 2, 2)))
    return (
        _four(tl.reshape(r0, (PIXELS, CHANNELS, 2, 2))),
        _four(tl.reshape(r1, (PIXELS, CHANNELS, 2, 2))),
        _four(tl.reshape(r2, (PIXELS, CHANNELS, 2, 2))),
        _four(tl.reshape(r3, (PIXELS, CHANNELS, 2, 2))),
    )


# Neither T nor the sizes of images and batches are in the specialisation key, so that no new value of them is compiled
# anew. The channels stay in: that they are multiples of 16 is what allows wide loads.
@triton.jit(do_not_specialize=["T", "N", "H", "W", "H_out", "W_out"])
def _if_conv2d_kernel(
    words_pointer,  # [ceil(T / 32), N, H * W, C] int32
    high_pointer,  # [C_out, K] float16, K = kernel_h * kernel_w * C / groups and zeros up to a multiple of 16
    low_pointer,  # the same, or None if the weights have no low part
    unit_pointer,  # [C_out] float32: what 1 in the accumulator is worth
    bias_pointer,  # [C_out] float32, or None
    theta_pointer,  # [C_out] float32
    v_pointer,  # [N, H_out * W_out, C_out] float32, potentials before the first step
    spikes_pointer,  # words [ceil(T / 32), N, H_out * W_out, C_out] int32, or counts without the first dimension
    v_last_pointer,  # [N, H_out * W_out, C_out] float32, potentials after the last step
    T,
    N,
    H,
    W,
    C,
    H_out,
    W_out,
    C_out,
    K,
    kernel_w,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    groups,
    v_reset,
    STEP: tl.constexpr,
    SOFT_RESET: tl.constexpr,
    COUNTS_ONLY: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,  # whether a block of K lies within one tap: C / groups is a multiple of BLOCK_K
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    group_C = C // groups
    group_C_out = C_out // groups
    column_blocks = tl.cdiv(group_C_out, CHANNELS)
    # Programs that run side by side share their words in the cache, and differ in the channels.
    row_block = tl.program_id(0) // (column_blocks * groups)
    column_block = tl.program_id(0) % (column_blocks * groups)
    group = column_block // column_blocks

    # Pixels of all samples are one list, so that a linear layer (one pixel a sample) fills its rows with samples. A
    # tensor may pass 2**31 elements: the 64-bit part of every address is a scalar, and offsets in a block are 32-bit.
    first_pixel = row_block.to(tl.int64) * PIXELS
    neurons = N.to(tl.int64) * H_out * W_out
    first_sample = first_pixel // (H_out * W_out)
    pixel = tl.arange(0, PIXELS)
    is_pixel = pixel < neurons - first_pixel
    place = (first_pixel % (H_out * W_out)).to(tl.int32) + pixel  # counted from the first sample's first pixel
    sample = place // (H_out * W_out)
    place = place % (H_out * W_out)
    top = place // W_out * stride_h - padding_h
    left = place % W_out * stride_w - padding_w
    words_pointer += first_sample * H * W * C + group * group_C

    first_channel = (column_block % column_blocks) * CHANNELS
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < group_C_out - first_channel
    first_channel += group * group_C_out
    weight_row = channel[None, :] * K
    first_weight = first_channel.to(tl.int64) * K
    high_pointer += first_weight
    if low_pointer is not None:
        low_pointer += first_weight
    mask = is_pixel[:, None] & is_channel[None, :]
    output = pixel[:, None] * C_out + channel[None, :]
    first_output = first_pixel * C_out + first_channel
    v = tl.load(v_pointer + first_output + output, mask=mask, other=0.0)
    spikes_pointer += first_output
    count = tl.zeros((PIXELS, CHANNELS), tl.int32)
    step = tl.arange(0, 16)
    taps_in_block = tl.arange(0, 1 if WHOLE_BLOCKS else BLOCK_K)
    for first_of_word in range(0, T, 32):
        word_out = tl.zeros((PIXELS, CHANNELS), tl.int32)
        for first in range(first_of_word, tl.minimum(first_of_word + 32, T), 16):
            current = tl.zeros((PIXELS * 16, CHANNELS), tl.float32)
            for k_first in tl.range(0, K, BLOCK_K, num_stages=NUM_STAGES):
                k = k_first + tl.arange(0, BLOCK_K)
                tap = (k_first + taps_in_block) // group_C
                y = top[:, None] + (tap // kernel_w * dilation_h)[None, :]
                x = left[:, None] + (tap % kernel_w * dilation_w)[None, :]
                inside = is_pixel[:, None] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
                # The padding of K reads words of a tap that does not exist; they meet weights of 0.
                offset = ((sample[:, None] * H + y) * W + x) * C + (k - tap * group_C)[None, :]
                word = tl.load(words_pointer + offset, mask=inside, other=0)
                is_weight = (k < K)[:, None] & is_channel[None, :]
                high = tl.load(high_pointer + weight_row + k[:, None], mask=is_weight, other=0.0)
                if low_pointer is not None:
                    low = tl.load(low_pointer + weight_row + k[:, None], mask=is_weight, other=0.0)
                half = ((word >> (first - first_of_word)) & 0xFFFF) << 15
                if tl.max(half) > 0:  # most blocks of an image's background, and of silent layers, hold no spike
                    # Bit 14 alone is the float16 number 2.0: a shift and a mask make it, and no conversion.
                    spike = (half[:, None, :] >> (step[None, :, None] + 1)) & 0x4000
                    spike = tl.reshape(spike.to(tl.int16).to(tl.float16, bitcast=True), (PIXELS * 16, BLOCK_K))
                    current = tl.dot(spike, high, current)
                    if low_pointer is not None:
                        current = tl.dot(spike, low, current)
            # Loaded here, and not once for all: the loop above needs the registers.
            unit = tl.load(unit_pointer + first_channel + channel, mask=is_channel, other=0.0)[None, :]
            theta = tl.load(theta_pointer + first_channel + channel, mask=is_channel, other=0.0)[None, :]
            if bias_pointer is not None:
                bias = tl.load(bias_pointer + first_channel + channel, mask=is_channel, other=0.0)[None, :]
            steps = _split_steps(current, PIXELS, CHANNELS)
            for i in tl.static_range(16):
                step_current = steps[i % 4][i // 4] * unit
                if bias_pointer is not None:
                    step_current += bias
                v_next, fires = STEP(v, step_current, theta, v_reset, SOFT_RESET)
                exists = first + i < T
                v = tl.where(exists, v_next, v)
                spike_bit = (fires & exists).to(tl.int32)
                if COUNTS_ONLY:
                    count += spike_bit
                else:
                    word_out |= spike_bit << (first - first_of_word + i)
        if not COUNTS_ONLY:
            tl.store(spikes_pointer + output, word_out, mask=mask)
            spikes_pointer += neurons * C_out
        words_pointer += N.to(tl.int64) * H * W * C
    if COUNTS_ONLY:
        tl.store(spikes_pointer + output, count, mask=mask)
    tl.store(v_last_pointer + first_output + output, v, mask=mask)


class Blocks(NamedTuple):
    """What one program owns, and how: a choice of :func:`choose_blocks`."""

    PIXELS: int  # times 16 steps: the rows of its product
    CHANNELS: int  # output channels: the columns
    BLOCK_K: int  # taps and input channels multiplied at a time
    NUM_STAGES: int  # blocks of K on their way from memory at the same time
    num_warps: int


# Programs that keep the large cards busy: an A100 has 108 multiprocessors, an H100 132.
ENOUGH_PROGRAMS = 128


def choose_blocks(neurons: int, C_out: int, K: int) -> Blocks:
    """The block sizes for ``neurons`` = N * H_out * W_out pixels and, in each group, C_out channels and K inputs.

    By reasoning and by what compiles without spills; nothing here was timed on a GPU yet.

    Rows and columns: 8 pixels are 128 rows, two 64-row products of Hopper's tensor cores. A bit once expanded is used
    by every column, which asks for many of them; with 64, the 8192 sums and their split into steps fit the registers
    of 8 warps on every target (about 160 a thread with two products). 128 columns spill on sm_80. Fewer channels take
    the next power of two, at least a product's 16, and 4 warps.

    BLOCK_K: 64 inputs by 64 channels are 16 KiB of weights in two parts, so that three stages fit twice into an A100's
    shared memory. 16 channels give a block so little to do that 128 inputs are worth a barrier. A K within one block
    (few input channels) has nothing to load ahead.

    A layer too small to fill the card, as a linear one of few samples is, gives up reuse for more programs: first
    columns, which costs only repeated expansion of bits, then rows.
    """
    pixels, channels = 8, min(64, max(16, triton.next_power_of_2(C_out)))
    while triton.cdiv(neurons, pixels) * triton.cdiv(C_out, channels) < ENOUGH_PROGRAMS:
        if channels > 32:
            channels //= 2
        elif pixels > 4:
            pixels //= 2
        else:
            break
    block_k = min(128 if channels == 16 else 64, max(16, triton.next_power_of_2(K)))
    num_stages = 1 if K <= block_k else 3
    return Blocks(pixels, channels, block_k, num_stages, num_warps=8 if channels == 64 else 4)


def if_conv2d(
    words: Tensor,
    T: int,
    size: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    theta: Tensor,
    v_reset: float | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *,
    counts_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Convolve packed spikes and run IF neurons on the currents, all T steps in one launch.

    Shapes are not checked here; the public function has done that. An image [C_in, H, W] must stay
    below 2**28 elements, and one channel's weights below 2**25; whole tensors may pass 2**31. Nothing waits for the
    device, so a call can be captured in a CUDA graph, and another T is not compiled anew.

    Args:
        words: spikes of images of ``size`` (H, W), int32 [ceil(T / 32), N, H * W, C_in].
        weight: [C_out, C_in / groups, kernel_h, kernel_w]. float32 weights take two products (see conv_weights.py),
            float16 and bfloat16 weights one.
        bias: [C_out], or None.
        v: potentials before the first step, float32 [N, H_out * W_out, C_out]; not modified.
        theta: thresholds, float32 [C_out].
        v_reset: the potential after a spike, or None for a soft reset (subtract the threshold).
        stride, padding, dilation: of height and width.
        counts_only: return spike counts and never write the words.

    Returns:
        Words int32 [ceil(T / 32), N, H_out * W_out, C_out], or with ``counts_only`` counts int32
        [N, H_out * W_out, C_out]; and the potentials after the last step, float32 [N, H_out * W_out, C_out].

    Raises:
        TypeError: the weights are not float32, float16 or bfloat16.
    """
    shape = v.shape if counts_only else (triton.cdiv(T, 32), *v.shape)
    if T == 0 or v.numel() == 0:  # an empty grid is an error of the driver
        return v.new_zeros(shape, dtype=torch.int32), v.clone(memory_format=torch.contiguous_format)

    weight = weight.float() if weight.dtype == torch.float64 else weight
    weight, groups = join_small_groups(weight, groups)
    C_out, group_C, kernel_h, kernel_w = weight.shape
    high, low, unit = float16_parts(weight.permute(0, 2, 3, 1).flatten(1))
    H_out, W_out = output_size(size, (kernel_h, kernel_w), stride, padding, dilation)
    neurons = v.shape[0] * H_out * W_out
    K = kernel_h * kernel_w * group_C
    blocks = choose_blocks(neurons, C_out // groups, K)
    words, v = words.contiguous(), v.contiguous()
    spikes = torch.empty(shape, dtype=torch.int32, device=v.device)
    v_last = torch.empty_like(v)

    # One program owns PIXELS neighbouring pixels (of any samples) times CHANNELS channels of one group for all T steps.
    # Triton launches on the current device, which need not be the tensors' own.
    grid = (triton.cdiv(neurons, blocks.PIXELS) * triton.cdiv(C_out // groups, blocks.CHANNELS) * groups,)
    with torch.cuda.device_of(v):
        _if_conv2d_kernel[grid](
            words_pointer=words,
            high_pointer=high,
            low_pointer=low,
            unit_pointer=unit,
            bias_pointer=None if bias is None else bias.float().contiguous(),
            theta_pointer=theta.contiguous(),
            v_pointer=v,
            spikes_pointer=spikes,
            v_last_pointer=v_last,
            T=T,
            N=v.shape[0],
            H=size[0],
            W=size[1],
            C=group_C * groups,
            H_out=H_out,
            W_out=W_out,
            C_out=C_out,
            K=high.shape[1],
            kernel_w=kernel_w,
            stride_h=stride[0],
            stride_w=stride[1],
            padding_h=padding[0],
            padding_w=padding[1],
            dilation_h=dilation[0],
            dilation_w=dilation[1],
            groups=groups,
            v_reset=0.0 if v_reset is None else float(v_reset),
            STEP=if_step,
            SOFT_RESET=v_reset is None,
            COUNTS_ONLY=counts_only,
            WHOLE_BLOCKS=group_C % blocks.BLOCK_K == 0,
            # Spikes must not depend on a default that differs between Triton releases.
            enable_fp_fusion=False,
            **blocks._asdict(),
        )
    return spikes, v_last


def if_linear(
    words: Tensor,
    T: int,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    theta: Tensor,
    v_reset: float | None,
    *,
    counts_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Multiply packed spikes int32 [ceil(T / 32), N, 1, C_in] by weight [C_out, C_in] and run IF neurons.

    A convolution of images of one pixel; the other arguments and the result are those of :func:`if_conv2d`.
    """
    one, none = (1, 1), (0, 0)
    kernel = weight[:, :, None, None]
    return if_conv2d(words, T, one, kernel, bias, v, theta, v_reset, one, none, one, 1, counts_only=counts_only)
