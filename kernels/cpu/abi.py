"""The C interface of the library, as ctypes sees it: the structs and functions of declared.py, and neurons as it takes
them.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # its OpenMP runtime comes first
from torch import Tensor

from .. import heap, neuron_models
from ..table import COUNTING_MODELS, MODELS, SURROGATES
from . import compiled
from .declared import *  # noqa: F403  abi.Conv2d and all others; a function that an instruction set lacks is false
from .declared import Functions, Handed, Kernels, Neuron, Neurons, Surrogate

LIBRARY = Path(__file__).parent / "_kernels.so"  # the same name for every Python: nothing of Python is in it
BLOCK = 32  # channels that the kernels handle at a time: src/simd.h
C_NO_MEMORY = 4  # PK_NO_MEMORY, a pk_status
TYPES = torch.float32, torch.int64  # of a plan's tensors, in the order of Type in c/tensors.h
_NUMBERS = {name: number for number, name in enumerate([*MODELS, *COUNTING_MODELS, "CurrentSums"])}  # as C++ has them


class Error(ctypes.Structure):
    """pk_error of c/include/proxykernels.h."""

    _fields_ = [("status", ctypes.c_int32), ("sentence", ctypes.c_char * 512)]


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


def load_engine(target: str | None = None) -> tuple[str, Any]:
    """The engine's functions for an instruction set, or for the fastest one of this machine, and its name.

    Raises:
        RuntimeError: the library is not built, is damaged, or was built from other sources, or the machine cannot run
            the target. ValueError: PROXYKERNELS_CPU names no instruction set.
    """
    if not LIBRARY.exists():
        raise RuntimeError(
            "the compiled library is not built here: install a C++ compiler (for example `apt-get install g++`), then "
            f"build it with `{compiled.install_command()}`"
        )
    find = compiled.opened(LIBRARY).proxykernels_engine
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
    make, made, error = compiled.opened(LIBRARY).proxykernels_make_plan, ctypes.c_void_p(), Error()
    count = ctypes.c_int64(len(handed))
    status = make(text.encode(), handed, count, target.encode(), ctypes.byref(made), ctypes.byref(error))
    if status == C_NO_MEMORY:
        return None
    if status:  # what made the description is wrong, and no caller
        raise RuntimeError(error.sentence.decode())
    return made


def padded_rows(weight: Tensor) -> Tensor:
    """A matrix [C, C] with rows filled up to whole blocks of channels."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK)).contiguous()


def padded(values: Tensor, fill: float) -> Tensor:
    """Per-channel values [C], filled up to whole blocks of channels."""
    missing = -values.shape[0] % BLOCK
    return (torch.constant_pad_nd(values, (0, missing), fill) if missing else values).contiguous()


def start_for_library(
    T: int, v: Tensor, neuron: neuron_models.Neuron
) -> tuple[Neurons, Tensor, Tensor, tuple[Tensor, ...]]:
    """Neurons that start from the states v, [N, P, C] or [N, states, P, C], for T steps, as the library takes them.

    Also their packed spikes and their states after the last step, both yet to be written, and what must outlive the
    call. What is expanded over images and pixels is read so, without a copy.
    """
    N, P, C = v.shape[0], v.shape[-2], v.shape[-1]
    start = v.float()
    if start.stride(-1) != 1:
        same = start.stride(0) == start.stride(-2) == 0  # in all images and pixels
        start = (start[:1, ..., :1, :] if same else start).contiguous().expand(v.shape)
    last, spikes = heap.empty(*v.shape), heap.empty(N, T, P, (C + 7) // 8, dtype=torch.uint8)
    if T == 0:  # no kernel comes to a last step
        last.copy_(v)
    parameters, channels = getattr(neuron, "in_library", None) or for_library(neuron)
    strides = start.stride(0), start.stride(1) if v.ndim == 4 else 0, start.stride(-2)
    pointers = start.data_ptr(), last.data_ptr(), spikes.data_ptr()
    return Neurons(parameters, *pointers, *strides, T, N, P, C), spikes, last, (start, channels)


def for_library(neuron: neuron_models.Neuron) -> tuple[Neuron, Tensor]:
    """Neurons as the library takes them, and the tensor that must outlive the call. The padding never fires."""
    if isinstance(neuron, neuron_models.Constant) and neuron.in_library:
        return neuron.in_library
    channels = torch.constant_pad_nd(neuron.channels, (0, -neuron.channels.shape[1] % BLOCK)).contiguous()
    channels[0, neuron.channels.shape[1] :] = torch.inf
    model = _NUMBERS.get(neuron.model)
    if model is None:
        raise ValueError(f"the C++ kernels do not know the neuron model {neuron.model!r}: the reference code runs it")
    made = Neuron(channels.data_ptr(), channels.shape[1], model, tuple(neuron.scalars)), channels
    if isinstance(neuron, neuron_models.Constant):
        neuron.in_library = made
    return made


def surrogate_for_library(surrogate: neuron_models.Surrogate) -> Surrogate:
    """A surrogate derivative as the library takes it."""
    return Surrogate(SURROGATES.index(surrogate.shape), tuple(surrogate.numbers), surrogate.detach_reset)
