"""Weights, biases and neurons in the order and to the lengths that the C++ kernels read."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, UntypedStorage

from .. import heap
from ..neuron_models import Neuron
from ..table import COUNTING_MODELS, MODELS
from ..weight_cache import CONSTANTS
from . import abi

BLOCK = 32  # channels that the kernels handle at a time: src/simd.h


def padded_rows(weight: Tensor) -> Tensor:
    """A matrix [C, C] with rows filled up to whole blocks of channels."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK)).contiguous()


def padded(values: Tensor, fill: float) -> Tensor:
    """Per-channel values [C], filled up to whole blocks of channels."""
    missing = -values.shape[0] % BLOCK
    return (torch.constant_pad_nd(values, (0, missing), fill) if missing else values).contiguous()


def start_for_library(T: int, v: Tensor, neuron: Neuron) -> tuple[abi.Neurons, Tensor, Tensor, tuple[Tensor, ...]]:
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
    parameters, channels = for_library(neuron)
    strides = start.stride(0), start.stride(1) if v.ndim == 4 else 0, start.stride(-2)
    pointers = start.data_ptr(), last.data_ptr(), spikes.data_ptr()
    return abi.Neurons(parameters, *pointers, *strides, T, N, P, C), spikes, last, (start, channels)


def for_library(neuron: Neuron) -> tuple[abi.Neuron, Tensor]:
    """Neurons as the library takes them, and the tensor that must outlive the call. The padding never fires."""
    storage = neuron.channels.untyped_storage()
    kept = _kept.get(storage)
    if kept is None:
        if storage not in CONSTANTS:
            return _for_library(neuron)
        kept = _kept.setdefault(storage, {})
    key = neuron.model, tuple(neuron.scalars), neuron.channels.storage_offset(), neuron.channels.shape
    if key not in kept:
        kept[key] = _for_library(neuron)
    return kept[key]


_NUMBERS = {name: number for number, name in enumerate([*MODELS, *COUNTING_MODELS, "CurrentSums"])}  # as C++ has them
_kept: WeakKeyDictionary[UntypedStorage, dict] = WeakKeyDictionary()  # of constants


def _for_library(neuron: Neuron) -> tuple[abi.Neuron, Tensor]:
    channels = torch.constant_pad_nd(neuron.channels, (0, -neuron.channels.shape[1] % BLOCK)).contiguous()
    channels[0, neuron.channels.shape[1] :] = torch.inf
    model = _NUMBERS.get(neuron.model)
    if model is None:
        raise ValueError(f"the C++ kernels do not know the neuron model {neuron.model!r}: the reference code runs it")
    return abi.Neuron(channels.data_ptr(), channels.shape[1], model, tuple(neuron.scalars)), channels
