"""Runs PTX on a CPU: a kernel becomes a Python function in which a register is a numpy array, one element a thread.

All threads of a block go in lockstep, so a register is an array [threads], or [1] where the value is the same in all.
Only the instructions that Triton emits for this library's kernels are known; another one raises NotImplementedError
with its text. A branch that not all threads of a block take alike is a Fault: Triton masks instead of branching, so
there is none in these kernels.

    kernel = Kernel(ptx_text)
    kernel.run(block)            block: a block.Block, which owns memory, tensor cores and barriers
"""

import re

import numpy as np

from . import arithmetic
from .compute_instructions import ComputeInstructions
from .memory import Fault
from .memory_instructions import MemoryInstructions
from .operands import SPECIAL, STORAGE, TYPES, name_of, parts, split


class Kernel(ComputeInstructions, MemoryInstructions):
    """One entry function of a PTX text."""

    def __init__(self, text: str):
        entry = re.search(r"\.entry\s+([\w$]+)\((.*?)\)\s*(?:\.\w+[^{]*)?\{(.*?)^\}", text, re.S | re.M)
        self.name, parameters, body = entry.groups()
        self.threads = int(re.search(r"\.reqntid\s+(\d+)", text)[1])
        self.parameter_types = re.findall(r"\.param\s+\.(\w+)", parameters)
        self.multiplies_digits = ".s8.s8" in body
        self.storage = {"%tid.x": "u4"} | {name: "u4" for name in SPECIAL}  # register -> numpy type
        self.constants: dict[str, np.ndarray] = {}
        self.guarded: dict[str, str] = {}
        self.blocks = _basic_blocks(self._statements(body))
        self.spikes = self._registers_of_a()
        for block in self.blocks:
            check_order_of_registers(block.statements)
        source = self._translate()
        names = {"np": np, "where": np.where, **vars(arithmetic), **self.constants}
        exec(compile(source, f"<{self.name}>", "exec"), names)
        self._function = names["kernel"]

    def run(self, block) -> None:
        """Run one block of threads to its end."""
        with np.errstate(all="ignore"):  # numbers that are not numbers are the kernel's business
            self._function(block)

    # ---- text to statements

    def _statements(self, body: str):
        """Labels and instructions of the body; declarations of registers are noted on the way."""
        body = re.sub(r"//[^\n]*", "", body)
        body = re.sub(r"^\s*\.(loc|file|pragma)[^\n]*", "", body, flags=re.M)
        for name, prefix, count in re.findall(r"\.reg\s+\.(\w+)\s+(%[A-Za-z]+)<(\d+)>", body):
            for i in range(int(count)):
                self.storage[f"{prefix}{i}"] = STORAGE[TYPES[name]]
        for name, registers in re.findall(r"\.reg\s+\.(\w+)\s+(\w+(?:\s*,\s*\w+)*)\s*;", body):  # of inline assembly
            self.storage |= dict.fromkeys(parts(registers), STORAGE[TYPES[name]])
        body = re.sub(r"\.reg[^;]*;", "", body)
        body = re.sub(r"^\s*[{}]\s*$", "", body, flags=re.M)
        for piece in body.split(";"):
            while label := re.match(r"\s*(\$\w+):", piece):
                yield label[1] + ":"
                piece = piece[label.end() :]
            if piece.strip():
                yield " ".join(piece.split())

    def _registers_of_a(self) -> set[str]:
        """Registers from which tensor cores take spikes while the threads go on."""
        statements = [split(statement) for block in self.blocks for statement in block.statements]
        products = [operands for _, opcode, operands in statements if opcode.startswith("wgmma.mma_async")]
        return {register for a in products if a[1].startswith("{") for register in parts(a[1])}

    def _halves_never_written(self) -> dict[str, str]:
        """Registers that are packed into wider ones, that no instruction writes, and their types: the compiler packs a
        single float32 number for instructions on two (f32x2), and uses only one half of what they give; and it permutes
        the bytes of one register with another, of which it takes none."""
        statements = [split(statement) for block in self.blocks for statement in block.statements]
        written = {register for _, opcode, operands in statements for register in _results(opcode, operands)}
        packed = [operands[1] for _, opcode, operands in statements if opcode == "mov.b64" and "{" in operands[1]]
        permuted = {
            register for _, opcode, operands in statements if opcode == "prmt.b32" for register in operands[1:3]
        }
        halves = ({half for operand in packed for half in parts(operand)} | permuted) & self.storage.keys()
        return {name_of(half): self.storage[half] for half in sorted(halves - written - SPECIAL.keys())}

    # ---- statements to Python

    def _translate(self) -> str:
        places = {label: i for i, block in enumerate(self.blocks) for label in block.labels}
        lines = ["def kernel(E):", " tid, lane = E.tid, E.lane", " ctaid_x, ctaid_y, ctaid_z = E.ctaid"]
        lines += [" nctaid_x = E.blocks", " pc = 0"]
        lines.append(" while True:")
        for i, block in enumerate(self.blocks):
            lines.append(f"  {'if' if i == 0 else 'elif'} pc == {i}:")
            for statement in block.statements:
                guard, opcode, operands = split(statement)
                if opcode in ("bra", "bra.uni"):
                    condition = f"if E.branch({self._predicate(guard)}): " if guard else ""
                    lines.append(f"   {condition}pc = {places[operands[0]]}; continue")
                elif opcode in ("ret", "exit"):
                    lines.append(f"   if E.branch({self._predicate(guard)}): return" if guard else "   return")
                else:
                    if overwritten := self.spikes & _results(opcode, operands):
                        lines.append(f"   E.write_registers({sorted(overwritten)})")
                    lines += ["   " + line for line in self._instruction(statement, guard, opcode, operands)]
            lines.append(f"   pc = {i + 1}; continue")
        first_values = self.guarded | self._halves_never_written()
        lines[1:1] = [f" {name} = unknown('{kind}')" for name, kind in first_values.items()]
        return "\n".join(lines)

    def _instruction(self, statement: str, guard: str | None, opcode: str, operands: list[str]) -> list[str]:
        base, *modifiers = opcode.replace("::cta", "").split(".")  # shared memory of the block's own
        handler = getattr(self, f"_op_{base}", None)
        if handler is None:
            raise NotImplementedError(statement)
        try:
            return handler(modifiers, operands, guard)
        except (NotImplementedError, KeyError, ValueError, IndexError) as error:
            raise NotImplementedError(f"{statement}  ({error!r})") from error


