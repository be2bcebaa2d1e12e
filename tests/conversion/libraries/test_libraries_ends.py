"""How public code begins and ends: loops over time, means and sums, heads behind them, products with numbers.

Weights are on a grid, so that all sums are exact in float32, and spikes equal bit by bit.
"""

import warnings
from dataclasses import replace

import layerwise
import pytest
import torch
from cases import dyadic, many
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.conversion.libraries import spikingjelly_neurons

pytestmark = pytest.mark.usefixtures("short_proof")

T = 8  # a power of two, of whose means none is rounded


def parts(**others):
    """The layers of a small network of SpikingJelly; its neurons integrate, so that sums stay exact."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import neuron

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.sn = layer.Conv2d(2, 6, 3, padding=1), layer.BatchNorm2d(6), neuron.IFNode()
            self.pool, self.fc, self.sn2 = layer.MaxPool2d(2), layer.Linear(96, 12), neuron.IFNode()
            self.head = nn.Linear(12, 5)
            for name, module in others.items():
                setattr(self, name, module)

        def features(self, x, factor=None):
            x = self.sn(self.bn(self.conv(x)))
            x = self.pool(x if factor is None else x * factor)
            return self.sn2(self.fc(x.flatten(2 if self.sn.step_mode == "m" else 1)))

    return Parts


def network(forward, generator, mode: str, **others) -> nn.Module:
    """A network whose forward pass is ``forward(net, x)``."""
    kind = parts(**others)
    net = type("Net", (kind,), {"forward": forward})()
    from spikingjelly.activation_based import functional

    functional.set_step_mode(net, mode)
    return make_dyadic(net, generator)


def sequence(generator):
    return dyadic(T, 3, 2, 8, 8, generator=generator).abs()


def called(net, x):
    from spikingjelly.activation_based import functional

    functional.reset_net(net)
    with torch.no_grad():
        return net(x)


HEADS = {
    "mean": lambda net, x: net.head(net.features(x).mean(0)),
    "mean of images": lambda net, x: net.head(
        net.sn2(net.fc(net.pool(net.sn(net.bn(net.conv(x)))).flatten(2))).mean(dim=0).flatten(1)
    ),
    "two layers": lambda net, x: net.head(net.more(net.features(x).mean(0))),
    "sum over the steps": lambda net, x: net.head(net.features(x).sum(0) / x.shape[0]),
    "samples first": lambda net, x: net.head(net.features(x.transpose(0, 1)).mean(0)),
    "permuted": lambda net, x: net.head(net.features(x.permute(1, 0, 2, 3, 4)).mean(0)),
    "bytes": lambda net, x: net.head(net.features(x / 16).mean(0)),
    "halved spikes": lambda net, x: net.head(net.features(x, 0.5).mean(0)),
    "halved currents": lambda net, x: net.head(net.sn2(net.fc(net.pool(net.sn(net.conv(x) * 0.5)).flatten(2)))).mean(0),
    "scaled behind the mean": lambda net, x: net.head(net.features(x).mean(0) * 0.5),
}


@pytest.mark.parametrize("name", many(HEADS, 2))
def test_heads_behind_time_in_multi_step_mode(generator, name):
    net = network(HEADS[name], generator, "m", more=nn.Linear(12, 12))
    x = sequence(generator)
    ours = pk.from_spikingjelly(net)
    given = called(net, x.transpose(0, 1) if name in ("samples first", "permuted") else x)
    result = pk.simulate(ours, x, T)
    assert equal(result.potentials.mean(0), given) and given.abs().mean() > 0.01 and len(given.unique()) > 5
    assert 0.02 < result.rates["fc"] < 0.98
    assert equal(pk.compile(ours, x)(x, T).potentials.mean(0), given)


VOTES = {  # 12 neurons vote for 3 classes
    "the output": lambda net, x: net.vote(net.features(x)) * 0.5,
    "neurons": lambda net, x: net.sn3(net.vote(net.features(x)) * 2),
    "neurons, of both layers": lambda net, x: net.sn3(torch.cat([net.vote(y := net.features(x)), y], 2) * 2),
}


@pytest.mark.parametrize("name", VOTES)
def test_votes_times_a_number(generator, name):
    layer, neuron = (pytest.importorskip(f"spikingjelly.activation_based.{name}") for name in ("layer", "neuron"))
    net = network(VOTES[name], generator, "m", vote=layer.VotingLayer(4), sn3=neuron.IFNode())
    x = sequence(generator)
    ours, given = pk.from_spikingjelly(net), called(net, x)
    for result in (pk.simulate(ours, x, T), layerwise.simulate(ours, x, T, chunk=3)):
        assert equal(result.potentials if name == "the output" else result.spikes.dense(), given)
    assert 0.02 < given.mean() < 0.98


def test_a_flattened_image_times_a_number_is_refused(generator):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    net = network(lambda net, x: net.sn3(net.sn(net.conv(x)).flatten(2) * 2), generator, "m", sn3=neuron.IFNode())
    with pytest.raises(TypeError, match="multiply in front of the Flatten"):
        pk.from_spikingjelly(net)


def summed_by_a_loop(net, x):
    total = 0.0
    for t in range(x.size(0)):
        total = total + net.features(x[t])
    return net.head(total)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_a_head_with_a_bias_behind_the_sum(generator, mode):
    """Its potentials begin at the bias, add up, and are the head's after the last step."""
    net = network(summed_by_a_loop if mode == "s" else lambda net, x: net.head(net.features(x).sum(0)), generator, mode)
    net.requires_grad_(mode == "s")
    x = sequence(generator)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = pk.from_spikingjelly(net)
    frozen = "constant in the imported network: bias of module 'head'"
    assert any(frozen in str(one.message) for one in told) == (mode == "s")
    given = called(net, x)
    result = pk.simulate(ours, x, T)
    assert net.head.bias.any() and equal(result.potentials[-1], given) and len(given.unique()) > 5
    stream = pk.compile(ours, x).stream(3)
    assert equal(torch.cat([stream(step) for step in x])[-1], given)


