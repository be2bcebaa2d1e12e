"""Weights with few bits: multiples of a power of two for each output channel, so that every sum is exact.

Here is the definition, in torch; cpu/src/spikes.cpp does the same on a CPU in one pass. What for: quantize.py.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT_BITS = 24
# Of a neuron's absolute weights, in units. A GPU adds each weight as two float16 parts (weight_layouts.py), which
# together are up to 1 + 2**-10 times as large, and no sum of parts may pass 24 bits either.
LARGEST_SUM = 2**FLOAT_BITS - 2**14


@dataclass(frozen=True)
class Precision:
    """Bounds in units: of one weight, and of the sum of a neuron's positive or of its negative weights."""

    largest: int
    largest_half: float = math.inf

    def half_room(self, inputs: int) -> float:
        """The bound of half a neuron's sum before rounding, which adds half a unit to each; infinity: there is none.

        With more inputs no unit would do, and a CPU sums in more bits.
        """
        room = self.largest_half - inputs / 2
        return room if room > 0 else math.inf


PRECISIONS = {"int16": Precision(8191), "int8": Precision(63, 2**15 - 1)}


@torch.no_grad()
def round_weights(
    weight: Tensor, bias: Tensor | None, precision: Precision = PRECISIONS["int16"]
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weight [C, ...] and bias [C] as float64, each channel in multiples of its own unit, a power of two, float64 [C].

    Raises:
        ValueError: a neuron has more inputs than exact sums are for.
    """
    rows, biases = weight.double().flatten(1), None if bias is None else bias.double()[:, None]
    unit = unit_of(rows, biases, precision)
    return in_units(rows, unit).view_as(weight), None if biases is None else in_units(biases, unit)[:, 0], unit


def in_units(values: Tensor, unit: Tensor) -> Tensor:
    """Values [C, n] in whole units [C]."""
    return torch.round(values / unit[:, None]) * unit[:, None]


def unit_of(rows: Tensor, biases: Tensor | None, precision: Precision, ones: int = 0) -> Tensor:
    """The unit of each channel, [C], of weights [C, inputs] and biases [C, n]; ``ones``: inputs of weight 1, which is a
    multiple of every unit.

    Raises:
        ValueError: a neuron has more inputs than exact sums are for, or larger weights than there may be beside a 1.
    """
    terms = rows if biases is None else torch.cat([rows, biases], 1)
    room = room_for(rows.shape[1], terms.shape[1] - rows.shape[1])
    # A sum in multiples of 2**-28 of the largest term (there are less than 2**24) is exact: the same in any order.
    grain = power_of_two(terms.abs().amax(1, keepdim=True)) * 2.0**-28
    grains = torch.ceil(terms.abs() / grain)
    least = torch.maximum(rows.abs().amax(1) / precision.largest, (grains.sum(1) * grain[:, 0] + ones) / room)
    half_room = precision.half_room(rows.shape[1])
    if half_room < math.inf:
        grains = grains[:, : rows.shape[1]]
        total, positive = grains.sum(1), grains.mul(rows > 0).sum(1)
        least = torch.maximum(least, torch.maximum(positive, total - positive) * grain[:, 0] / half_room)
    unit = power_of_two(least)
    if ones and unit.max() > 1:
        raise ValueError(
            f"beside an identity, whose spikes count 1, weights must be at most {precision.largest}, got up to "
            f"{rows.abs().max().item():g}; simulate with precision=None"
        )
    return unit


@dataclass(frozen=True)
class Grid:
    """Values that weights are multiplied by: multiples of ``unit``, a power of two, up to ``largest`` units."""

    unit: float
    largest: int


def units_of_values(rows: list[Tensor], bias: Tensor | None, grids: list[Grid], largest: int) -> list[Tensor]:
    """The units [C] of weights [C, inputs] (float64) of several inputs whose values are on ``grids``: powers of two, of
    which no weight has more than ``largest``, and in which any sum of values times weights and a bias [C] is exact in
    float32. Biases are multiples of the smallest product of a weight's unit and a value's.

    Raises:
        ValueError: a neuron has more inputs than exact sums are for.
    """
    units = [power_of_two(row.abs().amax(1) / largest) for row in rows]
    total = rows[0].new_zeros(len(rows[0])) if bias is None else power_of_two(bias.abs())
    room = float(2**FLOAT_BITS - 2)
    for row, unit, grid in zip(rows, units, grids, strict=True):
        # Weights are rounded by half a unit at most. A sum of whole grains is the same in any order.
        grain = power_of_two(row.abs().amax(1, keepdim=True)) * 2.0**-28
        sums = torch.ceil(row.abs() / grain).sum(1) * grain[:, 0]
        total = total + (sums + unit * row.shape[1] / 2) * (grid.unit * grid.largest)
        room -= row.shape[1] * grid.largest / 2
    if room <= 0:
        inputs = sum(row.shape[1] for row in rows)
        raise ValueError(f"exact sums of values are for fewer inputs a neuron, got {inputs}")
    finest = power_of_two(total / room)
    return [torch.maximum(unit, finest / grid.unit) for unit, grid in zip(units, grids, strict=True)]


def room_for(inputs: int, biases: int) -> int:
    """The largest sum of a neuron before rounding, since rounding adds up to half a unit to each weight and bias.

    Raises:
        ValueError: there is none.
    """
    room = LARGEST_SUM - inputs - max(1, biases)
    if room <= 0:
        raise ValueError(f"exact sums are for at most {LARGEST_SUM - 2} inputs a neuron, got {inputs}")
    return room


def power_of_two(least: Tensor) -> Tensor:
    """The smallest powers of two that are not below ``least`` (float64, at least 2**-126), from their bits: log2, exp2
    and pow are one ulp off on some machines."""
    mantissa, exponent = torch.frexp(least.clamp(min=torch.finfo(torch.float32).tiny))
    exponent = exponent.long() - (mantissa == 0.5).long()
    return ((exponent + 1023) << 52).view(torch.float64)
