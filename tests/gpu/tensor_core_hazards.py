"""Hazards of sm_90's tensor cores, read in compiled code: what neither Triton's interpreter nor the emulator can see.

wgmma works while the threads go on. Its operands must be left alone until a wait, and what it reads in shared memory
must have passed a fence. A compiler that forgets either gives wrong spikes now and then, on a card only:

    hazards_of_ptx(text), hazards_of_sass(text)     a list of sentences, empty if there is none

PTX is what Triton makes (a write to registers in flight is undefined there, PTX ISA, wgmma.mma_async), SASS what the
assembler makes of it (``nvdisasm -c``). Read are the innermost loops with products, three turns of each; and the basic
blocks with products that are in no loop.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
        kind: "product", "commit", "wait" (for products), "arrival" (of writes to shared memory), "fence" or "other".
        written: registers that it writes; of a product those of its sums.
        read: of a product, the registers of A. left: of a wait, groups that may go on.
        commits: whether a product ends its group.
    """

    text: str
    kind: str = "other"
    written: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    left: int = 0
    commits: bool = False


Line = Instruction | str  # a string: a label


class Jump(NamedTuple):
    to: str


def hazards_of_ptx(text: str) -> list[str]:
    return _hazards(list(_ptx(text)))


def hazards_of_sass(text: str) -> list[str]:
    return _hazards(list(_sass(text)))


def _hazards(lines: list[Instruction | Jump | str]) -> list[str]:
    found: dict[str, None] = {}
    for path in _paths(lines):
        found |= dict.fromkeys(_in_flight(path))
        found |= dict.fromkeys(_not_fenced(path))
    return list(found)


def _in_flight(path: list[Instruction]) -> Iterator[str]:
    """Writes to registers of products that nobody waited for."""
    groups: list[list[Instruction]] = []
    current: list[Instruction] = []
    for line in path:
        if line.kind == "product":
            current.append(line)
        if line.kind == "commit" or line.commits:
            groups, current = [*groups, current], []
        elif line.kind == "wait":
            groups = groups[len(groups) - line.left :] if line.left else []
        elif line.kind == "other":
            for product in [product for group in [*groups, current] for product in group]:
                if line.written & product.read:
                    yield f"writes spikes of a product in flight: {line.text}"
                if line.written & product.written:
                    yield f"writes sums of a product in flight: {line.text}"


def _not_fenced(path: list[Instruction]) -> Iterator[str]:
    """Products that may read what has reached shared memory since the last fence."""
    fenced = False
    for line in path:
        if line.kind in ("arrival", "fence"):
            fenced = line.kind == "fence"
        elif line.kind == "product" and not fenced:
            yield f"reads what no fence has passed: {line.text}"


def _paths(lines: list[Instruction | Jump | str]) -> Iterator[list[Instruction]]:
    """Three turns of each innermost loop with products, and the basic blocks with others."""
    labels = {line: i for i, line in enumerate(lines) if isinstance(line, str)}
    jumps = [(labels[line.to], i) for i, line in enumerate(lines) if isinstance(line, Jump) and line.to in labels]
    loops = [(first, last) for first, last in jumps if first < last]
    products = [i for i, line in enumerate(lines) if isinstance(line, Instruction) and line.kind == "product"]
    inner: set[tuple[int, int]] = set()
    alone: set[tuple[int, int]] = set()
    for place in products:
        around = [loop for loop in loops if loop[0] <= place <= loop[1]]
        if around:
            inner.add(min(around, key=lambda loop: loop[1] - loop[0]))
        else:
            ends = [i for i, line in enumerate(lines) if not isinstance(line, Instruction)]
            first = max((i for i in ends if i < place), default=-1)
            alone.add((first + 1, min((i for i in ends if i > place), default=len(lines))))
    for (first, last), turns in [*((loop, 3) for loop in inner), *((block, 1) for block in alone)]:
        yield [line for line in lines[first:last] if isinstance(line, Instruction)] * turns


# ---- PTX

NO_RESULT = ("st.", "cp.", "bar", "fence", "red.", "wgmma.", "bra", "ret", "mbarrier")


