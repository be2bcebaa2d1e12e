"""The Triton kernels for CUDA tensors, and the operations in plain torch, as a backend (kernels/backends.py)."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from .. import unfused
from ..cpu.fallback import Fallback
from ..recording import Choice, note
from . import words
from .if_conv2d import if_conv2d, if_conv2d_pooled, if_linear
from .if_scan import if_hold, if_scan
from .if_scan_backward import if_scan_backward


def _noting(function: Callable, kernel: str) -> Any:
    """A function that notes which kernel it is, as a static method."""
    choice = Choice(kernel, "the only one on a GPU")

    @wraps(function)
    def noted(*operands, **options):
        note(choice)
        return function(*operands, **options)

    return staticmethod(noted)


class GpuKernels:
    """Spikes are packed over time (words.py)."""

    pack, unpack = staticmethod(words.pack), staticmethod(words.unpack)
    count, total = staticmethod(words.count), staticmethod(words.total)
    cut, cat = staticmethod(words.cut), staticmethod(words.cat)
    flatten, max_pool2d = staticmethod(words.flatten), staticmethod(words.max_pool2d)
    if_scan, if_hold = _noting(if_scan, "Triton scan"), _noting(if_hold, "Triton scan")
    if_scan_backward = staticmethod(if_scan_backward)
    if_conv2d, if_linear = _noting(if_conv2d, "Triton convolution"), _noting(if_linear, "Triton convolution")
    if_conv2d_pooled = _noting(if_conv2d_pooled, "pooled Triton convolution")

    def if_conv2d_real(self, *layer) -> tuple[Tensor, Tensor]:
        """Convolution of real values, then IF."""
        return unfused.if_conv2d_real(self, *layer)

    def fingerprint(self, values: Tensor) -> int:
        """A hash of the bytes of a contiguous tensor."""
        return Fallback().fingerprint(values)


KERNELS = GpuKernels()
