"""What the main loop of a compiled NVIDIA kernel asks of a multiprocessor, and how many programs (CTAs) fit on one.

The main loop is the innermost loop of tensor-core instructions in the assembled code (SASS). One pass of it multiplies
all steps of a word (or 16, where there are no more) of a program's pixels by its channels over one block of K.

Assumptions, by the CUDA C++ Programming Guide (throughput of native arithmetic instructions; technical specifications
by compute capability) and NVIDIA's white papers: a multiprocessor issues 4 instructions of a warp a clock, has 64 lanes
of integer arithmetic, and 128 bytes a clock of shared memory; what its tensor cores do is in MULTIPROCESSORS. Accesses
of shared memory meet no bank conflict: the emulator, which knows addresses, counts 10 % more.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple


class Multiprocessor(NamedTuple):
    """What one has: bytes of shared memory, threads, blocks; and multiply-adds a clock of its tensor cores.

    ``multiply_adds``: by the type of the factors; float16 is summed in float32, int8 in int32.
    """

    shared: int
    threads: int
    blocks: int
    multiply_adds: dict[str, int]


REGISTERS = 65536  # of a multiprocessor
MULTIPROCESSORS = {
    "sm_80": Multiprocessor(164 << 10, 2048, 32, {"fp16": 1024, "i8": 2048}),
    "sm_87": Multiprocessor(164 << 10, 1536, 16, {"fp16": 1024, "i8": 2048}),  # Jetson Orin
    "sm_89": Multiprocessor(100 << 10, 1536, 24, {"fp16": 256, "i8": 1024}),  # GeForce: float32 sums at half the rate
    "sm_90": Multiprocessor(228 << 10, 2048, 32, {"fp16": 2048, "i8": 4096}),
}
RESERVED = 1 << 10  # bytes of shared memory that the system takes of each block
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}  # bytes of a lane's access; else 4
NO_ARITHMETIC = (
    r"(U|BRA|BAR|HMMA|HGMMA|IMMA|IGMMA|LD|ST|BSYNC|BSSY|NOP|WARP|MEMBAR|FENCE|DEPBAR|R2UR|S2|CS2R|PLOP|VOTE)"
)
# What instructions are for, by their names; of the rest those that begin with U are uniform, one for all lanes.
TYPES = {
    "products": ("HMMA", "HGMMA", "IMMA", "IGMMA", "WARPGROUP"),
    "copies": ("LDGSTS", "LDGDEPBAR", "DEPBAR", "UBLKCP", "UTMALDG"),
    "shared memory": ("LDS", "LDSM", "STS", "STSM"),
    "bits": ("PRMT", "SHF", "LOP3"),
    "addresses": ("IMAD", "IADD3", "VIADD", "LEA"),
    "conditions": ("ISETP", "SEL", "PLOP3"),
}


@dataclass(frozen=True)
class MainLoop:
    """Instructions of a warp in one pass.

    Attributes:
        instructions: all. tensor_core, barriers, async_copies: instructions of these kinds.
        short_stores: stores of 2 bytes to shared memory. conversions: of numbers, and reciprocals, as divisions take.
        integer: on the integer lanes. shared_bytes: that a warp's loads and stores move in shared memory.
        per_word: in the loop around it, which runs once for each word of 32 steps. once: outside of both loops, once a
            program.
    """

    instructions: int
    tensor_core: int
    barriers: int
    async_copies: int
    short_stores: int
    conversions: int
    integer: int
    shared_bytes: int
    per_word: int = 0
    once: int = 0

    def cycles(self, num_warps: int, tensor: float, operand_bytes: int) -> dict[str, float]:
        """Clocks of a multiprocessor for one pass of a program, by unit.

        Args:
            tensor: clocks of the tensor cores.
            operand_bytes: that tensor cores themselves read of shared memory (sm_90: weights,
                by each group of 4 warps).
        """
        return {
            "issue": self.instructions * num_warps / 4,
            "integer": self.integer * num_warps * 32 / 64,
            "shared": (self.shared_bytes * num_warps + operand_bytes) / 128,
            "tensor": tensor,
        }


def main_loop(sass: str, tensor_core: str) -> MainLoop | None:
    """The largest innermost loop with ``tensor_core`` instructions (a regular expression); None if there is none."""
    code, loops = _read(sass)
    main = innermost_loops(sass, tensor_core)
    if not main:
        return None
    first, last = max(main, key=lambda loop: loop[1] - loop[0])
    around = min((loop[1] - loop[0] for loop in loops if loop[0] < first and last < loop[1]), default=last - first)
    loop = code[first : last + 1]
    names = _names(line for line in loop if not line.startswith("@!PT"))  # which never does: it is there for its place
    count = Counter(name.split(".")[0] for name in names)
    return MainLoop(
        instructions=len(loop),
        tensor_core=sum(bool(re.search(tensor_core, line)) for line in loop),
        barriers=count["BAR"] + count["WARPSYNC"],
        async_copies=count["LDGSTS"] + count["UBLKCP"] + count["UTMALDG"],
        short_stores=sum(name.startswith(("STS.U16", "STS.S16", "STS.U8", "STS.S8")) for name in names),
        conversions=sum(count[name] for name in ("MUFU", "I2F", "F2I", "I2FP", "F2F", "F2FP")),
        integer=sum(not re.match(NO_ARITHMETIC, name) for name in names),
        shared_bytes=sum(map(_shared_bytes, names)),
        per_word=around - (last - first),
        once=len(code) - (around + 1),
    )


def loop_types(sass: str, tensor_core: str) -> dict[str, int]:
    """How many instructions of the same loop are for what: TYPES, "uniform" and "others"."""
    code, _ = _read(sass)
    first, last = max(innermost_loops(sass, tensor_core), key=lambda loop: loop[1] - loop[0], default=(0, -1))
    of_name = {name: kind for kind, names in TYPES.items() for name in names}
    names = [name.split(".")[0] for name in _names(code[first : last + 1])]
    return dict(Counter(of_name.get(name, "uniform" if name.startswith("U") else "others") for name in names))


def _names(lines: Iterable[str]) -> list[str]:
    """The opcodes of instructions, with their modifiers."""
    return [re.sub(r"^@!?U?P\w+\s+", "", line).split(" ")[0].rstrip(";") for line in lines]


def _shared_bytes(name: str) -> int:
    """Bytes of shared memory that the instruction moves for a warp."""
    opcode, *modifiers = name.split(".")
    if opcode in ("LDSM", "STSM"):  # matrices of 8 x 8 float16
        return 128 * int(next((m for m in modifiers if m in ("2", "4")), "1"))
    if opcode in ("LDS", "STS", "LDGSTS"):
        return 32 * next((WIDTHS[m] for m in modifiers if m in WIDTHS), 4)
    return 0


def innermost_loops(sass: str, tensor_core: str) -> set[tuple[int, int]]:
    """The first and the last instruction of each innermost loop with tensor-core instructions, by their numbers; those
    of the whole program for instructions that are in no loop."""
    code, loops = _read(sass)
    loops.append((0, len(code) - 1))
    products = [place for place, line in enumerate(code) if re.search(tensor_core, line)]
    around = ([loop for loop in loops if loop[0] <= place <= loop[1]] for place in products)
    return {min(mine, key=lambda loop: loop[1] - loop[0]) for mine in around}


def loop_spills(sass: str, tensor_core: str) -> int | None:
    """The loads and stores of local memory in main loops, the innermost ones; None without tensor-core instructions."""
    code, _ = _read(sass)
    main = innermost_loops(sass, tensor_core)
    spills = [place for place, line in enumerate(code) if re.search(r"\b(?:STL|LDL)\b", line)]
    return sum(any(first <= place <= last for first, last in main) for place in spills) if main else None


def _read(sass: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The instructions; and the first and last of each loop, a jump's destination and the jump, by their numbers."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(\S.*?;)", sass)
    numbers = {int(place, 16): number for number, (place, _) in enumerate(lines)}
    jumps = [(re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", code), number) for number, (_, code) in enumerate(lines)]
    loops = [(numbers.get(int(jump[1], 16), number), number) for jump, number in jumps if jump]
    return [code for _, code in lines], [(first, last) for first, last in loops if first < last]


def programs(target: str, registers: int, shared: int, num_warps: int) -> int:
    """How many programs a multiprocessor holds; registers are given to warps in units of 256."""
    of_warp = -(-registers * 32 // 256) * 256
    has = MULTIPROCESSORS[target]
    return min(
        REGISTERS // (of_warp * num_warps),
        has.shared // (shared + RESERVED),
        has.threads // (32 * num_warps),
        has.blocks,
    )


def fused_or_flushed(sass: str, ttgir: str, threads: int) -> int:
    """Float instructions that the source does not have: fused multiply-adds beyond its own (those in Triton's GPU
    IR), and those that flush small numbers to 0.

    The assembler makes a division of such instructions, so a kernel that divides has none that could be told apart: 0.
    """
    if "tt.precise_divf" in ttgir:
        return 0
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)", sass)
    shapes = re.findall(r"\bmath\.fma\b.*: tensor<([\dx]+)xf32", ttgir)
    asked = sum(max(1, prod(map(int, shape.split("x"))) // threads) for shape in shapes)
    fused = sum(name.startswith("FFMA") for name in names)
    return max(0, fused - asked) + sum(bool(re.match(r"F(ADD|MUL|SET|SETP|MNMX|FMA)\S*\.FTZ", name)) for name in names)
