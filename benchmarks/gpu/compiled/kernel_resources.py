"""What a compiled Triton kernel takes on its target, read from the compiler's output and from the binary."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from gpu.compiled.main_loop import MULTIPROCESSORS, fused_or_flushed, loop_spills, loop_types, main_loop, programs
from gpu.compiled.operand_layouts import operands


class Target(NamedTuple):
    """A GPU to compile for.

    Attributes:
        gpu: the arguments of Triton's GPUTarget.
        shared_limit: bytes of shared memory that one block of threads may have (CUDA programming guide, table of
            compute capabilities; AMD's local data share, the same from CDNA 2 and RDNA 3 on).
        tensor_core: a regular expression of the instructions that multiply float16 and sum in float32, or int8 and
            sum in int32.
    """

    gpu: tuple[str, int | str, int]
    shared_limit: int
    tensor_core: str


MMA = r"\bHMMA\.16816\.F32\b|\bIMMA\.16832\.S8\.S8\b"
MFMA, WMMA = r"\bv_mfma_(?:f32|i32)_\w+", r"\bv_wmma_(?:f32|i32)_\w+"
TARGETS = {
    "sm_75": Target(("cuda", 75, 32), 64 * 1024, r"\bHMMA\.1688\.F32\b|\bIMMA\.8816\.S8\.S8\b"),
    "sm_80": Target(("cuda", 80, 32), 163 * 1024, MMA),
    "sm_86": Target(("cuda", 86, 32), 99 * 1024, MMA),
    "sm_87": Target(("cuda", 87, 32), 163 * 1024, MMA),
    "sm_89": Target(("cuda", 89, 32), 99 * 1024, MMA),
    "sm_90": Target(("cuda", 90, 32), 227 * 1024, r"\bHGMMA\.64x\d+x16\.F32\b|\bIGMMA\.64x\d+x32\.S8\.S8\b"),
    "sm_100": Target(("cuda", 100, 32), 227 * 1024, r"\bUTC[HI]MMA\b"),
    "sm_103": Target(("cuda", 103, 32), 227 * 1024, r"\bUTC[HI]MMA\b"),
    "sm_120": Target(("cuda", 120, 32), 99 * 1024, MMA),
    "gfx90a": Target(("hip", "gfx90a", 64), 64 * 1024, MFMA),
    "gfx942": Target(("hip", "gfx942", 64), 64 * 1024, MFMA),
    "gfx950": Target(("hip", "gfx950", 64), 160 * 1024, MFMA),
    "gfx1100": Target(("hip", "gfx1100", 32), 64 * 1024, WMMA),
    "gfx1201": Target(("hip", "gfx1201", 32), 64 * 1024, WMMA),
}


def resources(compiled, target: Target) -> dict[str, int | None]:
    """What a kernel that triton.compile gave takes.

    registers (of a thread), spilled (NVIDIA: bytes of a thread's stack and local memory; AMD: registers), loop_spills
    (in the main loop; None where it is not known: on AMD, and without tensor-core instructions), shared (bytes
    of a block), tensor_core (instructions), layout_conversions (ttg.convert_layout in Triton's GPU IR),
    loop_conversions (those in the main loop), one_slot_stores (see :func:`one_slot_stores`), lost (see
    :func:`lost_numbers`), mixed_steps (instructions that take the step of one spike for that of another:
    operand_layouts.py).

    Of sm_80, 87, 89 and 90 also programs (on a multiprocessor), num_warps, fused_or_flushed (of floats), loop (a
    main_loop.MainLoop as a dict, or None) and loop_types (its instructions by what they are for).
    """
    in_loop, code_of_gpu = None, {}
    if target.gpu[0] == "hip":
        code = compiled.asm["amdgcn"]
        usage = dict(re.findall(r"\.(\w+_count):\s+(\d+)", code))
        registers, spilled = usage["vgpr_count"], int(usage["vgpr_spill_count"])  # scalars spill into vector registers
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            code = _cuobjdump("-res-usage", "-sass", cubin.name)
        usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", code))
        registers, spilled = usage["REG"], int(usage["STACK"]) + int(usage["LOCAL"])
        in_loop = loop_spills(code, target.tensor_core)
        if (name := f"sm_{target.gpu[1]}") in MULTIPROCESSORS:
            loop = main_loop(code, target.tensor_core)
            code_of_gpu = {
                "programs": programs(name, int(registers), compiled.metadata.shared, compiled.metadata.num_warps),
                "num_warps": compiled.metadata.num_warps,
                "fused_or_flushed": fused_or_flushed(code, compiled.asm["ttgir"], 32 * compiled.metadata.num_warps),
                "loop": loop and asdict(loop),
                "loop_types": loop_types(code, target.tensor_core),
            }
    return code_of_gpu | {
        "registers": int(registers),
        "spilled": spilled,
        "loop_spills": in_loop,
        "shared": compiled.metadata.shared,
        "tensor_core": len(re.findall(target.tensor_core, code)),
        "layout_conversions": compiled.asm["ttgir"].count("ttg.convert_layout"),
        "loop_conversions": sum(
            inside and "ttg.convert_layout" in line for line, inside in _lines_and_main_loops(compiled.asm["ttgir"])
        ),
        "one_slot_stores": one_slot_stores(compiled.asm["ttgir"]),
        "lost": lost_numbers(compiled.asm["ttir"], compiled.asm["ttgir"]),
        "mixed_steps": len(operands(compiled.asm["ttgir"])["mixed"]),
    }


def one_slot_stores(ttgir: str) -> int:
    """The stores of main loops, those with a tt.dot, that go to the same one of several slots in each iteration.

    A pipelined loop keeps the blocks that it loads ahead in slots, which it uses in rotation. A store whose slot is a
    constant overwrites what has not been read: a defect of the compiler, and wrong results with no other sign.
    """
    count, slots, constant_views = 0, {}, set()
    for line, in_main_loop in _lines_and_main_loops(ttgir):
        if buffer := re.search(r"(%\w+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x", line):
            slots[buffer[1]] = int(buffer[2])
        if view := re.search(r"(%\w+) = ttg\.memdesc_index (%\w+)\[(%\w+)\]", line):
            constant = re.fullmatch(r"%c\d+_i32(_\d+)?", view[3]) and slots.get(view[2], 1) > 1
            (constant_views.add if constant else constant_views.discard)(view[1])  # names come again in other regions
        if in_main_loop and re.search(r"\bttg\.local_store|_to_local\b", line):
            count += not constant_views.isdisjoint(re.findall(r"%\w+", line))
    return count


def lost_numbers(ttir: str, ttgir: str) -> int:
    """Numbers that loops carry from iteration to iteration in Triton's IR, and in its GPU IR no more.

    Triton 3.6 and 3.7 take a number that a loop carries, and that is a reduction of a tensor, for the one before the
    loop, where the tensor gets another layout (the pass tritongpu-remove-layout-conversions): a defect of the compiler,
    and wrong results with no other sign.
    """
    before, after = _handed_on(ttir), _handed_on(ttgir)
    if len(before) != len(after):  # the compiler has joined loops
        before, after = [sum(before)], [sum(after)]
    return sum(max(0, numbers - left) for numbers, left in zip(before, after, strict=True))


def _handed_on(text: str) -> list[int]:
    """The count of scalars and pointers that each loop carries, without tensors; the compiler may add some."""
    counts = []
    for loop in re.findall(r"scf\.for .*", text):
        types = re.search(r"-> \((.*?)\) +:", loop)
        kinds = types[1] if types else "tensor"
        while "<" in kinds:  # a type within a type, which has commas
            kinds = re.sub(r"<[^<>]*>", "", kinds)
        counts.append(sum(not kind.startswith(("tensor", "!ttg")) for kind in kinds.split(", ")))
    return counts


def _lines_and_main_loops(ttgir: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is in an innermost loop with a tt.dot."""
    lines = ttgir.splitlines()
    main = set()
    for first, line in enumerate(lines):
        if "scf.for" in line:
            end = re.match(r" *", line)[0] + "}"
            last = next(i for i in range(first, len(lines)) if lines[i].startswith(end))
            body = lines[first + 1 : last]
            if any("tt.dot" in inner for inner in body) and not any("scf.for" in inner for inner in body):
                main.update(range(first, last))
    for place, line in enumerate(lines):
        yield line, place in main


def _cuobjdump(*arguments: str) -> str:
    """What the cuobjdump that Triton carries prints."""
    import triton

    command = [triton.knobs.nvidia.cuobjdump.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
