"""Scales weights to the neurons' range, between the training of the ReLU twin and that of the spiking network."""

import torch
import torch.nn.functional as F
from torch import Tensor

import proxykernels as pk


@torch.no_grad()
def to_range(model: pk.ProxyNet, images: Tensor, percentile: float) -> None:
    """Scale each layer until ``percentile`` % of its twin's activations above 0 lie below the threshold.

    A ReLU network computes the same, up to a factor, if a layer's currents are multiplied by a number and the next
    layer's weights are divided by it, but for what is clipped then; its spiking twin fires more, and so is right after
    fewer steps. That is the scaling of converted networks (Rueckauer et al., Frontiers in Neuroscience 11, 2017, doi
    10.3389/fnins.2017.00682).

    Args:
        model: in evaluation mode; of a chain of layers, nn.Sequential, whose ReLUs are clipped at the threshold, which
            is why no scale is below 1.
        images: [N, C, H, W].
    """
    values, before = images, 1.0
    for name, layer in model.net.named_children():
        if not isinstance(layer, pk.layers.Fused):  # pooling, flattening
            rates = isinstance(layer, pk.layers.SpikingLayer)  # pooling layers that take only spikes
            values = layer.affine(values) if rates else layer(values.unsqueeze(0)).squeeze(0)
            continue
        current = layer.affine(values)
        if layer.bn is not None:
            own = model.statistics[name]
            current = F.batch_norm(
                current, own.running_mean, own.running_var, layer.bn.weight, layer.bn.bias, eps=own.eps
            )
        values = current.clamp(0, layer.v_threshold)
        scale = _scale(values, layer.v_threshold, percentile)
        layer.weight /= before  # the normalisation's statistics stay: the currents are the same
        scaled = layer if layer.bn is None else layer.bn
        scaled.weight *= scale
        if scaled.bias is not None:
            scaled.bias *= scale
        before = scale


def _scale(values: Tensor, threshold: float, percentile: float) -> float:
    positive = values[values > 0]
    if not len(positive):  # a layer that is silent on all these images
        return 1.0
    return threshold / positive.sort().values[int(len(positive) * percentile / 100)].item()
