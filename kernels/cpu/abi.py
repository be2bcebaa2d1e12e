"""The C interface of the CPU kernels, as ctypes sees it; src/abi.h has the structs, src/kernels.h the functions.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  its OpenMP runtime comes first

from . import compiled, headers, sources

LIBRARY = Path(__file__).parent / "_kernels.so"  # the same name for every Python: nothing of Python is in it


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


def load(target: str | None) -> Any | None:
    """The functions compiled for an instruction set, or for the fastest one that this machine runs (None).

    None if the library was not built, or if this machine cannot run the target.

    Raises:
        RuntimeError, ValueError: as :func:`compiled.opened` and :func:`compiled.table`.
    """
    if not LIBRARY.exists():
        names = "_kernels.*", "_cpu.*", "_engine.*"  # the last two until 0.2.0, in 0.1.0 a folder higher
        older = [file for folder in LIBRARY.parents[:2] for name in names for file in folder.glob(name)]
        if older:
            raise RuntimeError(compiled.refusal(older[0], "it was built by an older version"))
        return None
    _, kernels = compiled.table(compiled.opened(LIBRARY).proxykernels_cpu, STRUCTS["Kernels"], target)
    return kernels
