"""SpikingJelly's SynapseFilter, a trace of spikes between layers: the same traces and spikes, bit by bit."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import SynapseFilter

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
layer = pytest.importorskip("spikingjelly.activation_based.layer")
functional = pytest.importorskip("spikingjelly.activation_based.functional")
pytestmark = pytest.mark.usefixtures("short_proof")

T, N = 9, 5


def vectors(trace):
    return nn.Sequential(layer.Linear(8, 16), neuron.IFNode(), trace, layer.Linear(16, 4), neuron.IFNode(4.0))


def images(trace):
    return nn.Sequential(
        layer.Conv2d(2, 4, 3), neuron.IFNode(), layer.MaxPool2d(2), trace, layer.Conv2d(4, 3, 3), neuron.IFNode(4.0)
    )


def last(trace):
    return nn.Sequential(layer.Linear(8, 16), neuron.IFNode(), trace)


def given(net, x, mode):
    functional.reset_net(net)
    functional.set_step_mode(net, mode)
    return net(x) if mode == "m" else torch.stack([net(step) for step in x])


@torch.no_grad()
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("make", [vectors, images, last])
def test_the_same(generator, make, learnable, mode):
    net = make_dyadic(make(layer.SynapseFilter(4.0, learnable)), generator, 1 / 16)
    x = dyadic(T, N, *((2, 8, 8) if make is images else (8,)), generator=generator)
    expected = given(net, x, mode)
    ours = pk.from_spikingjelly(net, x[0])
    result = pk.simulate(ours, x, T)
    parts, state = [], None
    for part in x.split(4):
        of_part = pk.simulate(ours, part, len(part), state=state)
        state = of_part.state
        parts.append(of_part.potentials if make is last else of_part.spikes.dense())
    assert equal(torch.cat(parts), expected)
    assert equal(result.potentials if make is last else result.spikes.dense(), expected)
    assert all(0.02 < rate < 0.98 for rate in result.rates.values()) and (make is not last or expected.max() > 1)


def test_it_is_trained_on(generator):
    """The gradients of its time constant and of the weights in front of it are SpikingJelly's."""
    net = make_dyadic(vectors(layer.SynapseFilter(4.0, learnable=True)), generator, 1 / 16).train()
    x = dyadic(T, N, 8, generator=generator)
    ours = pk.from_spikingjelly(net, x[0]).train()
    given(net, x, "m").sum().backward()
    ours(x).sum().backward()
    (w,) = (parameter for name, parameter in ours.named_parameters() if name.endswith("w"))
    torch.testing.assert_close(w.grad, net[2].w.grad)
    torch.testing.assert_close(ours.get_submodule("0").weight.grad, net[0].weight.grad)
    assert w.grad and net[0].weight.grad.any()


def test_definition(generator):
    x = spikes(T, N, 3, generator=generator, rate=0.5)
    trace = SynapseFilter(4.0)
    whole, state = trace(x, torch.full((N, 3), 2.0))
    y = torch.full((N, 3), 2.0)
    for step, found in zip(x, whole, strict=True):
        y = torch.where(step > 0, y + 1, 0.75 * y)
        assert equal(found, y)
    assert equal(state, whole[-1]) and equal(trace(pk.pack(x)), trace(x))


def test_what_is_refused(generator):
    net = nn.Sequential(layer.SynapseFilter(4.0), layer.Linear(8, 4), neuron.IFNode())
    with pytest.raises(TypeError, match="module '0' takes real values, or its input; .* put neurons in front of it"):
        pk.from_spikingjelly(net, torch.rand(3, 8))
    ours = pk.from_spikingjelly(make_dyadic(vectors(layer.SynapseFilter(4.0)), generator), torch.rand(3, 8))
    with pytest.raises(TypeError, match="the engine does not take module .*SynapseFilter"):
        pk.compile(ours, torch.rand(T, 3, 8))
    with pytest.raises(ValueError, match="tau must be a number of steps above 1, got 1"):
        SynapseFilter(1.0)
