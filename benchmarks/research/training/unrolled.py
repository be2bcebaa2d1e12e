"""Backpropagation through all steps at once, of a network that ends in currents: for few steps.

Normalisation takes the statistics of all samples and steps, and starts at the scale of a threshold of 1: tdBN, "Going
deeper with directly-trained larger spiking neural networks" (Zheng et al., AAAI 2021, arXiv:2011.05280). The loss sees
the last layer's currents at each step; their mean is read.
"""

from torch import Tensor, nn

import proxykernels as pk


class Unrolled(nn.Module):
    """The currents of the last layer at each step, [T, N, classes], differentiable."""

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
