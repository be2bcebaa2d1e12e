"""Two layers one behind the other, and an input of spikes: for tests of tensors that stay packed."""

import torch
from cases import spikes
from torch import Tensor

import proxykernels as pk

T, N, C, SIZE = 9, 3, 16, (10, 12)


def layer(generator) -> pk.FusedIFConv2d:
    made = pk.FusedIFConv2d(8, C, 3, padding=1, v_threshold=4.0).eval()
    with torch.no_grad():
        made.weight.copy_(torch.randint(-4, 8, made.weight.shape, generator=generator))
        made.bias.copy_(torch.randint(-2, 3, made.bias.shape, generator=generator))
    return made


def following(generator) -> pk.FusedIFConv2d:
    made = pk.FusedIFConv2d(C, 8, 3, v_threshold=8.0).eval()
    with torch.no_grad():
        made.weight.copy_(torch.randint(-4, 6, made.weight.shape, generator=generator))
        made.bias.zero_()
    return made


def values(generator) -> Tensor:
    return spikes(T, N, 8, *SIZE, generator=generator, rate=0.3)


def dense_spikes(layer, x: Tensor) -> Tensor:
    """What the layer gives, not packed; of which some fire."""
    dense = layer(pk.pack(x)).dense()
    assert 0 < dense.mean() < 1
    return dense
