"""Loops over time whose steps differ: by normalisations, gains and offsets of each step, and by what they take of the
step before. The same spikes, bit by bit."""

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import StepAffine

snntorch = pytest.importorskip("snntorch")
pytestmark = pytest.mark.usefixtures("short_proof")

N = 6


def on_grid(generator, *shape):
    return nn.Parameter(dyadic(*shape, generator=generator, span=8, unit=1 / 8))


class Net(nn.Module):
    """Vectors or images in a loop over ``T`` steps. ``current`` gives what the first neurons take."""

    def __init__(self, T, images, current, generator):
        super().__init__()
        self.T, self.is_image, self.current, channels = T, images, current, 2 if images else 128
        norm, axes = (nn.BatchNorm2d, (1, 1)) if images else (nn.BatchNorm1d, ())
        self.first = nn.Conv2d(2, 8, 3) if images else nn.Linear(128, 8)
        self.norms = nn.ModuleList(norm(8) for _ in range(T))
        self.last, self.lif1 = nn.Linear(288 if images else 8, 5), snntorch.Leaky(0.5, 0.5, reset_mechanism="zero")
        self.lif2 = snntorch.Leaky(0.5, 0.25, reset_mechanism="zero")
        self.gains, self.offsets = (on_grid(generator, T, 8, *axes) for _ in range(2))
        self.embedding = on_grid(generator, T, 1, channels, *[8] * len(axes))
        self.lines = nn.ModuleList(nn.Linear(128, 8) for _ in range(T))

    def forward(self, x):
        mem1, mem2, out, before = self.lif1.init_leaky(), self.lif2.init_leaky(), [], torch.zeros_like(x[0])
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.current(self, x, t, before), mem1)
            spk2, mem2 = self.lif2(self.last(spk1.flatten(1)), mem2)
            before = x[t]
            out.append(spk2)
        return torch.stack(out)


def made(way, T, images, generator):
    """A network and its input [T, N, ...]; a convolution takes the same values as images."""
    net = Net(T, images, way, generator)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    return make_dyadic(net, generator, 1 / 16), x if images else x.flatten(2)


PARAMETERS = {
    "norms": lambda net, x, t, before: net.norms[t](net.first(x[t])),
    "gains": lambda net, x, t, before: net.gains[t] * net.first(x[t]),
    "offsets": lambda net, x, t, before: net.first(x[t]) - net.offsets[t],
    "gains of norms and offsets": lambda net, x, t, before: (
        net.norms[t](net.first(x[t])) * net.gains[t].abs() + net.offsets[t]
    ),
    "an embedding": lambda net, x, t, before: net.first(x[t] + net.embedding[t]),
    "an embedding, and itself": lambda net, x, t, before: net.first(x[t] + net.embedding[t]) + net.offsets[t] + 0.0,
}
DIFFERENCES = {
    "where there is one": lambda net, x, t, before: net.first(x[t] - x[t - 1] if t else x[t]),
    "of zeros": lambda net, x, t, before: net.first(x[t] - before),
    "twice": lambda net, x, t, before: net.first(x[t] - before) + net.first(before),
    "and the norm of a step": lambda net, x, t, before: net.norms[t](net.first(x[t] - before)),
}
WAYS = PARAMETERS | DIFFERENCES


