"""The block sizes of the Triton convolution, by the sizes of the layer."""

from typing import NamedTuple

import triton


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

    By reasoning and by what compiles without spills; nothing here was timed on a GPU yet, as benchmarks/tune_triton.py
    does.

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
