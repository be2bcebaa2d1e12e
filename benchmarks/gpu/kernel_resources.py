"""What a compiled Triton kernel takes on its target, read from the compiler's output and from the binary."""

import re
import subprocess
import tempfile
from typing import NamedTuple


class Target(NamedTuple):
    """A GPU to compile for.

    Attributes:
        gpu: the arguments of Triton's GPUTarget.
        shared_limit: bytes of shared memory that one block of threads may have (CUDA programming guide, table of
            compute capabilities; the local data share of AMD's CDNA 3).
        tensor_core: a regular expression of the instructions that multiply float16 and sum in float32.
    """

    gpu: tuple[str, int | str, int]
    shared_limit: int
    tensor_core: str


TARGETS = {
    "sm_80": Target(("cuda", 80, 32), 163 * 1024, r"\bHMMA\.16816\.F32\b"),
    "sm_90": Target(("cuda", 90, 32), 227 * 1024, r"\bHGMMA\.64x\d+x16\.F32\b"),
    "sm_100": Target(("cuda", 100, 32), 227 * 1024, r"\bUTCHMMA\b"),
    "gfx942": Target(("hip", "gfx942", 64), 64 * 1024, r"\bv_mfma_f32_\w+"),
}


def resources(compiled, target: Target) -> dict[str, int | None]:
    """What a kernel that triton.compile gave takes.

    registers (of a thread), spilled (NVIDIA: bytes of a thread's stack and local memory; AMD: registers), loop_spills
    (see :func:`loop_spills`; None where it is not known: on AMD, and without tensor-core instructions), shared (bytes
    of a block), tensor_core (instructions), layout_conversions (ttg.convert_layout in Triton's GPU IR).
    """
    in_loop = None
    if target.gpu[0] == "hip":
        code = compiled.asm["amdgcn"]
        usage = dict(re.findall(r"\.(\w+_count):\s+(\d+)", code))
        registers, spilled = usage["vgpr_count"], int(usage["vgpr_spill_count"]) + int(usage["sgpr_spill_count"])
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            report, code = (_cuobjdump(option, cubin.name) for option in ("-res-usage", "-sass"))
        usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", report))
        registers, spilled = usage["REG"], int(usage["STACK"]) + int(usage["LOCAL"])
        in_loop = loop_spills(code, target.tensor_core)
    return {
        "registers": int(registers),
        "spilled": spilled,
        "loop_spills": in_loop,
        "shared": compiled.metadata.shared,
        "tensor_core": len(re.findall(target.tensor_core, code)),
        "layout_conversions": compiled.asm["ttgir"].count("ttg.convert_layout"),
    }


def loop_spills(sass: str, tensor_core: str) -> int | None:
    """The loads and stores of local memory in the main loop: the innermost loops of tensor-core instructions.

    A loop is what lies between a jump backwards and its destination. None if there is no tensor-core instruction; the
    whole program counts as a loop if an instruction lies in none.
    """
    lines = [(int(place, 16), code) for place, code in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(\S.*?;)", sass)]
    jumps = [(re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", code), place) for place, code in lines]
    loops = [(int(jump[1], 16), place) for jump, place in jumps if jump and int(jump[1], 16) <= place]
    loops.append((0, len(sass)))
    main = {
        min((loop for loop in loops if loop[0] <= place <= loop[1]), key=lambda loop: loop[1] - loop[0])
        for place, code in lines
        if re.search(tensor_core, code)
    }
    if not main:
        return None
    spills = [place for place, code in lines if re.search(r"\b(?:STL|LDL)\b", code)]
    return sum(any(first <= place <= last for first, last in main) for place in spills)


def _cuobjdump(option: str, path: str) -> str:
    """What the cuobjdump that Triton carries prints of a binary."""
    import triton

    command = [triton.knobs.nvidia.cuobjdump.path, option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
