"""Every neuron model in the Triton kernels, against the oracle."""

import pytest
import torch
from cases import dyadic, fine, spikes
from equality import equal
from neuron_cases import NAMES, TRACES, channelwise, state

import proxykernels as pk
from proxykernels.kernels import reference

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]


@pytest.mark.parametrize("neuron, current, spikes, states", TRACES)
def test_hand_traces(neuron, current, spikes, states):
    s, v = pk.calls.neuron_ops.scan(torch.tensor(current).view(-1, 1, 1), None, neuron)
    assert s.dense().flatten().tolist() == spikes
    assert v.flatten().tolist() == list(states[-1] if isinstance(states[-1], tuple) else (states[-1],))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [1, 33])
def test_scan(generator, T, name):
    neuron, shape = channelwise(7, generator)[name], (2, 7, 3)
    current, v0 = 2 * torch.randn(T, *shape, generator=generator), state(neuron, shape, generator)
    expected, v_expected = reference.scan(current, v0, neuron.on(7, current.device))
    actual, v = pk.calls.neuron_ops.scan(current, v0, neuron)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.costly
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", [False, True], ids=["plain", "pooled"])
def test_convolution(generator, pool, name):
    neuron = channelwise(5, generator)[name]
    x, weight = spikes(34, 2, 3, 2, 2, generator=generator), fine(5, 3, 3, 3, generator=generator)
    v0 = state(neuron, (2, 5, 2, 2), generator)
    expected, v_expected = reference.conv2d(x, weight, None, v0, neuron.on(5, x.device), 1, 1)
    actual, v = pk.calls.neuron_ops.conv2d(pk.pack(x), weight, None, v0, neuron, 1, 1, pool_follows=pool)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)
    pooled = reference.max_pool2d(expected, 2)
    assert equal(pk.max_pool2d(actual, 2).dense(), pooled)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_in_chunks(generator, name):
    neuron = channelwise(6, generator)[name]
    net = torch.nn.Sequential(
        pk.FusedConv2d(1, 6, 3, neuron=neuron), pk.Flatten(), pk.FusedLinear(24, 6, neuron=neuron)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(2, 1, 4, 4, generator=generator).abs() * 2
    whole = pk.simulate(net, x, 70)
    first = pk.simulate(net, x, 32)
    rest = pk.simulate(net, x, 38, chunk=32, state=first.state)
    assert whole.spikes.rate() > 0
    assert equal(torch.cat([first.spikes.dense(), rest.spikes.dense()]), whole.spikes.dense())
    assert all(torch.equal(a, b) for key in whole.state for a, b in zip(whole.state[key], rest.state[key], strict=True))
