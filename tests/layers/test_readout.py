"""Readouts: layers that integrate and never fire, in which a network may end."""

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk


def integrated(current, decay, v_rest=0.0):
    """By hand: [T, N, ...]."""
    v, steps = torch.full_like(current[0], v_rest), []
    for step in current:
        v = v_rest + decay * (v - v_rest) + step
        steps.append(v)
    return torch.stack(steps)


@pytest.mark.parametrize("decay", [1.0, 0.5, torch.tensor([0.25, 0.5, 1.0, 0.0])], ids=["sum", "leaky", "by-channel"])
@pytest.mark.parametrize("kind", ["spikes", "dense", "real", "held"])
def test_linear(generator, kind, decay):
    layer = pk.FusedLILinear(6, 4, decay=decay, v_rest=-0.25)
    layer.weight.data, layer.bias.data = dyadic(4, 6, generator=generator), dyadic(4, generator=generator)
    x = spikes(9, 2, 6, generator=generator) if kind in ("spikes", "dense") else dyadic(9, 2, 6, generator=generator)
    x = x[:1].expand(9, 2, 6) if kind == "held" else x
    expected = integrated(nn.functional.linear(x, layer.weight, layer.bias), decay, -0.25)
    with torch.no_grad():
        y = layer(pk.pack(x) if kind == "spikes" else x)
        first, v = layer(x[:4], torch.full((2, 4), -0.25))
        rest, last = layer(x[4:], v)
    assert y.dtype == torch.float32 and expected.std() > 0.1 and equal(y, expected)
    assert equal(torch.cat([first, rest]), expected) and equal(last, expected[-1])


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda n: pk.FusedConv2d(3, 4, 3, padding=1, stride=2, neuron=n), (3, 5, 4)),
        (lambda n: pk.layers.FusedConv1d(3, 4, 3, padding=1, neuron=n), (3, 7)),
        (lambda n: pk.FusedSum(nn.Linear(5, 5), nn.Identity(), neuron=n), (5,)),
        (lambda n: pk.FusedSum(nn.Conv1d(3, 3, 3, padding=1), nn.Identity(), neuron=n), (3, 6)),
        (pk.Population, (2, 3, 3)),
    ],
    ids=["conv2d", "conv1d", "sum", "stepwise-sum", "alone"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_any_layer(generator, layer, shape, packed):
    layer = layer(pk.neurons.LINeuron(decay=0.5)).eval()
    for parameter in layer.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = spikes(40, 2, *shape, generator=generator)
    several = isinstance(layer, pk.FusedSum)
    with torch.no_grad():
        current = torch.stack([layer.affine((step, step) if several else step) for step in x])
        given = pk.pack(x) if packed else x
        y = layer((given, given) if several else given)
    assert current.std() > 0.1 and equal(y, integrated(current, 0.5))


@pytest.mark.parametrize("chunk", [None, 7])
def test_a_network_may_end_in_potentials(generator, chunk):
    net = nn.Sequential(pk.FusedLIFConv2d(1, 4, 3), pk.Flatten(), pk.FusedLILinear(36, 3, decay=0.75))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(2, 1, 5, 5, generator=generator).abs()
    result = pk.simulate(net, x, 50, chunk=chunk, record=["0", "2"])
    hidden = result.records["0"].dense().flatten(2)
    current = nn.functional.linear(hidden, net[2].weight, net[2].bias)
    assert hidden.mean() > 0.02
    torch.testing.assert_close(result.potentials, integrated(current, 0.75).detach(), rtol=1e-5, atol=1e-5)
    assert equal(result.records["2"], result.potentials)
    assert equal(result.state["2"][0], result.potentials[-1])
    half = layerwise.simulate(net, x, 25, chunk=chunk)
    assert equal(pk.simulate(net, x, 25, state=half.state).potentials, result.potentials[25:])
    assert "2" not in result.rates and "potentials (50, 2, 3)" in repr(result)
    assert "2" in str(pk.explain(net, x, 5))
    with pytest.raises(AttributeError, match="take result.potentials"):
        result.count()
    with pytest.raises(ValueError, match="stop counts output spikes"):
        pk.simulate(net, x, 50, stop=pk.stop.margin(2))
    with pytest.raises(AttributeError, match="take result.spikes"):
        _ = pk.simulate(net[:1], x, 5).potentials


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["sequence", "one-step", "held"])
def test_outputs_share_no_memory(generator, decay, kind):
    """Neither with the input nor with the state: what is written to one of them changes no other."""
    x = torch.rand(6, 2, 5, generator=generator)
    x = x if kind == "sequence" else x[:1] if kind == "one-step" else x[:1].expand(6, 2, 5)
    weighted = pk.FusedLILinear(5, 3, decay=decay).eval()
    weighted.weight.data.fill_(1)
    for layer, features in ((pk.LI(decay=decay), 5), (weighted, 3)):
        start = torch.ones(2, features)
        with torch.no_grad():
            given = [x, start, *layer(x, start)]
        assert given[3].any() and equal(given[2][-1], given[3])
        assert len({tensor.untyped_storage().data_ptr() for tensor in given}) == 4


def test_int16_reads_out_too(generator):
    net = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(25, 20), pk.FusedLILinear(20, 3))
    x = torch.rand(2, 1, 5, 5, generator=generator)
    whole = pk.simulate(net, x, 40, precision="int16").potentials
    chunks = layerwise.simulate(net, x, 40, precision="int16", chunk=3).potentials
    assert whole.std() > 0.1 and equal(whole, chunks)


def test_state_dict(generator):
    layer, other = pk.FusedLILinear(3, 2, decay=0.25), pk.FusedLILinear(3, 2)
    other.load_state_dict(layer.state_dict())
    assert other.decay == 0.25 and "decay=0.25" in repr(other)
    with pytest.raises(ValueError, match="decay must be from 0 to 1, got 1.5"):
        pk.FusedLILinear(3, 2, decay=1.5)


def test_training_by_proxy_reads_potentials(generator):
    net = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(25, 20), pk.FusedLILinear(20, 3))
    with pytest.raises(ValueError, match="layer 2 gives potentials and no spikes: readout must be 'potential'"):
        pk.ProxyNet(net, 8)
    x = torch.rand(4, 1, 5, 5, generator=generator)
    model = pk.ProxyNet(net, 8, readout="potential").train()
    output = model(x)
    output.square().sum().backward()
    assert equal(output, layerwise.simulate(net, x, 8, chunk=8).potentials[-1])
    assert all(parameter.grad.any() for parameter in net.parameters())
