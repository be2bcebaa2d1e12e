"""Convolution and integrate-and-fire neurons over all T steps in one launch, from packed spikes to packed spikes.

The convolution is an implicit matrix product: a row is one output pixel at one of 16 steps, a column is one output
channel, and the inner dimension runs over the taps of the kernel and the input channels. One word holds 32 steps of a
neuron, so one load feeds 32 rows; its bits become float16 numbers in registers, tensor cores sum in float32, and the
neurons take their currents from the accumulator, with their potentials in registers for all T steps. No current and no
dense spike is ever written to memory. The layout of the words is in words.py, the equations are in neurons.py.

Tensor cores do not sum as float32 does: tests of the hardware (Fasi et al. 2021) found that 8 or 16 products and the
accumulator are cut some 24 bits below the largest of them, and added. Weights whose partial sums are all multiples of
one unit, and below 2**24 of them, stay exact (a dyadic grid, int16); others lose more than their two parts do.

Where max pooling follows, the same launch also writes the OR over windows of 2 x 2: its pixels are then listed window
by window, so that a program owns whole windows.
"""

import triton
import triton.language as tl

from .neurons import choose_states, read_states, write_states


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


@triton.jit
def _or_of_windows(word, WINDOWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The OR [WINDOWS, CHANNELS] of the words of each four pixels, from word [WINDOWS * 4, CHANNELS]."""
    word = tl.permute(tl.reshape(word, (WINDOWS, 4, CHANNELS)), (0, 2, 1))
    w0, w1, w2, w3 = _four(tl.reshape(word, (WINDOWS, CHANNELS, 2, 2)))
    return (w0 | w1) | (w2 | w3)


# Neither T nor the sizes of images and batches are in the specialisation key, so that no new value of them is compiled
# anew. The channels stay in: that they are multiples of 16 is what allows wide loads.
@triton.jit(do_not_specialize=["T", "N", "H", "W", "H_out", "W_out"])
def _if_conv2d_kernel(
    words_pointer,  # [ceil(T / 32), N, H * W, C] int32
    high_pointer,  # [C_out, K] float16, K = kernel_h * kernel_w * C / groups and zeros up to a multiple of 16
    low_pointer,  # the same, or None if the weights have no low part
    unit_pointer,  # [C_out] float32: what 1 in the accumulator is worth
    bias_pointer,  # [C_out] float32, or None
    neuron,  # the neurons' parameters: neurons.py
    v_pointer,  # [STATES, N, H_out * W_out, C_out] float32, states before the first step
    spikes_pointer,  # words [ceil(T / 32), N, H_out * W_out, C_out] int32, or counts without the first dimension
    pooled_pointer,  # words [ceil(T / 32), N, H_out * W_out / 4, C_out] int32 of windows of 2 x 2, or None
    v_last_pointer,  # [STATES, N, H_out * W_out, C_out] float32, states after the last step
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
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
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
    if pooled_pointer is None:
        row, column = place // W_out, place % W_out
    else:  # four pixels of the list are a window
        window, windows_across = place // 4, W_out // 2
        row = window // windows_across * 2 + place % 4 // 2
        column = window % windows_across * 2 + place % 2
    top = row * stride_h - padding_h
    left = column * stride_w - padding_w
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
    if pooled_pointer is None:
        output = pixel[:, None] * C_out + channel[None, :]
        first_output = first_pixel * C_out + first_channel
    else:
        output = ((sample * H_out + row) * W_out + column)[:, None] * C_out + channel[None, :]
        first_output = first_sample * H_out * W_out * C_out + first_channel
        quarter = tl.arange(0, PIXELS // 4)
        is_window = quarter < (neurons - first_pixel) // 4
        pooled_output = quarter[:, None] * C_out + channel[None, :]
        pooled_pointer += first_pixel // 4 * C_out + first_channel
    state = read_states(v_pointer + first_output, neurons * C_out, output, mask, STATES)
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
            loaded = LOAD(neuron, first_channel, channel[None, :], is_channel[None, :])
            if bias_pointer is not None:
                bias = tl.load(bias_pointer + first_channel + channel, mask=is_channel, other=0.0)[None, :]
            steps = _split_steps(current, PIXELS, CHANNELS)
            for i in tl.static_range(16):
                step_current = steps[i % 4][i // 4] * unit
                if bias_pointer is not None:
                    step_current += bias
                next_state, fires = STEP(state, step_current, neuron, loaded)
                exists = first + i < T
                state = choose_states(exists, next_state, state, STATES)
                spike_bit = (fires & exists).to(tl.int32)
                if COUNTS_ONLY:
                    count += spike_bit
                else:
                    word_out |= spike_bit << (first - first_of_word + i)
        if not COUNTS_ONLY:
            tl.store(spikes_pointer + output, word_out, mask=mask)
            spikes_pointer += neurons * C_out
        if pooled_pointer is not None:
            or_of_words = _or_of_windows(word_out, PIXELS // 4, CHANNELS)
            tl.store(pooled_pointer + pooled_output, or_of_words, mask=is_window[:, None] & is_channel[None, :])
            pooled_pointer += neurons // 4 * C_out
        words_pointer += N.to(tl.int64) * H * W * C
    if COUNTS_ONLY:
        tl.store(spikes_pointer + output, count, mask=mask)
    write_states(v_last_pointer + first_output, neurons * C_out, output, state, mask, STATES)
