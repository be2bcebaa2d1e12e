"""Weights of 14 bits, in which every sum is exact: the same spikes on any machine, in any batch and order of sums.

The weights of an output channel become whole multiples of a power of two, at most 14 bits each, so that a CPU can add
four of them in int16 (kernels/cpu/src/conv2d/rows.h), and small enough that the sum of all of them, bias included,
fits the 24 bits of a float32. Then whatever adds them up, in whatever order, comes to the same current: C++ on a CPU,
or a GPU's tensor cores, for which each weight is exactly two float16 parts
(and which keep 24 bits of a sum). Real-valued inputs are rounded to 24 bits of each sample's largest value and
convolved in float64, where such sums are exact too. Potentials stay float32, and their steps are the same everywhere.
"""

import copy

import torch
from torch import Tensor, nn

from .. import ops
from ..kernels.weight_cache import CONSTANTS, PackedWeights
from ..layers import IF, FusedIFConv2d, FusedIFLinear, Neurons
from ..spikes import Spikes

LARGEST = 8191  # 13 bits and a sign
FLOAT_BITS = 24
# Of a neuron's absolute weights, in units. A GPU adds each weight as two float16 parts (kernels/weight_layouts.py),
# which together are up to 1 + 2**-10 times as large, and no sum of parts may pass 24 bits either.
LARGEST_SUM = 2**FLOAT_BITS - 2**14


def quantized(name: str, layer: Neurons) -> Neurons:
    """A layer with weights of 14 bits; batch normalisation is folded in."""
    if isinstance(layer, IF):
        return layer
    if not isinstance(layer, FusedIFConv2d | FusedIFLinear):
        raise TypeError(
            f"precision='int16' is for FusedIFConv2d, FusedIFLinear and IF, and layer {name} is a "
            f"{type(layer).__name__}; simulate it with precision=None"
        )
    weight, bias = layer.folded() if isinstance(layer, FusedIFConv2d) else (layer.weight, layer.bias)
    biased = None if bias is None else ops.fingerprint(bias.detach().contiguous())
    parameters = _rounded.of(weight).get(biased, lambda values: _constants(*round_weights(values, bias)))
    rounded = _with_parameters(layer, *parameters)

    def fire(x: Spikes | Tensor, *arguments) -> tuple[Spikes, Tensor]:
        if isinstance(x, Spikes):
            return type(layer)._fire(rounded, x, *arguments)
        exact = _with_parameters(layer, *(p if p is None else p.double() for p in parameters))
        return type(layer)._fire(exact, x, *arguments)  # real values times weights need float64

    rounded._fire = fire
    return rounded


_rounded = PackedWeights(ops.fingerprint)


def _constants(*parameters: Tensor | None) -> list[Tensor | None]:
    parameters = [p if p is None else p.float() for p in parameters]
    for parameter in parameters:
        if parameter is not None:
            CONSTANTS.add(parameter.untyped_storage())
    return parameters


def _with_parameters(layer: Neurons, weight: Tensor, bias: Tensor | None) -> Neurons:
    """A copy of a layer with these parameters and no normalisation."""
    clone = copy.copy(layer)
    clone._modules = {key: None for key in layer._modules}
    tensors = {"weight": weight, "bias": bias}
    clone._parameters = {
        key: None if tensor is None else nn.Parameter(tensor, requires_grad=False) for key, tensor in tensors.items()
    }
    return clone


@torch.no_grad()
def round_weights(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight [C, ...] and bias [C] as float64, each channel in multiples of its own unit, a power of two."""
    weight = weight.double()
    bias = None if bias is None else bias.double()
    rows = weight.flatten(1)
    total = rows.abs().sum(1) + (0 if bias is None else bias.abs())
    room = LARGEST_SUM - rows.shape[1] - 1  # rounding adds at most half a unit to each weight
    if room <= 0:
        raise ValueError(f"precision='int16' is for at most {LARGEST_SUM - 2} inputs a neuron, got {rows.shape[1]}")
    finest = torch.maximum(rows.abs().amax(1) / LARGEST, total / room)
    unit = torch.exp2(torch.log2(finest.clamp(min=torch.finfo(torch.float32).tiny)).ceil())
    weight = torch.round(rows / unit[:, None]).mul(unit[:, None]).view_as(weight)
    return weight, None if bias is None else torch.round(bias / unit) * unit


def round_input(x: Tensor | Spikes, sample: int) -> Tensor | Spikes:
    """Real-valued inputs in 24 bits of each sample's largest value; ``sample``: the dimension of the samples."""
    if isinstance(x, Spikes):
        return x
    others = [d for d in range(x.ndim) if d != sample]
    largest = x.double().abs().amax(others, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    unit = torch.exp2(torch.log2(largest).ceil() - FLOAT_BITS + 1)
    return (torch.round(x.double() / unit) * unit).float()
