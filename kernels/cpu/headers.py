"""Writes what the C headers declare into a module of ctypes, declared.py, so that each struct is declared in one place.

setup.py runs this file alone, when it builds. Read are declarations as src/abi.h has them: numbers, pointers, arrays of
known length, other structs, and functions; and the tables of functions that lines KERNEL(result, name, arguments) are.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

HEADERS = "abi.h", "cost_model.h", "engine/engine.h"  # in src/, in which structs are known to those after them
FUNCTIONS = {"Kernels": "kernels.h"}  # tables of functions
NUMBERS = {"float": "c_float", "double": "c_double", "int64_t": "c_int64", "uint64_t": "c_uint64", "void": "None"}
STRUCT = re.compile(r"^struct (\w+) \{\n([^#]*?)^\};", re.MULTILINE)
FUNCTION = re.compile(r"(.*?) ?\(\*(\w+)\)\((.*)\)")
VALUE = re.compile(r"(?:const )?(\w+)\b(.*)")
FIELD = re.compile(r"(\*?) ?(\w+)(?:\[(\d+)\])?")
INDENT = " " * 4
KERNEL = re.compile(r"^KERNEL\((\w+), (\w+),?\s*([^)]*)\)", re.MULTILINE)
MADE = '''"""Made by headers.py: change the headers in src/. A build writes this file anew."""

from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_float, c_int64, c_uint64, c_void_p

# fmt: off
'''


def write(folder: Path) -> None:
    """Write declared.py into the folder of this file's package, if it differs from what is there."""
    file, text = folder / "declared.py", declared(folder / "src")
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def declared(folder: Path) -> str:
    """The module's text, of the headers in a folder."""
    known: set[str] = set()
    made = [MADE]
    for header in HEADERS:
        made += _structs((folder / header).read_text(), known)
    for name, header in FUNCTIONS.items():
        found = KERNEL.findall(_without_comments((folder / header).read_text()))
        fields = ((name, _function(result, arguments, known)) for result, name, arguments in found)
        made.append(_class(name, fields))
    return "\n".join(made)


def _structs(text: str, known: set[str]) -> Iterator[str]:
    """The structs of a header, in their order, which become ``known``."""
    for name, body in STRUCT.findall(_without_comments(text)):
        if name in known:
            raise ValueError(f"two structs are called {name}: Python has them in one module")
        declarations = (" ".join(part.split()) for part in body.split(";"))
        fields = (_fields(declaration, known) for declaration in declarations if declaration)
        yield _class(name, chain.from_iterable(fields))
        known.add(name)


def _class(name: str, fields: Iterable[tuple[str, str]]) -> str:
    text = ", ".join(f'("{field}", {kind})' for field, kind in fields)
    lines = textwrap.fill(f"_fields_ = [{text}]", 120, initial_indent=INDENT, subsequent_indent=INDENT + " ")
    return f"class {name}(Structure):\n{lines}\n"


def _without_comments(text: str) -> str:
    return re.sub(r"//.*", "", text)


def _fields(declaration: str, known: set[str]) -> list[tuple[str, str]]:
    if function := FUNCTION.fullmatch(declaration):
        result, name, arguments = function.groups()
        return [(name, _function(result, arguments, known))]
    kind, rest = _parts(VALUE, declaration)
    found = []
    for part in rest.split(","):
        pointer, name, length = _parts(FIELD, part.strip())
        of = _type(kind, bool(pointer), known)
        found.append((name, f"{of} * {length}" if length else of))
    return found


def _function(result: str, arguments: str, known: set[str]) -> str:
    kinds = [_parts(VALUE, " ".join(part.split())) for part in arguments.split(",") if part.strip()]
    returned = _type(result.rstrip("*"), result.endswith("*"), known)
    return f"CFUNCTYPE({', '.join([returned, *(_type(kind, '*' in rest, known) for kind, rest in kinds)])})"


def _type(kind: str, pointer: bool, known: set[str]) -> str:
    if pointer:
        if kind == "char":
            return "c_char_p"
        return f"POINTER({kind})" if kind in known else "c_void_p"
    return kind if kind in known else NUMBERS[kind]


def _parts(pattern: re.Pattern, declaration: str) -> tuple[str, ...]:
    found = pattern.fullmatch(declaration)
    if not found:
        raise ValueError(f"{declaration!r} cannot be read: write it as the declarations of src/abi.h are written")
    return found.groups()
