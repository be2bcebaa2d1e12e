"""The Triton kernels for CUDA tensors, and the operations in plain torch, as a backend (kernels/backends.py).

:class:`GpuReference` runs the reference code on words that Triton packs.
"""

from torch import Tensor

from .. import by_reference, unfused
from ..by_reference import ByReference, InTorch
from ..recording import Choice, note
from . import counters, packing, words
from .conv2d_choice import convolutions, noting
from .if_scan import if_scan
from .recurrent_backward import recurrent_scan_backward
from .recurrent_scan import MOST_NEURONS, recurrent_scan
from .scan_backward import scan_backward
from .sigma_delta import pooled_sigma_delta, running_maximum, sigma_delta, sums_so_far

RECURRENT = Choice("Triton recurrent scan", "adds a row of weights for each spike that comes back")


class GpuKernels(InTorch):
    """Spikes are packed over time (words.py)."""

    pack, unpack = staticmethod(packing.pack), staticmethod(packing.unpack)
    pack_binary, pack_and_look = staticmethod(packing.pack_binary), staticmethod(packing.pack_and_look)
    count, total = staticmethod(counters.count), staticmethod(counters.total)
    total_of_pixels = staticmethod(counters.total_of_pixels)
    cut, cat = staticmethod(words.cut), staticmethod(words.cat)
    add_counts = staticmethod(counters.add_counts)
    flatten, max_pool2d = staticmethod(words.flatten), staticmethod(words.max_pool2d)
    if_scan = noting(if_scan, "Triton scan")
    scan_backward = staticmethod(scan_backward)

    sigma_delta = noting(sigma_delta, "Triton scan")
    pooled_sigma_delta = staticmethod(pooled_sigma_delta)
    running_maximum = staticmethod(running_maximum)
    sums_so_far = staticmethod(sums_so_far)

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


class GpuReference(ByReference, GpuKernels):  # type: ignore[misc]  # one counts in integers, the other in tensors
    """A backend (kernels/backends.py); spikes are packed, counted and pooled as by GpuKernels."""

    def if_conv2d_pooled(self, words, T, size, weight, bias, v, neuron, *window) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        fired, after = self.if_conv2d(words, T, size, weight, bias, v, neuron, *window)
        size_out = unfused.output_size(size, weight.shape[2:], *window[:3])
        return fired, self.max_pool2d(fired, len(weight), size_out, (2, 2), (2, 2), (0, 0)), after


REFERENCE = GpuReference()
