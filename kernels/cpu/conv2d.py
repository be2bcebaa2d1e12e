"""Convolutions with neurons: of spikes by a plan of one operation, or by torch where most inputs fire."""

from collections.abc import Callable
from ctypes import pointer
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import Neuron, beside_currents, current_sums
from ..recording import SCAN, Choice, note, unrecorded
from ..rounding import Precision, room_for
from ..table import InputKind, Runner
from ..unfused import output_size
from ..weight_cache import PackedWeights
from . import abi
from .abi import for_library, start_for_library
from .layer_plans import MOST_KEPT, LayerPlans, sizes

LONGEST_PERIOD = (1 << 15) - 1  # of periodic spikes (src/scans.cpp): what an int16 holds
DENSE, IM2COL = Choice("dense", "most inputs fire"), Choice("im2col", "windows of few channels")
ONE_PIXEL = (1, 1), (0, 0), (1, 1)  # stride, padding and dilation of a 1x1 kernel
FORCED = {"dense": Runner.TORCH, "im2col": Runner.GATHERED_PLAN, "plan": Runner.PLAN, None: None}


class Convolutions:
    """The convolutions of backend.CpuKernels.

    Attributes:
        has_tiles: whether this instruction set has matrix tiles.

    Args:
        table, plans: the functions of one instruction set.
        forced: what runs every layer that it can run: "dense", torch's convolution, "im2col", or "plan", never torch's;
            None: whichever is fastest.
    """

    if_scan: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self, table: abi.Kernels, plans: LayerPlans, forced: str | None):
        self._table, self._plans, self._forced = table, plans, forced
        self.has_tiles = plans.target == "amx"
        self._packed = PackedWeights(table.fingerprint)

    def max_threads(self) -> int:
        """How many threads a kernel of the calling thread uses: torch.get_num_threads(), or 1 without OpenMP."""
        return self._table.max_threads()

    def fingerprint(self, address: int, size: int) -> int:
        """A hash of some memory."""
        return self._table.fingerprint(address, size)

    def if_conv2d(
        self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups,
        shortcut: Tensor | None = None, periodic: bool = False, gives_currents: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Convolution of spikes on images of ``size`` (H, W) and IF: spikes, and potentials [N, P_out, C_out].

        ``shortcut``: spikes [N, T, P_out, ceil(C_out / 8)] that each add 1 to their neuron's current. ``periodic``:
        whether all inputs fire periodically from rest. ``gives_currents``: the first result are the currents instead,
        [T, N, P_out, C_out].
        """
        neurons, spikes, after, held = start_for_library(T, v, neuron)
        words, size, window = words.contiguous(), tuple(size), (tuple(stride), tuple(padding), tuple(dilation))
        conv = abi.Conv2d(neurons, words.data_ptr(), *sizes(size, weight.shape, window, groups))
        choice = self._plans.choice(conv, FORCED[self._forced], periodic)
        if choice.runner == Runner.TORCH:  # which is faster
            note(DENSE)
            with unrecorded():
                if gives_currents:
                    return unfused.conv2d_currents(self, words, T, len(v), size, weight, bias, *window, groups), after
                return unfused.if_conv2d(self, words, T, size, weight, bias, v, neuron, *window, groups, shortcut)
        gathers = choice.runner == Runner.GATHERED_PLAN
        if gathers:
            note(IM2COL)
            words = gather(self._table, words, conv)
            size, window = output_size(size, weight.shape[2:], *window), ONE_PIXEL
        if gives_currents:
            currents = heap.empty(T, v.shape[0], *v.shape[-2:])
            neurons.currents = currents.data_ptr()
        if shortcut is not None:
            shortcut = shortcut.contiguous()
        extra = shortcut is not None, periodic, bool(choice.is_long)

        def make(weight: Tensor, bias: Tensor | None):
            weight = gathered(weight) if gathers else weight
            its = without_spikes(neuron) if gives_currents else neuron
            return self._plans.conv2d(its, size, weight, bias, window, groups, *extra)

        key = "plan", neuron.model, choice.thresholds, size, window, groups, extra, gathers, gives_currents
        plan = self._packed.get(key, make, weight, bias, most=MOST_KEPT)
        added = None if shortcut is None else shortcut.data_ptr()
        plan.run(T, len(v), x=words.data_ptr(), kind=InputKind.PACKED_SPIKES, neurons=pointer(neurons), shortcut=added)
        del held  # the memory behind the pointers lived until here
        return (currents if gives_currents else spikes), after

    def conv2d_currents(
        self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups, periodic: bool = False
    ) -> Tensor:
        """Only the currents, [T, N, P_out, C_out]."""
        layer = words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups
        return self.if_conv2d(*layer, periodic=periodic, gives_currents=True)[0]

    def conv2d_current_sums(self, words, T, size, weight, bias, *window) -> Tensor:
        """Per channel, the sums of if_conv2d's currents and of their squares: float64 [2, C_out]."""
        pixels = prod(output_size(size, weight.shape[2:], *window[:3]))
        v = heap.zeros(len(weight)).expand(words.shape[0], 2, pixels, -1)
        _, sums = self.if_conv2d(words, T, size, weight, bias, v, current_sums(len(weight), words.device), *window)
        return sums.sum(2).sum(0, dtype=torch.float64)  # torch adds float32 in pairs, and float64 slowly

    def if_conv2d_real(self, x, weight, bias, v, neuron, stride, padding, dilation, groups) -> tuple[Tensor, Tensor]:
        """Convolution of real values x [T, N, C_in, H, W] and IF. Neurons that fire several times in a step give what
        if_scan gives."""
        counts = neuron.counts
        window, size = (tuple(stride), tuple(padding), tuple(dilation)), tuple(x.shape[3:])
        its = without_spikes(beside_currents(neuron)) if counts else neuron
        values = x.float().flatten(3).transpose(2, 3).contiguous()
        parameters, channels = for_library(its)
        described = abi.Neurons(parameters, None, None, None, 0, 0, 0, len(x), len(v), *v.shape[-2:])
        conv = abi.Conv2d(described, None, *sizes(size, weight.shape, window, groups))
        choice = self._plans.choice(conv, FORCED[self._forced], values=values.data_ptr())
        if choice.runner == Runner.TORCH or weight.dtype == torch.float64:
            if counts:
                return self.if_scan(unfused.conv2d(x, weight, bias, *window, groups), v, neuron)
            return unfused.if_conv2d_real(self, x, weight, bias, v, neuron, *window, groups)
        neurons, spikes, after, held = start_for_library(len(x), v, its)
        if counts:
            currents = heap.empty(len(x), v.shape[0], *v.shape[-2:])
            neurons.currents = currents.data_ptr()

        def make(weight: Tensor, bias: Tensor | None):
            return self._plans.conv2d(its, size, weight, bias, window, groups, real=True)

        key = "values", its.model, size, window, groups, counts
        plan = self._packed.get(key, make, weight, bias, most=MOST_KEPT)
        plan.run(len(x), len(v), x=values.data_ptr(), kind=InputKind.VALUES, neurons=pointer(neurons))
        del held, channels  # the memory behind the pointers lived until here
        return self.if_scan(currents, v, neuron) if counts else (spikes, after)

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
        words = heap.zeros(N, T, P, (C + 7) // 8, dtype=torch.uint8)
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

    def round_weights(
        self, weight: Tensor, bias: Tensor | None, precision: Precision
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Rounded weights, a rounded bias and the units, all float32 (kernels/rounding.py)."""
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        C, inputs = len(weight), prod(weight.shape[1:])
        room, half_room = room_for(inputs, 0 if bias is None else 1), precision.half_room(inputs)
        rounded, unit = heap.empty(*weight.shape), heap.empty(C)
        rounded_bias = None if bias is None else torch.empty_like(bias)
        pointers = (None if x is None else x.data_ptr() for x in (weight, bias, rounded, rounded_bias, unit))
        bounds = precision.largest, room, 0 if half_room == inf else half_room
        self._table.round_weights(abi.Rounding(*pointers, C, inputs, *bounds))
        return rounded, rounded_bias, unit


def without_spikes(neuron: Neuron) -> Neuron:
    """The neurons with infinite thresholds, which tell a plan that its currents are wanted: it has no matrix tiles."""
    return neuron._replace(channels=torch.cat((torch.full_like(neuron.channels[:1], inf), neuron.channels[1:])))


# Convolutions with few channels as 1x1 convolutions. A byte of packed spikes holds eight channels: a window of 7 x 7
# pixels with two or three channels has 49 bytes that are mostly empty, and the kernels visit each. Gathered into one
# pixel, it has 13 or 19 full bytes.


def gather(table: abi.Kernels, words: Tensor, conv: Any) -> Tensor:
    """The windows [N, T, P, bytes] of contiguous spikes [N, T, H * W, 1]; ``conv``: an abi.Conv2d of them."""
    neurons = conv.neurons
    bits = conv.kernel_h * conv.kernel_w * conv.C_in
    windows = heap.empty(neurons.N, neurons.T, neurons.P, -(-bits // 8), dtype=torch.uint8)
    table.im2col(conv, windows.data_ptr())
    return windows


def gathered(weight: Tensor) -> Tensor:
    """Weights [C_out, C_in, h, w] of the 1x1 convolution of gathered windows."""
    return weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None].contiguous()
