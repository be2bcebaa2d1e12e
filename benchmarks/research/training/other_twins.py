"""Leaky networks trained by twins of ReLUs, to compare with the twin that pk.ProxyNet gives them."""

import copy

from torch import Tensor, nn

import proxykernels as pk
from proxykernels.layers import Neurons, SpikingLayer
from proxykernels.running.prepared_network import replace_neurons


class ReluProxy(nn.Module):
    """The spiking network's firing rates [N, classes], with the gradient of ReLUs; ``clip`` as of pk.ProxyNet."""

    def __init__(self, model: pk.ProxyNet, clip: bool):
        super().__init__()
        self.model = model
        net = replace_neurons(model.net, lambda _, layer: _without_leak(layer))
        self.twin = pk.ProxyNet(
            net, model.T, clip=clip, readout=model.readout, statistics_of=model.statistics_of
        ).train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        output, ann = self.model.snn(x), self.twin.ann(x)
        self.model.ann_rates, self.model.ann_output = self.twin.ann_rates, self.twin.ann_output
        return ann + (output - ann).detach()  # the value of the one, the gradient of the other


def _without_leak(layer: SpikingLayer) -> SpikingLayer:
    """A copy with the same parameters and integrate-and-fire neurons."""
    if not isinstance(layer, Neurons):
        return layer
    clone = copy.copy(layer)
    clone._buffers, clone._parameters, clone._modules = (
        dict(part) for part in (layer._buffers, layer._parameters, layer._modules)
    )
    clone._set_neurons(pk.neurons.IFNeuron(v_threshold=layer.v_threshold, v_reset=layer.v_reset))
    return clone