def first_added(net, x):
    total = net.features(x[0])
    for t in range(1, len(x)):
        total = total + net.features(x[t])
    return total / len(x)


def stacked(net, x):
    return torch.stack([net.features(x[t]) for t in range(x.shape[0])], dim=0)


def stacked_behind(net, x):
    return torch.stack([net.features(x[:, t]) for t in range(x.shape[1])], dim=1)


def added(net, x):
    total = 0
    for t in range(x.size(0)):
        total += net.features(x[t])
    return total


def added_by_zeros(net, x):
    total = torch.zeros(3, 12)
    for t in range(x.size(0)):
        total += net.features(x[t])
    return total / x.size(0)


def head_behind_the_loop(net, x):
    total = 0.0
    for t in range(x.size(0)):
        total = total + net.features(x[t])
    return net.head(total / x.size(0))


SPIKES = {
    "first": (first_added, lambda y: y.mean(0)),
    "stacked": (stacked, lambda y: y),
    "stacked behind": (stacked_behind, lambda y: y.transpose(0, 1)),
    "added": (added, lambda y: y.sum(0)),
    "added in place": (added_by_zeros, lambda y: y.mean(0)),
    "sum": (lambda net, x: sum(net.features(step) for step in x), lambda y: y.sum(0)),
}


@pytest.mark.parametrize("name", many(SPIKES, 2))
def test_loops_over_the_input(generator, name):
    forward, over_time = SPIKES[name]
    net = network(forward, generator, "s")
    x = sequence(generator)
    given = called(net, x.transpose(0, 1) if name == "stacked behind" else x)
    spikes = pk.simulate(pk.from_spikingjelly(net), x, T).spikes.dense()
    assert equal(over_time(spikes), given) and 0.05 < spikes.mean() < 0.95


