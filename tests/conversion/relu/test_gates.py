"""Gates: functions of values, and products of two results, which sigma-delta and graded neurons send."""

import pytest
import torch
import torch.nn.functional as F
from cases import many
from equality import equal
from gate_nets import ZOO, Model, convolutions, gate, made
from torch import nn

import proxykernels as pk

EXACT = pk.neurons.Graded(threshold=0.0)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to what the samples differ by."""
    return ((found - expected).abs().max() / (expected - expected.mean(0)).abs().max()).item()


@pytest.mark.parametrize("name", many(ZOO, 3))
def test_one_pass_of_graded_neurons_is_the_network(name):
    ann, x, expected = made(name)
    net = pk.convert(ann, x, neuron=EXACT)
    assert error(pk.simulate(net, x, 1).logits, expected) < 1e-5
    frames = torch.stack([x, x.flip(0), 0 * x, x])
    found = pk.simulate(net, frames, 4).potentials
    with torch.no_grad():
        assert all(torch.allclose(step, ann(frame), 1e-4, 1e-5) for step, frame in zip(found, frames, strict=True))


@pytest.mark.parametrize("name", many(ZOO, 3))
def test_sigma_delta_neurons_settle_on_the_network(name):
    ann, x, expected = made(name)
    result = pk.simulate(pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(12)), x, 24)
    errors = [error(result.potentials[t], expected) for t in (1, 7, 23)]
    assert errors[2] < 5e-3 and errors[2] < errors[0] and result.rates["a"] > 0


@pytest.mark.parametrize("neuron", [EXACT, pk.neurons.SigmaDelta(), pk.neurons.SigmaDelta(signed=True)])
def test_chunks_batches_and_states_go_on(neuron):
    ann, x, _ = made("MobileNetV3")
    net, frames = pk.convert(ann, x, neuron=neuron), torch.stack([x + t / 10 for t in range(6)])
    whole = pk.simulate(net, frames, 6).potentials
    assert not equal(whole[5], whole[4])
    assert equal(pk.simulate(net, frames, 6, chunk=2).potentials, whole)
    assert torch.allclose(pk.simulate(net, frames[:, 2:3], 6).potentials, whole[:, 2:3], 1e-4, 1e-5)
    first = pk.simulate(net, frames[:3], 3, state={})
    second = pk.simulate(net, frames[3:], 3, state=first.state)
    assert equal(torch.cat([first.potentials, second.potentials]), whole)


def test_what_gates_are_not_for():
    ann, x, _ = made("squeeze and excitation")
    with pytest.raises(TypeError, match="is a Sigmoid, which has no .* or let neurons send values: neuron='graded'"):
        pk.convert(ann, x)
    with pytest.raises(TypeError, match="3 such parts|gelu"):
        pk.convert(Model(lambda m, y: F.gelu(m.b(gate(m, y) * y)), **convolutions()).eval(), x, neuron="graded")
    net = pk.convert(ann, x, neuron=EXACT)
    with pytest.raises(ValueError, match="computes a function or a product of values, which 8 bits do not have"):
        pk.simulate(net, x, 1, precision="int8")
    with pytest.raises(TypeError, match="function must be one of Sigmoid, .*, got GELU"):
        pk.layers.of_sums.OfSums(nn.GELU())
