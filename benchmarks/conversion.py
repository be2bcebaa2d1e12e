"""A trained ReLU network as a spiking one: thresholds by the data.

Diehl et al., IJCNN 2015, and Rueckauer et al., Frontiers in Neuroscience 2017: a neuron whose ReLU reaches at most
lambda must fire at most once a step, so each layer's threshold is its own lambda over that of the layer before.
"""

import copy

import torch
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.layers import Neurons
from proxykernels.simulate import replace_neurons

PERCENTILE = 0.999  # of a layer's activations: a few outliers must not slow all the others down


@torch.no_grad()
def convert(model: pk.ProxyNet, images: Tensor) -> nn.Module:
    """The spiking network, with soft reset, that fires in proportion to the activations of the twin of ``model``.

    Args:
        model: its twin is trained and not clipped; layers without batch normalisation.
        images: [N, C, H, W] to measure the activations on.
    """
    net = copy.deepcopy(model.net).eval()
    scales: dict[str, float] = {}

    def measure(name: str, layer: Neurons) -> nn.Module:
        return _Measured(name, layer, scales)

    replace_neurons(net, measure)(images.unsqueeze(0))
    before = 1.0
    for name, layer in net.named_modules():
        if isinstance(layer, Neurons):
            if layer.bias is not None:
                layer.bias /= before
            layer.v_threshold, layer.v_reset = scales[name] / before, None
            before = scales[name]
    return net


class _Measured(nn.Module):
    """A layer of the ReLU network that notes the percentile of its activations."""

    def __init__(self, name: str, layer: Neurons, scales: dict[str, float]):
        super().__init__()
        self.name, self.layer, self.scales = name, layer, scales

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer.affine(x.squeeze(0)).relu()
        values = y.flatten()
        self.scales[self.name] = values.kthvalue(int(PERCENTILE * len(values))).values.item()
        return y.unsqueeze(0)
