"""Convolutional networks for events, and their steps in torch.

The weights are random, and their sums are exact, so that all who run the networks fire alike.
"""

import time
from collections.abc import Callable

import torch
from common.stages import Stage, stages
from torch import Tensor, nn

import proxykernels as pk
from speed.step_loops import Fire

UNIT = 2.0**-6  # of weights and thresholds
BIAS_UNIT = 2.0**-10
LARGEST = 2**14  # threshold, in units
SAMPLE = 16  # steps that thresholds are found on
Size = tuple[int, int]  # height and width


def network(
    sample: pk.Spikes, strides: tuple[int, int, int], widths: tuple[int, int, int], bias: bool = False
) -> nn.Sequential:
    """Three convolutions with soft reset; always the same weights.

    Each layer fires as often as its input does, by ``sample`` (T, 1, 2, H, W): thresholds are set so.
    """
    g = torch.Generator().manual_seed(0)
    x, rate = sample.dense()[:, 0].float(), sample.rate()
    layers: list[nn.Module] = []
    for C_out, kernel, stride in zip(widths, (5, 3, 3), strides, strict=True):
        conv = pk.FusedIFConv2d(x.shape[1], C_out, kernel, stride, kernel // 2, bias=bias, v_reset=None)
        layers.append(conv)
        x = _fitted(conv, x, rate, g)
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


class Steps:
    """A step of a network in torch on frames [1, 2, H, W], with neurons of ``make``, which keep their potentials."""

    def __init__(self, net: nn.Sequential, make: Callable[[Stage], Fire], channels_last: bool):
        self.parts = stages(net, torch.device("cpu"), channels_last=channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.neurons = [make(part) for part in self.parts]

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        for part, fire in zip(self.parts, self.neurons, strict=True):
            x = fire(part.synapses(x))
        return x

    def seconds(self, size: Size) -> float:
        """The time of the fastest of five steps without events."""
        x, times = torch.zeros(1, 2, *size).contiguous(memory_format=self.memory_format), []
        for _ in range(5):
            start = time.perf_counter()
            self(x)
            times.append(time.perf_counter() - start)
        return min(times)


def are_faster_last(net: nn.Sequential, make: Callable[[Stage], Fire], size: Size) -> bool:
    """Whether the steps are faster with channels last than with channels first, here."""
    return Steps(net, make, True).seconds(size) < Steps(net, make, False).seconds(size)
