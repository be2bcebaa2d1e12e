"""Synaptic operations: additions for spikes, multiplications for real values; of a constant input once for all steps."""

import math

import pytest
import torch
from cases import spikes
from torch import nn

import proxykernels as pk

T, N = 9, 2


class Twice(nn.Module):
    """The channels of an input two times."""

    def __init__(self):
        super().__init__()
        self.concatenate = pk.Concatenate()

    def forward(self, x):
        return self.concatenate((x, x))


READOUT = pk.neurons.LINeuron(0.0)  # gives currents as they are
STAGES = {
    "nothing": nn.Identity(),
    "averages": pk.AvgPool2d(2),
    "maxima": pk.MaxPool2d(2),
    "zeros": pk.ZeroPad2d(1),
    "larger": pk.Upsample(scale_factor=2),
    "channels": pk.Channels(torch.tensor([1, 0])),
    "concatenated": Twice(),
    "readout": pk.FusedConv2d(2, 3, 1, neuron=READOUT),
    "currents": pk.Population(READOUT),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["constant", "moving", "constant counts"])
def test_a_constant_input_is_multiplied_once_in_every_chunk(generator, kind, stage):
    x = 2 * torch.rand(T, N, 2, 6, 6, generator=generator) + 1
    x = x[0] if kind == "constant" else x[0].byte().expand(x.shape) if kind == "constant counts" else x
    first = STAGES[stage]
    channels = {"concatenated": 4, "readout": 3}.get(stage, 2)
    net = nn.Sequential(first, pk.FusedIFConv2d(channels, 4, 3), pk.Flatten())
    for chunk, stop in (1, None), (2, None), (4, None), (8, None), (9, None), (8, pk.margin(1000)), (8, _half):
        result = pk.simulate(net, x, T, chunk=chunk, stop=stop)
        neurons = math.prod(result.spikes.shape[2:])
        steps = N if kind != "moving" else int(result.steps.sum())
        assert result.synops.multiply_accumulates["1"] == steps * neurons * channels * 9, chunk


def _half(counts, t):
    return torch.arange(len(counts)) % 2 == 1