class _BasicBlock:
    """Statements with no jump but at the end, and the labels of the first."""

    def __init__(self):
        self.labels, self.statements = [], []


def _basic_blocks(statements) -> list[_BasicBlock]:
    blocks = [_BasicBlock()]
    for statement in statements:
        if statement.endswith(":"):
            if blocks[-1].statements:
                blocks.append(_BasicBlock())
            blocks[-1].labels.append(statement[:-1])
        else:
            blocks[-1].statements.append(statement)
            if split(statement)[1] in ("bra", "bra.uni", "ret", "exit"):
                blocks.append(_BasicBlock())
    return blocks


def _results(opcode: str, operands: list[str]) -> set[str]:
    """The registers that an instruction writes."""
    if not operands or opcode.startswith(("st.", "cp.", "bar", "fence", "red.", "wgmma.", "bra")):
        return set()
    return set(parts(operands[0]))


def check_order_of_registers(statements: list[str]) -> None:
    """Tensor cores take registers that were written before a wgmma.fence; here, before one in their basic block."""
    written = None  # by others since the fence
    for statement in statements:
        _, opcode, operands = split(statement)
        if opcode.startswith("wgmma.fence"):
            written = set()
        elif opcode.startswith("wgmma.mma_async"):
            sums_and_a = {*parts(operands[0]), *(parts(operands[1]) if operands[1].startswith("{") else ())}
            if written is None or sums_and_a & written:
                raise Fault("tensor cores take registers that no wgmma.fence has ordered")
        elif written is not None and operands:
            written.update(parts(operands[0]) if operands[0].startswith("{") else operands[:1])
