"""Neurons on the largest currents of a convolution: networks compute these in a cache, and write none of them.

Each way of running them is compared with the reference; so are streams, which keep the last currents.
"""

import pytest
import torch
from equality import equal

import proxykernels as pk
from proxykernels.running.engine import Engine

UNIT = 1 / 16
NEURONS = {
    "soft": lambda: pk.LIF(v_threshold=1.0, decay=0.5, v_reset=None),
    "hard": lambda: pk.IF(v_threshold=1.5),
    "two states": lambda: pk.Population(neuron=pk.neurons.CubaLIFNeuron(decay=0.5, current_decay=0.5)),
}
# C_in, C, kernel, size; of the pooling: kernel, stride, padding, ceil_mode. The last two leave pixels under no window.
SHAPES = [
    (2, 16, 5, (12, 14), (2, 2, 0, False)),
    (3, 5, 3, (9, 10), (3, 3, 1, True)),
    (16, 70, 3, (9, 9), (2, 2, 0, False)),
    (8, 33, 3, (11, 8), (2, 3, 0, False)),
]
WAYS = [(0.02, "scattered"), (0.7, None), ("few values", "scattered"), ("values", "values")]


def network(shape: tuple, neurons: str) -> torch.nn.Sequential:
    C_in, C, kernel, _, (window, stride, padding, ceil_mode) = shape
    g = torch.Generator().manual_seed(C)
    conv = pk.FusedConv2d(C_in, C, kernel, padding=1, neuron=pk.neurons.LINeuron(decay=0.0))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(UNIT * torch.randint(-5, 7, parameter.shape, generator=g))
    return torch.nn.Sequential(conv, pk.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode), NEURONS[neurons]())


@pytest.mark.parametrize("neurons", NEURONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rate, way", WAYS)
@pytest.mark.parametrize("T", [5, 40])
def test_largest_currents(rate, way, shape, neurons, T):
    net, N = network(shape, neurons), 3
    x = torch.rand(T, N, shape[0], *shape[3], generator=torch.Generator().manual_seed(T))
    values = {"values": (4 * x).floor(), "few values": (10 * x - 8).relu().ceil() * (x > 0.9)}
    x = values[rate] if rate in values else x < rate
    engine = pk.compile(net, x)
    result = engine(x, T)
    if way is not None:
        narrow = way == "scattered" and engine.target == "portable"  # whose vectors hold 4 channels: rows may cost less
        assert engine.ways[0] in ((way, "rows") if narrow else (way,))
    with pk.use_reference():
        expected = pk.simulate(net, x, T)
    assert expected.count().any()
    assert equal(result.spikes.dense(), expected.spikes.dense())
    assert result.rates == expected.rates and result.synops == expected.synops
    stream = engine.stream(N)
    parts = torch.cat([stream(x[:3]).dense(), *(stream(step[None]).dense() for step in x[3:])])
    assert equal(parts, expected.spikes.dense())
    for name, states in expected.state.items():
        assert equal(stream.state[name], states[0])


def test_a_batch_of_many_samples_takes_rows_of_weights():
    net, T, N = network(SHAPES[2], "soft"), 16, 8
    x = torch.rand(T, N, 16, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    engine = Engine(pk.compile(net, x).plan)
    result = engine(x, T)
    assert engine.ways[0] in ("rows", "scattered")  # the second in the checked build, whose segments are short
    with pk.use_reference():
        assert equal(result.spikes.dense(), pk.simulate(net, x, T).spikes.dense())
