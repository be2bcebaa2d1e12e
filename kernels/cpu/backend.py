"""The C++ kernels for CPU tensors: tensors in, tensors out.

Spikes are packed over channels: uint8 ``[N, T, P, ceil(C / 8)]`` for N images, T steps, P pixels and C channels; bit
``c % 8`` of byte ``c // 8`` is channel ``c``. Potentials are float32 ``[N, P, C]``, currents float32 ``[T, N, P, C]``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import Neuron
from ..recording import SCAN, note
from . import abi, words
from .abi import start_for_library
from .conv2d import Convolutions
from .gradients import Gradients, Recurrences
from .layer_plans import LayerPlans
from .sigma_delta import SigmaDeltas
from .words import PACKABLE, pixel_bytes

# The size of a value in bytes, whether it is floating point, and the bits of 1.
_TYPES = {dtype: (dtype.itemsize, dtype.is_floating_point, one) for dtype, one in PACKABLE.items()}


def load(target: str | None = None, kernel: str | None = None) -> "CpuKernels | None":
    """The kernels compiled for ``target`` ("amx", "avx512", "avx2", "portable"; None: the fastest of this machine).

    ``kernel`` takes every convolution that it can take ("dense", "im2col" or "plan", conv2d.py; None: whichever is
    fastest). None if the library was not built, or if this machine cannot run the target.
    """
    table = abi.load(target)
    return CpuKernels(table, LayerPlans(target), kernel) if table else None


class CpuKernels(Convolutions, Gradients, Recurrences, SigmaDeltas):
    """A backend (kernels/backends.py): the functions of one instruction set."""

    runs_plans = False
    cut, cat = staticmethod(words.cut), staticmethod(words.cat)

    def pack(self, dense: Tensor) -> Tensor:
        """Spikes [T, N, C, P], of any type that :meth:`pack_binary` takes, to packed spikes."""
        return self.pack_binary(dense.unsqueeze(-1))[0]

    def pack_binary(self, dense: Tensor) -> tuple[Tensor, bool]:
        """Values [T, N, C, H, W] of any strides to packed spikes, and whether they are all 0 and 1, in one pass."""
        T, N, C, H, W = dense.shape
        words = heap.empty(N, T, H * W, (C + 7) // 8, dtype=torch.uint8)
        pointers, sizes = (dense.data_ptr(), words.data_ptr()), (*dense.shape, *dense.stride())
        return words, bool(self._table.pack(abi.DenseSpikes(*pointers, *_TYPES[dense.dtype], *sizes)))

    def unpack(self, words: Tensor, T: int, C: int, dtype: torch.dtype = torch.bool) -> Tensor:
        """Packed spikes to 0 and 1 [T, N, C, P]."""
        if dtype not in PACKABLE:
            return self.unpack(words, T, C).to(dtype)
        N, _, P, _ = words.shape
        words, dense = words.contiguous(), heap.empty(T, N, C, P, dtype=dtype)
        sizes = T, N, C, P, 1, *5 * (0,)
        self._table.unpack(abi.DenseSpikes(dense.data_ptr(), words.data_ptr(), *_TYPES[dtype], *sizes))
        return dense

    def count(self, words: Tensor, C: int, until: int) -> Tensor:
        """Spikes of each neuron before step ``until``: int32 [N, C, P]."""
        N, T, P, _ = words.shape
        words = words.contiguous()
        counts = heap.zeros(N, C, P, dtype=torch.int32)
        self._table.count(words.data_ptr(), counts.data_ptr(), T, until, N, C, P)
        return counts

    def first_and_last(self, values: np.ndarray) -> tuple[int, int]:
        """The least and the largest of integers of up to 64 bits, of any stride."""
        found = np.empty(2, dtype=np.int64)
        self._table.first_and_last(_column(values), len(values), found.ctypes.data)
        return int(found[0]), int(found[1])

    def pack_events(
        self, fields: Sequence[np.ndarray], first: int, share: tuple[int, int], T: int, size: tuple[int, int]
    ) -> Tensor | None:
        """Events of a camera (src/abi.h) as uint8 [1, T, P, 1]; None: one lies outside.

        ``fields``: t, x, y and p, integers of up to 64 bits, of any stride. ``share``: numerator and denominator; of a
        numerator of 0 all are of step 0, whatever t is.
        """
        words = heap.empty(1, T, size[0] * size[1], 1, dtype=torch.uint8)
        columns = map(_column, fields)
        given = abi.Events(*columns, len(fields[0]), first, *share, T, *size, words.data_ptr())
        return words if self._table.pack_events(given) else None

    def total_of_pixels(self, words: Tensor) -> Tensor:
        """Spikes of each pixel, of all samples, steps and channels: int64 [P]."""
        N, T, P, width = words.shape
        words, totals = words.contiguous(), heap.empty(P, dtype=torch.int64)
        self._table.total(words.data_ptr(), totals.data_ptr(), N * T, P, width)
        return totals

    def flatten(self, words: Tensor, C: int) -> Tensor:
        """[N, T, P, ceil(C / 8)] to [N, T, 1, ceil(C * P / 8)]; feature c * P + p, the order of torch's flatten."""
        N, T, P, _ = words.shape
        words = words.contiguous()
        flat = heap.zeros(N, T, 1, pixel_bytes(C * P), dtype=torch.uint8)
        self._table.flatten(words.data_ptr(), flat.data_ptr(), N * T, C, P)
        return flat

    def max_pool2d(self, words: Tensor, C: int, size, kernel_size, stride, padding) -> Tensor:
        """The OR over each window of images of ``size`` (H, W)."""
        N, T, _, width = words.shape
        words = words.contiguous()
        out = unfused.output_size(size, kernel_size, stride, padding, (1, 1))
        pooled = heap.empty(N, T, out[0] * out[1], width, dtype=torch.uint8)
        windows = *kernel_size, *stride, *padding
        pool = abi.Pool2d(words.data_ptr(), pooled.data_ptr(), N * T, *size, width, *out, *windows)
        self._table.max_pool2d(pool)
        return pooled

    def max_rate_pool2d(
        self, words: Tensor, T: int, counts: Tensor, size, kernel_size, stride, padding
    ) -> tuple[Tensor, Tensor]:
        """Max pooling of spike counts, float [N, P, C] so far: the output's spikes, and the counts after all steps."""
        N, _, _, width = words.shape
        words, counts = words.contiguous(), counts.clone(memory_format=torch.contiguous_format)
        out = unfused.output_size(size, kernel_size, stride, padding, (1, 1))
        pooled = heap.empty(N, T, out[0] * out[1], width, dtype=torch.uint8)
        windows = *kernel_size, *stride, *padding
        pool = abi.Pool2d(words.data_ptr(), pooled.data_ptr(), N, *size, width, *out, *windows)
        self._table.max_rate_pool2d(abi.MaxRatePool(pool, counts.data_ptr(), T, counts.shape[2]))
        return pooled, counts

    def if_scan(self, current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None) -> tuple[Tensor, Tensor]:
        """See backends.Backend."""
        note(SCAN)
        current = current.float().contiguous()
        steps, time_stride = (current.shape[0], current.stride(0)) if T is None else (T, 0)
        neurons, words, v, held = start_for_library(steps, v, neuron)
        counts = heap.empty(steps, *v.shape) if neuron.counts else None
        written = None if counts is None else counts.data_ptr()
        self._table.if_scan(abi.Scan(neurons, current.data_ptr(), time_stride, written))
        del held
        return words if counts is None else counts, v


def _column(values: np.ndarray) -> Any:
    return abi.Column(values.ctypes.data, values.strides[0], values.itemsize, values.dtype.kind == "i")
