"""The C interface of the CPU kernels, as ctypes sees it: the structs and functions of declared.py.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

from pathlib import Path

import torch  # noqa: F401  its OpenMP runtime comes first

from . import compiled
from .declared import *  # noqa: F403  abi.Conv2d and all others; a function that an instruction set lacks is false
from .declared import Kernels

LIBRARY = Path(__file__).parent / "_kernels.so"  # the same name for every Python: nothing of Python is in it


def load(target: str | None) -> Kernels | None:
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
    _, kernels = compiled.table(compiled.opened(LIBRARY).proxykernels_cpu, Kernels, target)
    return kernels