def test_a_head_behind_a_loop(generator):
    net = network(head_behind_the_loop, generator, "s")
    x = sequence(generator)
    given = called(net, x)
    actual = pk.simulate(pk.from_spikingjelly(net), x, T).potentials.mean(0)
    assert torch.allclose(actual, given, 1e-6, 1e-6) and len(given.unique()) > 5


@pytest.mark.parametrize("start", ["first", "zero"])
def test_loops_over_a_held_image(generator, start):
    def forward(net, x):
        total = 0 if start == "zero" else net.features(x)
        for _ in range(T - (start == "first")):
            total = total + net.features(x)
        return total / T

    net = network(forward, generator, "s")
    x = sequence(generator)[0]
    spikes = pk.simulate(pk.from_spikingjelly(net), x, T).spikes.dense()
    assert torch.allclose(spikes.mean(0), called(net, x), 1e-6, 1e-6) and 0.05 < spikes.mean() < 0.95


def test_threshold_dependent_batch_norm(generator):
    """It is a batch normalisation, whose weights begin at alpha v_th."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    norm = layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 6)
    net = network(lambda net, x: net.features(x), generator, "m", bn=norm)
    with torch.no_grad():
        norm.eps = 0.5
        norm.weight.copy_(torch.tensor([1.0, 2, 1, 0.5, 1, 2]))
        norm.running_mean.copy_(dyadic(6, generator=generator, span=2))
        norm.running_var.fill_(3.5)
    x = sequence(generator)
    given = called(net, x)
    ours = pk.from_spikingjelly(net)
    assert equal(pk.simulate(ours, x, T).spikes.dense(), given) and 0.05 < given.mean() < 0.95
    assert ours.get_submodule("conv").bn.weight.requires_grad


REFUSED = {
    "bias behind a sum": (
        lambda net, x: net.head(net.features(x).sum(0)) * 0.5,
        "'head' adds its bias once behind the sum",
    ),
    "neurons behind a mean": (
        lambda net, x: net.sn3(net.head(net.features(x).mean(0))),
        "'sn3' stands behind the mean over time, where only linear layers and averages are supported",
    ),
    "shifted": (lambda net, x: net.features((x - 0.5) / 0.5), r"sub\(\) computes with a number; only products"),
    "product of means": (
        lambda net, x: (lambda y: net.head(y.mean(0) * y.mean(0)))(net.features(x)),
        r"mul\(\) has no counterpart",
    ),
    "a step beside a mean": (
        lambda net, x: (lambda y: y + y.mean(0))(net.features(x)),
        r"add\(\) takes what is of one step and what is over time",
    ),
    "both orders": (
        lambda net, x: net.features(x.transpose(0, 1) + x),
        r"takes its input as \[T, N, ...\] and as \[N, T, ...\]",
    ),
    "another number of steps": (lambda net, x: net.features(x).sum(0) / 7, "its output differs by up to"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ends_that_are_refused(generator, name):
    forward, message = REFUSED[name]
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    net = network(forward, generator, "m", sn3=neuron.IFNode())
    with pytest.raises((TypeError, ValueError), match=message):
        pk.from_spikingjelly(net)


@pytest.fixture
def several_times():
    """SpikingJelly's neurons that fire up to 6 times in a step, of decay 1/2, as multiples of the threshold."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    if not hasattr(neuron, "ILIFNode"):
        pytest.skip("this SpikingJelly has no ILIFNode")
    from spikingjelly.activation_based.surrogate import MultiLevelSpikeCount

    def make(v_threshold=1.0, window=None, **options):
        levels = MultiLevelSpikeCount(6, grad_window=window)
        return neuron.ILIFNode(2.0, v_threshold, levels, **options)

    return make


