"""Gates: functions of values, and products of two results, which sigma-delta and graded neurons send."""

import pytest
import torch
import torch.nn.functional as F
from cases import many
from equality import equal
from torch import nn

import proxykernels as pk

EXACT = pk.neurons.Graded(threshold=0.0)
FUNCTIONS = {
    "sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish, "silu": F.silu,
    "tanh": torch.tanh, "elu": lambda y: F.elu(y, 0.5), "softplus": F.softplus, "mish": F.mish,
}  # fmt: skip


class Model(nn.Module):
    """Two convolutions, what ``forward`` makes of the first one's ReLU, and a linear layer of the means."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.steps = forward
        for name, module in modules.items():
            self.add_module(name, module)
        self.a, self.b, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.steps(self, self.a(x).relu()).mean((2, 3)))


def convolutions() -> dict[str, nn.Module]:
    return {"down": nn.Conv2d(8, 4, 1), "up": nn.Conv2d(4, 8, 1)}


def gate(m, y, function=torch.sigmoid):
    return function(m.up(m.down(F.adaptive_avg_pool2d(y, 1)).relu()))


def of_features(m, y):
    """SENet's block, with linear layers."""
    N, C = y.shape[:2]
    means = m.down(y.mean((2, 3))).relu()
    return m.b(y * m.up(means).sigmoid().view(N, C, 1, 1).expand_as(y)).relu()


def of_neighbours(m, y):
    """ECA's block, a convolution along the channels."""
    means = y.mean((2, 3)).unsqueeze(1)
    return m.b(y * m.row(means).sigmoid().transpose(1, 2).unsqueeze(-1)).relu()


def of_pixels(m, y):
    """CBAM's gate of pixels."""
    seen = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return m.b(y * m.g(seen).sigmoid()).relu()


ZOO = {
    "squeeze and excitation": lambda: Model(lambda m, y: m.b(gate(m, y) * y).relu(), **convolutions()),
    "in a residual block": lambda: Model(
        lambda m, y: (m.b(y) * gate(m, m.b(y), F.hardsigmoid) + y).relu(), **convolutions()
    ),
    "MobileNetV3": lambda: Model(
        lambda m, y: F.hardswish(m.b(y * gate(m, y, m.h))), h=nn.Hardsigmoid(inplace=True), **convolutions()
    ),
    "of features": lambda: Model(of_features, down=nn.Linear(8, 4), up=nn.Linear(4, 8)),
    "of neighbours": lambda: Model(of_neighbours, row=nn.Conv1d(1, 1, 3, padding=1)),
    "of pixels": lambda: Model(of_pixels, g=nn.Conv2d(2, 1, 3, padding=1)),
    "GLU": lambda: Model(lambda m, y: (lambda a, b: torch.cat([a * b.sigmoid()] * 2, 1))(*m.b(y).chunk(2, 1))),
    **{name: lambda function=function: Model(lambda m, y: function(m.b(y))) for name, function in FUNCTIONS.items()},
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    ann, x = ZOO[name]().eval(), torch.rand(6, 2, 8, 8) * torch.linspace(-2, 3, 6).view(-1, 1, 1, 1)
    with torch.no_grad():
        for convolution in (ann.a, ann.b):
            convolution.weight.mul_(3)
        expected = ann(x)
    assert (expected.std(0) > 1e-2).all()
    return ann, x, expected


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
    with pytest.raises((TypeError, ValueError), match="OfSums"):
        pk.compile(net, x)
    with pytest.raises(ValueError, match="computes a function or a product of values, which 8 bits do not have"):
        pk.simulate(net, x, 1, precision="int8")
    with pytest.raises(TypeError, match="function must be one of Sigmoid, .*, got GELU"):
        pk.layers.of_sums.OfSums(nn.GELU())
