"""Networks that fire at given rates: random weights scaled to them, and thresholds as converted networks have them."""

import torch
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.training import fi_curve

IMAGES = 64  # that rates are measured on
MEAN = 0.05  # spikes a neuron and step that random weights are scaled to
PERCENTILE = 95  # of share_thresholds; rates are then from 5 to 30 %, higher with the soft reset


@torch.no_grad()
def scale_weights(net: nn.Sequential) -> None:
    """Scale each layer's weights, first to last, until its neurons fire at MEAN on average.

    Firing rates [N, ...] are propagated instead of spikes: under a mean current I, an integrate-and-fire
    neuron of threshold v_threshold fires at a rate near min(max(I, 0) / v_threshold, 1), and a leaky one as in
    proxykernels/training/fi_curve.py.
    """
    rates = pk.samples.fashion_mnist()[0][:IMAGES]
    for layer in net:
        if not isinstance(layer, pk.layers.Fused):  # pooling, flattening
            rates = layer(rates.unsqueeze(0)).squeeze(0)
            continue
        for bias in (layer.bias, getattr(layer.bn, "bias", None)):
            if bias is not None:
                bias.zero_()
        current = layer.affine(rates)
        if isinstance(layer.neuron, pk.neurons.LIFNeuron):
            scale = _scale(layer.neuron, current)
            rates = fi_curve.rate(layer.neuron, current * scale)
        else:
            scale = MEAN * layer.v_threshold / current.relu().mean()
            rates = (current * scale / layer.v_threshold).clamp(0, 1)
        layer.weight *= scale


@torch.no_grad()
def share_thresholds(net: nn.Sequential) -> None:
    """Give the neurons of each layer, first to last, one threshold: a percentile of the currents that excite them.

    That is how a ReLU network is converted to neurons that integrate and fire, and they fire more than trained ones.
    Rates are propagated as for random weights.
    """
    rates = pk.samples.fashion_mnist()[0][:IMAGES]
    for layer in net:
        if not isinstance(layer, pk.layers.Fused):
            rates = layer(rates.unsqueeze(0)).squeeze(0)
            continue
        currents = layer.affine(rates)
        currents = currents if layer.bn is None else layer.bn(currents)
        exciting = currents[currents > 0].sort().values
        layer.v_threshold = exciting[len(exciting) * PERCENTILE // 100].item()
        rates = (currents / layer.v_threshold).clamp(0, 1)


def _scale(neuron: pk.neurons.LIFNeuron, current: Tensor) -> float:
    """By what to multiply currents so that neurons fire at MEAN on average, by halving intervals."""
    low, high = 0.0, 1.0
    while fi_curve.rate(neuron, current * high).mean() < MEAN:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if fi_curve.rate(neuron, current * middle).mean() < MEAN else (low, middle)
    return high
