"""Synaptic operations: additions for spikes, multiplications for real values; of a constant input once."""

import math

import layerwise
import pytest
import torch
from cases import spikes
from equality import equal
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


READOUT = pk.neurons.LINeuron(decay=0.0)  # gives currents as they are
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
    for chunk, stop in (1, None), (2, None), (4, None), (8, None), (9, None), (8, pk.stop.margin(1000)), (8, _half):
        result = layerwise.simulate(net, x, T, chunk=chunk, stop=stop)
        neurons = math.prod(result.spikes.shape[2:])
        steps = N if kind != "moving" else int(result.steps.sum())
        assert result.synops.multiply_accumulates["1"] == steps * neurons * channels * 9, chunk


def _half(counts, t):
    return torch.arange(len(counts)) % 2 == 1


TYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64]
FIRST = {**STAGES, "neurons": pk.IF(v_threshold=0.5)}


@pytest.mark.parametrize("most", [1, 2], ids=["spikes", "counts"])
@pytest.mark.parametrize("stage", FIRST)
def test_only_the_values_count(generator, stage, most):
    """Frames of 0 and 1 are spikes in every type; one event more in one step, and they are real values in all."""
    x = spikes(T, N, 2, 6, 6, generator=generator, rate=0.4)
    x[5, 0, 1, 2, 2] = most
    channels = {"concatenated": 4, "readout": 3}.get(stage, 2)
    net = nn.Sequential(FIRST[stage], pk.FusedIFConv2d(channels, 4, 3), pk.Flatten())
    given = [pk.pack(x)] if most == 1 else []
    given += [x.to(dtype) for dtype in TYPES[most - 1 :]]
    expected = pk.simulate(net, x, T).synops
    of_spikes = stage == "neurons" or (most == 1 and stage not in ("averages", "readout", "currents"))
    assert (expected.accumulates["1"] > 0) == of_spikes != (expected.multiply_accumulates["1"] > 0)
    for each in given:
        for chunk in (1, 4, T):
            assert layerwise.simulate(net, each, T, chunk=chunk).synops == expected, (each, chunk)
        rate = pk.explain(net, each, T).rows[-1].input_rate
        assert 0.05 < rate < 0.95 if of_spikes else rate is None


class Doubled(nn.Module):
    """A module of a user, who reads values."""

    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return 2 * x


def test_modules_of_users_see_the_tensor_that_was_given(generator):
    x = spikes(T, N, 2, 6, 6, generator=generator, rate=0.4)
    layer = pk.FusedIFConv2d(2, 4, 3, v_threshold=0.5)
    expected = pk.simulate(layer, 2 * x, T)
    for net in nn.Sequential(Doubled(), layer), nn.Sequential(pk.Channels(torch.arange(2)), Doubled(), layer):
        result = layerwise.simulate(net, x, T, chunk=4)
        assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.spikes.rate() > 0.01
        assert list(result.synops.multiply_accumulates.values()) == [T * N * 64 * 18]
