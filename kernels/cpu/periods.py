"""Spikes that repeat themselves, and convolutions of them: src/periodic_spikes.h."""

import torch
from torch import Tensor

from .. import heap
from ..neuron_models import Neuron
from ..recording import SCAN, note
from . import abi
from .conv2d import Convolutions
from .weight_packing import for_library
from .words import pixel_bytes

LONGEST_PERIOD = (1 << 15) - 1  # what an int16 holds


class PeriodicSpikes(Convolutions):
    """The part of backend.CpuKernels that finds periods, and takes them."""

    def find_periods(self, current: Tensor, T: int, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """Neurons from v_reset, with hard reset, on a constant current [N, P, C]: int16 periods, potentials.

        A neuron fires at the steps t where its period divides t + 1; 0: it never does.
        """
        note(SCAN)
        current = current.float().contiguous()
        periods, v = torch.empty_like(current, dtype=torch.int16), torch.full_like(current, neuron.scalars[0])
        (parameters, held), (N, P, C) = for_library(neuron), current.shape
        pointers = current.data_ptr(), parameters, v.data_ptr(), periods.data_ptr()
        self._table.find_periods(abi.Periods(*pointers, N * P, C, T))
        del held
        return periods, v

    def expand_periods(self, periods: Tensor, start: int, T: int) -> Tensor:
        """Periods [N, P, C] to packed spikes of the steps start .. start + T - 1."""
        N, P, C = periods.shape
        words = heap.zeros(N, T, P, pixel_bytes(C), dtype=torch.uint8)
        self._table.expand_periods(periods.data_ptr(), words.data_ptr(), start, T, N, P, C)
        return words

    def total_periods(self, periods: Tensor, start: int, T: int) -> Tensor:
        """Spikes of each pixel in the steps start .. start + T - 1: int64 [P]."""
        N, P, C = periods.shape
        periods, totals = periods.contiguous(), heap.empty(P, dtype=torch.int64)
        self._table.total_periods(periods.data_ptr(), totals.data_ptr(), start, T, N, P, C)
        return totals

    def period_conv2d_currents(
        self, periods, start, T, size, weight, bias, v, neuron, stride, padding, dilation
    ) -> Tensor:
        """conv2d_currents of the spikes that periods [N, P, C_in] stand for, in the steps from ``start``."""
        words = self.expand_periods(periods, start, T)
        layer = words, T, size, weight, bias, v, neuron, stride, padding, dilation, 1
        return self.conv2d_currents(*layer, periodic=not start)

    def if_period_conv2d(
        self, periods, start, T, size, weight, bias, v, neuron, stride, padding, dilation
    ) -> tuple[Tensor, Tensor]:
        """if_conv2d of the spikes that periods [N, P, C_in] stand for, in the steps from ``start``."""
        words = self.expand_periods(periods, start, T)
        layer = words, T, size, weight, bias, v, neuron, stride, padding, dilation, 1
        return self.if_conv2d(*layer, periodic=not start)
