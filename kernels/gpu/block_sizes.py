"""How the Triton convolution is compiled: block sizes by layer and GPU, and the instructions that the GPU has."""

import re
from functools import cache
from typing import NamedTuple

import torch
import triton

RELEASE = tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:3])  # of Triton


class Blocks(NamedTuple):
    """The block of work of one program, as :func:`choose_blocks` chooses it."""

    PIXELS: int  # output pixels; times the steps at a time, they are the rows of the product
    CHANNELS: int  # output channels: the columns
    BLOCK_K: int  # inputs (taps times input channels) multiplied at a time
    NUM_STAGES: int  # blocks of inputs that are loaded at the same time
    num_warps: int
    maxnreg: int | None = None  # the most registers of a thread; None: the compiler decides


# Block sizes for a layer that fills the card, by its output channels. They follow from reasoning and from what compiles
# (benchmarks/gpu_speed.py compile); nothing here has been timed on a GPU yet. benchmarks/gpu_speed.py tune prints the
# fastest sizes on the GPU at hand; an architecture with other ones gets its own rows.
#
# Rows and columns: 8 pixels at 32 steps are 256 rows. The weights are read again for each block of rows, so blocks
# should have many rows; an expanded bit is used by every column. With 64 columns the sums take 64 registers of each
# thread of 8 warps. A limit of 128 registers lets two programs run on a multiprocessor: one expands bits while the
# other multiplies. Only a few numbers of the neurons' steps spill, none of the main loop. With 32 or 16 columns a
# program has 4 warps, and three or four programs run. 128 columns, for layers that fill most of them, use each bit
# twice as often: half the rows on half the warps, each with twice the registers, so again two programs run.
#
# BLOCK_K: with 64 inputs that takes too many registers if rows are float16, or if the weights go through registers too,
# as they do on all tensor cores except those of sm_90.
FLOATS = {16: Blocks(8, 16, 32, 3, 4, 160), 32: Blocks(8, 32, 32, 3, 4, 160), 64: Blocks(8, 64, 32, 3, 8, 128)}
DIGITS = {16: Blocks(8, 16, 64, 3, 4, 128), 32: Blocks(8, 32, 32, 3, 4, 128), 64: Blocks(8, 64, 32, 3, 8, 128)}
DIGITS |= {128: Blocks(4, 128, 32, 3, 4, 255)}
WIDE_HOPPER = {128: Blocks(4, 128, 64, 3, 4, 255)}
HOPPER = DIGITS | {64: Blocks(8, 64, 64, 3, 8, 128)} | WIDE_HOPPER
#
# With three digits, each digit has its own sums: three times as many registers. Half the rows on half the warps, each
# with twice the registers, again let two programs run on a multiprocessor.
OF_TRITON_3_8 = RELEASE[:2] == (3, 8)  # with more inputs it spills registers in the main loop
THREE_DIGITS = {16: Blocks(4, 16, 64, 3, 4, 128), 64: Blocks(4, 64, 32, 3, 4, 255)}
THREE_DIGITS |= {32: Blocks(4, 32, 32 if OF_TRITON_3_8 else 64, 3, 4, 168)}
# On sm_90, 64 inputs at a time read less from shared memory.
HOPPER_THREE = THREE_DIGITS | ({} if OF_TRITON_3_8 else {64: Blocks(4, 64, 64, 3, 4, 255)})
#
# sm_100 multiplies from shared memory, to which bits are written one by one: few rows, and two programs. Three stages
# spill registers in its main loop (Triton 3.6), and so does the compiler's own limit of 168 registers (Triton 3.9).
BLACKWELL = {channels: Blocks(4, channels, 64, 2, 4, 255) for channels in (16, 32, 64)}
#
# AMD: Triton 3.9.0 miscompiles three stages: the main loop writes each block of weights to the first of two slots, and
# if K has more blocks than stages the spikes are wrong (benchmarks/gpu/compiled/kernel_resources.py detects it). gfx11:
# half the inputs at a time, because its products need each operand twice in registers and spill with more.
AMD = {16: Blocks(4, 16, 128, 2, 4), 32: Blocks(4, 32, 64, 2, 4), 64: Blocks(4, 64, 64, 2, 8)}
HALF_K = {channels: blocks._replace(BLOCK_K=blocks.BLOCK_K // 2) for channels, blocks in AMD.items()}

# With few steps a program has correspondingly more pixels, up to MOST_PIXELS: registers must hold their potentials and
# the addresses of their words. It has at least FEWEST_ROWS rows, enough for the tensor cores of four warps. Compiled
# for sm_80 and sm_90, most kernels with 64 pixels or 64 inputs spill in the main loop.
MOST_PIXELS, MOST_K, FEWEST_ROWS = 32, 32, 64
# Where kernels of few steps were compiled; those of sm_86, 87 and 121 are emulated as sm_80's and sm_120's.
FEW = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120", "sm_121")

# With few steps the sums are rearranged through shared memory. Two digits, 128 rows and 128 columns take 64 KiB of it;
# these GPUs have 100 KiB, so only one program would run at a time.
SMALL_SHARED = ("sm_86", "sm_89", "sm_120", "sm_121")

# The table of a weight: by the number of its int8 digits (0: its parts are float16), then by the first key with which
# the architecture's name begins. sm_80, 86, 87, 89, 120 and 121 share their instruction, and so do sm_100, 103 and 110.
TABLES = {
    0: dict.fromkeys(("sm_100", "sm_103", "sm_110"), BLACKWELL)
    | {"sm_90": FLOATS | WIDE_HOPPER, "gfx11": HALF_K, "gfx": AMD, "": FLOATS},
    1: {"sm_90": HOPPER, "": DIGITS},
    2: {"sm_90": HOPPER, "": DIGITS},
    3: {"sm_90": HOPPER_THREE, "": THREE_DIGITS},
}


def choose_blocks(
    neurons: int,
    C_out: int,
    K: int,
    architecture: str = "",
    digits: int = 0,
    multiprocessors: int = 128,
    steps: int = 32,
) -> Blocks:
    """The block sizes for ``neurons`` = N * H_out * W_out pixels and, in each group, C_out channels and K inputs.

    A layer that is too small to fill the card, such as a linear layer on few samples, gets more programs at the cost of
    reuse: first fewer columns, which only repeats the expansion of bits, then fewer rows. If K fits one block (few
    input channels), there is nothing to load ahead.

    Args:
        digits: int8 digits of a weight; 0: its parts are float16.
        steps: the result of :func:`steps_at_a_time`.
    """
    tables = TABLES[digits]
    table = next(table for beginning, table in tables.items() if architecture.startswith(beginning))
    columns = min(max(table), max(min(table), triton.next_power_of_2(C_out)))
    if columns == 128 and 0 < C_out % 128 <= 64:  # the last 64 would be empty
        columns = 64
    fewest = max(4, FEWEST_ROWS // steps)
    if steps < 32 and _has_few_steps(architecture):
        table = {key: _of_few_steps(row, steps, fewest) for key, row in table.items()}
        if columns == 128 and digits == 2 and architecture in SMALL_SHARED and table[128].PIXELS * steps > 64:
            columns = 64
    blocks = table[columns if steps > 1 else min(columns, 64)]

    def fills_the_card() -> bool:
        return triton.cdiv(neurons, blocks.PIXELS) * triton.cdiv(C_out, blocks.CHANNELS) >= multiprocessors

    while blocks.CHANNELS > 32 and not fills_the_card():
        blocks = table[blocks.CHANNELS // 2]
    while blocks.PIXELS > fewest and not fills_the_card():
        blocks = blocks._replace(PIXELS=blocks.PIXELS // 2)
    block_k = min(blocks.BLOCK_K, max(32 if digits else 16, triton.next_power_of_2(K)))
    return blocks._replace(BLOCK_K=block_k, NUM_STAGES=1 if K <= block_k else blocks.NUM_STAGES)


def launch_options(blocks: Blocks) -> dict:
    """The arguments of a launch that follow from blocks."""
    options = blocks._asdict()
    if blocks.maxnreg is None:  # AMD's compiler does not know this option
        del options["maxnreg"]
    return options


def _of_few_steps(blocks: Blocks, steps: int, fewest: int) -> Blocks:
    pixels = max(fewest, min(blocks.PIXELS * 32 // steps, MOST_PIXELS))
    return blocks._replace(PIXELS=pixels, BLOCK_K=min(blocks.BLOCK_K, MOST_K))


def steps_at_a_time(T: int, architecture: str) -> int:
    """Steps that a program handles at a time: the least of 1, 2, 4, 8, 16 and 32 that holds T; 32, a word, for more."""
    return min(32, max(1 if _has_few_steps(architecture) else 16, triton.next_power_of_2(T)))


def _has_few_steps(architecture: str) -> bool:
    return architecture in FEW or not architecture  # "": the interpreter


def takes_digits(architecture: str) -> bool:
    """Whether int8 digits are faster than float16 parts. They are on NVIDIA GPUs from sm_80 on, whose tensor cores take
    them from registers at twice the rate. sm_100 takes them from shared memory, to which they would be written byte by
    byte."""
    return not architecture.startswith(("gfx", "sm_7", "sm_100", "sm_103", "sm_110"))


def instructions(architecture: str) -> dict[str, bool]:
    """The kernel's constants for an architecture.

    PTX: kernels may contain NVIDIA's instructions, which Triton's interpreter does not know. ONE_STEP: this Triton is
    known to pack inputs of one step (SEEN). FENCED: this Triton is known to set the fences that the tensor cores of
    sm_90 need (FENCING); with any other one, the kernel sets them.
    """
    return {
        "PTX": architecture.startswith("sm_") and not triton.knobs.runtime.interpret,
        "ONE_STEP": is_of_one_step(architecture, triton.__version__),
        "FENCED": architecture != "sm_90" or triton.__version__ in FENCING,
    }


@cache
def architecture(device: torch.device) -> str:
    """The device's architecture by its compiler name, such as "sm_90" or "gfx942"; "" for Triton's interpreter."""
    if device.type != "cuda":
        return "" if triton.knobs.runtime.interpret else f"sm_{triton.runtime.driver.active.get_current_target().arch}"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def multiprocessors(device: torch.device) -> int:
    """The number of a GPU's multiprocessors; for the interpreter an A100's."""
    return 108 if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count


# Triton chooses which numbers a thread packs. In the fragments of mma and wgmma they are inputs of one step; in other
# layouts they may be steps of one input, and the short code of expand (spike_operands.py) would silently give wrong
# spikes. It is therefore used only for the pairs of GPU and Triton that are listed here; all others, including future
# ones, take the code that is correct in any layout.
#
# `python benchmarks/gpu_speed.py operands` compiles the convolutions of each pair, reads the layouts and writes
# benchmarks/results/spike_operands.csv. The list below is what that table shows; a test compares the two.
MMA = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120", "sm_121")
# By Triton's version. Only 3.6.0 uses mma on sm_110; on every GPU, 3.8.0 uses blocks of single numbers for some layers.
SEEN = {"3.6.0": (*MMA, "sm_110"), "3.7.0": MMA, "3.7.1": MMA, "3.9.0": MMA}

FENCING = ("3.7.1", "3.8.0", "3.9.0")  # versions of Triton whose fences were read; see `fence`, spike_operands.py


def is_of_one_step(architecture: str, triton: str) -> bool:
    """Whether convolutions that a version of Triton compiles for a GPU, such as "sm_90", pack inputs of one step.

    The code of expand is then half as long.
    """
    return architecture in SEEN.get(triton, ())
