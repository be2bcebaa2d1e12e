"""Chooses how a device convolves spikes: by the fused Triton kernel, or by torch's convolution and a Triton scan."""

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from .. import unfused
from ..recording import Choice, note, recording
from . import conv2d_launch as fused
from . import packing, words
from .block_sizes import architecture
from .counters import count
from .if_scan import if_scan


def noting(function: Callable, kernel: str) -> Any:
    """The function as a static method that records which kernel ran."""
    choice = Choice(kernel, "the only one on a GPU")

    @wraps(function)
    def noted(*operands, **options):
        note(choice)
        return function(*operands, **options)

    return staticmethod(noted)


class Fused:
    """Convolution and neurons in one launch; conv2d_launch.py documents arguments and results."""

    if_conv2d = noting(fused.if_conv2d, "Triton convolution")
    if_conv2d_pooled = noting(fused.if_conv2d_pooled, "pooled Triton convolution")
    conv2d_currents = noting(fused.conv2d_currents, "Triton convolution")
    conv2d_current_sums = staticmethod(fused.conv2d_current_sums)


class Unfused:
    """torch's convolution, some steps at a time, and a Triton scan of its currents. Arguments and results as in
    Fused."""

    unpack, cut, cat = staticmethod(packing.unpack), staticmethod(words.cut), staticmethod(words.cat)
    if_scan = staticmethod(if_scan)

    def __init__(self, reason: str):
        self._choice = Choice("dense", reason)

    def if_conv2d(
        self, spikes, T, size, weight, bias, v, neuron, stride, padding, dilation, groups, *, counts_only=False
    ) -> tuple[Tensor, Tensor]:
        """Convolution of packed spikes, then IF."""
        note(self._choice)
        window = stride, padding, dilation, groups
        with recording():
            fired, v = unfused.if_conv2d(self, spikes, T, size, weight, bias, v, neuron, *window)
        return (count(fired, v.shape[-1], T).transpose(1, 2).contiguous() if counts_only else fired), v

    def if_conv2d_pooled(self, spikes, T, size, weight, bias, v, neuron, *window) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        fired, v = self.if_conv2d(spikes, T, size, weight, bias, v, neuron, *window)
        size_out = unfused.output_size(size, weight.shape[2:], *window[:3])
        return fired, words.max_pool2d(fired, len(weight), size_out, (2, 2), (2, 2), (0, 0)), v

    def conv2d_currents(self, spikes, T, size, weight, bias, v, neuron, *window) -> Tensor:
        """The currents of if_conv2d."""
        note(self._choice)
        with recording():
            return unfused.conv2d_currents(self, spikes, T, v.shape[0], size, weight, bias, *window)

    def conv2d_current_sums(self, spikes, T, size, weight, bias, *window) -> Tensor:
        """Sums of the currents of each channel, and of their squares."""
        return fused.current_sums_of(self.if_conv2d, spikes, T, size, weight, bias, *window)


@cache
def convolutions(device: torch.device) -> type[Fused] | Unfused:
    """How a device convolves spikes. Warns once if its convolutions are not fused."""
    target = architecture(device)
    if has_tensor_cores(target):
        return Fused
    warnings.warn(
        f"on this GPU ({target}) torch computes the convolutions of spikes, in float32, and a Triton kernel the "
        "neurons: from sm_80 on one kernel does both, on tensor cores, which Triton does not use here",
        RuntimeWarning,
        stacklevel=2,
    )
    return Unfused(f"Triton uses no tensor cores on {target}")


def has_tensor_cores(architecture: str) -> bool:
    """Whether Triton multiplies on tensor cores: on NVIDIA GPUs from sm_80 on. On sm_75 (T4, RTX 20) it multiplies
    number by number, and the fused kernel spills hundreds of registers per thread."""
    return not architecture.startswith(("sm_5", "sm_6", "sm_7"))
