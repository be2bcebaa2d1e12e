"""Tensors with torch's negative bit, as imaginary parts of conjugates have it: memory holds the opposite signs."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk


def imaginary(values):
    """Equal to ``values``, and every second number of its memory is one of them with the opposite sign."""
    return torch.complex(torch.zeros_like(values), -values).conj().imag


def contiguous(values):
    """The same, side by side."""
    return torch._neg_view(-values)


@pytest.fixture
def x(generator):
    return dyadic(3, 2, 6, 6, generator=generator)


@pytest.fixture
def frames(generator):
    return spikes(9, 3, 2, 6, 6, generator=generator, rate=0.4)


@pytest.fixture
def net(generator):
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), pk.Flatten(), pk.FusedIFLinear(64, 5)).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return net


def check(call, *operands):
    """The call gives the same for operands with the negative bit."""
    wanted, *others = (call(*map(form, operands)) for form in (torch.clone, imaginary, contiguous))
    for other in others:
        for y, same in zip(*(r if isinstance(r, tuple) else (r,) for r in (wanted, other)), strict=True):
            y, same = (part.dense() if isinstance(part, pk.Spikes) else part for part in (y, same))
            assert y.any() and equal(y, same)


def test_functions(net, x, frames):
    check(pk.pack, frames)
    check(pk.if_scan, frames, x)
    check(lambda current, v: pk.if_hold(current, 9, v), x, x.flip(0))
    check(lambda theta: pk.if_scan(frames, v_threshold=theta), torch.tensor([0.5, 2.0]))
    check(lambda weight, bias: pk.if_conv2d(frames, weight, bias), net[0].weight.detach(), net[0].bias.detach())
    with pytest.raises(ValueError, match="0 and 1"):
        pk.pack(imaginary(-frames))


def test_layers(net, x, frames):
    check(net, frames)
    check(net, -frames)  # in memory 0 and 1
    check(net, x.expand(9, *x.shape))


def test_gradients(net, frames):
    layer = pk.use_surrogate(net[0], pk.ATan())
    given = frames.requires_grad_()
    y = layer(given)
    check(lambda grad: torch.autograd.grad(y, (given, layer.weight), grad, retain_graph=True), torch.rand(y.shape))


def test_simulations(net, x, frames):
    check(lambda x: pk.simulate(net, x, T=9).spikes, x)
    relu_net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    sigma_delta = pk.convert(relu_net.eval(), x, neuron="sigma-delta")
    check(lambda x: pk.simulate(sigma_delta, x, T=3).logits, x)


@pytest.mark.parametrize("precision", [None, "int8"])
def test_engines(net, x, frames, precision):
    engine = pk.compile(net, x, precision=precision)
    check(lambda x: engine(x, 9).spikes, x)
    check(lambda x: engine(x, 9).spikes, frames)
    check(lambda x: engine(x, 9).spikes, -frames)


def test_the_state_of_a_stream(net, x):
    stream = pk.compile(net, x).stream(3)
    stream(x)

    def go_on(v):
        stream.state = stream.state | {"0": v}
        return stream.state["0"]

    check(go_on, stream.state["0"])