def _ptx(text: str) -> Iterator[Instruction | Jump | str]:
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^\s*\.(loc|file|pragma|reg)[^\n]*|^\s*[{}]\s*$", "", text, flags=re.M)
    for piece in text.split(";"):
        while label := re.match(r"\s*(\$\w+):", piece):
            if not label[1].startswith("$L__tmp"):  # a place in the source, of the debugger
                yield label[1]
            piece = piece[label.end() :]
        line = " ".join(piece.split())
        code = re.sub(r"^\{? ?(@!?%\w+ )?", "", line)
        if jump := re.match(r"bra(?:\.uni)? (\$\w+)", code):
            yield Jump(jump[1])
        elif code:
            yield _ptx_instruction(code)


def _ptx_instruction(code: str) -> Instruction:
    if code.startswith("wgmma.mma_async"):
        lists = [_names(names) for names in re.findall(r"\{([^}]*)\}", code)]
        return Instruction(code, "product", lists[0], lists[1] if len(lists) > 1 else frozenset())
    if code.startswith("wgmma.commit_group"):
        return Instruction(code, "commit")
    if wait := re.match(r"wgmma\.wait_group\S* (\d+)", code):
        return Instruction(code, "wait", left=int(wait[1]))
    if code.startswith("fence.proxy.async"):
        return Instruction(code, "fence")
    if code.startswith(("cp.async.wait", "st.shared", "stmatrix")):
        return Instruction(code, "arrival")
    if code.startswith(NO_RESULT) or not (result := re.match(r"[\w.:]+ (\{[^}]*\}|%\w+)", code)):
        return Instruction(code)
    return Instruction(code, written=_names(result[1].strip("{}")))


def _names(registers: str) -> frozenset[str]:
    return frozenset(re.split(r"[,\s]+", registers.strip()))


# ---- SASS

SASS_NO_RESULT = (
    r"(ST|BAR|BRA|LDGSTS|LDGDEPBAR|DEPBAR|WARP|FENCE|R2UR|BSYNC|BSSY|MEMBAR|CCTL|ISETP|FSETP|PLOP3|NOP|EXIT|U[A-Z])"
)


def _sass(text: str) -> Iterator[Instruction | Jump | str]:
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            yield label[1]
        elif code := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S.*?)\s*;", line):
            if jump := re.match(r"BRA\b.*?(\.L_x_\d+)", code[1]):
                yield Jump(jump[1])
            else:
                yield _sass_instruction(code[1])


def _sass_instruction(code: str) -> Instruction:
    name, _, rest = code.partition(" ")
    operands = [operand.strip() for operand in rest.split(",")]
    if re.match(r"[A-Z]GMMA", name):
        columns = int(re.search(r"64x(\d+)x", name)[1])
        a = _numbered(operands[1], 4) if operands[1].startswith("R") else frozenset()
        return Instruction(code, "product", _numbered(operands[0], columns // 2), a, commits="gsb0" in rest)
    if name.startswith("WARPGROUP.DEPBAR"):
        return Instruction(code, "wait", left=int(operands[1], 16))
    if name.startswith("FENCE.VIEW.ASYNC"):
        return Instruction(code, "fence")
    if re.match(r"DEPBAR|STS|STSM", name):
        return Instruction(code, "arrival")
    if re.match(SASS_NO_RESULT, name) or not re.match(r"R\d", operands[0]):  # RZ is none, and Rpc is no number
        return Instruction(code)
    return Instruction(code, written=_numbered(operands[0], _width(name)))


def _width(name: str) -> int:
    """Registers that an instruction writes."""
    parts = name.split(".")
    if parts[0] == "LDSM":
        return next((int(part) for part in parts if part in ("2", "4")), 1)
    return 4 if "128" in parts else 2 if "64" in parts or "WIDE" in parts else 1


def _numbered(register: str, count: int) -> frozenset[str]:
    first = int(re.match(r"R(\d+)", register)[1])
    return frozenset(f"R{first + i}" for i in range(count))
