"""Networks of SpikingJelly, also of its clock_driven package: the same spikes, bit by bit, where all sums are exact."""

import copy
import sys
import types

import pytest
import torch
from cases import dyadic, many, spikes
from equality import equal
from exchange import images, make_dyadic, spikingjelly_fires
from oracle import step_loop
from torch import nn

import proxykernels as pk
from proxykernels import neurons

pytestmark = pytest.mark.usefixtures("short_proof")

T = 24
FEW = 8  # steps of leaky neurons: each adds a bit to what float32 must hold


def sequential(neuron):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), neuron(),
        layer.MaxPool2d(2), layer.Conv2d(8, 9, 3), neuron(v_threshold=1.5), layer.AvgPool2d(2),
        layer.Flatten(), layer.Dropout(0.3), layer.Linear(9, 10), neuron(),
    )  # fmt: skip


def residual(neuron):
    """A module of its own kind with a shortcut, and a container for torch's modules."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = layer.SeqToANNContainer(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
            self.sn1, self.sn2, self.sn3 = (neuron() for _ in range(3))
            self.conv = layer.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Sequential(layer.Flatten(), layer.Linear(512, 10))

        def forward(self, x):
            x = self.sn1(self.stem(x))
            return self.sn3(self.head(self.sn2(x + self.conv(x))))

    return Net()


def spikingjelly_neuron(kind: str, v_reset):
    """A function that makes neurons of SpikingJelly."""
    module = pytest.importorskip("spikingjelly.activation_based.neuron")
    options = {
        "LIFNode": {"tau": 2.0},
        "LIFNode, currents whole": {"tau": 4.0, "decay_input": False},
        "ParametricLIFNode": {"init_tau": 2.0},
        "CUBALIFNode": {"c_decay": 0.5, "v_decay": 0.75},
    }.get(kind, {})
    return lambda **others: getattr(module, kind.split(",")[0])(**options, v_reset=v_reset, **others)


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None], ids=["hard", "below", "soft"])
@pytest.mark.parametrize("build", [sequential, residual])
@pytest.mark.costly
def test_from_spikingjelly(generator, build, v_reset):
    net = make_dyadic(build(spikingjelly_neuron("IFNode", v_reset)), generator)
    before = copy.deepcopy(net.state_dict())
    x = images(generator)
    expected = spikingjelly_fires(net, x, T)
    ours = pk.from_spikingjelly(net)
    actual = pk.simulate(ours, x, T)
    assert equal(actual.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert equal(step_loop(ours, x, T)[ours.layers()[-1][0]], expected)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None], ids=["hard", "below", "soft"])
@pytest.mark.parametrize("kind", ["LIFNode", "LIFNode, currents whole", "ParametricLIFNode", "CUBALIFNode"])
@pytest.mark.costly
def test_leaky_neurons_of_spikingjelly(generator, kind, v_reset):
    net = make_dyadic(sequential(spikingjelly_neuron(kind, v_reset)), generator, 1 / 4)
    x = images(generator)
    actual = pk.simulate(pk.from_spikingjelly(net), x, FEW).spikes.dense()
    for mode in ("s", "m"):
        expected = spikingjelly_fires(net, x, FEW, mode)
        assert equal(actual, expected) and 0.02 < expected.mean() < 0.98


def test_time_constants_of_spikingjelly():
    """Weights stay what they are; where currents are divided by tau, potentials are counted in smaller units."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

    def taken_over(node):
        return pk.from_spikingjelly(nn.Sequential(layer.Linear(3, 4), node)).get_submodule("0").neuron

    assert taken_over(neuron.LIFNode(tau=4.0, v_reset=-0.5)) == neurons.LIFNeuron(
        v_threshold=4.0, v_reset=-2.0, decay=0.75, v_rest=-2.0
    )
    assert taken_over(neuron.LIFNode(tau=4.0, decay_input=False)) == neurons.LIFNeuron(
        v_threshold=1.0, v_reset=0.0, decay=0.75, v_rest=0.0
    )
    fixed = neuron.ParametricLIFNode(init_tau=2.0, v_reset=None).requires_grad_(False)
    assert taken_over(fixed) == neurons.LIFNeuron(v_threshold=2.0, v_reset=None, decay=0.5, v_rest=0.0)
    assert taken_over(neuron.ParametricLIFNode(init_tau=2.0)) == neurons.LIFNeuron(
        v_threshold=1.0, v_reset=0.0, decay=torch.tensor(0.5), v_rest=0.0
    )


