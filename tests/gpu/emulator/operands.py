"""Operands of PTX as Python expressions: registers, constants and addresses, with their types."""

import re

import numpy as np

# numpy's type of a PTX type, and of the register class that stores it.
TYPES = {"pred": "?"}
for bits in (8, 16, 32, 64):
    TYPES |= {f"b{bits}": f"u{bits // 8}", f"u{bits}": f"u{bits // 8}", f"s{bits}": f"i{bits // 8}"}
TYPES |= {"f16": "f2", "f32": "f4", "f64": "f8"}
STORAGE = {"?": "?"} | {kind + size: "u" + size for kind in "uif" for size in "1248"}

SPECIAL = {"%tid.x": "tid", "%laneid": "lane", "%nctaid.x": "nctaid_x"}
SPECIAL |= {"%ctaid.x": "ctaid_x", "%ctaid.y": "ctaid_y", "%ctaid.z": "ctaid_z"}


def split(statement: str) -> tuple[str | None, str, list[str]]:
    """The guard such as "%p1" or "!%p1", the opcode and the operands."""
    guard, opcode, rest = re.fullmatch(r"(?:@(!?%\w+) )?([\w.:]+) ?(.*)", statement).groups()
    operands, depth, start = [], 0, 0
    for i, letter in enumerate(rest):
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            operands.append(rest[start:i].strip())
            start = i + 1
    if rest:
        operands.append(rest[start:].strip())
    return guard, opcode, operands


def parts(operand: str) -> list[str]:
    """The elements of {a, b, ...}."""
    return [part.strip() for part in operand.strip("{} ").split(",")]


def name_of(register: str) -> str:
    """A register as a Python name."""
    return SPECIAL.get(register) or register.strip().lstrip("%")


def wider(name: str) -> str:
    """The numpy type of twice the bits."""
    kind = TYPES[name]
    return f"{kind[0]}{2 * int(kind[1:])}"


def only(modifiers, allowed) -> None:
    """Refuse modifiers of an instruction that nobody implemented."""
    if set(modifiers) - set(allowed):
        raise NotImplementedError(f"modifiers {sorted(set(modifiers) - set(allowed))}")


def one(modifiers) -> str:
    """The only modifier."""
    (modifier,) = modifiers
    return modifier


class Operands:
    """How instructions read and write. ``storage`` is each register's numpy type; ``constants`` fills up on the way."""

    storage: dict[str, str]
    constants: dict[str, np.ndarray]
    guarded: dict[str, str]  # registers that only some threads may write, and their types

    def _predicate(self, guard: str | None) -> str:
        if guard is None:
            return "None"
        return f"~{name_of(guard[1:])}" if guard[0] == "!" else name_of(guard)

    def _constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def _read(self, operand: str, kind: str) -> str:
        """An expression of numpy type ``kind``."""
        if operand in self.storage:
            stored = self.storage[operand]
            if stored == kind:
                return name_of(operand)
            if kind != "?" and stored != "?" and stored[1:] == kind[1:]:
                return f"{name_of(operand)}.view('{kind}')"
            raise NotImplementedError(f"{operand} of type {stored} read as {kind}")
        if operand == "global_smem":
            return f"E.shared_base.astype('{kind}')"
        if match := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", operand):
            return self._constant(np.array([int(match[1], 16)], f"u{len(match[1]) // 2}").view(kind))
        value = int(operand.rstrip("U"), 0)
        if kind == "?":
            return self._constant(np.array([bool(value)]))
        size = int(kind[1:])
        return self._constant(np.array([value % 2 ** (8 * size)], f"u{size}").view(kind))

    def _write(self, register: str, expression: str, kind: str, guard: str | None) -> list[str]:
        stored = self.storage[register]
        if stored != kind:
            if stored[1:] != kind[1:]:
                raise NotImplementedError(f"{kind} written to {register} of type {stored}")
            expression = f"({expression}).view('{stored}')"
        name = name_of(register)
        if guard:
            self.guarded[name] = stored
            expression = f"where({self._predicate(guard)}, {expression}, {name})"
        return [f"{name} = {expression}"]

    def _address(self, operand: str) -> str:
        """[%r1+16], [ %rd1 + 0 ], [%r1] or [global_smem+64] as an expression, int64."""
        register, _, offset = operand.strip("[] ").replace(" ", "").partition("+")
        return f"{self._read(register, self.storage.get(register, 'u8'))}.astype('i8') + {int(offset or '0', 0)}"
