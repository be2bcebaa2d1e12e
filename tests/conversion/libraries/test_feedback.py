"""Spikes that come back to earlier layers, or through a convolution: the same spikes as the original's, bit by bit."""

import copy
import pickle

import pytest
import torch
from cases import dyadic
from equality import equal, in_parts
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import RecurrentGraph

snntorch = pytest.importorskip("snntorch")
utils = pytest.importorskip("snntorch.utils")
pytestmark = pytest.mark.usefixtures("short_proof")

T, N = 9, 5
THRESHOLD = 1 + 2**-13  # which no potential equals: snnTorch's neurons would not fire at it, see from_snntorch


class Net(nn.Module):
    """Three layers in a loop; ``current`` gives what the first neurons take of the spikes of all in the step before."""

    def __init__(self, current, **options):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 16), nn.Linear(16, 6), nn.Linear(6, 4)
        self.lif1, self.lif2, self.lif3 = (
            snntorch.Leaky(0.5, threshold, reset_mechanism="zero", **options) for threshold in (1.0, 0.5, 0.5)
        )
        self.own, self.back2, self.back3 = nn.Linear(16, 16), nn.Linear(6, 16), nn.Linear(4, 16, bias=False)
        self.to2, self.current = nn.Linear(4, 6), current

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spikes = [torch.zeros(x.size(1), features) for features in (16, 6, 4)]
        out = []
        for t in range(x.size(0)):
            first, second = self.current(self, x[t], *spikes)
            s1, mem1 = self.lif1(first, mem1)
            s2, mem2 = self.lif2(self.fc2(s1) + second if second is not None else self.fc2(s1), mem2)
            s3, mem3 = self.lif3(self.fc3(s2), mem3)
            spikes = [s1, s2, s3]
            out.append(s3)
        return torch.stack(out)


CURRENTS = {  # and the layers that run step by step
    "of the next": (lambda m, x, s1, s2, s3: (m.fc1(x) + m.back2(s2), None), {"fc1", "fc2"}),
    "of the last": (lambda m, x, s1, s2, s3: (m.back3(s3) + m.fc1(x), None), {"back3", "fc2", "fc3"}),
    "of all": (
        lambda m, x, s1, s2, s3: (m.fc1(x) + m.own(s1) + m.back2(s2) + m.back3(s3), None), {"fc1", "fc2", "fc3"},
    ),
    "halved": (lambda m, x, s1, s2, s3: (m.fc1(x) + m.back3(s3) * 0.5, None), {"fc1", "fc2", "fc3"}),
    "beside it": (lambda m, x, s1, s2, s3: (m.fc1(x), m.to2(s3)), {"fc2", "fc3"}),
    "of two loops": (lambda m, x, s1, s2, s3: (m.fc1(x) + m.back2(s2), m.to2(s3)), {"fc1", "fc2", "fc3"}),
}  # fmt: skip


def steps_by_step(ours):
    return {name for part in ours.modules() if isinstance(part, RecurrentGraph) for name, *_ in part.layers()}


def check(ours, x, expected):
    """The same spikes as a whole, in parts, after a copy, and from a call of the network."""
    result = pk.simulate(ours, x, len(x))
    assert equal(result.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert all(0.02 < rate < 0.98 for rate in result.rates.values())
    assert equal(ours(x).float(), expected)
    assert equal(in_parts(pickle.loads(pickle.dumps(copy.deepcopy(ours))), x), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", CURRENTS)
def test_feedback_between_layers(generator, name):
    current, in_a_cycle = CURRENTS[name]
    net = make_dyadic(Net(current), generator, 1 / 16)
    x = dyadic(T, N, 8, generator=generator)
    expected = net(x)
    without = copy.deepcopy(net)
    for back in (without.own, without.back2, without.back3, without.to2):
        back.weight.zero_()
    assert not equal(without(x), expected)  # what comes back matters
    ours = pk.from_snntorch(net, x[0])
    assert steps_by_step(ours) == in_a_cycle
    check(ours, x, expected)


@torch.no_grad()
def test_graded_spikes_that_come_back(generator):
    net = make_dyadic(Net(CURRENTS["of the last"][0], graded_spikes_factor=0.5), generator, 1 / 16)
    x = dyadic(T, N, 8, generator=generator)
    result = pk.simulate(pk.from_snntorch(net, x[0]), x, T)
    assert equal(result.potentials, net(x)) and result.potentials.any()


def images(kind, reset, **options):
    back = {"conv2d_channels": 4, "kernel_size": 3, "init_hidden": True, "reset_mechanism": reset}
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), getattr(snntorch, kind)(**options, **back), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 1), getattr(snntorch, kind)(**options, **back), nn.Flatten(), nn.Linear(36, 5),
        snntorch.Leaky(0.5, 0.5, init_hidden=True, reset_mechanism="zero"),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("kind, options", [("RLeaky", {"beta": 0.5}), ("RSynaptic", {"alpha": 0.75, "beta": 0.5})])
