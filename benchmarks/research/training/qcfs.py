"""QCFS: a ReLU network with the activations of a few steps, to be converted.

"Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks" (Bu et al., ICLR 2022,
arXiv:2303.04347): quantisation, clip, floor, shift,

    y = theta clip(floor(L I / theta + 1/2) / L, 0, 1)

which is the mean output of an integrate-and-fire neuron that starts at half its threshold, on a constant current, after
L steps. Backward the floor is the identity. theta is learned, one value a layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk

LEVELS = 8
LEAST = 1e-3  # of a threshold


class Qcfs(nn.Module):
    """The output [N, classes] of the ReLU network of ``model``, a chain of layers, with these activations."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model
        self.hidden = [layer for layer in model.net if isinstance(layer, pk.layers.Fused)][:-1]
        self.thresholds = nn.ParameterList(torch.tensor(float(layer.v_threshold)) for layer in self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        model, index = self.model, 0
        model.rates, model.ann_rates, model.ann_output = {}, {}, None  # no other network runs
        for name, layer in model.net.named_children():
            if not isinstance(layer, pk.layers.Fused):  # pooling, flattening
                x = layer(x.unsqueeze(0)).squeeze(0)
                continue
            x = layer.affine(x)
            if layer.bn is not None:
                own, learns = model.statistics[name], model.training and not model.batch_norm_frozen
                x = F.batch_norm(
                    x, own.running_mean, own.running_var, layer.bn.weight, layer.bn.bias, learns, own.momentum, own.eps
                )
            if index < len(self.thresholds):
                theta = self.thresholds[index]
                x = theta * _floor(LEVELS * x / theta + 0.5).div(LEVELS).clamp(0, 1)
                index += 1
        return x

    @torch.no_grad()
    def settle(self) -> None:
        """After a step of the optimizer: the layers, where conversion and checkpoints look, get the thresholds."""
        for layer, theta in zip(self.hidden, self.thresholds, strict=True):
            layer.v_threshold = theta.clamp_(min=LEAST).item()


def _floor(x: Tensor) -> Tensor:
    return x + (x.floor() - x).detach()
