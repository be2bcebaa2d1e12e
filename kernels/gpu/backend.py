"""The Triton kernels for CUDA tensors, and the operations in plain torch, as a backend (kernels/backends.py).

:func:`convolutions` chooses how a device convolves spikes: by the fused Triton kernel, or by torch's convolution and a
Triton scan. :class:`GpuReference` runs the reference code on words that Triton packs.
"""

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from .. import by_reference, unfused
from ..by_reference import ByReference, InTorch
from ..launches import noting_steps
from ..neuron_models import Neuron
from ..recording import Choice, note, unrecorded, warn_of_dense_frames
from ..weight_cache import are_looked_at
from . import compile_progress, counters, packing, pools, scans, scans_backward, weight_parts, words
from . import conv2d_launch as fused
from . import sigma_delta as sigma_deltas
from .block_sizes import architecture
from .counters import count
from .scans import MOST_NEURONS, if_scan, recurrent_scan
from .scans_backward import recurrent_scan_backward, scan_backward
from .sigma_delta import pooled_sigma_delta, running_maximum, sigma_delta, sums_so_far


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

    def if_conv2d(self, spikes, T, size, weight, bias, v, neuron, *window, counts_only=False) -> tuple[Tensor, Tensor]:
        """Convolution of packed spikes, then IF."""
        note(self._choice)
        with unrecorded():
            fired, v = unfused.if_conv2d(self, spikes, T, size, weight, bias, v, neuron, *window)
        return (count(fired, v.shape[-1], T).transpose(1, 2).contiguous() if counts_only else fired), v

    def if_conv2d_pooled(self, spikes, T, size, weight, bias, v, neuron, *window) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        fired, v = self.if_conv2d(spikes, T, size, weight, bias, v, neuron, *window)
        size_out = unfused.output_size(size, weight.shape[2:], *window[:3])
        return fired, pools.max_pool2d(fired, len(weight), size_out, (2, 2), (2, 2), (0, 0)), v

    def conv2d_currents(self, spikes, T, size, weight, bias, v, neuron, *window) -> Tensor:
        """The currents of if_conv2d."""
        note(self._choice)
        with unrecorded():
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


RECURRENT = Choice("Triton recurrent scan", "adds a row of weights for each spike that comes back")


class GpuKernels(InTorch):
    """Spikes are packed over time (words.py)."""

    pack, unpack = staticmethod(packing.pack), staticmethod(packing.unpack)
    pack_binary, pack_and_look = staticmethod(packing.pack_binary), staticmethod(packing.pack_and_look)
    count, total = staticmethod(counters.count), staticmethod(counters.total)
    total_of_pixels = staticmethod(counters.total_of_pixels)
    cut, cat = staticmethod(words.cut), staticmethod(words.cat)
    add_counts = staticmethod(counters.add_counts)
    flatten, max_pool2d = staticmethod(words.flatten), staticmethod(pools.max_pool2d)
    if_scan, potentials = noting(if_scan, "Triton scan"), noting(scans.potentials, "Triton scan")
    scan_backward = staticmethod(scan_backward)

    sigma_delta = staticmethod(sigma_delta)
    pooled_sigma_delta = staticmethod(pooled_sigma_delta)
    running_maximum = staticmethod(running_maximum)
    sums_so_far = staticmethod(sums_so_far)

    def max_rate_pool2d(self, words, T, counts, size, kernel_size, *window) -> tuple[Tensor, Tensor]:
        """Max pooling of spike counts; by a step loop if a program cannot hold a side of a window."""
        pool = pools.max_rate_pool2d if pools.fits(kernel_size) else super().max_rate_pool2d
        return pool(words, T, counts, size, kernel_size, *window)

    def recurrent_scan(self, current: Tensor, *neurons) -> tuple[Tensor, Tensor]:
        """Recurrent neurons on currents [T, N, 1, C]; by a step loop if a program cannot hold all neurons."""
        if current.shape[-1] > MOST_NEURONS:
            return by_reference.recurrent_scan(self.pack, current, *neurons)
        note(RECURRENT)
        return recurrent_scan(current, *neurons)

    def recurrent_scan_backward(self, grad_spikes: Tensor, *neurons) -> tuple[Tensor, Tensor, Tensor]:
        """Back through the steps of recurrent_scan."""
        if grad_spikes.shape[-1] > MOST_NEURONS:
            return by_reference.recurrent_scan_backward(self.scan_backward, grad_spikes, *neurons)
        return recurrent_scan_backward(grad_spikes, *neurons)

    def if_conv2d_real(self, x, *layer) -> tuple[Tensor, Tensor]:
        """A convolution of real values, then IF."""
        if (
            x.device.type != "cpu" and torch.cuda.is_current_stream_capturing() and not are_looked_at()
        ):  # a simulation has looked at its input
            warn_of_dense_frames()
        return super().if_conv2d_real(x, *layer)

    def if_conv2d(self, words, *layer, **options) -> tuple[Tensor, Tensor]:
        """Convolution of packed spikes, then IF."""
        return convolutions(words.device).if_conv2d(words, *layer, **options)

    def if_conv2d_pooled(self, words, *layer) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        return convolutions(words.device).if_conv2d_pooled(words, *layer)

    def conv2d_current_sums(self, words, *layer) -> Tensor:
        """Sums of the currents of if_conv2d in each channel, and of their squares."""
        return convolutions(words.device).conv2d_current_sums(words, *layer)

    def conv2d_currents(self, words, *layer) -> Tensor:
        """The currents of if_conv2d."""
        return convolutions(words.device).conv2d_currents(words, *layer)


KERNELS = GpuKernels()
COMPILED = compile_progress.kernels_of(
    fused, counters, packing, pools, scans, scans_backward, sigma_deltas, weight_parts
)
compile_progress.Progress().follow(COMPILED)


class GpuReference(ByReference, GpuKernels):  # type: ignore[misc]  # one counts in integers, the other in tensors
    """A backend (kernels/backends.py); spikes are packed, counted and pooled as by GpuKernels."""

    def if_scan(self, current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None) -> tuple[Tensor, Tensor]:
        """Step by step; see backends.Backend."""
        with noting_steps(current.device, len(current) if T is None else T):
            return super().if_scan(current, v, neuron, T)

    def if_conv2d_pooled(self, words, T, size, weight, bias, v, neuron, *window) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        fired, after = self.if_conv2d(words, T, size, weight, bias, v, neuron, *window)
        size_out = unfused.output_size(size, weight.shape[2:], *window[:3])
        return fired, self.max_pool2d(fired, len(weight), size_out, (2, 2), (2, 2), (0, 0)), after


REFERENCE = GpuReference()
