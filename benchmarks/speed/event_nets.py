"""Convolutional networks for events, with random weights whose sums are exact, so that all who run them fire alike."""

import torch
from torch import Tensor, nn

import proxykernels as pk

UNIT = 2.0**-6  # of weights and thresholds
BIAS_UNIT = 2.0**-10
LARGEST = 2**14  # threshold, in units
SAMPLE = 16  # steps that thresholds are found on
ANSWERS = 10
ANSWER_RATE = 0.05


def network(
    sample: pk.Spikes, strides: tuple[int, int, int], widths: tuple[int, int, int], bias: bool = False,
    answers: bool = False,
) -> nn.Sequential:  # fmt: skip
    """Three convolutions with soft reset, a linear layer behind them for ``answers``; always the same weights.

    Each layer fires as often as its input does, by ``sample`` (T, 1, 2, H, W): thresholds are set so.
    """
    g = torch.Generator().manual_seed(0)
    x, rate = sample.dense()[:, 0].float(), sample.rate()
    layers: list[nn.Module] = []
    for C_out, kernel, stride in zip(widths, (5, 3, 3), strides, strict=True):
        conv = pk.FusedIFConv2d(x.shape[1], C_out, kernel, stride, kernel // 2, bias=bias, v_reset=None)
        layers.append(conv)
        x = _fitted(conv, x, rate, g)
    if answers:
        layers += [pk.Flatten(), pk.FusedIFLinear(x[0].numel(), ANSWERS, bias=bias, v_reset=None)]
        _fitted(layers[-1], x.flatten(1), max(rate, ANSWER_RATE), g)
    return nn.Sequential(*layers).eval()


@torch.no_grad()
def _fitted(layer: nn.Module, x: Tensor, rate: float, g: torch.Generator) -> Tensor:
    """What a layer that gets its weights here fires for x [T, ...], at most at ``rate``."""
    layer.weight.copy_(torch.randint(-8, 13, layer.weight.shape, generator=g) * UNIT)
    if layer.bias is not None:
        layer.bias.copy_(torch.randint(-2, 3, layer.bias.shape, generator=g) * BIAS_UNIT)
    charge = layer.synapse(layer).plain()(x).cumsum(0)
    low, high = 0, LARGEST  # the most units at which it fires too often, and the fewest at which it does not
    while high - low > 1:
        middle = (low + high) // 2
        spikes = (charge / (middle * UNIT)).floor().clamp(min=0).amax(0).sum()
        low, high = (middle, high) if spikes > rate * charge.numel() else (low, middle)
    layer.v_threshold = high * UNIT
    return layer(x.unsqueeze(1)).squeeze(1).float()
