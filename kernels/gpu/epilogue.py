"""The epilogue of the Triton convolution: from the accumulator of a block of steps to the neurons' words.

The accumulator has a row for each pixel and step. The functions here split it into steps, each a block
[PIXELS, CHANNELS] as the neurons take it; join the digits of weights; collect spikes in words; and pool words.
"""

import triton
import triton.language as tl


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