@torch.no_grad()
@pytest.mark.parametrize("T", [1, 7])
@pytest.mark.parametrize("images", [False, True], ids=["vectors", "images"])
@pytest.mark.parametrize("name", WAYS)
def test_the_same_spikes(generator, name, images, T):
    net, x = made(WAYS[name], 7, images, generator)
    x = x[:T]
    expected, ours = net(x), pk.from_snntorch(net, x[0])
    result = pk.simulate(ours, x, T)
    assert equal(result.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert all(rate > 0.01 for rate in result.rates.values())
    parts, state = [], None
    for part in x.split(3):  # a run in parts goes on where the last one ended
        result = pk.simulate(ours, part, len(part), state=state)
        state = result.state
        parts.append(result.spikes.dense())
    assert equal(torch.cat(parts), expected)


@torch.no_grad()
@pytest.mark.parametrize("T", [2, 3])
@pytest.mark.parametrize("name", ["norms", "gains"])
def test_few_steps(generator, name, T):
    net, x = made(WAYS[name], T, False, generator)
    expected, ours = net(x), pk.from_snntorch(net, x[0])
    assert equal(pk.simulate(ours, x, T).spikes.dense(), expected) and expected.any()


@torch.no_grad()
def test_batch_norm_through_time_of_snntorch(generator):
    net, x = made(PARAMETERS["norms"], 4, True, generator)
    net.norms = snntorch.BatchNormTT2d(8, 4)
    for norm in net.norms:
        norm.bias = nn.Parameter(torch.zeros(8))
    make_dyadic(net, generator, 1 / 16)
    for norm in net.norms:
        norm.bias = None  # as it has none
    expected = net(x)
    assert equal(pk.simulate(pk.from_snntorch(net, x[0]), x, 4).spikes.dense(), expected) and expected.any()


def test_steps_that_a_network_has_no_parameters_of(generator):
    net, x = made(PARAMETERS["norms"], 4, False, generator)
    ours = pk.from_snntorch(net, x[0])
    with pytest.raises(ValueError, match="x goes on to step 4, counted from 0, .* parameters of 4 steps"):
        pk.simulate(ours, torch.cat([x, x[:1]]), 5)
    with pytest.raises(TypeError, match="the engine does not take module .*StepAffine"):
        pk.compile(ours, x)


@pytest.mark.parametrize(
    "way, message",
    [
        (lambda net, x, t, before: net.lines[t](x[t]), "'lines.1' where step 0 calls 'lines.0'; only normalisations"),
        (
            lambda net, x, t, before: net.first(x[t] - x[t - 2] if t > 1 else x[t]),
            "it takes x.0., the input of another step; only x.t - 1. may be",
        ),
        (
            lambda net, x, t, before: net.first(x[t] - x[max(t - 1, 0)]),
            "it takes x.0., the input of another step; only x.t - 1. may be",
        ),
        (lambda net, x, t, before: net.first(x[t] / net.embedding[t]), "takes a parameter of each step; such may only"),
    ],
)
def test_others_are_refused(generator, way, message):
    net, x = made(way, 4, False, generator)
    with pytest.raises(TypeError, match=message):
        pk.from_snntorch(net, x[0])


def test_definition(generator):
    x = dyadic(5, 2, 3, 4, 4, generator=generator)
    weight, bias = dyadic(6, 3, 1, 1, generator=generator), dyadic(6, 1, 3, 4, 4, generator=generator)
    layer = StepAffine(weight, bias)
    whole, state = layer(x, torch.zeros(2))
    assert (
        equal(whole, x * weight[:5, None] + bias[:5]) and equal(layer(x), whole) and equal(state, torch.full((2,), 5.0))
    )
    first, state = layer(x[:2], torch.zeros(2))
    second, state = layer(x[2:], state)
    assert equal(torch.cat([first, second]), whole)
    apart, _ = layer(x[:1], torch.tensor([0.0, 3.0]))  # samples that are at other steps
    assert equal(apart[0, 1], x[0, 1] * weight[3] + bias[3, 0])
    with pytest.raises(ValueError, match="goes on to step 6"):
        layer(x, torch.full((2,), 2.0))
    with pytest.raises(ValueError, match="must have the same number of steps"):
        StepAffine(weight, bias[:4])


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, mode",
    [("TemporalEffectiveBatchNorm2d", "m"), ("BatchNormThroughTime2d", "m"), ("BatchNormThroughTime2d", "s")],
)
def test_norms_of_spikingjelly(generator, kind, mode):
    layer, neuron = (pytest.importorskip(f"spikingjelly.activation_based.{name}") for name in ("layer", "neuron"))
    from spikingjelly.activation_based import functional

    T, norm = 7, getattr(layer, kind)(7, 8)
    net = nn.Sequential(
        layer.Conv2d(2, 8, 3), norm, neuron.IFNode(), layer.Flatten(), layer.Linear(288, 5), neuron.IFNode()
    )
    has_list = hasattr(norm, "bn_list")
    for each in norm.bn_list if has_list else []:
        each.bias = nn.Parameter(torch.zeros(8))
    make_dyadic(net, generator, 1 / 16)
    if not has_list:
        norm.eps, norm.scale = 0.5, on_grid(generator, T)
        norm.running_mean.copy_(dyadic(8, generator=generator, span=2))
        norm.running_var.fill_(3.5)
    else:
        for each in norm.bn_list:
            each.bias = None
    functional.set_step_mode(net, mode)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    ours = pk.from_spikingjelly(net, x[0])
    functional.reset_net(net)
    expected = net(x) if mode == "m" else torch.stack([net(step) for step in x])
    assert equal(pk.simulate(ours, x, T).spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
