"""Instructions that need the block: memory, other lanes, barriers and tensor cores. They call its methods (E)."""

import re

from .operands import TYPES, Operands, name_of, only, parts

# Of tensor cores: what is multiplied, as numpy names it.
PRODUCTS = {
    "sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": "f2",
    "sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32": "i1",
}
WARP_GROUP_PRODUCTS = {"k16.f32.f16.f16": "f2", "k32.s32.s8.s8": "i1"}


class MemoryInstructions(Operands):
    """A method an opcode: the Python lines of modifiers, operands and a guard."""

    # ---- memory

    def _op_ld(self, modifiers, operands, guard):
        space, *hints, name = modifiers
        size = TYPES[name][1:]
        if space == "param":
            index = int(re.search(r"_param_(\d+)\]$", operands[1])[1])
            value, kind = f"E.parameters[{index}].view('{TYPES[name]}')[:1]", TYPES[name]  # of a wide one the low part
            if self.storage[operands[0]][1:] != size:  # a wider register: extended by sign or zeros
                kind = kind[0] + self.storage[operands[0]][1:]
                value = f"{value}.astype('{kind}')"
            return self._write(operands[0], value, kind, guard)
        registers = parts(operands[0]) if operands[0].startswith("{") else [operands[0]]
        only([hint for hint in hints if not hint.startswith(("L1", "L2"))], {f"v{len(registers)}"})
        predicate = self._predicate(guard)
        loaded = f"loaded = E.load_{space}({self._address(operands[1])}, {size}, {len(registers)}, {predicate})"
        lines = [loaded]
        for i, register in enumerate(registers):
            stored = self.storage[register]
            value, kind = f"loaded[{i}]", "u" + size
            if stored[1:] != size:
                signed = TYPES[name][0] == "i"
                kind = ("i" if signed else "u") + stored[1:]
                value = f"{value}.view('{TYPES[name]}').astype('{kind}')"
            lines += self._write(register, value, kind, guard)
        return lines

    def _op_st(self, modifiers, operands, guard):
        space, *hints, name = modifiers
        size = TYPES[name][1:]
        registers = parts(operands[1]) if operands[1].startswith("{") else [operands[1]]
        only([hint for hint in hints if not hint.startswith(("L1", "L2"))], {f"v{len(registers)}"})
        values = ", ".join(self._read_narrow(register, "u" + size) for register in registers)
        return [f"E.store_{space}({self._address(operands[0])}, {size}, ({values},), {self._predicate(guard)})"]

    def _read_narrow(self, operand: str, kind: str) -> str:
        """A stored value: the low part of a wider register is allowed."""
        if operand in self.storage and self.storage[operand][1:] != kind[1:]:
            return f"{name_of(operand)}.astype('{kind}')"
        return self._read(operand, kind)

    def _op_cp(self, modifiers, operands, guard):
        if modifiers[:2] == ["async", "commit_group"]:
            return ["E.copy_commit()"]
        if modifiers[:2] == ["async", "wait_group"]:
            return [f"E.copy_wait({int(operands[0], 0)})"]
        if modifiers[:2] == ["async", "wait_all"]:
            return ["E.copy_commit()", "E.copy_wait(0)"]
        if modifiers[0] != "async" or modifiers[1] not in ("ca", "cg") or modifiers[2:4] != ["shared", "global"]:
            raise NotImplementedError
        size = int(operands[2], 0)
        read = self._read(operands[3], "u4") if len(operands) > 3 else "None"
        to, source = self._address(operands[0]), self._address(operands[1])
        return [f"E.copy({to}, {source}, {size}, {read}, {self._predicate(guard)})"]

    # ---- warps and tensor cores

    def _op_ldmatrix(self, modifiers, operands, guard):
        if guard or modifiers[:3] != ["sync", "aligned", "m8n8"] or modifiers[-2:] != ["shared", "b16"]:
            raise NotImplementedError
        only(modifiers[3:-2], {"x1", "x2", "x4", "trans"})
        registers = [name_of(register) for register in parts(operands[0])]
        matrices = f"E.ldmatrix({self._address(operands[1])}, {len(registers)}, {'trans' in modifiers})"
        return [f"{', '.join(registers)}, = {matrices}"]

    def _op_stmatrix(self, modifiers, operands, guard):
        if guard or modifiers[:3] != ["sync", "aligned", "m8n8"] or modifiers[-2:] != ["shared", "b16"]:
            raise NotImplementedError
        only(modifiers[3:-2], {"x1", "x2", "x4", "trans"})
        registers = ", ".join(name_of(register) for register in parts(operands[1]))
        return [f"E.stmatrix({self._address(operands[0])}, ({registers},), {'trans' in modifiers})"]

    def _op_mma(self, modifiers, operands, guard):
        if guard or (kind := PRODUCTS.get(".".join(modifiers))) is None:
            raise NotImplementedError
        d, a, b, c = (", ".join(name_of(register) for register in parts(operand)) for operand in operands)
        return [f"{d} = E.mma('{kind}', ({a}), ({b}), ({c}))"]

    def _op_wgmma(self, modifiers, operands, guard):
        kind = modifiers[0]
        if kind == "fence":
            return ["E.wgmma_fence()"]
        if kind == "commit_group":
            return ["E.wgmma_commit()"]
        if kind == "wait_group":
            return [f"E.wgmma_wait({int(operands[0], 0)})"]
        shape = re.fullmatch(r"m64n(\d+)(k\d+)", modifiers[3])
        if guard or kind != "mma_async" or not shape:
            raise NotImplementedError
        numbers = WARP_GROUP_PRODUCTS[".".join([shape[2], *modifiers[4:]])]
        d = ", ".join(name_of(register) for register in parts(operands[0]))
        a_in_registers = operands[1].startswith("{")
        read = parts(operands[1]) if a_in_registers else []
        if a_in_registers:
            a = "(" + ", ".join(map(name_of, read)) + ")"
        else:
            a = self._read(operands[1], "u8")
        transposed = (0, 0)
        if numbers == "f2":  # imm-scale-a, imm-scale-b, then what is transposed: b, or a and b
            if operands[4:6] != ["1", "1"]:
                raise NotImplementedError
            transposed = tuple(int(operand, 0) for operand in operands[6:])
            transposed = (0, *transposed) if a_in_registers else transposed
        b, keeps = self._read(operands[2], "u8"), self._read(operands[3], "?")
        return [f"{d}, = E.wgmma('{numbers}', {shape[1]}, ({d},), {a}, {b}, {keeps}, {transposed}, {read})"]

    def _op_redux(self, modifiers, operands, guard):
        only(modifiers[:1], {"sync"})
        kind = TYPES[modifiers[2]]
        names = {"max": "maximum", "min": "minimum", "add": "add", "or": "bitwise_or", "and": "bitwise_and"}
        value = self._read(operands[1], kind)
        return self._write(operands[0], f"E.reduce_warp(np.{names[modifiers[1]]}, {value})", kind, guard)

    def _op_shfl(self, modifiers, operands, guard):
        if guard or modifiers[0] != "sync" or modifiers[2] != "b32" or operands[4] not in ("-1", "0xffffffff"):
            raise NotImplementedError
        a, b, c = (self._read(operand, "u4") for operand in operands[1:4])
        to, _, valid = operands[0].partition("|")
        names = f"{name_of(to)}, {name_of(valid) if valid else '_'}"
        return [f"{names} = E.shuffle('{modifiers[1]}', {a}, {b}, {c})"]

    def _op_bar(self, modifiers, operands, guard):
        if guard:
            raise NotImplementedError
        if modifiers == ["warp", "sync"]:
            return ["E.warp_barrier()"]
        if modifiers != ["sync"] or len(operands) != 1:
            raise NotImplementedError
        return ["E.barrier()"]

    _op_barrier = _op_bar

    def _op_fence(self, modifiers, operands, guard):
        return ["E.proxy_fence()"] if modifiers[:2] == ["proxy", "async"] else []
