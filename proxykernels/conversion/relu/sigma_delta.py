"""Networks of sigma-delta neurons: a threshold for each channel, layers, and the place of max pooling.

A threshold is the largest activation of its channel on the calibration data, or for a layer without a ReLU the largest
absolute value. The weights contain it, as they contain the scales of rates: a spike of 1 is one threshold. Neurons of
an identity shortcut keep their own thresholds, and the ratio becomes the shortcut's weight.

An increasing activation and a maximum can be exchanged, max(relu(z)) = relu(max(z)). So the neurons come behind the
pooling: there are fewer of them, and their spikes are additions in the next layer. This needs neurons whose output only
the pooling takes, directly or in a concatenation. Otherwise the neurons stay in front, and the pooling passes on real
values: the change of the maximum of everything sent so far.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ... import layers
from ...kernels import heap
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...layers.synapses import synapse_of
from ...network import Network
from ...neurons import SigmaDelta
from ..graph.graph_values import ModelPopulation, Signal
from .relu_graph import ReluGraph
from .scales import Distribution, Scales, limit, rearranged

NAME = "sigma-delta"
# No channel's threshold is smaller than this share of the layer's largest activation. A channel that is hardly active
# on the calibration data would otherwise send many spikes on other data.
LEAST = 1 / 4
RUNNING: dict[type, Any] = {
    layers.MaxPool1d: layers.RunningMaxPool1d,
    layers.MaxPool2d: layers.RunningMaxPool2d,
    layers.MaxRatePool1d: layers.RunningMaxPool1d,
    layers.MaxRatePool2d: layers.RunningMaxPool2d,
    layers.RunningMaxPool1d: layers.RunningMaxPool1d,
    layers.RunningMaxPool2d: layers.RunningMaxPool2d,
}


def neuron_of(neuron: Any, share: bool, **options: tuple[Any, Any]) -> SigmaDelta | None:
    """The neurons that the caller asks for; None: IF neurons. ``options``: those of IF neurons, and their defaults.

    Raises:
        TypeError, ValueError: the neurons are unknown, or an option is for IF neurons only.
    """
    if neuron == "if":
        return None
    if neuron == NAME:
        neuron = SigmaDelta()
    if not isinstance(neuron, SigmaDelta):
        raise ValueError(
            f"neuron must be 'if', {NAME!r} or proxykernels.neurons.SigmaDelta(exponents=...), got {neuron!r}"
        )
    for name, (value, default) in options.items():
        if value != default:
            raise ValueError(f"{name} is an option for IF neurons, got {value!r} for {neuron}; leave it out")
    if share:
        raise ValueError(f"share=True is not supported for {neuron}; leave it out")
    return neuron


def thresholds(graph: ReluGraph, distributions: dict[str, Distribution]) -> Scales:
    """The thresholds of each population, [C] or one for all channels []; 1 where there are no neurons."""
    found: Scales = {}
    for name, distribution in distributions.items():
        population = graph.populations[name]
        largest = distribution.maximum.max().item()
        if not math.isfinite(largest):
            raise ValueError(f"{graph.model}: {population.current.path} overflows on the calibration data")
        if population.neuron is None and not population.signed:
            continue
        if largest == 0:
            path = population.current.path
            raise ValueError(f"{graph.model}: {path} is silent on the calibration data; it needs more samples")
        found[name] = distribution.maximum.clamp(min=LEAST * largest)
    one = torch.ones((), dtype=torch.float32, device=heap.CPU)
    scales = {**dict.fromkeys(graph.populations, one), **found, Network.INPUT: one}
    for name in rearranged(graph):  # whose channels are others' features
        scales[name] = scales[name].max()
    changed = True
    while changed:  # groups may overlap
        changed = False
        for group in graph.one_scale:
            shared = torch.stack([scales[name].max() for name in group]).max()
            for name in group:
                changed = changed or not torch.equal(scales[name], shared)
                scales[name] = shared
    return scales


def layer_of(population: ModelPopulation, scale: Tensor, neuron: SigmaDelta) -> SigmaDeltaNeurons:
    """The layer of a population: neurons, or one that passes the sum on as real values."""
    modules = [synapse_of(module).plain() for module in population.modules]
    return SigmaDeltaNeurons(
        *modules, neuron=neuron, scale=scale, limit=limit(population.neuron), rectifies=population.neuron is not None,
        fires=is_fired(population), pool=population.pool,
    )  # fmt: skip


def is_fired(population: ModelPopulation) -> bool:
    """Whether sigma-delta neurons send the population's values; the last layer passes real values on."""
    return population.signed or (population.fires and population.neuron is not None)


def pool_before_neurons(graph: ReluGraph) -> None:
    """Put each max pooling in front of the neurons whose spikes it takes, or let it pool what was sent so far."""
    for name in list(graph.order):
        old, (source, *_) = graph.others.get(name, (None, ("",)))
        if type(old) not in RUNNING:
            continue
        taken = _taken_alone(graph, source, name)
        if taken is None:
            graph.others[name] = _running(old), (source,)
            continue
        for neurons in taken & set(graph.populations):
            graph.populations[neurons].pool = _running(old)
        _leave_out(graph, name, source, taken)


def _running(pool: Any) -> layers.RunningMaxPool2d:
    return RUNNING[type(pool)](pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


def _taken_alone(graph: ReluGraph, name: str, reader: str) -> set[str] | None:
    """A layer that only ``reader`` takes, and the layers before it up to neurons; None: other layers take one of them,
    or one is neither neurons nor a concatenation."""
    if [other for other in graph.order if name in _sources(graph, other)] != [reader]:
        return None
    if name in graph.populations:
        population = graph.populations[name]
        return {name} if is_fired(population) and population.pool is None else None
    layer, sources = graph.others.get(name, (None, ()))
    if not isinstance(layer, layers.Concatenate):
        return None
    found = [_taken_alone(graph, source, name) for source in sources]
    parts = [part for part in found if part is not None]
    return {name}.union(*parts) if len(parts) == len(found) else None


def _sources(graph: ReluGraph, name: str) -> tuple[str, ...]:
    if name in graph.others:
        return graph.others[name][1]
    return tuple(projection.source.layer for projection in graph.populations[name].current.projections)


def _leave_out(graph: ReluGraph, name: str, source: str, pooled: set[str]) -> None:
    """Remove the pooling ``name``: ``source`` now gives its values, and no layer gives those of ``pooled`` any more."""
    graph.order.remove(name)
    del graph.others[name]
    for other, (layer, sources) in graph.others.items():
        graph.others[other] = layer, tuple(source if taken == name else taken for taken in sources)
    for population in graph.populations.values():
        for projection in population.current.projections:
            if projection.source.layer == name:
                projection.source = replace(projection.source, layer=source)
    for nodes in (graph.values, graph.carried):
        _rename(nodes, name, source, pooled)


def _rename(nodes: dict[fx.Node, Any], name: str, source: str, pooled: set[str]) -> None:
    for node, value in list(nodes.items()):
        if not isinstance(value, Signal):
            continue
        if value.layer in pooled:
            del nodes[node]
        elif value.layer == name:
            nodes[node] = replace(value, layer=source)
