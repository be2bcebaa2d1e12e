"""The backward passes on a CPU: of the neurons, of a convolution's weights, and of max pooling.

Recurrent neurons are here too, forward and back: kernels/by_reference.py has their arguments.
"""

from collections.abc import Callable
from ctypes import pointer
from functools import partial

import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import Neuron, Surrogate
from ..recording import Choice, note
from ..table import InputKind
from ..weight_cache import PackedWeights
from . import abi
from .abi import for_library, padded, padded_rows, start_for_library, surrogate_for_library
from .layer_plans import MOST_KEPT, LayerPlans

ROW = 16  # output channels of a block: src/gradients.cpp
# Images in which the rows that a block of channels adds are many enough, and whose offsets are 32-bit numbers of bytes.
FEWEST_PIXELS, MOST_PIXELS = 16, 1 << 22
MOST_RATE = 0.4  # spikes an input and step
MOST_SUMS = 5  # of a bias and of four parameters of a channel: src/scan_backward.h


class Gradients:
    """The backward passes of backend.CpuKernels."""

    _table: abi.Kernels
    unpack: Callable[[Tensor, int, int], Tensor]
    total_of_pixels: Callable[[Tensor], Tensor]

    def scan_backward(
        self, grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """See backends.Backend."""
        (T, N, P, C), constant = grad_spikes.shape, current.ndim == 3
        grad_spikes, v = grad_spikes.float().contiguous(), v.float().contiguous()
        current = current.float().contiguous()
        grad_v = None if grad_v is None else grad_v.float().contiguous()
        grad_current, grad_start = torch.empty_like(current), torch.empty_like(v)
        sums = heap.empty(MOST_SUMS, C, dtype=torch.float64)
        its, kept = for_library(neuron)
        self._table.scan_backward(
            abi.ScanBackward(
                its, surrogate_for_library(surrogate), v.data_ptr(), current.data_ptr(), 0 if constant else N * P * C,
                grad_spikes.data_ptr(),
                None if grad_v is None else grad_v.data_ptr(), grad_current.data_ptr(), grad_start.data_ptr(),
                sums.data_ptr(), T, N, P, C,
            )
        )  # fmt: skip
        del kept
        return grad_current, grad_start, sums[: 1 + len(neuron.channels)]

    def conv2d_weight_gradient(
        self, words: Tensor, size, grad_current: Tensor, weight_shape, stride, padding, dilation, groups
    ) -> Tensor:
        """See backends.Backend."""
        (C_out, C_in, *kernel), (T, N, P, _) = weight_shape, grad_current.shape
        words, grad_current = words.contiguous(), grad_current.contiguous()
        if not self._by_events(words, size, weight_shape, stride, groups, grad_current.numel()):
            x = self.unpack(words, T, C_in * groups).unflatten(3, tuple(size))
            window = stride, padding, dilation, groups
            return unfused.conv2d_weight_gradient(x, grad_current, weight_shape, *window)
        sums = heap.empty(-(-C_out // ROW), C_in, kernel[0] * kernel[1], ROW)
        W_out = unfused.output_size(size, kernel, stride, padding, dilation)[1]
        conv = abi.Conv2d(
            abi.Neurons(T=T, N=N, P=P, C=C_out),
            words.data_ptr(), None, None, None, None, 0, ROW, 0, 0, 1, C_in, *size, W_out,
            *kernel, *stride, *padding, *dilation,
        )  # fmt: skip
        self._table.conv2d_weight_gradient(abi.WeightGradient(conv, grad_current.data_ptr(), sums.data_ptr()))
        return sums.permute(0, 3, 1, 2).flatten(0, 1)[:C_out].unflatten(2, kernel).contiguous()

    def _by_events(self, words: Tensor, size, weight_shape, stride, groups: int, gradients: int) -> bool:
        """Whether adding a row for each spike is faster than torch's convolution."""
        pixels = size[0] * size[1]
        if groups > 1 or not gradients or pixels < FEWEST_PIXELS or pixels > MOST_PIXELS:
            return False
        spread = stride[0] * stride[1]  # rows that a spike adds for one that is not zero
        rate = int(self.total_of_pixels(words).sum()) / max(1, 8 * words.numel())
        return rate * spread < MOST_RATE

    def max_pool2d_backward(self, words: Tensor, grad: Tensor, size, kernel_size, stride, padding) -> Tensor:
        """See backends.Backend."""
        T, N, _, C = grad.shape
        words, grad = words.contiguous(), grad.float().contiguous()
        grad_x = heap.empty(T, N, size[0] * size[1], C)
        out = unfused.output_size(size, kernel_size, stride, padding, (1, 1))
        windows = *kernel_size, *stride, *padding
        pool = abi.Pool2d(words.data_ptr(), None, N * T, *size, words.shape[3], *out, *windows)
        self._table.max_pool2d_backward(abi.PoolBackward(pool, grad.data_ptr(), grad_x.data_ptr(), T, N, C))
        return grad_x


RECURRENT = Choice("recurrent", "adds a row of weights for each spike that comes back")


class Recurrences:
    """The recurrent neurons of backend.CpuKernels."""

    _table: abi.Kernels
    _packed: PackedWeights
    _plans: LayerPlans

    def recurrent_scan(self, current: Tensor, v: Tensor, neuron: Neuron, recurrent: Tensor) -> tuple[Tensor, Tensor]:
        """Words, and the states [N, states + 1, 1, C] after the last step."""
        note(RECURRENT)
        current, time_stride = _steps(current)
        neurons, words, last, held = start_for_library(len(current), v, neuron)
        make, key = partial(self._plans.recurrent, neuron), ("plan", neuron.model)
        plan = self._packed.get(key, make, recurrent, name="recurrent_weight", most=MOST_KEPT)
        kind = InputKind.VALUES if time_stride else InputKind.HELD_VALUES
        plan.run(len(current), len(v), x=current.data_ptr(), kind=kind, neurons=pointer(neurons))
        del held  # the memory behind the pointers lived until here
        return words, last

    def recurrent_scan_backward(
        self, grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron,
        surrogate: Surrogate, recurrent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """See backends.Backend."""
        T, N, P, C = grad_spikes.shape
        grad_spikes, v = grad_spikes.float().contiguous(), v.float().contiguous()
        current, time_stride = _steps(current)
        grad_v = None if grad_v is None else grad_v.float().contiguous()
        grad_current, grad_start = heap.empty(T, N, P, C), torch.empty_like(v)
        sums = heap.empty(MOST_SUMS, C, dtype=torch.float64)
        its, kept = for_library(neuron)
        scan = abi.ScanBackward(
            its, surrogate_for_library(surrogate), v.data_ptr(), current.data_ptr(), time_stride,
            grad_spikes.data_ptr(), None if grad_v is None else grad_v.data_ptr(), grad_current.data_ptr(),
            grad_start.data_ptr(), sums.data_ptr(), T, N, P, C,
        )  # fmt: skip
        rows, back, stride = self._rows(recurrent)
        full = recurrent.ndim == 2
        given = abi.RecurrentBackward(scan, rows.data_ptr(), back.data_ptr(), stride, full)
        self._table.recurrent_scan_backward(given)
        del kept
        return grad_current, grad_start, sums[: 1 + len(neuron.channels)]

    def _rows(self, recurrent: Tensor) -> tuple[Tensor, Tensor, int]:
        """Rows of what neurons send, of what they receive, and the floats of a row."""
        sent, received = self._packed.get("rows", _pack_rows, recurrent, name="recurrent_weight")
        return sent, received, sent.shape[-1]


def _pack_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Recurrent weights by what a neuron sends, and by what it receives."""
    if weight.ndim == 1:
        return padded(weight, 0.0), padded(weight, 0.0)
    return padded_rows(weight.t()), padded_rows(weight)


def _steps(current: Tensor) -> tuple[Tensor, int]:
    """Currents [T, N, 1, C] as the library reads them, and floats from one step to the next: of constant ones none."""
    current = current.float()
    if len(current) > 1 and current.stride(0) == 0 and current[0].is_contiguous():
        return current, 0
    current = current.contiguous()
    return current, current[0].numel() if len(current) else 0
