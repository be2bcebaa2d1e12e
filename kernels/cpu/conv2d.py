"""The C++ convolutions with neurons, and the choice between them."""

from math import inf, prod
from typing import NamedTuple

import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import CurrentSums, Neuron, current_sums
from ..recording import Choice, note, recording
from ..rounding import Precision, room_for
from ..weight_cache import CONSTANTS, Packed, PackedWeights
from ..weight_layouts import is_finite, join_groups, refuse_infinite
from . import abi, im2col
from .choice import BLOCK, ROWS, options
from .cost_model import Layer, model
from .rows import SpikeSample, WeightRows
from .weight_packing import FLOAT_ROW, pack_columns, pack_taps, pack_words, padded, start_for_library

TILE_CHANNELS = 16  # output channels of a matrix tile: src/conv2d/amx_tiles.h
MOST_PRODUCT_WEIGHTS = 1 << 20  # of a product of real values, which reads all weights for each pixel
WRITE_CURRENTS = (*ROWS, "lookup")  # the kernels that can write currents
ONE_PIXEL = (1, 1), (0, 0), (1, 1), 1  # stride, padding, dilation and groups of a 1x1 kernel


class _Call(NamedTuple):
    """The description of a convolution: sizes, packed weights, rows of weights, a sample of the spikes, and the chosen
    kernel."""

    layer: Layer
    packed: Packed
    rows: WeightRows
    sample: SpikeSample | None  # None: the choice did not depend on it
    choice: Choice


