"""Which numbers of an operand a compiled convolution packs: read in Triton's GPU IR, for GPUs that need not be here.

The short code of ``expand`` (kernels/gpu/spike_operands.py) is right if those that an instruction takes at a time are
inputs of one step, and where it takes eight, four beside those of the same inputs eight steps later. That is a matter
of the layout that the compiler gives the operand [HALVES, pixels, HALF_STEPS, inputs], of few steps
[HALVES, pixels / TILE_PIXELS, HALF_STEPS, TILE_PIXELS, inputs].

A layout is linear (triton: include/triton/Tools/LinearLayout.h): each bit of a number's place, that is of the register,
the lane and the warp that hold it, has a basis, the coordinates that it adds to the number's. A thread packs numbers of
consecutive registers.
"""

import ast
import re
from collections.abc import Iterator
from math import log2

MARK = "// of one step"  # in the code of expand that needs such a layout
STEP = 2  # the dimension of early steps; the last one is that of inputs
Bases = dict[str, list[list[int]]]  # of "register", "lane" and "warp"


def operands(ttgir: str) -> dict:
    """``packed``: how many instructions take numbers for inputs of one step; ``mixed``: the layouts of those that are
    wrong, and with them the spikes."""
    found = list(_marked(ttgir))
    mixed = [layout for pack, shape, layout in found if not is_of_one_step(bases_of(layout, shape), pack)]
    return {"packed": len(found), "mixed": mixed}


def _marked(ttgir: str) -> Iterator[tuple[int, list[int], str]]:
    """For each marked instruction: how many numbers it packs, the operand's shape and its layout."""
    names = dict(re.findall(r"^(#\w+) = (#ttg\..*)$", ttgir, re.M))
    for line in ttgir.splitlines():
        if "tt.elementwise_inline_asm" in line and MARK in line:
            pack = int(re.search(r"packed_element = (\d+)", line)[1])
            shape, layout = re.search(r"-> tensor<([\dx]+)x\w+, (.*?)>(?: loc\(|$)", line).groups()
            yield pack, [int(size) for size in shape.split("x")], names.get(layout, layout)


def bases_of(layout: str, shape: list[int]) -> Bases | None:
    """The bases of a layout as the IR prints it; None if its kind is not known here."""
    if layout.startswith("#ttg.linear<"):
        given = re.findall(r"(\w+) = (\[(?:\[.*?\](?:, )?)*\])", layout)
        return {name: ast.literal_eval(bases) for name, bases in given}
    if layout.startswith("#ttg.blocked<"):
        given = {name: ast.literal_eval(values) for name, values in re.findall(r"(\w+) = (\[[\d, ]*\])", layout)}
        sizes = {"register": "sizePerThread", "lane": "threadsPerWarp", "warp": "warpsPerCTA"}
        return _blocked({name: given[size] for name, size in sizes.items()}, given["order"], shape)
    return None


def _blocked(sizes: dict[str, list[int]], order: list[int], shape: list[int]) -> Bases:
    """The bases of nested blocks of ``sizes``, repeated in registers until they fill the shape."""
    reach = [1] * len(shape)

    def bases(dimension: int, size: int) -> Iterator[list[int]]:
        for _ in range(int(log2(size))):
            inside = reach[dimension] < shape[dimension]  # beyond it the same numbers come again
            yield [reach[dimension] * (inside and d == dimension) for d in range(len(shape))]
            reach[dimension] *= 2

    result = {name: [basis for d in order for basis in bases(d, size[d])] for name, size in sizes.items()}
    for d in order:
        result["register"] += bases(d, max(1, shape[d] // reach[d]))
    return result


def is_of_one_step(bases: Bases | None, pack: int) -> bool:
    """Whether each ``pack`` of consecutive registers are what the short code takes them for."""
    if bases is None:
        return False
    registers = bases["register"]
    inputs = registers[: 1 if pack == 2 else 2]
    if len(registers) < log2(pack) or any(any(basis[:-1]) or not basis[-1] for basis in inputs):
        return False
    if pack < 8:
        return True
    later, others = registers[2], [*registers[:2], *registers[3:], *bases["lane"], *bases["warp"]]
    return later == [0, 0, 8, 0] and not any(basis[STEP] & 8 for basis in others)
