"""Reads C headers: structs and function pointers become ctypes types, so that each is declared in one place.

Read are declarations as src/abi.h has them: numbers, pointers, arrays of known length, other structs, and functions.
"""

import ctypes
import re
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_double, c_float, c_int64, c_uint64, c_void_p
from typing import Any

NUMBERS = {"float": c_float, "double": c_double, "int64_t": c_int64, "uint64_t": c_uint64, "void": None}
STRUCT = re.compile(r"^struct (\w+) \{\n([^#]*?)^\};", re.MULTILINE)
FUNCTION = re.compile(r"(.*?) ?\(\*(\w+)\)\((.*)\)")
VALUE = re.compile(r"(?:const )?(\w+)\b(.*)")
FIELD = re.compile(r"(\*?) ?(\w+)(?:\[(\d+)\])?")
KERNEL = re.compile(r"^KERNEL\((\w+), (\w+),?\s*([^)]*)\)", re.MULTILINE)

Structs = dict[str, Any]  # of ctypes.Structure, by name


def structs(text: str, known: Mapping[str, Any] | None = None) -> Structs:
    """Those of a header, in their order; ``known``: of the headers that it includes."""
    found = dict(known or {})
    for name, body in STRUCT.findall(_without_comments(text)):
        declarations = (" ".join(part.split()) for part in body.split(";"))
        fields = [field for declaration in declarations if declaration for field in _fields(declaration, found)]
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def table(text: str, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The functions that lines KERNEL(result, name, arguments) declare, as fields of a struct."""
    found = KERNEL.findall(_without_comments(text))
    return [(name, _function(result, arguments, known)) for result, name, arguments in found]


def _without_comments(text: str) -> str:
    return re.sub(r"//.*", "", text)


def _fields(declaration: str, known: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if function := FUNCTION.fullmatch(declaration):
        result, name, arguments = function.groups()
        return [(name, _function(result, arguments, known))]
    kind, rest = _parts(VALUE, declaration)
    found = []
    for part in rest.split(","):
        pointer, name, length = _parts(FIELD, part.strip())
        of = _type(kind, bool(pointer), known)
        found.append((name, of * int(length) if length else of))
    return found


def _function(result: str, arguments: str, known: Mapping[str, Any]) -> Any:
    kinds = [_parts(VALUE, " ".join(part.split())) for part in arguments.split(",") if part.strip()]
    returned = _type(result.rstrip("*"), result.endswith("*"), known)
    return ctypes.CFUNCTYPE(returned, *(_type(kind, "*" in rest, known) for kind, rest in kinds))


def _type(kind: str, pointer: bool, known: Mapping[str, Any]) -> Any:
    if pointer:
        if kind == "char":
            return c_char_p
        return POINTER(known[kind]) if kind in known else c_void_p
    return known[kind] if kind in known else NUMBERS[kind]


def _parts(pattern: re.Pattern, declaration: str) -> tuple[Any, ...]:
    found = pattern.fullmatch(declaration)
    if not found:
        raise ValueError(f"{declaration!r} cannot be read: write it as the declarations of src/abi.h are written")
    return found.groups()
