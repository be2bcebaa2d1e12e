"""Rows of weights for the event and the period kernel (src/conv2d/weight_rows.h), and how many a call adds."""

from functools import cached_property
from math import prod

import torch
from torch import Tensor

from .. import heap
from ..neuron_models import Neuron
from ..weight_cache import Packed
from . import abi
from .choice import BLOCK
from .weight_packing import BYTE_ROW, FLOAT_ROW, SHORT_ROW, absolute_sums

ROW_BYTES = 64
LARGEST_BYTE_SUM = (1 << 15) - 1  # of byte rows
MOST_NEGATED_BYTES = 1 << 23  # of rows and their negations; the latter are rarely read
MOST_THRESHOLDS = 1 << 12  # the most that absolute weights of a neuron may add up to if floats are subtracted again


class WeightRows:
    """The rows of one layer's weights.

    Args:
        table: the functions of an instruction set.
        forced: as in conv2d.Convolutions.
        packed: the cache entry of the weights.
        shape: of the weights, [C_out, ...].
    """

    def __init__(self, table: abi.Kernels, forced: str | None, packed: Packed, shape: tuple[int, ...]):
        self._table, self._forced, self._packed, self._shape = table, forced, packed, tuple(shape)

    @cached_property
    def widest(self) -> int:
        """Output channels of the widest row that the weights fit, unless all channels fit a narrower one."""
        C_out = self._shape[0]
        if self._forced == "bytes":
            return BYTE_ROW if self._fitting[0] == BYTE_ROW else FLOAT_ROW
        if self._forced not in ("shorts", None) or C_out <= FLOAT_ROW:
            return FLOAT_ROW
        return min(self._fitting[0], SHORT_ROW if self._forced or C_out <= SHORT_ROW else BYTE_ROW)

    def can_negate(self, neuron: Neuron, row: int) -> bool:
        """Whether the event kernel may use these rows with their negations (src/conv2d/steady_inputs.h).

        Subtracting a float row from a sum again leaves a relative error of 2**-24, too much if thresholds are small
        compared with the sum. Integer rows leave none, but sums of byte rows must fit 16 bits on the way.
        """
        if 2 * ROW_BYTES * -(-self._shape[0] // row) * prod(self._shape[1:]) > MOST_NEGATED_BYTES:
            return False
        if row == SHORT_ROW:
            return True
        sums = self._packed.get("absolute sums", absolute_sums)
        if row == BYTE_ROW:
            most = LARGEST_BYTE_SUM * self._fitting[1][: len(sums)]
        else:
            most = MOST_THRESHOLDS * neuron.channels[0]
        return bool((sums <= most).all())

    def set(self, conv: abi.Conv2d, row: int, *, negated: bool = False) -> None:
        """Give a layer its rows, of ``row`` output channels each."""
        conv.unit = None if row == FLOAT_ROW else self._fitting[1].data_ptr()
        conv.row_channels, conv.negated = row, negated

        def pack(weight: Tensor) -> Tensor:
            rows = heap.empty(-(-len(weight) // row), self._table.rows_size(conv), dtype=torch.int8)
            self._table.pack_rows(weight.data_ptr(), rows.data_ptr(), conv)
            return rows

        conv.weight = self._packed.get(("rows", row, conv.slice_rows, negated), pack).data_ptr()

    @property
    def _fitting(self) -> tuple[int, Tensor]:
        """Output channels of the widest row that the weights fit, and their units: src/conv2d/weight_units.h."""

        def find(weight: Tensor) -> tuple[int, Tensor]:
            unit = heap.zeros(-(-len(weight) // BLOCK) * BLOCK)
            sizes = len(weight), weight[0].numel()
            return self._table.row_channels(weight.data_ptr(), *sizes, unit.data_ptr()), unit

        return self._packed.get("fitting rows", find)


class SpikeSample:
    """A few pixels of packed spikes [N, T, P, bytes], from which a kernel is chosen.

    Attributes:
        rate: rows that the event kernel adds per input and step. negated_rate: the same with negations.
        worth_negating: whether many inputs fire at most steps of a span.
    """

    WORTH = 0.9  # negations must reduce the rows that are added to this share

    def __init__(self, table: abi.Kernels, words: Tensor, channels: int):
        words = words if words.stride(3) == 1 else words.contiguous()
        found = abi.Sample(words.data_ptr(), *words.shape[:3], channels, *words.stride()[:3])
        table.sample_rates(found)
        self.rate, self.negated_rate = found.rows, found.negated_rows
        self.worth_negating = self.negated_rate <= self.WORTH * self.rate > 0

    def rate_of_rows(self, rows: WeightRows, neuron: Neuron) -> float:
        """Rows that the event kernel adds per input and step, for the choice of a kernel."""
        negated = self.worth_negating and rows.can_negate(neuron, rows.widest)
        return self.negated_rate if negated else self.rate
