"""Convolutions with neurons: of spikes by a plan of one operation, or by torch where most inputs fire."""

from functools import partial
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import Neuron, current_sums
from ..recording import Choice, note, recording
from ..rounding import Precision, room_for
from ..table import InputKind, Runner
from ..unfused import output_size
from ..weight_cache import PackedWeights
from . import abi
from .layer_plans import MOST_KEPT, LayerPlans, described
from .weight_packing import start_for_library

MOST_PRODUCT_WEIGHTS = 1 << 20  # which a product of real values reads for each pixel: as src/engine/ways.h has it
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

    def __init__(self, table: abi.Kernels, plans: LayerPlans, forced: str | None):
        self._table, self._plans, self._forced = table, plans, forced
        self.has_tiles = plans.target == "amx"
        self._packed = PackedWeights(self.fingerprint)

    def max_threads(self) -> int:
        """How many threads a kernel of the calling thread uses: torch.get_num_threads(), or 1 without OpenMP."""
        return self._table.max_threads()

    def fingerprint(self, values: Tensor) -> int:
        """A hash of the bytes of a contiguous tensor."""
        return self._table.fingerprint(values.data_ptr(), values.numel() * values.element_size())

    def if_conv2d(
        self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups,
        shortcut: Tensor | None = None, periodic: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Convolution of spikes on images of ``size`` (H, W) and IF: spikes, and potentials [N, P_out, C_out].

        ``shortcut``: spikes [N, T, P_out, ceil(C_out / 8)] that each add 1 to their neuron's current. ``periodic``:
        whether all inputs fire periodically from rest.
        """
        layer = words, T, size, weight, bias, v, neuron, (stride, padding, dilation), groups
        found = self._run_plan(*layer, shortcut, periodic=periodic)
        if found is None:
            with recording():  # hides the choices for its parts
                return unfused.if_conv2d(self, *layer[:7], stride, padding, dilation, groups, shortcut)
        return found

    def conv2d_currents(
        self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups, periodic: bool = False
    ) -> Tensor:
        """Only the currents, [T, N, P_out, C_out]."""
        currents, window = heap.empty(T, v.shape[0], *v.shape[-2:]), (stride, padding, dilation)
        layer = words, T, size, weight, bias, v, neuron, window, groups
        if self._run_plan(*layer, currents=currents, periodic=periodic) is None:
            with recording():
                return unfused.conv2d_currents(self, words, T, len(v), size, weight, bias, *window, groups)
        return currents

    def conv2d_current_sums(self, words, T, size, weight, bias, *window) -> Tensor:
        """Per channel, the sums of if_conv2d's currents and of their squares: float64 [2, C_out]."""
        pixels = prod(output_size(size, weight.shape[2:], *window[:3]))
        v = heap.zeros(len(weight)).expand(words.shape[0], 2, pixels, -1)
        _, sums = self.if_conv2d(words, T, size, weight, bias, v, current_sums(len(weight), words.device), *window)
        return sums.sum(2).sum(0, dtype=torch.float64)  # torch adds float32 in pairs, and float64 slowly

    def _run_plan(
        self, words, T, size, weight, bias, v, neuron, window, groups, shortcut: Tensor | None = None, *,
        currents: Tensor | None = None, periodic: bool = False,
    ) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """Spikes and states by the plan of a layer; None: torch's convolution is faster.

        ``currents`` [T, N, P_out, C_out]: if given, written as well.
        """
        neurons, spikes, after, held = start_for_library(T, v, neuron)
        words, size, window = words.contiguous(), tuple(size), tuple(map(tuple, window))
        conv = described(neurons, size, weight.shape, window, groups)
        conv.x = words.data_ptr()
        choice = self._plans.choice(conv, FORCED[self._forced], periodic)
        if choice.runner == Runner.TORCH:
            note(DENSE)
            return None
        gathers = choice.runner == Runner.GATHERED_PLAN
        if gathers:
            note(IM2COL)
            words = gather(self._table, words, conv)
            size, window = output_size(size, weight.shape[2:], *window), ONE_PIXEL
        if currents is not None:
            neurons.currents = currents.data_ptr()
        if shortcut is not None:
            shortcut = shortcut.contiguous()
        extra = shortcut is not None, periodic, bool(choice.is_long)

        def make(weight: Tensor, bias: Tensor | None):
            weight = gathered(weight) if gathers else weight
            its = neuron if currents is None else without_spikes(neuron)
            return self._plans.conv2d(its, size, weight, bias, window, groups, *extra)

        key = "plan", neuron.model, choice.thresholds, size, window, groups, extra, gathers, currents is None
        plan = self._packed.get(key, make, weight, bias, most=MOST_KEPT)
        plan.run(words, InputKind.PACKED_SPIKES, neurons, shortcut)
        del held  # the memory behind the pointers lived until here
        return spikes, after

    def if_conv2d_real(self, x, weight, bias, v, neuron, stride, padding, dilation, groups) -> tuple[Tensor, Tensor]:
        """Convolution of real values x [T, N, C_in, H, W] and IF; 1x1 convolutions take one pass."""
        one_pixel = (*weight.shape[2:], *stride, *padding, groups) == (1, 1, 1, 1, 0, 0, 1)
        can = one_pixel and weight.dtype != torch.float64 and weight.numel() <= MOST_PRODUCT_WEIGHTS and x.numel()
        if not can or self._forced == "dense":
            return unfused.if_conv2d_real(self, x, weight, bias, v, neuron, stride, padding, dilation, groups)
        size = tuple(x.shape[3:])
        neurons, spikes, after, held = start_for_library(len(x), v, neuron)
        x = x.float().flatten(3).transpose(2, 3).contiguous()
        make = partial(self._plans.product, neuron, size)
        plan = self._packed.get(("product", neuron.model, size), make, weight, bias, most=MOST_KEPT)
        plan.run(x, InputKind.VALUES, neurons)
        del held  # the memory behind the pointers lived until here
        return spikes, after

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
