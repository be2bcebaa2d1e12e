"""A network of proxykernels layers taken apart into plain torch modules, for those who simulate it otherwise."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

import proxykernels as pk


@dataclass(frozen=True)
class Stage:
    """What lies between two populations of neurons, and the second of them.

    Attributes:
        synapses: spikes (or the image) [N, ...] to input currents [N, ...]: pooling, flattening, then a
            convolution with its batch normalisation folded, or a linear layer.
        v_threshold, v_reset: of the neurons; ``v_reset`` is 0.0, or None for soft reset.
        decay: share of the potential that a step leaves; 1 of neurons that integrate and fire.
    """

    synapses: nn.Sequential
    v_threshold: float
    v_reset: float | None
    decay: float = 1.0


def stages(net: nn.Sequential, device: torch.device, *, channels_last: bool) -> list[Stage]:
    """The stages of a network in their order, with their own copies of the weights."""
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    result, synapses = [], []
    for layer in net:
        synapses.append(plain(layer))
        if isinstance(layer, pk.layers.Fused):
            if layer.v_reset not in (None, 0.0):
                raise ValueError(f"rivals reset to 0 or subtract, got v_reset={layer.v_reset}")
            module = nn.Sequential(*synapses).eval().to(device, memory_format=memory_format)
            result.append(Stage(module, float(layer.v_threshold), layer.v_reset, _decay(layer.neuron)))
            synapses = []
    return result


def _decay(neuron: pk.neurons.AnyNeuron) -> float:
    if type(neuron) is pk.neurons.IFNeuron:
        return 1.0
    if type(neuron) is pk.neurons.LIFNeuron and neuron.v_rest == 0:
        return float(neuron.decay)
    raise ValueError(f"rivals integrate and fire, or leak to 0, got {neuron}")


def plain(layer: nn.Module) -> nn.Module:
    """A layer's synapse, pooling or flattening as a module of torch for single steps, with weights of its own."""
    if isinstance(layer, pk.layers.Fused):
        return copy.deepcopy(layer.synapse(layer).plain()).requires_grad_(False)
    if isinstance(layer, pk.MaxPool2d | pk.MaxRatePool2d):
        return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, pk.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool2d(layer.output_size)
    if isinstance(layer, pk.Flatten):
        return nn.Flatten()
    raise TypeError(f"rivals know no layer {type(layer).__name__}")