@pytest.mark.filterwarnings("ignore:.*written in Python")
def test_recurrent_convolutions(generator, kind, options, reset):
    net = make_dyadic(images(kind, reset, threshold=THRESHOLD, **options), generator, 1 / 16)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    utils.reset(net)
    expected = torch.stack([net(step) for step in x])
    ours = pk.from_snntorch(net, x[0])
    assert steps_by_step(ours) == {"0", "3"}
    check(ours, x, expected)


@torch.no_grad()
def test_a_convolution_over_own_spikes_in_a_forward_pass(generator):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.back, self.fc = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(144, 5)
            self.lif1, self.lif2 = (snntorch.Leaky(0.5, reset_mechanism="zero") for _ in range(2))

        def forward(self, x):
            mem1, mem2, s, out = self.lif1.init_leaky(), self.lif2.init_leaky(), torch.zeros(x.size(1), 4, 6, 6), []
            for step in x:
                s, mem1 = self.lif1(self.conv(step) + self.back(s), mem1)
                s2, mem2 = self.lif2(self.fc(s.flatten(1)), mem2)
                out.append(s2)
            return torch.stack(out)

    net = make_dyadic(Loop(), generator, 1 / 16)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    check(pk.from_snntorch(net, x[0]), x, net(x))


class Images(nn.Module):
    """Two convolutions, of which the first takes the second's spikes, through a third; then a pool and a Linear."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.back, self.bn, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(48, 5)
        self.lif1, self.lif2, self.lif3 = (
            snntorch.Leaky(0.5, threshold, reset_mechanism="zero") for threshold in (1.0, 0.5, 0.5)
        )

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        s2, out = torch.zeros(x.size(1), 3, 8, 8), []
        for step in x:
            s1, mem1 = self.lif1(self.bn(self.conv1(step)) + self.back(s2), mem1)
            s2, mem2 = self.lif2(self.conv2(s1), mem2)
            s3, mem3 = self.lif3(self.fc(nn.functional.max_pool2d(s2, 2).flatten(1)), mem3)
            out.append(s3)
        return torch.stack(out)


@torch.no_grad()
def test_feedback_between_convolutions(generator):
    net = make_dyadic(Images(), generator, 1 / 16)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    ours = pk.from_snntorch(net)
    assert steps_by_step(ours) == {"conv1", "conv2"}
    check(ours, x, net(x))


class OfSteps(Net):
    """With a normalisation of each step in front of the neurons."""

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        s3, out = torch.zeros(x.size(1), 4), []
        for t in range(x.size(0)):
            s1, mem1 = self.lif1(self.norms1[t](self.fc1(x[t])) + self.back3(s3), mem1)
            s2, mem2 = self.lif2(self.norms2[t](self.fc2(s1)), mem2)
            s3, mem3 = self.lif3(self.fc3(s2), mem3)
            out.append(s3)
        return torch.stack(out)


@torch.no_grad()
def test_norms_of_each_step_and_feedback(generator):
    net = OfSteps(None)
    net.norms1, net.norms2 = (nn.ModuleList(nn.BatchNorm1d(size) for _ in range(T)) for size in (16, 6))
    make_dyadic(net, generator, 1 / 16)
    x = dyadic(T, N, 8, generator=generator)
    check(pk.from_snntorch(net, x[0]), x, net(x))


@torch.no_grad()
def test_samples_that_end_and_that_are_stopped(generator):
    net = make_dyadic(Net(CURRENTS["of all"][0]), generator, 1 / 16)
    x = dyadic(24, N, 8, generator=generator)
    ours, expected, lengths = pk.from_snntorch(net, x[0]), net(x), torch.tensor([3, 24, 7, 12, 1])
    ended = pk.simulate(ours, x, 24, lengths=lengths)
    stopped = pk.simulate(ours, x, 24, stop=pk.stop.margin(2), chunk=3)
    assert 3 < stopped.steps.min() < 24
    for steps, result in ((lengths, ended), (stopped.steps, stopped)):
        given = result.spikes.dense()
        for k, end in enumerate(steps.tolist()):
            assert equal(given[:end, k], expected[:end, k]) and not given[end:, k].any()
        assert given.any()
    assert ours(x[:, :0]).shape == (24, 0, 4)


@torch.no_grad()
@pytest.mark.parametrize("reset", [0.0, None])
def test_feedback_in_spikingjelly(generator, reset):
    functional, neuron = (
        pytest.importorskip(f"spikingjelly.activation_based.{name}") for name in ("functional", "neuron")
    )

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.back = nn.Linear(8, 16), nn.Linear(16, 6), nn.Linear(6, 16)
            self.lif1, self.lif2 = (neuron.IFNode(v_reset=reset) for _ in range(2))

        def forward(self, x):
            s2, out = torch.zeros(x.size(1), 6), []
            for t in range(x.size(0)):
                s1 = self.lif1(self.fc1(x[t]) + self.back(s2))
                s2 = self.lif2(self.fc2(s1))
                out.append(s2)
            return torch.stack(out)

    net = make_dyadic(Loop(), generator, 1 / 16)
    x = dyadic(T, N, 8, generator=generator)
    expected = net(x)
    functional.reset_net(net)
    check(pk.from_spikingjelly(net, x[0]), x, expected)


def test_gradients(generator):
    """Weights have the gradients that snnTorch computes; its reset passes none on."""
    net = make_dyadic(Net(CURRENTS["of all"][0], spike_grad=snntorch.surrogate.atan(2.0)), generator, 1 / 16)
    x = dyadic(T, N, 8, generator=generator)
    ours = pk.from_snntorch(net, x[0]).train()
    net(x).sum().backward()
    y = ours(x)
    y.sum().backward()
    join, theirs = ours.get_submodule("fc3.fc1"), (net.fc1, net.own, net.back2, net.back3)
    for synapse, module in zip(join.synapses, theirs, strict=True):
        torch.testing.assert_close(synapse.weight.grad, module.weight.grad)
        assert synapse.weight.grad.any()
    with pytest.raises(TypeError, match="RecurrentGraph, fc3, .* call the network itself"):
        pk.SurrogateNet(ours, T)
    with pytest.raises(TypeError, match="layer fc3 is a RecurrentGraph, .* train the network itself"):
        pk.ProxyNet(ours, T)


def test_what_is_compared(generator, monkeypatch):
    """A wrong weight on the way back is found."""
    from proxykernels.conversion.libraries import from_libraries

    built = from_libraries.build_layer

    def turned(modules, *more):
        if len(modules) > 1:
            modules[-1].weight.data = -modules[-1].weight.data
        return built(modules, *more)

    monkeypatch.setattr(from_libraries, "build_layer", turned)
    with pytest.raises(ValueError, match="of the currents that its neurons take differ"):
        pk.from_snntorch(make_dyadic(Net(CURRENTS["of the last"][0]), generator, 1 / 16))
    net = make_dyadic(images("RLeaky", "zero", beta=0.5), generator, 1 / 16)
    with pytest.raises(ValueError, match="of its spikes differ, on the same currents"):
        pk.from_snntorch(net, torch.rand(2, 2, 8, 8))


def test_engines_refuse_it(generator):
    net = make_dyadic(Net(CURRENTS["of the last"][0]), generator, 1 / 16)
    x = dyadic(T, N, 8, generator=generator)
    with pytest.raises(TypeError, match="does not take module fc3 .RecurrentGraph.*simulate may take it"):
        pk.compile(pk.from_snntorch(net, x[0]), x)


def test_through_a_pool_it_is_refused(generator):
    net = Net(lambda m, x, s1, s2, s3: (m.fc1(x) + m.own(m.to2(s3)), None))
    net.own = nn.Linear(6, 16)
    with pytest.raises(TypeError, match="only a Linear or a convolution may lie between them and neurons"):
        pk.from_snntorch(make_dyadic(net, generator, 1 / 16))