@pytest.mark.parametrize("mode", ["m", "s"])
def test_neurons_that_fire_several_times_in_a_step(generator, several_times, mode):
    def forward(net, x):
        return net.features(x) if mode == "m" else stacked(net, x)

    net = network(forward, generator, mode, sn=several_times(0.5), sn2=several_times(2.0))
    x = sequence(generator)
    given = called(net, x)
    ours = pk.from_spikingjelly(net)
    assert ours.get_submodule("fc").neuron == pk.neurons.IntegerLIFNeuron(
        v_threshold=2.0, decay=0.5, max_spike_count=6, rounds=True
    )
    result = pk.simulate(ours, x, T)
    assert equal(result.output, given) and len(given.unique()) > 3
    assert result.rates["fc"] == pytest.approx(given.mean().item())
    assert equal(pk.compile(ours, x)(x, T).output, given) and equal(ours(x), given)


@pytest.mark.parametrize("detach", [False, True])
def test_training_goes_on_with_the_same_gradients(generator, several_times, detach):
    options = {"detach_reset": detach}
    net = network(
        lambda net, x: net.features(x), generator, "m", sn=several_times(0.5, **options), sn2=several_times(**options)
    )
    ours, x = pk.from_spikingjelly(net), sequence(generator)
    for parameter in net.parameters():
        parameter.requires_grad_()
    y = net(x)
    weight = torch.randn(y.shape, generator=generator)
    (weight * y).sum().backward()
    ours.requires_grad_()
    (weight * ours(x)).sum().backward()
    for name in ("conv.weight", "fc.weight", "fc.bias"):
        here, there = ours.get_parameter(name).grad, net.get_parameter(name).grad
        assert there.abs().max() > 1 and torch.allclose(here, there, 1e-4, 1e-4 * there.abs().max().item())


@pytest.mark.parametrize("wrong", [{"rounds": False}, {"max_spike_count": 5}, {"decay": 0.75}], ids=str)
def test_other_integers_are_found(monkeypatch, several_times, wrong):
    made = spikingjelly_neurons._integer

    def other(node):
        described = made(node)
        return described._replace(neuron=replace(described.neuron, **wrong))

    monkeypatch.setitem(spikingjelly_neurons.KINDS, "ILIFNode", other)
    with pytest.raises(ValueError, match="of its spikes differ, on the same currents"):
        pk.from_spikingjelly(nn.Sequential(nn.Linear(4, 30), several_times(0.25)))


def test_another_window_of_the_derivative_has_none_here(several_times):
    net = pk.from_spikingjelly(nn.Sequential(nn.Linear(4, 3), several_times(window=(-1.0, 7.0))))
    assert net.get_submodule("0").surrogate is None


@pytest.mark.parametrize("kind", ["Leaky", "Lapicque"])
def test_subtract_by_channel_of_snntorch(generator, kind):
    """Potentials that rest at another value in each channel: a constant current keeps them there."""
    snn = pytest.importorskip("snntorch")
    from snntorch import utils

    share, threshold = torch.tensor([[0.5, 0.75, 0.5, 0.75], [0.5, 1, 0.75, 0.5]]).view(8, 1, 1), 1 + 2**-11
    options = {"beta": share} if kind == "Leaky" else {"beta": 0.5, "C": 1.0}
    options["threshold"] = threshold if kind == "Leaky" else threshold * (1 + share)
    options |= {"reset_mechanism": "subtract", "init_hidden": True}
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), getattr(snn, kind)(**options))
    make_dyadic(net, generator, 1 / 8)
    x = dyadic(3, 2, 8, 8, generator=generator).abs()
    utils.reset(net)
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(40)])
    ours = pk.from_snntorch(net)
    actual = pk.simulate(ours, x, 40).spikes.dense()
    assert 0.05 < expected.mean() < 0.95 and (actual != expected).float().mean() < 1e-4
    assert isinstance(ours.get_submodule("0").v_init, torch.Tensor)
