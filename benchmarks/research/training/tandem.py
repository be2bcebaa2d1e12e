"""Tandem learning (Wu et al., IEEE TNNLS 2021, arXiv:1907.01167): the twin sees the spiking network's rates everywhere.

Proxy learning uses only the spiking network's output; here each layer of the ReLU network is fed with the firing
rates that reach the spiking layer, so its gradient is taken at what the spiking network did.
"""

import torch
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.layers import Neurons, SpikingLayer
from proxykernels.running.prepared_network import replace_neurons
from proxykernels.training.twin import NotBelowZero


class Tandem(nn.Module):
    """The spiking network's firing rates [N, classes], with the gradient of the twin that is coupled layer by layer."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model, recorders = self.model, {}

        def record(name: str, layer: SpikingLayer) -> SpikingLayer:
            if not isinstance(layer, Neurons):  # max pooling of rates: what it gives is recorded behind it
                return layer
            recorders[name] = _Recorder(layer)
            return recorders[name]

        net = model.net
        try:
            model.net = replace_neurons(net, record)
            output = model.snn(x)
        finally:
            model.net = net
        inputs = {name: recorder.count / model.T for name, recorder in recorders.items() if recorder.count is not None}
        ann = model.ann(x, inputs)
        if model.clip:  # as ProxyNet does
            ann = NotBelowZero.apply(ann)
        return ann + (output - ann).detach()  # the value of the one, the gradient of the other


class _Recorder(Neurons):
    """A layer that counts the spikes of its input; a first layer, fed with constant currents, has none."""

    def __init__(self, layer: Neurons):
        super().__init__()
        self.layer, self.count = layer, None
        self._set_neurons(layer.neuron, layer.v_init)

    @torch.no_grad()
    def spike(self, x, v=None, *, batch_statistics=False):
        if isinstance(x, pk.Spikes):
            count = x.count() * x.scale
            self.count = count if self.count is None else self.count + count
        return self.layer.spike(x, v, batch_statistics=batch_statistics)
