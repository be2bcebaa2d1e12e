"""The reference code on words that Triton packs: pk.use_reference(), and neurons that are written in Python."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import dyadic
from cases import spikes as random_spikes
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import proxykernels as pk
from proxykernels.kernels import reference

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("triton_kernels"),
    pytest.mark.filterwarnings("ignore:.* is written in Python"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def generator():
    return torch.Generator(DEVICE).manual_seed(0)


@dataclass(frozen=True)
class Leaky(pk.neurons.AnyNeuron):
    """A leaky neuron with a state that counts its spikes, which Triton has without it."""

    decay: pk.neurons.Value = 0.75
    states: ClassVar[int] = 2

    def step(self, state, current, fire):
        v, count = state
        spikes, v = fire(self.decay * v + current, 1.0, 0.0)
        return spikes, (v, count + spikes)


def network(neuron, generator):
    layers = pk.FusedConv2d(2, 4, 3, padding=1, neuron=neuron), pk.MaxPool2d(2), pk.Flatten()
    net = nn.Sequential(*layers, pk.FusedLinear(16, 3, neuron=neuron)).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return net


def test_neurons_in_python(generator):
    one = network(Leaky(), generator)
    other = network(pk.neurons.LIFNeuron(decay=0.75), generator)
    other.load_state_dict(one.state_dict(), strict=False)
    x = random_spikes(9, 2, 2, 4, 4, generator=generator)
    with torch.no_grad():
        y, v = one[0](x, torch.zeros(2, 2, 4, 4, 4))
        assert equal(y, other[0](x)) and equal(v[:, 1], y.sum(0))
        assert equal(one(x), other(x)) and 0.02 < one(x).mean() < 0.98
    results = [pk.simulate(net, x, 9) for net in (one, other)]
    assert equal(results[0].spikes.dense(), results[1].spikes.dense()) and results[0].rates == results[1].rates


def test_gradients(generator):
    grads = []
    state = generator.get_state()
    for neuron in (Leaky(), pk.neurons.LIFNeuron(decay=0.75)):
        net = pk.use_surrogate(network(neuron, generator.set_state(state)), pk.Triangle(1.0)).train()
        x = dyadic(5, 2, 2, 4, 4, generator=generator).requires_grad_()
        net(x).square().sum().backward()
        grads.append([x.grad, *(parameter.grad for parameter in net.parameters())])
    for one, other in zip(*grads, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_use_reference(generator, monkeypatch):
    net = network(pk.neurons.LIFNeuron(decay=0.75), generator)
    x = random_spikes(9, 2, 2, 4, 4, generator=generator)
    with torch.no_grad():
        expected, calls, steps = net(x), [], reference.step
        monkeypatch.setattr(reference, "step", lambda *given: calls.append(1) or steps(*given))
        assert equal(net(x), expected) and not calls and expected.any()
        with pk.use_reference():
            assert equal(net(x), expected) and len(calls) == 18
            assert equal(pk.simulate(net, x, 9).spikes.dense(), expected) and len(calls) == 36
