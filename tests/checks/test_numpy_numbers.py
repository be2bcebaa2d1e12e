"""NumPy's numbers are taken wherever Python's are: in every way to run a network, and no change of one is missed."""

import copy

import layerwise
import numpy as np
import pytest
import torch
from equality import equal
from test_simulate_plans import dyadic, image
from torch import nn

import proxykernels as pk
from proxykernels import layers, neurons

T = 5
ONE, TWO, THREE = map(np.int64, (1, 2, 3))


def join() -> pk.Network:
    net = pk.Network()
    synapses = nn.Conv2d(2, 4, THREE, stride=TWO, padding=ONE, groups=TWO), nn.Conv2d(2, 4, ONE, stride=TWO)
    net.append("join", pk.FusedIFSum(*synapses), (pk.Network.INPUT,) * 2)
    return net


IMAGES = {
    "convolution": lambda: pk.FusedIFConv2d(TWO, 4, THREE, stride=TWO, padding=TWO, dilation=TWO, groups=TWO),
    "sum": join,
    "max": lambda: pk.MaxPool2d(THREE, ONE, ONE),
    "max of two": lambda: pk.MaxPool2d((TWO, THREE)),
    "average": lambda: pk.AvgPool2d(TWO, divisor_override=THREE),
    "adaptive": lambda: pk.AdaptiveAvgPool2d((TWO, None)),
    "adaptive, square": lambda: pk.AdaptiveAvgPool2d(TWO),
    "running": lambda: pk.RunningMaxPool2d(TWO),
    "unflatten": lambda: nn.Sequential(pk.Flatten(), pk.Unflatten((TWO, np.int64(4), np.int64(9)))),
}
ROWS = {
    "convolution of rows": lambda: pk.FusedIFConv1d(2, 4, THREE, stride=TWO, padding=TWO, dilation=TWO, groups=TWO),
    "max of rows": lambda: layers.MaxPool1d(THREE),
    "average of rows": lambda: layers.AvgPool1d(TWO),
    "adaptive of rows": lambda: layers.AdaptiveAvgPool1d((TWO,)),
}


@pytest.mark.parametrize("name", [*IMAGES, *ROWS])
def test_windows(name, tmp_path):
    torch.manual_seed(0)
    rows = name in ROWS
    net = nn.Sequential(dyadic((IMAGES | ROWS)[name]()), pk.IF(v_threshold=0.5)).eval()
    x = image()[:, :, 0] if rows else image()
    expected = layerwise.simulate(copy.deepcopy(net), x, T).spikes
    engine = pk.compile(net, x)
    engine.save(tmp_path / "engine")
    assert expected.count().any()
    for run in (lambda x, T: pk.simulate(net, x, T), engine, pk.load(tmp_path / "engine")):
        assert equal(run(x, T).spikes, expected)


def test_a_change_is_noticed():
    net = nn.Sequential(dyadic(pk.FusedIFConv2d(2, 4, 3)), layers.AvgPool2d(TWO, ONE), pk.IF(v_threshold=0.5)).eval()
    for kernel_size in (TWO, THREE, (ONE, TWO), (ONE, THREE)):
        net[1].kernel_size = kernel_size
        expected = layerwise.simulate(copy.deepcopy(net), image(), T).spikes
        assert equal(pk.simulate(net, image(), T).spikes, expected) and expected.count().any()


def test_resting_potentials():
    layer = dyadic(pk.FusedRecurrentLinear(6, 4, neuron=neurons.LIFNeuron(v_rest=np.float32(0.5)))).eval()
    x = image().flatten(1)[:, :6].expand(T, 3, 6)
    spikes = layer(x)
    layer.v_rest = 0.5
    assert equal(spikes, layer(x)) and spikes.any()