READOUTS = {
    "NonSpikingIFNode": ({}, lambda y: y),
    "NonSpikingLIFNode": ({"tau": 4.0}, lambda y: y),
    "last": ({"tau": 2.0, "decode": "last_mem"}, lambda y: y[-1]),
    "mean": ({"tau": 2.0, "decode": "mean-mem"}, lambda y: y.mean(0)),
    "max": ({"tau": 8.0, "decode": "max-mem"}, lambda y: y.max(0).values),
    "max-abs": (
        {"tau": 2.0, "decode": "max-abs-mem"},
        lambda y: torch.where(y.amax(0) > -y.amin(0), y.amax(0), y.amin(0)),
    ),
}


@pytest.mark.parametrize("name", many(READOUTS, 2))
def test_readouts_of_spikingjelly(generator, name):
    """Potentials of every step, whose decoding is left to the caller; a normalisation before them is folded."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional

    options, decoded = READOUTS[name]
    kind = getattr(neuron, name if "Node" in name else "NonSpikingLIFNode")
    net = nn.Sequential(
        layer.Conv2d(2, 6, 3), neuron.IFNode(), layer.Conv2d(6, 5, 3), layer.BatchNorm2d(5), kind(**options)
    )
    functional.set_step_mode(make_dyadic(net, generator, 1 / 4), "m")
    x = images(generator)
    with torch.no_grad():
        expected = net(x.expand(FEW, *x.shape).contiguous())
    expected = torch.stack(expected) if isinstance(expected, list) else expected
    ours = pk.from_spikingjelly(net)
    assert [type(module).__name__ for module in ours.children()] == ["FusedIFConv2d", "FusedConv2d"]
    actual = decoded(pk.simulate(ours, x, FEW).potentials)
    assert len(expected.unique()) > 50 and torch.allclose(actual, expected, 1e-6, 1e-6)


def test_readouts_whose_potentials_are_stacked(generator):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional

    class Net(nn.Module):
        def __init__(self, end):
            super().__init__()
            self.fc1, self.sn, self.fc2 = layer.Linear(9, 20), neuron.LIFNode(), layer.Linear(20, 4)
            self.readout, self.end = neuron.NonSpikingLIFNode(), end

        def forward(self, x):
            return self.end(self.readout(self.fc2(self.sn(self.fc1(x)))))

    x = dyadic(3, 9, generator=generator).abs()
    for end, decoded in (
        (torch.stack, lambda y: y),
        (lambda v: torch.stack(v).mean(0), lambda y: y.mean(0)),
        (lambda v: v[-1], lambda y: y[-1]),
    ):
        net = make_dyadic(Net(end), generator, 1 / 4)
        functional.set_step_mode(net, "m")
        with torch.no_grad():
            expected = net(x.expand(FEW, *x.shape).contiguous())
        actual = decoded(pk.simulate(pk.from_spikingjelly(net), x, FEW).potentials)
        expected = torch.stack(expected) if isinstance(expected, list) else expected
        assert len(expected.unique()) > 10 and torch.allclose(actual, expected, 1e-6, 1e-6)


@pytest.mark.parametrize("kind", ["SLTTLIFNode", "OTTTLIFNode"])
def test_neurons_of_spikingjelly_that_are_trained_online(generator, kind):
    """In evaluation they are leaky neurons; they have no multi-step mode."""
    net = make_dyadic(sequential(spikingjelly_neuron(kind, 0.0)), generator, 1 / 4)
    x = images(generator)
    expected = spikingjelly_fires(net, x, FEW, "s")
    actual = pk.simulate(pk.from_spikingjelly(net), x, FEW).spikes.dense()
    assert equal(actual, expected) and 0.02 < expected.mean() < 0.98


def test_what_spikingjelly_nets_may_not_hold():
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import surrogate

    continuous = neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False))
    for net, message in (
        (
            nn.Sequential(layer.Linear(3, 4), neuron.SimpleIFNode(v_threshold=1.0, v_reset=0.0)),
            "'1': SimpleIFNode has no counterpart here; only IFNode",
        ),
        (
            nn.Sequential(layer.Conv3d(1, 2, 3), neuron.IFNode()),
            "'0' is a Conv3d, .*; only one or two axes are supported: .*; if it is time, write a Conv2d for each step",
        ),
        (
            nn.Sequential(layer.Linear(3, 4), neuron.NonSpikingLIFNode(decode="max-mem"), layer.Linear(4, 2)),
            "module '1' gives one value for all steps; with decode='max-mem' it must be the last",
        ),
        (nn.Sequential(layer.Linear(3, 4), continuous), "'1': LIFNode gives values, not spikes: set its surrogate"),
        (nn.Sequential(layer.Linear(3, 4)), "must have neurons, it has none"),
        (3, "net must be a torch.nn.Module"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.from_spikingjelly(net)


@pytest.mark.parametrize("pool", ["MaxPool2d", "AvgPool2d"])
def test_currents_may_be_pooled(generator, pool):
    """Pooling between a convolution and its neurons, and two products in a row: carried on as real values."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron

    net = nn.Sequential(
        layer.Conv2d(2, 6, 3), getattr(layer, pool)(2), neuron.IFNode(), layer.Flatten(), layer.Linear(54, 7),
        layer.Linear(7, 5), neuron.IFNode(),
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    functional.set_step_mode(net, "m")
    x = spikes(20, 3, 2, 8, 8, generator=generator, rate=0.4)
    with torch.no_grad():
        expected = net(x)
    actual = pk.simulate(pk.from_spikingjelly(net), pk.pack(x), 20).spikes.dense()
    assert 0.02 < expected.mean() < 0.9 and equal(actual, expected)


class Joined(nn.Module):
    """Two layers of neurons side by side along the axis ``dim``."""

    def __init__(self, dim: int, images: bool):
        super().__init__()
        layer = pytest.importorskip("spikingjelly.activation_based.layer")
        from spikingjelly.activation_based import neuron

        make = (lambda *sizes: layer.Conv2d(*sizes, 3, padding=1)) if images else layer.Linear
        torch.manual_seed(0)
        self.dim, self.a, self.b, self.c = dim, make(8, 4), make(8, 4), make(8, 2)
        self.sa, self.sb, self.sc = (neuron.IFNode(v_threshold=0.25) for _ in range(3))

    def forward(self, x):
        return self.sc(self.c(torch.cat([self.sa(self.a(x)), self.sb(self.b(x))], self.dim)))


@pytest.mark.parametrize("shape", [(8,), (8, 6, 6)], ids=["features", "images"])
@pytest.mark.parametrize("mode", "sm")
@pytest.mark.costly
def test_concatenations_are_of_channels(mode, shape):
    """With all steps in a call channels are the third axis; samples, steps and pixels may not be joined."""
    axis, x = (2 if mode == "m" else 1), torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    rank = axis + len(shape)
    for dim in range(-rank, rank):
        net = Joined(dim, len(shape) > 1).eval()
        if dim % rank == axis:
            expected = spikingjelly_fires(net, x, T, mode)
            assert 0.01 < expected.mean() < 0.99
            assert equal(pk.simulate(pk.from_spikingjelly(net), x, T).spikes.dense(), expected), dim
            continue
        functional = pytest.importorskip("spikingjelly.activation_based.functional")
        functional.set_step_mode(net, mode)
        for check in (True, False):
            with pytest.raises(TypeError, match=rf"cat\(\) must concatenate channels, dim={axis}, got dim={dim}"):
                pk.from_spikingjelly(net, check=check)


STEPS = 8


class MemoryModule(nn.Module):
    def __init__(self):
        super().__init__()
        self._memories, self._at_rest = {}, {}

    def register_memory(self, name, value):
        self._memories[name] = self._at_rest[name] = value

    def reset(self):
        self._memories |= self._at_rest

    def __getattr__(self, name):
        memories = self.__dict__.get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_memories", {}):
            self._memories[name] = value
        else:
            super().__setattr__(name, value)


class LIFNode(MemoryModule):
    def __init__(self, tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0):
        super().__init__()
        self.register_memory("v", v_reset)
        self.tau, self.decay_input, self.v_threshold, self.v_reset = tau, decay_input, v_threshold, v_reset
        self.detach_reset, self.surrogate_function = False, None

    def forward(self, x):
        current = x / self.tau if self.decay_input else x
        self.v = self.v - (self.v - self.v_reset) / self.tau + current
        spike = (self.v >= self.v_threshold).to(x)
        self.v = (1 - spike) * self.v + spike * self.v_reset
        return spike


class MultiStepLIFNode(LIFNode):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_memory("v_seq", None)

    def forward(self, x_seq):
        spikes = torch.stack([super(MultiStepLIFNode, self).forward(x) for x in x_seq])
        self.v_seq = self.v
        return spikes


class SeqToANNContainer(nn.Sequential):
    def forward(self, x_seq):
        return super().forward(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])


