"""Weights of 14 or 7 bits, in which every sum is exact: the same spikes on any machine, batch and order of sums.

The weights of an output channel become whole multiples of a power of two, and small enough that the sum of all of them,
bias included, fits the 24 bits of a float32. Then whatever adds them up, in whatever order, comes to the same current:
C++ on a CPU, or a GPU's tensor cores, for which each weight is exactly two float16 parts (and which keep 24 bits of a
sum). Real-valued inputs are rounded to 24 bits of each sample's largest value and convolved in float64, where such sums
are exact too. Potentials stay float32, and their steps are the same everywhere.

"int16": at most 14 bits, so that a CPU can add four weights in int16 (kernels/cpu/src/conv2d/rows.h). "int8": at most
7, with a sign, so that it can add two in bytes, and no sum of weights leaves 16 bits, for which a channel of many
inputs may have one bit less.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import known
from ..kernels.backends import fingerprint
from ..kernels.weight_cache import CONSTANTS, PackedWeights
from ..layers import Fused, MaxRatePool1d, MaxRatePool2d, Neurons, Population, SpikingLayer
from ..spikes import Spikes

FLOAT_BITS = 24
# Of a neuron's absolute weights, in units. A GPU adds each weight as two float16 parts (kernels/weight_layouts.py),
# which together are up to 1 + 2**-10 times as large, and no sum of parts may pass 24 bits either.
LARGEST_SUM = 2**FLOAT_BITS - 2**14


@dataclass(frozen=True)
class Precision:
    """Bounds in units: of one weight, and of the sum of a neuron's positive or of its negative weights."""

    largest: int
    largest_half: float = math.inf


PRECISIONS = {"int16": Precision(8191), "int8": Precision(63, 2**15 - 1)}


class Rounded(Neurons):
    """A layer whose weights are rounded; all else is the layer's."""

    def __init__(self, layer: Fused, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.layer, self.v_init, self.scale = layer, layer.v_init, layer.scale
        self._rounded = weight, bias

    @property
    def neuron(self):
        return self.layer.neuron

    def _fire(self, x, v, batch_statistics):
        weight, bias = self._rounded
        if not isinstance(x, Spikes):  # real values times weights need float64
            weight, bias = (p if p is None else known.made_of(p.double(), p) for p in (weight, bias))
        return self.layer._fire_with(weight, bias, x, v)

    def terms(self, x: Spikes | Tensor):
        return self.layer.terms(x)


def quantized(name: str, layer: SpikingLayer, precision: str) -> SpikingLayer:
    """A layer with weights of a name in PRECISIONS; batch normalisation is folded in."""
    if isinstance(layer, Population | MaxRatePool1d | MaxRatePool2d):  # no weights, and sums of spikes are exact
        return layer
    if not isinstance(layer, Fused):
        raise TypeError(
            f"precision={precision!r} is for FusedIFConv2d, FusedIFLinear, IF and MaxRatePool2d, and layer {name} is a "
            f"{type(layer).__name__}; simulate it with precision=None"
        )
    try:
        return Rounded(layer, *_rounded.of(*layer.folded()).get(precision, partial(_constants, PRECISIONS[precision])))
    except ValueError as error:
        raise ValueError(f"layer {name}: {error}") from error


_rounded = PackedWeights(fingerprint)


def _constants(precision: Precision, weight: Tensor, bias: Tensor | None = None) -> list[Tensor | None]:
    parameters = [p if p is None else p.float() for p in round_weights(weight, bias, precision)]
    for parameter in parameters:
        if parameter is not None:
            CONSTANTS.add(parameter.untyped_storage())
    return parameters


@torch.no_grad()
def round_weights(
    weight: Tensor, bias: Tensor | None, precision: Precision = PRECISIONS["int16"]
) -> tuple[Tensor, Tensor | None]:
    """Weight [C, ...] and bias [C] as float64, each channel in multiples of its own unit, a power of two."""
    rows = weight.double().flatten(1)
    terms = rows if bias is None else torch.cat([rows, bias.double()[:, None]], 1)
    room = LARGEST_SUM - rows.shape[1] - 1  # rounding adds at most half a unit to each weight
    if room <= 0:
        raise ValueError(f"exact sums are for at most {LARGEST_SUM - 2} inputs a neuron, got {rows.shape[1]}")
    # A sum in multiples of 2**-28 of the largest term (there are less than 2**24) is exact: the same in any order.
    grain = _power_of_two(terms.abs().amax(1, keepdim=True)) * 2.0**-28
    grains = torch.ceil(terms.abs() / grain)
    least = torch.maximum(rows.abs().amax(1) / precision.largest, grains.sum(1) * grain[:, 0] / room)
    half_room = precision.largest_half - rows.shape[1] / 2
    if 0 < half_room < math.inf:  # with more inputs no unit would do, and a CPU sums in more bits
        grains = grains[:, : rows.shape[1]]
        total, positive = grains.sum(1), grains.mul(rows > 0).sum(1)
        least = torch.maximum(least, torch.maximum(positive, total - positive) * grain[:, 0] / half_room)
    unit = _power_of_two(least)
    weight = torch.round(rows / unit[:, None]).mul(unit[:, None]).view_as(weight)
    return weight, None if bias is None else torch.round(bias.double() / unit) * unit


def round_input(x: Tensor | Spikes, sample: int) -> Tensor | Spikes:
    """Real-valued inputs in 24 bits of each sample's largest value; ``sample``: the dimension of the samples."""
    if isinstance(x, Spikes):
        return x
    others = [d for d in range(x.ndim) if d != sample]
    unit = _power_of_two(x.double().abs().amax(others, keepdim=True)) * 2.0 ** (1 - FLOAT_BITS)
    return (torch.round(x.double() / unit) * unit).float()


def _power_of_two(least: Tensor) -> Tensor:
    """The smallest powers of two that are not below ``least`` (float64, at least 2**-126), from their bits: log2, exp2
    and pow are one ulp off on some machines."""
    mantissa, exponent = torch.frexp(least.clamp(min=torch.finfo(torch.float32).tiny))
    exponent = exponent.long() - (mantissa == 0.5).long()
    return ((exponent + 1023) << 52).view(torch.float64)
