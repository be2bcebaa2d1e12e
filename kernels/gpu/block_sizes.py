"""The block sizes of the Triton convolution, by the sizes of the layer and the GPU's architecture."""

from functools import cache
from typing import NamedTuple

import torch
import triton


class Blocks(NamedTuple):
    """What one program owns, and how: a choice of :func:`choose_blocks`."""

    PIXELS: int  # times 16 steps: the rows of its product
    CHANNELS: int  # output channels: the columns
    BLOCK_K: int  # taps and input channels multiplied at a time
    NUM_STAGES: int  # blocks of K on their way from memory at the same time
    num_warps: int


# Block sizes of a layer that fills the card, by its output channels. By reasoning and by what compiles without spills
# (benchmarks/compile_report.py): nothing here was timed on a GPU yet. benchmarks/tune_triton.py prints what is fastest
# on the one at hand, and an architecture on which that differs gets rows of its own.
#
# Rows and columns: 8 pixels are 128 rows, two 64-row products of Hopper's tensor cores. A bit once expanded is used by
# every column, which asks for many of them; with 64, the 8192 sums and their split into steps fit the registers of 8
# warps on every target (about 160 a thread with two products). 128 columns spill on sm_80. Fewer channels take the next
# power of two, at least a product's 16, and 4 warps.
#
# BLOCK_K: 64 inputs by 64 channels are 16 KiB of weights in two parts, so that three stages fit twice into an A100's
# shared memory. 16 channels give a block so little to do that 128 inputs are worth a barrier.
DEFAULT = {16: Blocks(8, 16, 128, 3, 4), 32: Blocks(8, 32, 64, 3, 4), 64: Blocks(8, 64, 64, 3, 8)}
#
# Two stages: on sm_100 because three spill registers in the main loop (Triton 3.6); on every AMD architecture because
# Triton 3.9.0 miscompiles three. There the main loop then writes each block of weights to the first of two slots, and
# where K has more blocks than stages the spikes are wrong (benchmarks/gpu/kernel_resources.py looks for it).
#
# gfx11: half the inputs at a time, because its products want each operand twice in registers and spill with more.
TWO_STAGES = {channels: blocks._replace(NUM_STAGES=2) for channels, blocks in DEFAULT.items()}
HALF_K = {channels: blocks._replace(BLOCK_K=blocks.BLOCK_K // 2) for channels, blocks in TWO_STAGES.items()}
TABLES = {"sm_100": TWO_STAGES, "gfx11": HALF_K, "gfx": TWO_STAGES, "": DEFAULT}  # the first that the name begins with

# Programs that keep the large cards busy: an A100 has 108 multiprocessors, an H100 132.
ENOUGH_PROGRAMS = 128


def choose_blocks(neurons: int, C_out: int, K: int, architecture: str = "") -> Blocks:
    """The block sizes for ``neurons`` = N * H_out * W_out pixels and, in each group, C_out channels and K inputs.

    A layer too small to fill the card, as a linear one of few samples is, gives up reuse for more programs: first
    columns, which costs only repeated expansion of bits, then rows. A K within one block (few input channels) has
    nothing to load ahead.
    """
    table = next(table for beginning, table in TABLES.items() if architecture.startswith(beginning))
    blocks = table[min(max(table), max(min(table), triton.next_power_of_2(C_out)))]

    def fills_the_card() -> bool:
        return triton.cdiv(neurons, blocks.PIXELS) * triton.cdiv(C_out, blocks.CHANNELS) >= ENOUGH_PROGRAMS

    while blocks.CHANNELS > 32 and not fills_the_card():
        blocks = table[blocks.CHANNELS // 2]
    while blocks.PIXELS > 4 and not fills_the_card():
        blocks = blocks._replace(PIXELS=blocks.PIXELS // 2)
    block_k = min(blocks.BLOCK_K, max(16, triton.next_power_of_2(K)))
    return blocks._replace(BLOCK_K=block_k, NUM_STAGES=1 if K <= block_k else blocks.NUM_STAGES)


@cache
def architecture(device: torch.device) -> str:
    """As compilers name it, such as "sm_90" or "gfx942"; "" for the interpreter's CPU."""
    if device.type != "cuda":
        return ""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
