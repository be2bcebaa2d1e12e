"""Rounded weights are added as integers, for few steps and in linear layers too: the spikes are the definition's."""

from dataclasses import replace

import layerwise
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
NEURONS = {
    "hard": pk.neurons.IFNeuron(v_threshold=0.5),
    "soft": pk.neurons.IFNeuron(v_threshold=0.5, v_reset=None),
    "leaky": pk.neurons.LIFNeuron(v_threshold=0.5, v_reset=None, decay=0.75),
}


def network(neuron, C: int = 70) -> nn.Sequential:
    torch.manual_seed(C)
    net = nn.Sequential(
        pk.FusedConv2d(2, C, 3, neuron=neuron), pk.FusedConv2d(C, 33, 3, stride=2, padding=1, neuron=neuron),
        pk.Flatten(), pk.FusedLinear(33 * 49, 200, neuron=neuron), pk.FusedLinear(200, 11, neuron=neuron),
    )  # fmt: skip
    net[1].weight.data[5, :3] *= 30  # its channel has room for few units
    for layer, times in zip((net[0], net[1], net[3], net[4]), (3, 3, 3, 4), strict=True):
        layer.weight.data *= times
    return net.eval()


def spikes(T: int, N: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(T + N)
    x = torch.rand(T, N, 2, 15, 15, generator=generator) < torch.rand(N, 2, 15, 15, generator=generator) * 0.6
    x[..., 11:, :] = False  # a background
    return x


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("N", [0, 1, 2, 33])
@pytest.mark.parametrize("T", [1, 2, 3, 4, 7, 8, 9, 33, 64])
def test_the_spikes_of_simulate(T, N, neuron, precision, target):
    net, x = network(NEURONS[neuron]), pk.pack(spikes(T, N))
    result = Engine(follow(net, x.shape[2:], False, precision), target=target)(x, T)
    if not N:
        assert result.count().shape == (0, 11)
        return
    expected = layerwise.simulate(net, x, T, precision=precision)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.rates["1"] > 0
    assert T < 7 or expected.count().any()
    assert result.synops == expected.synops and result.rates == pytest.approx(expected.rates)


# Modules that batches go through in parts: some channels of a tap, all of a tap, or those of some taps.
LARGE = {
    "linear": (pk.FusedIFLinear(21_000, 130, v_threshold=0.5), (21_000,)),
    "channels of a tap": (pk.FusedIFConv2d(2400, 130, 3, padding=1, v_threshold=0.5), (2400, 4, 4)),
    "taps": (pk.FusedIFConv2d(600, 140, 3, padding=1, v_threshold=0.5), (600, 3, 4)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", [None, "int8", "int16"])
@pytest.mark.parametrize("module", LARGE)
@pytest.mark.parametrize(("T", "N"), [(1, 1), (1, 5), (3, 1), (3, 5), (6, 5), (40, 3)])
def test_large_matrices(T, N, module, precision, target):
    layer, shape = LARGE[module]
    generator = torch.Generator().manual_seed(T * N)
    layer.weight.data = (torch.randint(-8, 9, layer.weight.shape, generator=generator) / 64).contiguous()
    layer.bias.data = torch.randint(-8, 9, layer.bias.shape, generator=generator) / 64
    net = nn.Sequential(pk.IF(v_threshold=1.0), layer).eval()
    x = pk.pack(torch.rand(T, N, *shape, generator=generator) < 0.1)
    result = Engine(follow(net, shape, False, precision), target=target)(x, T)
    expected = layerwise.simulate(net, x, T, precision=precision)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.count().any()
    assert result.synops == expected.synops


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("parts", [[1] * 9, [2, 3, 4], [7, 2], [4, 4, 1]])
def test_streams_in_chunks(parts, precision, target):
    """States go in and out, and on in another stream."""
    net, x = network(NEURONS["soft"]), spikes(9, 2)
    engine = Engine(follow(net, x.shape[2:], False, precision), target=target)
    expected = layerwise.simulate(net, pk.pack(x), 9, precision=precision)
    stream, found = engine.stream(2), []
    for part in x.split(parts):
        if found:
            kept, stream = stream.state, engine.stream(2)
            stream.state = kept
        found.append(stream(pk.pack(part)).dense())
    assert equal(torch.cat(found), expected.spikes.dense()) and expected.count().any()
    for name, v in stream.state.items():
        assert equal(v, expected.state[name][0]), name


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_stop(precision, target):
    net, x = network(NEURONS["hard"]), pk.pack(spikes(20, 33))
    engine = Engine(follow(net, x.shape[2:], False, precision), target=target)
    stopped = engine(x, 20, stop=pk.stop.margin(1))
    expected = layerwise.simulate(net, x, 20, stop=pk.stop.margin(1), precision=precision)
    assert equal(stopped.spikes.dense(), expected.spikes.dense()) and equal(stopped.steps, expected.steps)
    assert stopped.steps.min() < 20


# Weights whose inputs all fire: of the largest sum that bytes have room for, and of one more; of four at a time in 16
# bits, and of the largest sum that a float has room for.
EDGES = {
    "bytes": [63] * 520 + [7],
    "bytes, of both signs": [63] * 520 + [7] + [-63] * 520 + [-8],
    "one more": [63] * 520 + [8],
    "one less": [-63] * 520 + [-8],
    "many": [63] * 6000,
    "shorts": [8191] * 2048,
    "negative shorts": [-8191] * 2048,
    "a large one": [64] + [63] * 40,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", EDGES)
@pytest.mark.parametrize("T", [1, 3, 4, 9])
@pytest.mark.parametrize("N", [1, 9])
def test_the_largest_sums(N, T, weights, target):
    """The current is read where it is: neurons fire if it is what it should be, and not if it is one unit less."""
    row = torch.tensor(EDGES[weights], dtype=torch.float32)
    inputs, outputs = len(row), 40
    net = nn.Sequential(pk.IF(v_threshold=1.0), pk.FusedLinear(inputs, outputs, neuron=pk.neurons.LINeuron(decay=0.0)))
    net[1].weight.data, net[1].bias.data = row.repeat(outputs, 1), torch.zeros(outputs)
    net[1].weight.data[1::2] *= -1
    net[1].weight.data[2] /= 4
    plan = replace(follow(net.eval(), (inputs,), False), precision="int8")  # weights as they are
    x = torch.ones(T, N, inputs)
    x[T // 2] = torch.rand(N, inputs) < 0.5
    found = Engine(plan, target=target)(pk.pack(x), T).output
    assert equal(found, x @ net[1].weight.T) and found.any()