class Convolutions:
    """The convolutions of backend.CpuKernels.

    Attributes:
        has_tiles: whether this instruction set has matrix tiles. has_lookup: whether its registers can hold a table.

    Args:
        table: the functions of one instruction set.
        forced: the kernel that runs every layer it can run: "events", "shorts", "bytes", "lookup", "tiles", "dense", or
            "im2col" (followed by "events"); None: whichever is fastest. "shorts" and "bytes" are the event kernel with
            16-bit and 8-bit rows of weights, which the kernel for periods then uses, too.
    """

    def __init__(self, table: abi.Kernels, forced: str | None):
        self._table, self._forced = table, forced
        self.has_tiles, self.has_lookup = bool(table.tile_conv2d), bool(table.lookup_conv2d)
        self._slice_rows = model().machines[self.has_tiles].slice_rows
        self._packed = PackedWeights(self.fingerprint)

    def max_threads(self) -> int:
        """How many threads a kernel of the calling thread uses: torch.get_num_threads(), or 1 without OpenMP."""
        return self._table.max_threads()

    def fingerprint(self, values: Tensor) -> int:
        """A hash of the bytes of a contiguous tensor."""
        return self._table.fingerprint(values.data_ptr(), values.numel() * values.element_size())

    def if_conv2d(
        self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups,
        shortcut: Tensor | None = None, currents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Convolution of spikes on images of ``size`` (H, W) and IF: spikes, and potentials [N, P_out, C_out].

        ``shortcut``, for a convolution without groups: spikes [N, T, P_out, ceil(C_out / 8)] that each add 1 to their
        neuron's current.
        ``currents`` [T, N, P_out, C_out]: if given, kernels that can (WRITE_CURRENTS) also write the currents there.
        """
        window = stride, padding, dilation
        exact = currents is not None or isinstance(neuron, CurrentSums)
        call = self._look(words, T, size, weight, v, neuron, *window, groups, write_currents=exact)
        packed, kernel = call.packed, call.choice.kernel
        if kernel == "groups":
            return self._by_group(words, T, size, weight, bias, v, neuron, *window, groups, call.choice.joined)
        note(call.choice)
        if kernel == "im2col":
            with recording():  # hides the choice of the kernel for the windows
                return self.if_conv2d(
                    *im2col.gather(self._table, words, call.layer, packed), bias, v, neuron, *ONE_PIXEL, shortcut
                )
        if kernel == "dense":
            operands = words, T, size, weight, bias, v, neuron, *window, groups, shortcut
            with recording():  # hides the choices for its parts
                return unfused.if_conv2d(self, *operands)
        words = words.contiguous()
        conv, spikes, v, held = self._conv2d(T, size, weight, bias, v, neuron, *window)
        conv.x = words.data_ptr()
        if shortcut is not None:
            shortcut = shortcut.contiguous()
            conv.shortcut = shortcut.data_ptr()
        conv.currents = None if currents is None else currents.data_ptr()
        if kernel == "tiles":
            conv.digits = self._digits(packed, neuron)
            tiles, unit = packed.get(("tiles", dilation[1] > 1, size[1] == 1), lambda w: self._pack_tiles(w, conv))
            conv.weight, conv.unit = tiles.data_ptr(), unit.data_ptr()
            self._table.tile_conv2d(conv)
        elif kernel == "depthwise":
            conv.C_in = groups
            conv.weight = packed.get("taps", pack_taps).data_ptr()
            self._table.depthwise_conv2d(conv)
        elif kernel == "lookup":
            conv.groups, conv.C_in = groups, groups * weight.shape[1]
            conv.weight = packed.get("words", pack_words).data_ptr()
            self._table.lookup_conv2d(conv)
        else:
            row, sample = ROWS[kernel], call.sample or SpikeSample(self._table, words, weight.shape[1] * groups)
            call.rows.set(conv, row, negated=sample.worth_negating and call.rows.can_negate(neuron, row))
            self._table.event_conv2d(conv)
        del held  # the memory behind the pointers lived until here
        return spikes, v

    def if_conv2d_real(self, x, weight, bias, v, neuron, stride, padding, dilation, groups) -> tuple[Tensor, Tensor]:
        """Convolution of real values x [T, N, C_in, H, W] and IF; 1x1 convolutions take one pass."""
        one_pixel = (*weight.shape[2:], *stride, *padding, groups) == (1, 1, 1, 1, 0, 0, 1)
        can = one_pixel and weight.dtype != torch.float64 and weight.numel() <= MOST_PRODUCT_WEIGHTS
        if not can or self._forced == "dense":
            return unfused.if_conv2d_real(self, x, weight, bias, v, neuron, stride, padding, dilation, groups)
        note(Choice("product", "real-valued input"))
        T, C_in = x.shape[0], x.shape[2]
        x = x.float().flatten(3).transpose(2, 3).contiguous()
        neurons, spikes, v, held = self._neurons(T, v, bias, neuron)
        columns = self._packed.of(weight).get("columns", pack_columns)
        self._table.real_product(abi.Product(neurons, x.data_ptr(), columns.data_ptr(), held[0].data_ptr(), C_in))
        del held  # the memory behind the pointers lived until here
        return spikes, v

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

    def conv2d_currents(self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups) -> Tensor:
        """Only the currents, [T, N, P_out, C_out]: by if_conv2d's kernel if it can write them, else by torch."""
        window = stride, padding, dilation, groups
        call = self._look(words, T, size, weight, v, neuron, *window, write_currents=True)
        choice = call.choice
        if choice.kernel == "im2col":
            note(choice)
            windows = im2col.gather(self._table, words, call.layer, call.packed)
            with recording():
                return self.conv2d_currents(*windows, bias, v, neuron, *ONE_PIXEL)
        if choice.kernel not in WRITE_CURRENTS:
            note(choice if choice.kernel == "dense" else Choice("dense", f"{choice.kernel} writes no currents"))
            with recording():
                return unfused.conv2d_currents(self, words, T, v.shape[0], size, weight, bias, *window)
        currents = heap.empty(T, v.shape[0], *v.shape[-2:])
        self.if_conv2d(words, T, size, weight, bias, v, neuron, *window, currents=currents)
        return currents

    def conv2d_current_sums(self, words, T, size, weight, bias, *window) -> Tensor:
        """Per channel, the sums of if_conv2d's currents and of their squares: float64 [2, C_out]."""
        pixels = prod(unfused.output_size(size, weight.shape[2:], *window[:3]))
        v = heap.zeros(len(weight)).expand(words.shape[0], 2, pixels, -1)
        _, sums = self.if_conv2d(words, T, size, weight, bias, v, current_sums(len(weight), words.device), *window)
        return sums.sum(2).sum(0, dtype=torch.float64)  # torch adds float32 in pairs, and float64 slowly

    def _by_group(
        self, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups, joined
    ) -> tuple[Tensor, Tensor]:
        """Groups one after another, ``joined`` of them at a time."""
        if joined > 1:
            weight = self._packed.of(weight).get(("joined", groups), lambda w: join_groups(w, groups, joined))
            CONSTANTS.add(weight.untyped_storage())
            groups //= joined
        biases = [None] * groups if bias is None else bias.chunk(groups)
        parts = zip(
            words.chunk(groups, 3), weight.chunk(groups), biases, v.chunk(groups, -1), neuron.chunk(groups), strict=True
        )
        done = [
            self.if_conv2d(x, T, size, w, b, state, its, stride, padding, dilation, 1) for x, w, b, state, its in parts
        ]
        spikes, v = zip(*done, strict=True)
        return torch.cat(spikes, 3), torch.cat(v, -1)

    def _conv2d(self, T, size, weight, bias, v, neuron, stride, padding, dilation):
        """The layer as the library takes it, its results, and objects that must outlive the call."""
        neurons, spikes, v, held = self._neurons(T, v, bias, neuron)
        bias = held[0]
        conv = abi.Conv2d(
            neurons,
            None, None, bias.data_ptr(), None, None, None, 0, FLOAT_ROW, self._slice_rows, 0, 1,
            weight.shape[1], *size, unfused.output_size(size, weight.shape[2:], stride, padding, dilation)[1],
            *weight.shape[2:], *stride, *padding, *dilation,
        )  # fmt: skip
        return conv, spikes, v, held

    def _neurons(self, T, v, bias, neuron):
        """The neurons as the library takes them, their spikes and states, and objects that must outlive the call, the
        bias first."""
        neurons, spikes, v, held = start_for_library(T, v, neuron)
        if bias is None:
            bias = heap.zeros(-(-v.shape[-1] // BLOCK) * BLOCK)
        else:
            bias = bias.float()
            if not is_finite(bias):
                refuse_infinite("bias", bias)
            bias = padded(bias, 0.0)
        return neurons, spikes, v, (bias, *held)

    def _look(
        self, words, T, size, weight, v, neuron, stride, padding, dilation, groups, *, write_currents: bool = False
    ) -> "_Call":
        """Describe a call, and choose its kernel (choice.py). Matrix tiles write no currents."""
        window = map(tuple, (stride, padding, dilation))
        layer = Layer(T, (v.shape[0], *v.shape[-2:]), tuple(size), weight.shape, *window)
        packed = self._packed.of(weight)
        rows = WeightRows(self._table, self._forced, packed, weight.shape)
        may_tile = self.has_tiles and groups == 1 and not write_currents and self._forced in ("tiles", None)
        digits = self._digits(packed, neuron) if may_tile else 0
        can = packed.get(
            ("options", layer, groups, digits),
            lambda _: options(
                layer, groups, self._forced,
                has_tiles=self.has_tiles, has_lookup=self.has_lookup, digits=digits, row=lambda: rows.widest,
            ),
        )  # fmt: skip
        if can.only:
            return _Call(layer, packed, rows, None, can.only)
        sample = SpikeSample(self._table, words, weight.shape[1] * groups)
        rate = sample.rate_of_rows(rows, neuron) if sample.worth_negating else sample.rate
        return _Call(layer, packed, rows, sample, can.at(rate))

    def _digits(self, packed: Packed, neuron: Neuron) -> int:
        """The number of int8 digits that hold the weights exactly enough for the thresholds; 0 if none do."""
        theta = neuron.theta.contiguous()

        def count(weight: Tensor) -> int:
            return self._table.count_digits(weight.data_ptr(), theta.data_ptr(), len(weight), weight[0].numel())

        return packed.get(("digits", self.fingerprint(theta)), count)

    def _pack_tiles(self, weight: Tensor, conv: abi.Conv2d) -> tuple[Tensor, Tensor]:
        blocks = -(-len(weight) // TILE_CHANNELS)
        packed = heap.zeros(blocks * self._table.tiles_size(conv), dtype=torch.int8)
        unit = heap.zeros(-(-len(weight) // BLOCK) * BLOCK)
        self._table.pack_tiles(weight.data_ptr(), packed.data_ptr(), unit.data_ptr(), conv)
        return packed, unit
