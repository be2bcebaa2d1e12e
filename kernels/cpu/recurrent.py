"""Recurrent neurons on a CPU, forward and back: kernels/by_reference.py has the arguments."""

from ctypes import pointer
from functools import partial

import torch
from torch import Tensor

from .. import heap
from ..neuron_models import Neuron, Surrogate
from ..recording import Choice, note
from ..table import InputKind
from ..weight_cache import PackedWeights
from . import abi
from .abi import for_library, padded, padded_rows, start_for_library, surrogate_for_library
from .gradients import MOST_SUMS
from .layer_plans import MOST_KEPT, LayerPlans

ROWS = Choice("recurrent", "adds a row of weights for each spike that comes back")


class Recurrences:
    """The recurrent neurons of backend.CpuKernels."""

    _table: abi.Kernels
    _packed: PackedWeights
    _plans: LayerPlans

    def recurrent_scan(self, current: Tensor, v: Tensor, neuron: Neuron, recurrent: Tensor) -> tuple[Tensor, Tensor]:
        """Words, and the states [N, states + 1, 1, C] after the last step."""
        note(ROWS)
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
