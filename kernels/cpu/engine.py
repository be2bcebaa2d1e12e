"""The engine of the compiled library, as ctypes sees it; src/engine/engine.h has its functions."""

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import abi, compiled
from .declared import Functions, Handed

C_NO_MEMORY = 4  # PK_NO_MEMORY, a pk_status
TYPES = torch.float32, torch.int64  # of a plan's tensors, in the order of Type in c/tensors.h


class Error(ctypes.Structure):
    """pk_error of c/include/proxykernels.h."""

    _fields_ = [("status", ctypes.c_int32), ("sentence", ctypes.c_char * 512)]


def load(target: str | None = None) -> tuple[str, Any]:
    """The functions for an instruction set, or for the fastest one of this machine, and its name.

    Raises:
        RuntimeError: the library is not built, is damaged, or was built from other sources, or the machine cannot run
            the target. ValueError: PROXYKERNELS_CPU names no instruction set.
    """
    if not abi.LIBRARY.exists():
        raise RuntimeError(
            "the compiled library is not built here: install a C++ compiler (for example `apt-get install g++`), then "
            f"build it with `{compiled.install_command()}`"
        )
    find = compiled.opened(abi.LIBRARY).proxykernels_engine
    name, functions = compiled.table(find, Functions, target)
    if functions is None:
        raise RuntimeError(
            f"the engine cannot run {name} here: this machine lacks it, or {compiled.MOST} or the build leave it out"
        )
    return name, functions


def made_plan(text: str, tensors: Mapping[str, Tensor], target: str) -> ctypes.c_void_p | None:
    """A plan of the library; None: there is no memory to pack its weights.

    Args:
        text: the description that a file has. tensors: those that it names, contiguous; the library copies them.
        target: an instruction set.
    """
    handed = (Handed * len(tensors))()
    for to, (name, tensor) in zip(handed, tensors.items(), strict=True):
        to.name, to.data = name.encode(), tensor.data_ptr()
        to.type, to.dims = TYPES.index(tensor.dtype), tensor.ndim
        to.shape[: tensor.ndim] = tensor.shape
    make, made, error = compiled.opened(abi.LIBRARY).proxykernels_make_plan, ctypes.c_void_p(), Error()
    count = ctypes.c_int64(len(handed))
    status = make(text.encode(), handed, count, target.encode(), ctypes.byref(made), ctypes.byref(error))
    if status == C_NO_MEMORY:
        return None
    if status:  # what made the description is wrong, and no caller
        raise RuntimeError(error.sentence.decode())
    return made
