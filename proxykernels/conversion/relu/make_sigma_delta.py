"""Networks of sigma-delta neurons: a threshold of each channel, and layers.

A threshold is the largest activation of its channel on the calibration data, of a layer without a ReLU the largest
absolute value. Weights hold them, as they do scales of rates: a spike of 1 is one threshold. Neurons of an identity
shortcut keep thresholds of their own, and the shortcut has their ratio for a weight.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ...kernels import heap
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...layers.synapses import synapse_of
from ...network import Network
from ...neurons import SigmaDelta
from ..graph.graph_values import ModelPopulation
from .relu_graph import ReluGraph
from .scales import Distribution, Scales, limit, rearranged

NAME = "sigma-delta"
# Of the layer's largest activation: no channel's threshold is smaller. A channel that the calibration data hardly wake
# would take many spikes on others.
LEAST = 1 / 4


def neuron_of(neuron: Any, share: bool, **options: tuple[Any, Any]) -> SigmaDelta | None:
    """The neurons that convert was asked for; None: IF neurons. ``options``: those of IF neurons, and their defaults.

    Raises:
        TypeError, ValueError: they are unknown, or come with options of others.
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
    """Of each population, [C], or no dimensions: one for all channels; 1 where there are no neurons."""
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
    """The neurons of a population, or what passes its sum on as real values."""
    modules = [synapse_of(module).plain() for module in population.modules]
    return SigmaDeltaNeurons(
        *modules, neuron=neuron, scale=scale, limit=limit(population.neuron), rectifies=population.neuron is not None,
        fires=is_fired(population), pool=population.pool,
    )  # fmt: skip


def is_fired(population: ModelPopulation) -> bool:
    """Whether sigma-delta neurons send the population's values; the last layer's are passed on as they are."""
    return population.signed or (population.fires and population.neuron is not None)
