"""The Triton kernel of convolution and neurons over all T steps in one launch, from packed spikes to packed spikes.

The convolution is an implicit matrix product: a row of the im2col matrix is one output pixel at one of 32 steps, a
column is one output channel, and the inner dimension runs over the taps of the kernel and the input channels. One word
holds 32 steps of a neuron, so one load feeds 32 rows. For 1, 2, 4, 8 or 16 steps a program has more pixels instead.
Bits become numbers in registers (spike_operands.py), tensor cores add up the products, and the neurons take their
currents from the accumulator; their potentials stay in registers for all T steps. Dense spikes are never written to
memory, and currents only if they are requested. words.py has the layout of the words, neuron_steps.py the equations.

The main loop computes A fragments from words, and the products; the epilogue splits the accumulator into steps and runs
the neurons. The accumulator has a row for each pixel and step. The functions below the kernel split it into steps, each
a block [PIXELS, CHANNELS] as the neurons take it; join the digits of weights; collect spikes in words; and pool words.

Weights consist of one to three parts, each with its own product (weight_parts.py), of one of two types:

int8: the digits of integers, summed in int32. These sums are exact in any order, so spikes are the same on every card.
    float32 weights have three digits, those of simulate's precision="int16" and "int8" two and one.
float16, summed in float32: for 16-bit weights, and for all weights on GPUs where int8 products are not faster. Tensor
    cores do not add as float32 does: tests of the hardware (Fasi et al. 2021) found that 8 or 16 products and the
    accumulator are truncated some 24 bits below the largest of them before they are added. Weights whose partial sums
    are multiples of one unit, and below 2**24 of it, stay exact (a dyadic grid); for others the sums lose more than the
    split into parts does.

If max pooling follows, the same launch also writes the OR over windows of 2 x 2: output pixels are then ordered window
by window, so that a program owns whole windows. A backward pass requests the currents, which are bit for bit those of
the forward pass.
"""

import triton
import triton.language as tl

from .counters import popcount
from .neuron_steps import choose_states, read_states, write_states, zero_states
from .spike_operands import expand, fence, read_steps, times_64, wait_for_products


