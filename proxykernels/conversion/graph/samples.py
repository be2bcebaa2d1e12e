"""A sample input for a translated network, generated if none is given."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import Flatten, Neurons
from ...layers.synapses import Convolution, Convolution1d, Product
from ...network import Network
from .compare import STEPS

SAMPLES = 2
USUAL = (32, 28, 16, 64, 8, 34, 12, 48, 24, 128, 96, 224, 256)  # pixels along an axis, those of small nets first
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8000, 16000)
MOST = 300


def sample_of(net: Network) -> Tensor | None:
    """Random values [T, N, ...] from 0 to 1, of a shape that the layers take; None: none was found."""
    shape = next((shape for shape in _shapes(net) if _takes(net, shape)), None)
    if shape is None:
        return None
    return torch.rand(STEPS, SAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _shapes(net: Network) -> Iterator[tuple[int, ...]]:
    """Candidate shapes of one sample and step for the first layers with weights."""
    for kind, channels in dict.fromkeys(_first_weights(net)):
        if kind is Product:
            yield (channels,)
        elif kind is Convolution1d:
            yield from ((channels, n) for n in (*LENGTHS, *range(1, 2 * MOST)))
        else:
            yield from ((channels, n, n) for n in (*USUAL, *range(1, MOST)))
            yield from ((channels, *size) for size in itertools.permutations((*USUAL, 10, 20, 40, 80), 2))


def _first_weights(net: Network) -> Iterator[tuple[type, int]]:
    """The first layers with weights and their input channels; behind a Flatten the features."""
    from_input = {Network.INPUT}
    layer: Any
    sources: Any
    for name, layer, sources in net.layers():
        if not from_input.intersection(sources):
            continue
        synapses = [s for s, _ in layer.terms(sources)] if isinstance(layer, Neurons) else []
        weighted = [synapse for synapse in synapses if synapse.fan_in]
        for synapse in weighted:
            if isinstance(synapse, Convolution):
                yield type(synapse), synapse.module.in_channels
            else:
                yield Product, synapse.module.in_features
        if not weighted:
            from_input.add(name)


def _takes(net: Network, shape: tuple[int, ...]) -> bool:
    """Whether all layers accept a sample of that shape."""
    values = {Network.INPUT: _zeros(1, 1, *shape)}
    try:
        for name, layer, sources in net.layers():
            inputs = tuple(values[source] for source in sources)
            values[name] = _given(layer, inputs if len(inputs) > 1 else inputs[0])
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return True


def _given(layer: nn.Module, x: Any) -> Tensor:
    if not isinstance(layer, Neurons):
        return x.flatten(2) if isinstance(layer, Flatten) else layer(x)
    shapes = set()
    for synapse, part in layer.terms(x):
        shapes.add(tuple(synapse.output_shape(tuple(part.shape))))
    (shape,) = shapes
    if min(shape[2:]) < 1:
        raise ValueError("nothing left")
    return _zeros(*shape)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(()).expand(shape)  # no memory; torch's meta device takes seconds to load
