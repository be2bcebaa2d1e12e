"""Instructions on registers alone: arithmetic, bits, comparisons, choices and conversions."""

from .operands import SPECIAL, STORAGE, TYPES, Operands, name_of, one, only, parts, wider

COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARE |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}  # of unsigned numbers
UNORDERED = {"neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<", "equ": "!="}  # true unless this holds


class ComputeInstructions(Operands):
    """A method an opcode: the Python lines of modifiers, operands and a guard."""

    # ---- arithmetic

    def _binary(self, kind: str, operands, guard, template: str) -> list[str]:
        a, b = (self._read(operand, kind) for operand in operands[1:3])
        return self._write(operands[0], template.format(a=a, b=b), kind, guard)

    def _arithmetic(self, modifiers, operands, guard, symbol: str) -> list[str]:
        if modifiers in (["s16x2"], ["u16x2"]):
            function = {"+": "np.add", "-": "np.subtract"}[symbol]
            return self._binary("u4", operands, guard, f"halves({function}, {{a}}, {{b}})")
        if modifiers == ["rn", "f32x2"]:
            function = {"+": "np.add", "-": "np.subtract", "*": "np.multiply"}[symbol]
            return self._binary("u8", operands, guard, f"pairs({function}, {{a}}, {{b}})")
        if modifiers[:-1] == ["rn", "f32"] and symbol != "*":  # the first operand has 16 bits
            a, b = self._widened(operands[1], modifiers[-1]), self._read(operands[2], "f4")
            return self._write(operands[0], f"{a} {symbol} {b}", "f4", guard)
        kind = TYPES[modifiers[-1]]
        if kind[0] == "f":
            only(modifiers[:-1], {"rn"})
        else:
            only(modifiers[:-1], set())
            kind = STORAGE[kind]  # modulo 2**n, the same for both signs
        return self._binary(kind, operands, guard, f"{{a}} {symbol} {{b}}")

    def _widened(self, operand: str, name: str) -> str:
        """A number of type f16 or bf16 as float32, which is exact."""
        if name == "bf16":
            return f"({self._read(operand, 'u2')}.astype('u4') << 16).view('f4')"
        only([name], {"f16"})
        return f"{self._read(operand, 'f2')}.astype('f4')"

    def _op_add(self, modifiers, operands, guard):
        return self._arithmetic(modifiers, operands, guard, "+")

    def _op_sub(self, modifiers, operands, guard):
        return self._arithmetic(modifiers, operands, guard, "-")

    def _op_mul(self, modifiers, operands, guard):
        if modifiers[0] == "lo":
            return self._arithmetic(modifiers[1:], operands, guard, "*")
        if modifiers[0] == "wide":
            return self._write(operands[0], self._wide_product(modifiers[1], operands), wider(modifiers[1]), guard)
        if modifiers[0] == "hi":
            wide, kind = self._wide_product(modifiers[1], operands), TYPES[modifiers[1]]
            return self._write(operands[0], f"(({wide}) >> {8 * int(kind[1:])}).astype('{kind}')", kind, guard)
        return self._arithmetic(modifiers, operands, guard, "*")

    def _wide_product(self, name: str, operands) -> str:
        a, b = (self._read(operand, TYPES[name]) for operand in operands[1:3])
        return f"{a}.astype('{wider(name)}') * {b}.astype('{wider(name)}')"

    def _op_mad(self, modifiers, operands, guard):
        if modifiers[0] == "wide":
            kind = wider(modifiers[1])
            product = self._wide_product(modifiers[1], operands)
            return self._write(operands[0], f"{product} + {self._read(operands[3], kind)}", kind, guard)
        only(modifiers[:1], {"lo"})
        kind = STORAGE[TYPES[modifiers[1]]]
        a, b, c = (self._read(operand, kind) for operand in operands[1:])
        return self._write(operands[0], f"{a} * {b} + {c}", kind, guard)

    def _op_fma(self, modifiers, operands, guard):
        if modifiers == ["rn", "f32x2"]:
            a, b, c = (self._read(operand, "u8") for operand in operands[1:])
            return self._write(operands[0], f"pairs(fma, {a}, {b}, {c})", "u8", guard)
        only(modifiers, {"rn", "f32", "f16", "bf16"})
        if modifiers[:-1] == ["rn", "f32"]:  # both factors have 16 bits
            a, b = (self._widened(operand, modifiers[-1]) for operand in operands[1:3])
        else:
            a, b = (self._read(operand, TYPES[modifiers[-1]]) for operand in operands[1:3])
        c = self._read(operands[3], "f4")
        return self._write(operands[0], f"fma({a}, {b}, {c})", "f4", guard)

    def _op_div(self, modifiers, operands, guard):
        if modifiers == ["rn", "f32"]:
            return self._binary("f4", operands, guard, "{a} / {b}")
        return self._binary(TYPES[one(modifiers)], operands, guard, "divide({a}, {b})")

    def _op_ex2(self, modifiers, operands, guard):
        only(modifiers, {"approx", "ftz", "f32"})  # a GPU's is off by two units in the last place at most
        return self._write(operands[0], f"np.exp2({self._read(operands[1], 'f4')})", "f4", guard)

    def _op_rem(self, modifiers, operands, guard):
        return self._binary(TYPES[one(modifiers)], operands, guard, "remainder({a}, {b})")

    def _op_min(self, modifiers, operands, guard):
        function = {"f": "np.fmin"}.get(modifiers[-1][0], "np.minimum")  # of floats: the one that is a number
        return self._binary(TYPES[one(modifiers)], operands, guard, function + "({a}, {b})")

    def _op_max(self, modifiers, operands, guard):
        function = {"f": "np.fmax"}.get(modifiers[-1][0], "np.maximum")
        return self._binary(TYPES[one(modifiers)], operands, guard, function + "({a}, {b})")

    def _op_neg(self, modifiers, operands, guard):
        kind = TYPES[one(modifiers)]
        return self._write(operands[0], f"-{self._read(operands[1], kind)}", kind, guard)

    def _op_abs(self, modifiers, operands, guard):
        if one(modifiers) in ("f16x2", "bf16x2"):
            return self._write(operands[0], f"{self._read(operands[1], 'u4')} & 0x7FFF7FFF", "u4", guard)
        kind = TYPES[one(modifiers)]
        return self._write(operands[0], f"abs({self._read(operands[1], kind)})", kind, guard)

    # ---- bits

    def _op_and(self, modifiers, operands, guard):
        return self._binary(TYPES[one(modifiers)], operands, guard, "{a} & {b}")

    def _op_or(self, modifiers, operands, guard):
        return self._binary(TYPES[one(modifiers)], operands, guard, "{a} | {b}")

    def _op_xor(self, modifiers, operands, guard):
        return self._binary(TYPES[one(modifiers)], operands, guard, "{a} ^ {b}")

    def _op_not(self, modifiers, operands, guard):
        kind = TYPES[one(modifiers)]
        return self._write(operands[0], f"~{self._read(operands[1], kind)}", kind, guard)

    def _op_shl(self, modifiers, operands, guard):
        kind = TYPES[one(modifiers)]
        a, b = self._read(operands[1], kind), self._read(operands[2], "u4")
        return self._write(operands[0], f"shift_left({a}, {b})", kind, guard)

    def _op_shr(self, modifiers, operands, guard):
        kind = TYPES[one(modifiers)]
        a, b = self._read(operands[1], kind), self._read(operands[2], "u4")
        return self._write(operands[0], f"shift_right({a}, {b})", kind, guard)

    def _op_shf(self, modifiers, operands, guard):
        only(modifiers[:2], {"l", "wrap"})
        low, high, b = (self._read(operand, "u4") for operand in operands[1:4])
        return self._write(operands[0], f"shift_both({low}, {high}, {b})", "u4", guard)

    def _op_bfe(self, modifiers, operands, guard):
        kind, first, length = TYPES[one(modifiers)], int(operands[2], 0), int(operands[3], 0)
        if kind not in ("u4", "i4") or not 0 < length <= 32 - first:
            raise NotImplementedError
        left, right = 32 - first - length, 32 - length
        value = f"({self._read(operands[1], kind)} << {left}) >> {right}"
        return self._write(operands[0], value, kind, guard)

    def _op_prmt(self, modifiers, operands, guard):
        a, b, selector = (self._read(operand, "u4") for operand in operands[1:])
        only(modifiers, {"b32"})
        return self._write(operands[0], f"permute_bytes({a}, {b}, {selector})", "u4", guard)

    def _op_popc(self, modifiers, operands, guard):
        only(modifiers, {"b32"})
        return self._write(operands[0], f"np.bitwise_count({self._read(operands[1], 'u4')}).astype('u4')", "u4", guard)

    def _op_brev(self, modifiers, operands, guard):
        only(modifiers, {"b32"})
        return self._write(operands[0], f"reversed_bits({self._read(operands[1], 'u4')})", "u4", guard)

    def _op_lop3(self, modifiers, operands, guard):
        a, b, c = (self._read(operand, "u4") for operand in operands[1:4])
        return self._write(operands[0], f"logic3({a}, {b}, {c}, {int(operands[4], 0)})", "u4", guard)

    # ---- choices and conversions

    def _op_selp(self, modifiers, operands, guard):
        kind = TYPES[one(modifiers)]
        a, b = (self._read(operand, kind) for operand in operands[1:3])
        return self._write(operands[0], f"where({name_of(operands[3])}, {a}, {b})", kind, guard)

    def _op_setp(self, modifiers, operands, guard):
        compare, *combine, name = modifiers
        kind = TYPES[name]
        a, b = (self._read(operand, kind) for operand in operands[1:3])
        if compare in UNORDERED:
            result = f"~({a} {UNORDERED[compare]} {b})"
        else:
            result = f"({a} {COMPARE[compare]} {b})"
        if combine:
            symbol = {"and": "&", "or": "|", "xor": "^"}[one(combine)]
            result = f"{result} {symbol} {self._read(operands[3], '?')}"
        return self._write(operands[0], result, "?", guard)

    def _op_cvt(self, modifiers, operands, guard):
        to, source = modifiers[-2:]
        rounding = modifiers[:-2]
        if source == "bf16":
            only([to, *rounding], {"f32"})
            return self._write(operands[0], self._widened(operands[1], source), "f4", guard)
        if to == source == "f32":
            only(rounding, {"rmi", "ftz"})  # below a subnormal number 0 is as good here as -1
            return self._write(operands[0], f"np.floor({self._read(operands[1], 'f4')})", "f4", guard)
        to, source = TYPES[to], TYPES[source]
        whole = to[0] != "f" and source[0] == "f"
        only(rounding, {"rzi", "ftz"} if whole else {"rn"} if "f" in to + source else set())
        stored = self.storage[operands[1]]
        if stored[1:] != source[1:]:  # cvt may read the low part of a wider register
            value = f"{name_of(operands[1])}.astype('{source}')"
        else:
            value = self._read(operands[1], source)
        target = self.storage[operands[0]]
        value = f"{value}.astype('{to}')"
        if target[1:] != to[1:]:  # or write to a wider one, extended as the type says
            to = to[0] + target[1:]
            value = f"{value}.astype('{to}')"
        return self._write(operands[0], value, to, guard)

    def _op_mov(self, modifiers, operands, guard):
        kind = STORAGE[TYPES[one(modifiers)]]
        to, source = operands
        half = f"u{int(kind[1:]) // 2}" if kind not in ("?", "u1") else None
        if source.startswith("{"):
            low, high = (self._read(part, half) for part in parts(source))
            return self._write(to, f"join({low}, {high})", kind, guard)
        if to.startswith("{"):
            low, high = parts(to)
            value, bits = self._read(source, kind), 4 * int(kind[1:])
            lines = [] if low == "_" else self._write(low, f"({value}).astype('{half}')", half, guard)
            return lines + (
                [] if high == "_" else self._write(high, f"({value} >> {bits}).astype('{half}')", half, guard)
            )
        source = SPECIAL.get(source) or self._read(source, kind)
        return self._write(to, source, kind, guard)
