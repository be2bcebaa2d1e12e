"""Backpropagation through time with a surrogate derivative: of firing rates, and of a network that ends in currents."""

from torch import Tensor, nn

import proxykernels as pk


class Surrogate(nn.Module):
    """The spiking network's firing rates [N, classes], differentiable through all T steps."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model
        surrogate = pk.Triangle(detach_reset=True)  # of Esser et al., arXiv:1603.08270
        self.through_time = pk.SurrogateNet(model.net, model.T, surrogate=surrogate, readout="rate")

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        self.through_time.training = model.training and not model.batch_norm_frozen  # whether statistics learn
        output = self.through_time(x)
        model.rates, model.ann_rates, model.ann_output = self.through_time.rates, {}, None  # no twin runs
        return output


class Unrolled(nn.Module):
    """The currents of the last layer at each step, [T, N, classes], differentiable: for few steps.

    Normalisation takes the statistics of all samples and steps, and starts at the scale of a threshold of 1: tdBN,
    "Going deeper with directly-trained larger spiking neural networks" (Zheng et al., AAAI 2021, arXiv:2011.05280). The
    loss sees the last layer's currents at each step; their mean is read.
    """

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        *hidden, last = model.net
        model.rates, model.ann_rates, model.ann_output = {}, {}, None  # no twin runs
        spikes = x.expand(model.T, *x.shape)
        surrogate = pk.Triangle(detach_reset=True)
        for layer in hidden:
            if isinstance(layer, pk.layers.Fused):
                layer.surrogate = surrogate
            try:
                spikes = layer(spikes)
            finally:
                if isinstance(layer, pk.layers.Fused):
                    layer.surrogate = None
        return last.affine(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
