"""The block sizes of the Triton convolution, by the sizes of the layer and the GPU's architecture."""

import re
from functools import cache
from typing import NamedTuple

import torch
import triton

from .one_step import is_of_one_step

RELEASE = tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:3])  # of Triton


class Blocks(NamedTuple):
    """What one program owns, and how: a choice of :func:`choose_blocks`."""

    PIXELS: int  # times the steps at a time: the rows of its product
    CHANNELS: int  # output channels: the columns
    BLOCK_K: int  # taps and input channels multiplied at a time
    NUM_STAGES: int  # blocks of K on their way from memory at the same time
    num_warps: int
    maxnreg: int | None = None  # registers of a thread at most; None: as many as the compiler wants


# Block sizes of a layer that fills the card, by its output channels. By reasoning and by what compiles
# (benchmarks/gpu_speed.py compile): nothing here was timed on a GPU yet. benchmarks/gpu_speed.py tune prints what is
# fastest on the one at hand, and an architecture on which that differs gets rows of its own.
#
# Rows and columns: 8 pixels at 32 steps are 256 rows. The weights are read anew for each of them, which asks for many,
# and a bit once expanded is used by every column. With 64 columns the sums take 64 registers of a thread of 8 warps;
# 128 registers in all let two programs run on a multiprocessor, of which one expands bits while the other multiplies.
# What does not fit into them is a few numbers of the neurons' steps, never of the main loop. With 32 and 16 columns a
# program has 4 warps, and there are three or four. 128 columns, where a layer fills most of them, use a bit twice as
# often: half the rows on half the warps, each with twice the registers, and again two programs.
#
# BLOCK_K: 64 inputs take too many registers for that where a row is float16, and where the weights come to registers,
# too, as they do in all but sm_90's tensor cores.
FLOATS = {16: Blocks(8, 16, 32, 3, 4, 160), 32: Blocks(8, 32, 32, 3, 4, 160), 64: Blocks(8, 64, 32, 3, 8, 128)}
DIGITS = {16: Blocks(8, 16, 64, 3, 4, 128), 32: Blocks(8, 32, 32, 3, 4, 128), 64: Blocks(8, 64, 32, 3, 8, 128)}
DIGITS |= {128: Blocks(4, 128, 32, 3, 4, 255)}
WIDE_HOPPER = {128: Blocks(4, 128, 64, 3, 4, 255)}
HOPPER = DIGITS | {64: Blocks(8, 64, 64, 3, 8, 128)} | WIDE_HOPPER
#
# Three digits have sums of their own, three times as many registers: half the rows on half the warps, each with twice
# the registers, and again two programs on a multiprocessor.
OF_TRITON_3_8 = RELEASE[:2] == (3, 8)  # with more inputs it spills registers in the main loop
THREE_DIGITS = {16: Blocks(4, 16, 64, 3, 4, 128), 64: Blocks(4, 64, 32, 3, 4, 255)}
THREE_DIGITS |= {32: Blocks(4, 32, 32 if OF_TRITON_3_8 else 64, 3, 4, 168)}
# On sm_90 64 inputs read less of shared memory.
HOPPER_THREE = THREE_DIGITS | ({} if OF_TRITON_3_8 else {64: Blocks(4, 64, 64, 3, 4, 255)})
#
# sm_100 multiplies from shared memory, to which bits go one by one: few rows, and two programs. Three stages spill
# registers in its main loop (Triton 3.6), and so do the 168 that its compiler allows itself (Triton 3.9).
BLACKWELL = {channels: Blocks(4, channels, 64, 2, 4, 255) for channels in (16, 32, 64)}
#
# AMD: Triton 3.9.0 miscompiles three stages. There the main loop then writes each block of weights to the first of two
# slots, and where K has more blocks than stages the spikes are wrong (benchmarks/gpu/kernel_resources.py looks for it).
# gfx11: half the inputs at a time, because its products want each operand twice in registers and spill with more.
AMD = {16: Blocks(4, 16, 128, 2, 4), 32: Blocks(4, 32, 64, 2, 4), 64: Blocks(4, 64, 64, 2, 8)}
HALF_K = {channels: blocks._replace(BLOCK_K=blocks.BLOCK_K // 2) for channels, blocks in AMD.items()}

# Of few steps a program has as many pixels more, as far as registers hold their potentials and the addresses of their
# words; and rows enough for the tensor cores of four warps. Compiled for sm_80 and sm_90, most kernels of 64 pixels or
# 64 inputs spill in the main loop.
MOST_PIXELS, MOST_K, FEWEST_ROWS = 32, 32, 64
FEW = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120", "sm_121")  # on which that was compiled and emulated

# Sums of few steps change places through shared memory. Two digits, 128 rows and 128 columns take 64 KiB of it, and
# these have 100: one program would run alone.
SMALL_SHARED = ("sm_86", "sm_89", "sm_120", "sm_121")

# By the int8 digits of a weight, 0 where its parts are float16, and the first that the architecture's name begins with.
# sm_80, 86, 89, 120 and 121 multiply by the same instruction, and so do sm_100, 103 and 110.
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

    A layer too small to fill the card, as a linear one of few samples is, gives up reuse for more programs: first
    columns, which costs only repeated expansion of bits, then rows. A K within one block (few input channels) has
    nothing to load ahead.

    Args:
        digits: int8 digits of a weight; 0: its parts are float16.
        steps: of steps_at_a_time.
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
    """What a launch of the kernel takes of blocks."""
    options = blocks._asdict()
    if blocks.maxnreg is None:  # which AMD's compiler does not know
        del options["maxnreg"]
    # Spikes must not depend on a default that differs between Triton releases.
    return options | {"enable_fp_fusion": False}


def _of_few_steps(blocks: Blocks, steps: int, fewest: int) -> Blocks:
    pixels = max(fewest, min(blocks.PIXELS * 32 // steps, MOST_PIXELS))
    return blocks._replace(PIXELS=pixels, BLOCK_K=min(blocks.BLOCK_K, MOST_K))


def steps_at_a_time(T: int, architecture: str) -> int:
    """Steps of a program's rows: 32, a word's, or as many as T takes of 1, 2, 4, 8 and 16."""
    return min(32, max(1 if _has_few_steps(architecture) else 16, triton.next_power_of_2(T)))


def _has_few_steps(architecture: str) -> bool:
    return architecture in FEW or not architecture  # that is the interpreter


def takes_digits(architecture: str) -> bool:
    """Whether int8 digits are faster than float16 parts: NVIDIA from sm_80 on, whose tensor cores take them from
    registers at twice the rate; sm_100 takes them from shared memory, to which they would go byte by byte."""
    return not architecture.startswith(("gfx", "sm_7", "sm_100", "sm_103", "sm_110"))


def instructions(architecture: str) -> dict[str, bool]:
    """PTX: whether kernels may hold NVIDIA's instructions, which Triton's interpreter does not know. ONE_STEP: whether
    this Triton was seen to pack inputs of one step (one_step.py). FENCED: whether Triton sets the fences that the
    tensor cores of sm_90 ask for, else the kernel does; before 3.7.1 it does not."""
    return {
        "PTX": architecture.startswith("sm_") and not triton.knobs.runtime.interpret,
        "ONE_STEP": is_of_one_step(architecture, triton.__version__),
        "FENCED": architecture != "sm_90" or RELEASE >= (3, 7, 1),
    }


@cache
def architecture(device: torch.device) -> str:
    """As compilers name it, such as "sm_90" or "gfx942"; "" for Triton's interpreter."""
    if device.type != "cuda":
        return "" if triton.knobs.runtime.interpret else f"sm_{triton.runtime.driver.active.get_current_target().arch}"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


@cache
def multiprocessors(device: torch.device) -> int:
    """How many a GPU has; the interpreter is as good as an A100."""
    return 108 if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count
