"""The Triton kernels for CUDA tensors, and the operations in plain torch, as a backend (kernels/backends.py)."""

import torch
from torch import Tensor

from .. import max_rate_pool, recurrent, rounding, unfused, unfused_backward
from ..cpu.fallback import Fallback
from ..recording import Choice, note
from . import counters, packing, words
from .convolutions import convolutions, noting
from .if_scan import if_scan
from .recurrent_scan import MOST_NEURONS, recurrent_scan
from .scan_backward import scan_backward
from .sigma_delta_launches import pooled_sigma_delta, running_maximum, sigma_delta, sums_so_far

RECURRENT = Choice("Triton recurrent scan", "adds a row of weights for each spike that comes back")


class GpuKernels:
    """Spikes are packed over time (words.py)."""

    pack, unpack = staticmethod(packing.pack), staticmethod(packing.unpack)
    pack_binary, pack_and_look = staticmethod(packing.pack_binary), staticmethod(packing.pack_and_look)
    count, total = staticmethod(counters.count), staticmethod(counters.total)
    total_of_pixels = staticmethod(counters.total_of_pixels)
    cut, cat = staticmethod(words.cut), staticmethod(words.cat)
    add_counts = staticmethod(counters.add_counts)
    flatten, max_pool2d = staticmethod(words.flatten), staticmethod(words.max_pool2d)
    round_weights = staticmethod(rounding.round_weights)
    if_scan = noting(if_scan, "Triton scan")
    scan_backward = staticmethod(scan_backward)
    recurrent_scan_backward = staticmethod(recurrent.recurrent_scan_backward)

    sigma_delta = noting(sigma_delta, "Triton scan")
    pooled_sigma_delta = staticmethod(pooled_sigma_delta)
    running_maximum = staticmethod(running_maximum)
    sums_so_far = staticmethod(sums_so_far)

    def recurrent_scan(self, current: Tensor, *neurons) -> tuple[Tensor, Tensor]:
        """Recurrent neurons on currents [T, N, 1, C]; of more than a program holds a step loop."""
        if current.shape[-1] > MOST_NEURONS:
            return recurrent.recurrent_scan(self.pack, current, *neurons)
        note(RECURRENT)
        return recurrent_scan(current, *neurons)

    def if_conv2d(self, words, *layer, **options) -> tuple[Tensor, Tensor]:
        """Convolution of packed spikes, then IF."""
        return convolutions(words.device).if_conv2d(words, *layer, **options)

    def if_conv2d_pooled(self, words, *layer) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        return convolutions(words.device).if_conv2d_pooled(words, *layer)

    def conv2d_current_sums(self, words, *layer) -> Tensor:
        """Sums of the currents of if_conv2d in each channel, and of their squares."""
        return convolutions(words.device).conv2d_current_sums(words, *layer)

    def max_rate_pool2d(self, *operands) -> tuple[Tensor, Tensor]:
        """Max pooling of spike counts."""
        return max_rate_pool.max_rate_pool2d(self, *operands)

    def if_conv2d_real(self, *layer) -> tuple[Tensor, Tensor]:
        """Convolution of real values, then IF."""
        return unfused.if_conv2d_real(self, *layer)

    def conv2d_currents(self, words, *layer) -> Tensor:
        """The currents of if_conv2d."""
        return convolutions(words.device).conv2d_currents(words, *layer)

    def conv2d_weight_gradient(self, words, size, grad_current, weight_shape, *window) -> Tensor:
        """The gradient of the weights of if_conv2d."""
        T, C = grad_current.shape[0], weight_shape[1] * window[-1]
        x = self.unpack(words, T, C, grad_current.dtype).unflatten(3, tuple(size))
        return unfused_backward.conv2d_weight_gradient(x, grad_current, weight_shape, *window)

    def max_pool2d_backward(self, words, grad, size, *windows) -> Tensor:
        """The gradient of max pooling's input."""
        x = self.unpack(words, grad.shape[0], grad.shape[3], torch.float32).unflatten(3, tuple(size))
        return unfused_backward.max_pool2d_backward(x, grad.float(), *windows)

    def fingerprint(self, values: Tensor) -> int:
        """A hash of the bytes of a contiguous tensor."""
        return Fallback().fingerprint(values)


KERNELS = GpuKernels()
