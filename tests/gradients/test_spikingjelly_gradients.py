"""Gradients of a network against SpikingJelly's with the same surrogate function."""

import pytest
import torch
from cases import spikes
from equality import equal
from gradient_cases import close
from torch import nn

import proxykernels as pk

sj = pytest.importorskip("spikingjelly.activation_based", reason="SpikingJelly is not installed")
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402

SURROGATES = {
    "atan": (pk.ATan, lambda: surrogate.ATan(2.0)),
    "fast": (lambda **options: pk.FastSigmoid(2.0, 1.0, **options), lambda: surrogate.SoftSign(2.0)),
    "sigmoid": (pk.Sigmoid, lambda: surrogate.Sigmoid(4.0)),
    "triangle": (pk.Triangle, lambda: surrogate.PiecewiseQuadratic(1.0)),
}


@pytest.mark.parametrize("detached", [False, True], ids=["through-reset", "detached"])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("leaky", [False, True], ids=["if", "lif"])
@pytest.mark.parametrize("name", SURROGATES)
def test_gradients_are_spikingjellys(generator, name, leaky, v_reset, detached):
    ours, theirs = SURROGATES[name]
    options = {"v_reset": v_reset, "detach_reset": detached, "step_mode": "m"}

    def node():
        if leaky:
            return neuron.LIFNode(2.0, decay_input=False, surrogate_function=theirs(), **options)
        return neuron.IFNode(surrogate_function=theirs(), **options)

    torch.manual_seed(0)
    conv, linear = layer.Conv2d(2, 8, 3, padding=1, step_mode="m"), layer.Linear(72, 5, step_mode="m")
    with torch.no_grad():
        for parameter in (*conv.parameters(), *linear.parameters()):
            parameter.mul_(2.5)
    their_net = nn.Sequential(
        conv, node(), layer.MaxPool2d(2, step_mode="m"), layer.Flatten(step_mode="m"), linear, node()
    )
    kind = {
        "neuron": pk.neurons.LIFNeuron(v_threshold=1.0, v_reset=v_reset, decay=0.5)
        if leaky
        else pk.neurons.IFNeuron(v_threshold=1.0, v_reset=v_reset)
    }
    net = nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, **kind), pk.MaxPool2d(2), pk.Flatten(), pk.FusedLinear(72, 5, **kind)
    )
    for mine, its in ((net[0], conv), (net[3], linear)):
        mine.load_state_dict(its.state_dict(), strict=False)
    pk.use_surrogate(net, ours(detach_reset=detached))
    x = spikes(12, 3, 2, 6, 6, generator=generator, rate=0.4)
    functional.reset_net(their_net)
    expected, actual = their_net(x), net(pk.pack(x)).dense()
    assert equal(actual, expected) and 0 < actual.mean() < 1
    grad = torch.randn(actual.shape, generator=generator)
    their_gradients = torch.autograd.grad(expected, list(their_net.parameters()), grad)
    for mine, its in zip(torch.autograd.grad(actual, list(net.parameters()), grad), their_gradients, strict=True):
        assert close(mine, its)