# T and the sizes of images and batches are not in the specialisation key, so that new values do not recompile the
# kernel. Channels are in it: knowing that they are multiples of 16 allows wide loads.
@triton.jit(do_not_specialize=["T", "N", "H", "W", "H_out", "W_out"])
def _if_conv2d_kernel(
    words_pointer,  # [ceil(T / 32), N, H * W, C] int32
    first_pointer,  # [C_out, K] float16 or int8, K = TAPS * GROUP_C + BESIDE and zeros up to a multiple of 16
    second_pointer,  # the same, or None if the weights have no second part
    third_pointer,  # the same, or None: the highest of three digits; each digit then has its own sums
    unit_pointer,  # [C_out] float32: the value of 1 in the accumulator
    bias_pointer,  # [C_out] float32, or None
    shortcut_pointer,  # words [ceil(T / 32), N, H_out * W_out, C_out] int32 whose spikes add 1 to a current, or None
    neuron,  # the neurons' parameters: neuron_steps.py
    v_pointer,  # [STATES, N, H_out * W_out, C_out] float32, states before the first step
    spikes_pointer,  # words [ceil(T / 32), N, H_out * W_out, C_out] int32, or counts without the first dimension
    pooled_pointer,  # words [ceil(T / 32), N, H_out * W_out / 4, C_out] int32 of windows of 2 x 2, or None
    currents_pointer,  # [T, N, H_out * W_out, C_out] float32, for a backward pass, or None
    v_last_pointer,  # [STATES, N, H_out * W_out, C_out] float32, states after the last step
    T,
    N,
    H,
    W,
    H_out,
    W_out,
    C_out,
    K,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    groups,
    GROUP_C: tl.constexpr,  # input channels of a group
    KERNEL_W: tl.constexpr,
    BESIDE: tl.constexpr,  # input channels behind the groups', which have weights at one tap only
    TAPS: tl.constexpr,  # kernel_h * kernel_w, and that tap; 0 if there are no such channels
    TAP: tl.constexpr,
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
    COUNTS_ONLY: tl.constexpr,
    PTX: tl.constexpr,  # whether the target is NVIDIA's
    ONE_STEP: tl.constexpr,  # whether `expand` packs inputs of one step (spike_operands.py)
    FENCED: tl.constexpr,  # whether the compiler sets the fences of sm_90 (spike_operands.py)
    STEPS: tl.constexpr,  # steps at a time: steps_at_a_time of block_sizes.py
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    # The order of rows (spike_operands.py). With more than 64 channels Triton would compute neurons twice, in two
    # layouts.
    IN_REGISTERS: tl.constexpr = STEPS >= 4 and STEPS < 32 and STEPS * PIXELS >= 128 and CHANNELS <= 64
    HALVES: tl.constexpr = 2 if STEPS == 32 or IN_REGISTERS else 1
    TILE_PIXELS: tl.constexpr = 16 * HALVES // STEPS if IN_REGISTERS else 1
    STATES_LATER: tl.constexpr = STEPS < 32 and STATES > 1  # read after the main loop, which needs the registers
    C = GROUP_C * groups + BESIDE
    group_C_out = C_out // groups
    column_blocks = tl.cdiv(group_C_out, CHANNELS)
    # Neighbouring programs have the same words, which they share in the cache, and different channels.
    row_block = tl.program_id(0) // (column_blocks * groups)
    column_block = tl.program_id(0) % (column_blocks * groups)
    group = column_block // column_blocks

    # The pixels of all samples form one list, so that a linear layer (one pixel per sample) fills its rows with
    # samples. A tensor may exceed 2**31 elements: the 64-bit part of each address is a scalar, and offsets in a block
    # have 32 bits.
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
    else:  # each four pixels of the list are a window
        window, windows_across = place // 4, W_out // 2
        row = window // windows_across * 2 + place % 4 // 2
        column = window % windows_across * 2 + place % 2
    top = row * stride_h - padding_h
    left = column * stride_w - padding_w
    first_input = (((sample * H + top) * W + left) * C)[:, None]
    top = tl.where(is_pixel, top, H)  # below every image
    words_pointer += first_sample * H * W * C + group * GROUP_C

    first_channel = (column_block % column_blocks) * CHANNELS
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < group_C_out - first_channel
    first_channel += group * group_C_out
    weight_row = channel[None, :] * K
    first_weight = first_channel.to(tl.int64) * K
    first_pointer += first_weight
    if second_pointer is not None:
        second_pointer += first_weight
    if third_pointer is not None:
        third_pointer += first_weight
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
    if STATES_LATER:
        state = zero_states(tl.zeros((PIXELS, CHANNELS), tl.float32), STATES)
    else:
        state = read_states(v_pointer + first_output, neurons * C_out, output, mask, STATES)
    spikes_pointer += first_output
    if currents_pointer is not None:
        currents_pointer += first_output
    if shortcut_pointer is not None:
        shortcut_pointer += first_output
    step = read_steps(words_pointer, T, STEPS, HALVES)
    TYPE: tl.constexpr = first_pointer.dtype.element_ty
    SUMS: tl.constexpr = tl.int32 if TYPE == tl.int8 else tl.float32
    # Whether a block of K lies within one tap.
    WHOLE_BLOCKS: tl.constexpr = GROUP_C % BLOCK_K == 0 and BESIDE % BLOCK_K == 0
    taps_in_block = tl.arange(0, 1 if WHOLE_BLOCKS else BLOCK_K)
    for first in range(0, T if STEPS == 32 else 1, 32):  # a single iteration if there are few steps
        # The main loop: products of spikes and weights.
        current = tl.zeros((STEPS * PIXELS, CHANNELS), SUMS)
        if third_pointer is not None:
            middle = tl.zeros((STEPS * PIXELS, CHANNELS), SUMS)
            high = tl.zeros((STEPS * PIXELS, CHANNELS), SUMS)
        for k_first in tl.range(0, K, BLOCK_K, num_stages=NUM_STAGES):
            k = k_first + tl.arange(0, BLOCK_K)
            tap = (k_first + taps_in_block) // GROUP_C
            first_k = tap * GROUP_C  # that reads channel 0 of the tap
            if BESIDE > 0:
                first_k = tl.where(tap < TAPS, first_k, (TAPS - 1) * GROUP_C)
                tap = tl.where(tap < TAPS, tap, TAP)
            down, right = tap // KERNEL_W * dilation_h, tap % KERNEL_W * dilation_w
            y, x = top[:, None] + down[None, :], left[:, None] + right[None, :]
            # As unsigned numbers, negative coordinates are above H and W too.
            inside = (y.to(tl.uint32) < H.to(tl.uint32)) & (x.to(tl.uint32) < W.to(tl.uint32))
            # In the padding of K, words of a tap or channel that does not exist are read; their weights are 0.
            in_pixel = k - first_k
            if BESIDE > 0 and not WHOLE_BLOCKS:
                in_pixel = tl.minimum(in_pixel, C - 1)
            offset = first_input + ((down * W + right) * C + in_pixel)[None, :]
            word = tl.load(words_pointer + offset, mask=inside, other=0)
            is_weight = is_channel[None, :]
            if not WHOLE_BLOCKS:
                is_weight &= (k < K)[:, None]
            first_part = tl.load(first_pointer + weight_row + k[:, None], mask=is_weight, other=0)
            if second_pointer is not None:
                second_part = tl.load(second_pointer + weight_row + k[:, None], mask=is_weight, other=0)
            if third_pointer is not None:
                third_part = tl.load(third_pointer + weight_row + k[:, None], mask=is_weight, other=0)
            spike = expand(word, step, PIXELS, STEPS, HALVES, TILE_PIXELS, BLOCK_K, TYPE, PTX, ONE_STEP)
            if not FENCED:
                fence(k_first)
            current = tl.dot(spike, first_part, current, out_dtype=SUMS)
            if third_pointer is not None:
                middle = tl.dot(spike, second_part, middle, out_dtype=SUMS)
                high = tl.dot(spike, third_part, high, out_dtype=SUMS)
            elif second_pointer is not None:
                if TYPE == tl.int8:
                    spike = times_64(spike, PTX)
                current = tl.dot(spike, second_part, current, out_dtype=SUMS)
            if PTX and TYPE != tl.int8:
                current = wait_for_products(current)
        # The epilogue: runs the neurons, step by step.
        if third_pointer is not None:
            current = join_digits(current, middle, high)
        if STATES_LATER:
            state = read_states(v_pointer + first_output, neurons * C_out, output, mask, STATES)
        # Loaded in each iteration, because the loop above needs the registers.
        unit = tl.load(unit_pointer + first_channel + channel, mask=is_channel, other=0.0)[None, :]
        loaded = LOAD(neuron, first_channel, channel[None, :], is_channel[None, :])
        if bias_pointer is not None:
            bias = tl.load(bias_pointer + first_channel + channel, mask=is_channel, other=0.0)[None, :]
        if shortcut_pointer is not None:
            added = tl.load(shortcut_pointer + output, mask=mask, other=0)
            shortcut_pointer += neurons * C_out
        word_out = tl.zeros((PIXELS, CHANNELS), tl.int32)
        steps = split_steps(current, PIXELS, CHANNELS, STEPS, HALVES, TILE_PIXELS)
        for i in tl.static_range(STEPS):
            step_current = steps[i // (STEPS // HALVES)][i % (STEPS // HALVES)].to(tl.float32)
            if bias_pointer is None:
                step_current *= unit
            else:  # the same as a product and a sum: the product with a power of two is exact
                step_current = tl.fma(step_current, unit, bias)
            if shortcut_pointer is not None:
                step_current += ((added >> i) & 1).to(tl.float32)
            if currents_pointer is not None:
                if first + i < T:
                    tl.store(currents_pointer + output, step_current, mask=mask)
                currents_pointer += neurons * C_out
            next_state, above_threshold = STEP(state, step_current, neuron, loaded)
            state = choose_states(first + i < T, next_state, state, STATES)
            word_out = append_spikes(word_out, above_threshold, i, PTX)
        word_out = in_step_order(word_out, T - first, STEPS, PTX)
        if COUNTS_ONLY:  # counts are kept in memory, because the loop above needs the registers
            count = tl.load(spikes_pointer + output, mask=mask & (first > 0), other=0) + popcount(word_out)
            tl.store(spikes_pointer + output, count, mask=mask)
        else:
            tl.store(spikes_pointer + output, word_out, mask=mask)
            spikes_pointer += neurons * C_out
        if pooled_pointer is not None:
            or_of_words = or_of_windows(word_out, PIXELS // 4, CHANNELS)
            tl.store(pooled_pointer + pooled_output, or_of_words, mask=is_window[:, None] & is_channel[None, :])
            pooled_pointer += neurons // 4 * C_out
        words_pointer += N.to(tl.int64) * H * W * C
    write_states(v_last_pointer + first_output, neurons * C_out, output, state, mask, STATES)


@triton.jit
def _four(x):
    """Split the last two dimensions of x [..., 2, 2] into four tensors, in row-major order."""
    even, odd = tl.split(x)
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _sixteen(x, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Split x [PIXELS, CHANNELS, 16] into tensors [PIXELS, CHANNELS], in order.

    It is a tree of splits in registers. Sixteen masked sums would do the same, but take half a minute to compile.
    """
    r0, r1, r2, r3 = _four(tl.reshape(x, (PIXELS, CHANNELS, 4, 2, 2)))
    x0, x4, x8, x12 = _four(tl.reshape(r0, (PIXELS, CHANNELS, 2, 2)))
    x1, x5, x9, x13 = _four(tl.reshape(r1, (PIXELS, CHANNELS, 2, 2)))
    x2, x6, x10, x14 = _four(tl.reshape(r2, (PIXELS, CHANNELS, 2, 2)))
    x3, x7, x11, x15 = _four(tl.reshape(r3, (PIXELS, CHANNELS, 2, 2)))
    return x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15


@triton.jit
def _eight(x, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """The same for x [PIXELS, CHANNELS, 8]."""
    even, odd = tl.split(tl.reshape(x, (PIXELS, CHANNELS, 2, 2, 2)))
    x0, x2, x4, x6 = _four(even)
    x1, x3, x5, x7 = _four(odd)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _in_order(x, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, HALF_STEPS: tl.constexpr):
    """Split x [PIXELS, CHANNELS, HALF_STEPS] into tensors [PIXELS, CHANNELS]."""
    if HALF_STEPS == 16:
        steps = _sixteen(x, PIXELS, CHANNELS)
    elif HALF_STEPS == 8:
        steps = _eight(x, PIXELS, CHANNELS)  # type: ignore[assignment]
    elif HALF_STEPS == 4:
        steps = _four(tl.reshape(x, (PIXELS, CHANNELS, 2, 2)))  # type: ignore[assignment]
    elif HALF_STEPS == 2:
        steps = tl.split(x)
    else:
        steps = (tl.reshape(x, (PIXELS, CHANNELS)),)  # type: ignore[assignment]
    return steps


@triton.jit
def split_steps(
    x,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STEPS: tl.constexpr,
    HALVES: tl.constexpr,
    TILE_PIXELS: tl.constexpr,
):
    """Split an accumulator [STEPS * PIXELS, CHANNELS], whose rows are in the order of spike_operands.py, into steps
    [PIXELS, CHANNELS]: step t is result[t // HALF_STEPS][t % HALF_STEPS], with HALF_STEPS = STEPS / HALVES."""
    HALF_STEPS: tl.constexpr = STEPS // HALVES
    if TILE_PIXELS == 1:
        x = tl.permute(tl.reshape(x, (HALVES, PIXELS, HALF_STEPS, CHANNELS)), (1, 3, 2, 0))
    else:
        x = tl.reshape(x, (HALVES, PIXELS // TILE_PIXELS, HALF_STEPS, TILE_PIXELS, CHANNELS))
        x = tl.reshape(tl.permute(x, (1, 3, 4, 2, 0)), (PIXELS, CHANNELS, HALF_STEPS, HALVES))
    if HALVES == 2:
        first, second = tl.split(x)
        steps = (_in_order(first, PIXELS, CHANNELS, HALF_STEPS), _in_order(second, PIXELS, CHANNELS, HALF_STEPS))
    else:
        x = tl.reshape(x, (PIXELS, CHANNELS, HALF_STEPS))
        steps = (_in_order(x, PIXELS, CHANNELS, HALF_STEPS),)  # type: ignore[assignment]
    return steps


@triton.jit
def or_of_windows(word, WINDOWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The OR over each group of four pixels: [WINDOWS, CHANNELS], from word [WINDOWS * 4, CHANNELS]."""
    word = tl.permute(tl.reshape(word, (WINDOWS, 4, CHANNELS)), (0, 2, 1))
    w0, w1, w2, w3 = _four(tl.reshape(word, (WINDOWS, CHANNELS, 2, 2)))
    return (w0 | w1) | (w2 | w3)


@triton.jit
def append_spikes(word, above_threshold, i: tl.constexpr, PTX: tl.constexpr):
    """Add step i to words of the steps before it: a spike where ``above_threshold`` is at least 0.

    PTX: the sign bits are shifted in from below, with one instruction each (in_step_order then inverts and reverses
    them). Setting a bit by a comparison takes two instructions and a predicate register, of which there are few.
    """
    if PTX:
        word = tl.inline_asm_elementwise(
            "shf.l.wrap.b32 $0, $1, $2, 1;", "=r,f,r", [above_threshold, word], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        word |= (above_threshold >= 0.0).to(tl.int32) << i
    return word


@triton.jit
def in_step_order(word, left, STEPS: tl.constexpr, PTX: tl.constexpr):
    """Finish words to which append_spikes has added STEPS steps, of which only the first ``left`` exist."""
    if PTX:
        word = ~tl.inline_asm_elementwise("brev.b32 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1)
        if STEPS < 32:
            word = word >> (32 - STEPS)
    return word & tl.where(left < STEPS, (1 << (left % 32)) - 1, -1 if STEPS == 32 else (1 << STEPS) - 1)


@triton.jit
def join_digits(low, middle, high):
    """low + 256 middle + 65536 high of int32 as float32, rounded once if the sum has at most 40 bits.

    Carries are propagated first: the upper part is then exact in float32, and the lower part is not negative.
    """
    middle += low >> 8
    high += middle >> 8
    low = (low & 0xFF) | ((middle & 0xFF) << 8)
    return tl.fma(high.to(tl.float32), 65536.0, low.to(tl.float32))
