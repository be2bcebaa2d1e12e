"""The reference code on the words of a GPU, which Triton packs."""

from torch import Tensor

from .. import unfused
from ..by_reference import ByReference
from .backend import GpuKernels


class GpuReference(ByReference, GpuKernels):  # type: ignore[misc]  # one counts in integers, the other in tensors
    """A backend (kernels/backends.py); spikes are packed, counted and pooled as by GpuKernels."""

    def if_conv2d_pooled(self, words, T, size, weight, bias, v, neuron, *window) -> tuple[Tensor, Tensor, Tensor]:
        """if_conv2d, and the OR over windows of 2 x 2."""
        fired, after = self.if_conv2d(words, T, size, weight, bias, v, neuron, *window)
        size_out = unfused.output_size(size, weight.shape[2:], *window[:3])
        return fired, self.max_pool2d(fired, len(weight), size_out, (2, 2), (2, 2), (0, 0)), after


REFERENCE = GpuReference()
