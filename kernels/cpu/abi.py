"""The C interface of the CPU kernels, as ctypes sees it; src/abi.h has the structs, src/kernels.h the functions.

The library says what sources it was built from; load() compares, and calls nothing of one that differs.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

import ctypes
import json
import os
from contextlib import suppress
from ctypes import POINTER
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  its OpenMP runtime comes first

from . import elf, headers, sources

TARGETS = ("amx", "avx512", "avx2", "portable")  # fastest first, as dispatch.cpp tries them
MOST = "PROXYKERNELS_CPU"  # an environment variable: the fastest of them that may be taken
LIBRARY = Path(__file__).parent / "_cpu.so"  # the same name for every Python: nothing of Python is in it


def _read() -> dict[str, Any]:
    """The structs of src/abi.h by their names, and ``Kernels``, the table of the functions of src/kernels.h."""
    found = headers.structs((sources.FOLDER / "abi.h").read_text())
    fields = headers.table((sources.FOLDER / "kernels.h").read_text(), found)
    return found | {"Kernels": type("Kernels", (ctypes.Structure,), {"_fields_": fields})}


STRUCTS = _read()
globals().update(STRUCTS)  # abi.Conv2d and all others; a function of abi.Kernels that an instruction set lacks is false
if TYPE_CHECKING:  # types are not made by reading a header
    Kernels = Any

    def __getattr__(name: str) -> Any: ...


def load(target: str | None, library: Path | None = None) -> Any | None:
    """The functions compiled for an instruction set, or for the fastest one that this machine runs (None).

    ``library``: the file to load, such as a checked build; None: the one built with this package. None if there is
    no such file, or if this machine cannot run the target. The environment variable PROXYKERNELS_CPU names the fastest
    set that counts as this machine's, as ATEN_CPU_CAPABILITY does for torch.

    Raises:
        RuntimeError: the library was built from other sources than those that stand here, or is cut short.
        ValueError: the environment variable names no instruction set.
    """
    library = library or LIBRARY
    if not library.exists():
        older = [file for folder in LIBRARY.parents[:2] for file in folder.glob("_cpu.*")]  # where 0.1.0 had it, too
        if library == LIBRARY and older:
            raise RuntimeError(_refusal(older[0], "it was built by an older version"))
        return None
    find = _open(library).proxykernels_cpu
    find.restype, find.argtypes = POINTER(STRUCTS["Kernels"]), [ctypes.c_char_p]
    tables = (find(name.encode()) for name in _allowed() if target in (name, None))
    return next((table.contents for table in tables if table), None)


def _allowed() -> tuple[str, ...]:
    """The instruction sets that may be taken, fastest first."""
    most = os.environ.get(MOST) or TARGETS[0]
    if most not in TARGETS:
        raise ValueError(f"the environment variable {MOST} must be one of {', '.join(TARGETS)}, got {most!r}")
    return TARGETS[TARGETS.index(most) :]


@cache
def _open(path: Path) -> ctypes.CDLL:
    """The library, if it was built from the sources that stand here."""
    size, needed = path.stat().st_size, elf.needed_bytes(path)
    if size < needed:
        raise RuntimeError(_refusal(path, f"it is cut short: {size:,} bytes of {needed:,}"))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(_refusal(path, f"the system does not load it: {error}")) from error
    try:
        describe = library.proxykernels_interface
    except AttributeError:
        raise RuntimeError(_refusal(path, "it was built by an older version")) from None
    describe.restype, describe.argtypes = ctypes.c_char_p, []
    if describe().decode().strip() != f"sources: {sources.fingerprint()}":
        raise RuntimeError(_refusal(path, "the C++ sources have changed since it was built"))
    return library


def _refusal(path: Path, reason: str) -> str:
    advice = f"build it again with `{install_command()}`"
    return f"proxykernels' compiled library {path} does not belong to this version ({reason}): {advice}"


def install_command() -> str:
    """The command that builds the library that belongs to these files."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "setup.py").is_file():
        return f"pip install -e {checkout}"
    source = "proxykernels"  # of a package index, unless pip noted another place
    with suppress(metadata.PackageNotFoundError):
        if noted := metadata.distribution(source).read_text("direct_url.json"):
            place = json.loads(noted)
            source = f"{place['vcs_info']['vcs']}+{place['url']}" if "vcs_info" in place else place["url"]
    return f"pip install --force-reinstall --no-cache-dir --no-deps {source}"  # or pip takes the wheel it made before