class MultiStepContainer(nn.Sequential):
    pass


class Dropout(MemoryModule):
    pass


class Dropout2d(Dropout):
    pass


class MultiStepThresholdDependentBatchNorm2d(nn.modules.batchnorm._BatchNorm):
    def forward(self, x_seq):
        return super().forward(x_seq.flatten(0, 1)).view(x_seq.shape)

    def _check_input_dim(self, x):
        pass


@pytest.fixture
def clock_driven(monkeypatch):
    """The package, in the place of an installed one."""
    names = {
        "base": (MemoryModule,),
        "neuron": (LIFNode, MultiStepLIFNode),
        "layer": (
            SeqToANNContainer, MultiStepContainer, Dropout, Dropout2d, MultiStepThresholdDependentBatchNorm2d,
        ),
    }  # fmt: skip
    package = types.ModuleType("spikingjelly")
    inside = types.ModuleType("spikingjelly.clock_driven")
    package.__path__, inside.__path__, package.clock_driven = [], [], inside
    for name, kinds in names.items():
        path = f"spikingjelly.clock_driven.{name}"
        module = types.ModuleType(path)
        for kind in kinds:
            monkeypatch.setattr(kind, "__module__", path)
            setattr(module, kind.__name__, kind)
        setattr(inside, name, module)
        monkeypatch.setitem(sys.modules, path, module)
    for name in [name for name in sys.modules if name.startswith("spikingjelly.activation_based")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "spikingjelly", package)
    monkeypatch.setitem(sys.modules, "spikingjelly.clock_driven", inside)


