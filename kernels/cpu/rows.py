"""Rows of weights for the event and the period kernel (src/conv2d/weight_rows.h), and how many a call adds."""

from functools import cached_property
from math import prod

import torch
from torch import Tensor

from .. import heap
from ..neuron_models import Neuron
from ..weight_cache import Packed
from . import abi
from .weight_packing import (
    BYTE_ROW,
    FLOAT_ROW,
    LARGEST_BYTE_SUM,
    SHORT_ROW,
    absolute_sums,
    byte_unit,
    known_unit,
    short_unit,
)

ROW_BYTES = 64
MOST_SHORT_INPUTS = 1 << 17  # of a neuron: more could overflow the 32-bit sums of short rows
MOST_NEGATED_BYTES = 1 << 21  # of rows and their negations, twice a second-level cache; the latter are taken seldom
MOST_THRESHOLDS = 1 << 12  # that a neuron's absolute weights may add up to, if they are taken off again as floats


class WeightRows:
    """The rows of one layer's weights.

    Args:
        table: the functions of an instruction set.
        forced: as of conv2d.Convolutions.
        packed: what is remembered of the weights.
        shape: of the weights, [C_out, ...].
    """

    def __init__(self, table: abi.Kernels, forced: str | None, packed: Packed, shape: tuple[int, ...]):
        self._table, self._forced, self._packed, self._shape = table, forced, packed, tuple(shape)

    @cached_property
    def widest(self) -> int:
        """Output channels of the widest row that the weights fit, where the next one is narrower."""
        C_out = self._shape[0]
        wide = self._forced == "bytes" or (self._forced is None and C_out > SHORT_ROW)
        if wide and self._unit(BYTE_ROW) is not None:
            return BYTE_ROW
        few = prod(self._shape[1:]) <= MOST_SHORT_INPUTS
        if self._forced in ("shorts", None) and C_out > FLOAT_ROW and few:
            return FLOAT_ROW if self._unit(SHORT_ROW) is None else SHORT_ROW
        return FLOAT_ROW

    def can_negate(self, neuron: Neuron, row: int) -> bool:
        """Whether the event kernel may take such rows with their negations (src/conv2d/steady_inputs.h).

        What is taken off a sum again leaves an error of 2**-24 of it: too much if the thresholds are small beside it.
        Whole numbers leave none, but those of bytes must not come to more than 16 bits on the way.
        """
        if 2 * ROW_BYTES * -(-self._shape[0] // row) * prod(self._shape[1:]) > MOST_NEGATED_BYTES:
            return False
        if row == SHORT_ROW:
            return True
        sums = self._packed.get("absolute sums", absolute_sums)
        unit = self._unit(row) if row == BYTE_ROW else None
        most = MOST_THRESHOLDS * neuron.channels[0] if unit is None else LARGEST_BYTE_SUM * unit[: len(sums)]
        return bool((sums <= most).all())

    def set(self, conv: abi.Conv2d, row: int, *, negated: bool = False) -> None:
        """Give a layer its rows, of so many output channels."""
        unit = None if row == FLOAT_ROW else self._unit(row)
        conv.unit = None if unit is None else unit.data_ptr()
        conv.row_channels, conv.negated = row, negated

        def pack(weight: Tensor) -> Tensor:
            rows = heap.empty(-(-len(weight) // row), self._table.rows_size(conv), dtype=torch.int8)
            self._table.pack_rows(weight.data_ptr(), rows.data_ptr(), conv)
            return rows

        conv.weight = self._packed.get(("rows", row, conv.slice_rows, negated), pack).data_ptr()

    def _unit(self, row: int) -> Tensor | None:
        """The units of the weights in short or byte rows; None if they do not fit."""

        def find(weight: Tensor) -> Tensor | None:
            unit = known_unit(weight, self._packed.whole, row)
            return (short_unit if row == SHORT_ROW else byte_unit)(weight) if unit is None else unit

        return self._packed.get(("unit", row), find)


class SpikeSample:
    """A few pixels of packed spikes [N, T, P, bytes], by which the choice of a kernel goes.

    Attributes:
        rate: rows that the event kernel adds, for each input and step. negated_rate: the same with negations.
        worth_negating: whether many inputs fire at most steps of a span.
    """

    WORTH = 0.9  # of the rows that are added without negations: to be worth packing them

    def __init__(self, table: abi.Kernels, words: Tensor, channels: int):
        words = words if words.stride(3) == 1 else words.contiguous()
        found = abi.Sample(words.data_ptr(), *words.shape[:3], channels, *words.stride()[:3])
        table.sample_rates(found)
        self.rate, self.negated_rate = found.rows, found.negated_rows
        self.worth_negating = self.negated_rate <= self.WORTH * self.rate > 0

    def rate_of_rows(self, rows: WeightRows, neuron: Neuron) -> float:
        """Rows that the event kernel adds for each input and step, as the choice of a kernel takes it."""
        negated = self.worth_negating and rows.can_negate(neuron, rows.widest)
        return self.negated_rate if negated else self.rate
