"""Pooling in simulations: averages become part of the next layer's weights, maxima part of the launch before.

Averages of spikes that a matrix product follows, where they have no fewer pixels than the spikes: VGG's, of small
images. A mean is a product with a matrix of its own, so both are one product with other weights, of the spikes
themselves: what takes the values of all windows at every step otherwise, real ones, adds few weights. A GPU, which
multiplies as fast, keeps them.
"""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import heap
from ..kernels.backends import fingerprint
from ..kernels.weight_cache import CONSTANTS, PackedWeights
from ..layers import AdaptiveAvgPool2d, AvgPool2d, Flatten, FusedConv2d, FusedLinear, MaxPool2d, Neurons
from ..layers.parametrized import has_forward_hooks, is_parametrized, shallow_copy, uncompiled
from ..network import Network
from ..spikes import Spikes
from ..spikes.spike_tensor import packed
from .plain_modules import own_forward


class SparedPool(nn.Module):
    """Takes the place of a pooling: spikes go through as they are where the product can take them.

    Attributes:
        means: what it would compute of the spikes that it has let through, [outputs, inputs] of one channel, and the
            sizes of both; None if it has averaged.
    """

    def __init__(self, pool: nn.Module, features: int):
        super().__init__()
        self.pool, self.features = [pool], features  # in a list: not a child, whose calls would be watched
        self.means: tuple[Tensor, tuple[int, ...]] | None = None

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        (pool,), self.means = self.pool, None
        bits = packed(x)
        spared = isinstance(bits, Spikes) and bits.device.type == "cpu" and self.is_spared(tuple(bits.shape[2:]))
        return bits if spared else pool(x)

    def is_spared(self, shape: tuple[int, ...]) -> bool:
        """Whether spikes of this shape (C, H, W) are let through; then there are ``means``."""
        (pool,), self.means = self.pool, None
        if len(shape) != 3 or math.prod(shape) > self.features:
            return False
        channels, *size = shape
        inputs = size[0] * size[1]
        images = pool(torch.eye(inputs, dtype=torch.float32, device=heap.CPU).view(1, inputs, 1, *size))
        outputs = images[0, 0].numel()
        if inputs > outputs or channels * outputs != self.features:
            return False
        self.means = images.view(inputs, outputs).t(), (*size, *images.shape[3:])
        return True


class MergedProduct(Neurons):
    """Takes the place of the matrix product; all but the weights is the layer's."""

    def __init__(self, layer: FusedLinear, pool: SparedPool):
        super().__init__()
        self.layer, self._pool = layer, [pool]
        self.stand_for(layer)

    @property
    def neuron(self):
        return self.layer.neuron

    def _fire(self, x, v, batch_statistics):
        weight, bias = self.parameters_now()
        return self.layer._fire_with(weight, bias, x, v)

    def parameters_now(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for what the pooling has let through, or for its averages."""
        weight, bias = self.layer.folded()
        means = self._pool[0].means
        if means is None:
            return weight, bias
        matrix, sizes = means

        def merge(weight: Tensor) -> Tensor:
            merged = (weight.unflatten(1, (-1, len(matrix))) @ matrix).flatten(1)
            CONSTANTS.add(merged.untyped_storage())
            return merged

        return _merged.of(weight).get(sizes, merge), bias

    def terms(self, x: Any):
        return self.layer.terms(x)


_merged = PackedWeights(fingerprint)


def without_averages(net: nn.Module) -> nn.Module:
    """A network that computes the same with such averages left out, where it is written down what follows what: in an
    nn.Sequential or a :class:`Network`. Everything else is shared."""
    found: dict[nn.Module, nn.Module] = {}
    uses = Counter(module for _, module in net.named_modules(remove_duplicate=False))
    for module in list(uses):
        for pool, layer in _pairs(module):
            if uses[pool] == uses[layer] == 1:
                found[pool] = replacement = SparedPool(pool, layer.in_features)
                found[layer] = MergedProduct(layer, replacement)
    return _replaced(net, found) if found else net


def _pairs(module: nn.Module) -> Iterator[tuple[Any, FusedLinear]]:
    """The poolings and matrix products of a module, with a flattening between them, that nothing else reads.

    None of what the module is given: those may be values in one run, and spikes in another of the same engine.
    """
    if isinstance(module, Network):
        layers = module.layers()
    elif isinstance(module, nn.Sequential):
        names = ["", *module._modules]
        layers = [(name, layer, (names[k],)) for k, (name, layer) in enumerate(module._modules.items())]
    else:
        return
    read = [source for _, _, sources in layers for source in sources]
    once = {name: (layer, sources[0]) for name, layer, sources in layers if read.count(name) == 1}
    for _, layer, sources in layers:
        if not isinstance(layer, FusedLinear) or not type(layer).__module__.startswith("proxykernels."):
            continue
        flatten, before = once.get(sources[0], (None, ""))
        pool, source = once.get(before, (None, ""))
        averages = bool(source) and type(pool) in (AdaptiveAvgPool2d, AvgPool2d)
        if averages and type(flatten) is Flatten and not is_parametrized(layer):
            parts: tuple[Any, ...] = pool, flatten, layer
            if not any(own_forward(part) or has_forward_hooks(part) for part in parts):
                yield pool, layer


def _replaced(net: nn.Module, found: dict[nn.Module, nn.Module]) -> nn.Module:
    net = uncompiled(net)
    if net in found:
        return found[net]
    if not net._modules:
        return net
    clone = shallow_copy(net)
    clone._modules = {name: child and _replaced(child, found) for name, child in net._modules.items()}
    return clone


def layers_before_pools(net: nn.Module) -> set[nn.Module]:
    """The convolutions of a network that :class:`MaxPool2d` by 2 x 2 follows, where it is written down what follows: in
    an nn.Sequential or a :class:`Network`."""
    pairs: list[tuple[nn.Module | None, nn.Module]] = []
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            pairs += pairwise(module)
        elif isinstance(module, Network):
            layers = {name: layer for name, layer, _ in module.layers()}
            pairs += [(layers.get(source), layer) for _, layer, sources in module.layers() for source in sources]
    return {layer for layer, following in pairs if isinstance(layer, FusedConv2d) and _is_two_by_two(following)}


def _is_two_by_two(layer: nn.Module) -> bool:
    if not isinstance(layer, MaxPool2d):
        return False
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return all(size in (2, (2, 2), [2, 2]) for size in (layer.kernel_size, stride)) and layer.padding in (0, (0, 0))