class Tutorial(nn.Module):
    """As its Fashion-MNIST network: what is in front of the first neurons runs once, and steps are added in a loop."""

    def __init__(self):
        super().__init__()
        self.static = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.conv = nn.Sequential(LIFNode(), nn.MaxPool2d(2))
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(96, 10, bias=False), LIFNode(decay_input=False))

    def forward(self, x):
        x = self.static(x)
        total = self.fc(self.conv(x))
        for _ in range(1, STEPS):
            total += self.fc(self.conv(x))
        return total / STEPS


class MultiStep(nn.Module):
    """All steps in each call, of samples whose steps come second."""

    def __init__(self):
        super().__init__()
        self.conv, self.neurons = SeqToANNContainer(nn.Conv2d(2, 6, 3, padding=1)), MultiStepLIFNode()
        self.norm = MultiStepThresholdDependentBatchNorm2d(6)
        self.rest = SeqToANNContainer(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10))
        self.last = MultiStepLIFNode(decay_input=False)

    def forward(self, x):
        x = self.neurons(self.norm(self.conv(x.permute(1, 0, 2, 3, 4))))
        return self.last(self.rest(x)).mean(0)


@pytest.mark.parametrize("kind", [Tutorial, MultiStep])
def test_networks_of_clock_driven(generator, clock_driven, kind):
    net = make_dyadic(kind(), generator, 1 / 4)
    x = dyadic(3, STEPS, 2, 8, 8, generator=generator).abs() if kind is MultiStep else binary_images(generator)
    with torch.no_grad():
        expected = net(x)
    for module in net.modules():
        if isinstance(module, MemoryModule):
            module.reset()
    ours = pk.from_spikingjelly(net)
    spikes = pk.simulate(ours, x.transpose(0, 1) if kind is MultiStep else x, STEPS).spikes.dense()
    assert equal(spikes.mean(0), expected) and 0.05 < expected.mean() < 0.95


def binary_images(generator):
    return dyadic(3, 2, 8, 8, generator=generator).abs()


def test_a_package_that_lacks_what_it_needs(monkeypatch, tmp_path):
    """The error names what is missing, not the package of an older version."""
    inside = tmp_path / "spikingjelly" / "activation_based"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").write_text("")
    (inside / "__init__.py").write_text("import a_package_that_it_needs")
    for name in [name for name in sys.modules if name.split(".")[0] == "spikingjelly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_it_needs"):
        pk.from_spikingjelly(nn.Sequential(nn.Linear(2, 2)))
