"""Neurons of other libraries with bounds, clocks, or states in Python: translated, or refused by name."""

import collections
import functools
import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from cases import dyadic, many
from equality import equal
from exchange import snntorch_fires, spikingjelly_fires
from foreign_loops import HELD, OTHERS, RIGHT
from module_states import Own
from python_hosts import HIDDEN, HOSTS, check_import, check_snntorch, check_spikingjelly, linear, of_spikingjelly
from python_states import COUNTS, KEEP, MODULES, Gate, closure
from torch import nn

import proxykernels as pk


def sj_net(mode, **others):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron

    torch.manual_seed(0)
    modules = {
        "conv": layer.Conv2d(2, 6, 3), "sn1": neuron.IFNode(), "flat": layer.Flatten(),
        "fc": layer.Linear(216, 5), "sn2": neuron.LIFNode(),
    }  # fmt: skip
    net = nn.Sequential()
    for name, module in {**modules, **others}.items():
        net.add_module(name, module)
    functional.set_step_mode(net, mode)
    return net.eval()


def sj_neuron(kind, bound, what, **options):
    """A neuron of SpikingJelly whose potential, or whose input, has a bound."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    base = getattr(neuron, kind)

    class Bounded(base):
        def forward(self, x):
            if self.step_mode == "s":
                return self.bounded(x)
            self.step_mode = "s"
            try:
                return torch.stack([self.bounded(step) for step in x])
            finally:
                self.step_mode = "m"

        def bounded(self, x):
            if what == "potential" and isinstance(self.v, torch.Tensor):
                self.v = self.v.clamp(min=bound)
            return super().forward(x if what == "potential" else x.clamp(-bound, bound))

    return Bounded(**options)


BOUNDS = [*(("potential", bound) for bound in (-8.0, -12.0, -40.0)), *(("input", bound) for bound in (6.0, 9.0, 50.0))]


@pytest.mark.costly
@pytest.mark.parametrize("place", ["sn1", "sn2"])
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", ["IFNode", "LIFNode"])
@pytest.mark.parametrize("case", many(BOUNDS, 2))
def test_bounded_neurons_of_spikingjelly(case, kind, mode, place):
    what, bound = case
    net = sj_net(mode, **{place: sj_neuron(kind, bound, what, v_reset=None)})
    with pytest.raises(ValueError, match=f"module '{place}' is not what was made of it: .*spikes differ.* step"):
        pk.from_spikingjelly(net)


@pytest.mark.costly
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("bound", [6.0, 10.0, 30.0])
def test_containers_that_clamp(bound, mode):
    """Beyond the currents of a usual input."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")

    class Clamped(layer.SeqToANNContainer if mode == "m" else nn.Sequential):
        def forward(self, x):
            return super().forward(x).clamp(-bound, bound)

        __module__ = layer.__name__  # torch.fx does not look into it

    for place, module in (("conv", nn.Conv2d(2, 6, 3)), ("fc", nn.Linear(216, 5))):
        with pytest.raises((TypeError, ValueError), match="Sequential: .*'(conv|fc)"):
            pk.from_spikingjelly(sj_net(mode, **{place: Clamped(module)}))


@pytest.mark.costly
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("case", many(BOUNDS, 2))
def test_bounded_neurons_of_snntorch(case, reset):
    what, bound = case
    snn = pytest.importorskip("snntorch")

    class Bounded(snn.Leaky):
        def forward(self, x, mem=None):
            if what == "potential":
                self.mem = self.mem.clamp(min=bound)
            return super().forward(x if what == "potential" else x.clamp(-bound, bound), mem)

    torch.manual_seed(0)
    options = {"init_hidden": True, "reset_mechanism": reset}
    for beta in (0.95, 1.0):
        net = nn.Sequential(nn.Linear(8, 12), Bounded(beta, **options), nn.Linear(12, 6), snn.Leaky(0.9, **options))
        with pytest.raises(ValueError, match="module '1' is not what was made of it: .*spikes differ.* step"):
            pk.from_snntorch(net)


def spikingjelly_neuron(base="IFNode", **methods):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    start = methods.pop("start", lambda self: None)

    def init(self, *arguments, **options):
        kind.__mro__[1].__init__(self, *arguments, **options)
        start(self)

    kind = type("Own", (getattr(neuron, base),), {"__init__": init, "__module__": __name__, **methods})
    return kind()


def stepping(change):
    """A step of a neuron that counts its steps: ``change(self, spikes)`` gives what it fires."""

    def single_step_forward(self, x):
        self.steps += 1
        return change(self, super(type(self), self).single_step_forward(x))

    return single_step_forward


def tired(self, spikes):
    self.spent = self.spent + spikes
    return spikes * (self.spent <= 9)


def annealed(self, spikes):
    if self.steps == 10:
        self.v_threshold = 2.0
    return spikes


def started(self):
    self.steps, self.spent = 0, 0.0


def remembering(self):
    self.steps = 0
    self.register_memory("spent", 0.0)


def forgetful(self, spikes):
    if self.steps > 10:
        self.v_reset = None
    return spikes


def slower(self, spikes):
    self.tau = self.tau * 1.02
    return spikes


def of_two(self, spikes):
    """It is silent behind a spike."""
    last, self.spent = self.spent, spikes
    return spikes * (1 - last)


def late(self, x):
    y = super(type(self), self).multi_step_forward(x)
    return torch.cat([y[:10], 0 * y[10:]])


SPENT = {}


def tired_elsewhere(self, spikes):
    SPENT[0] = SPENT.get(0, 0.0) + spikes
    return spikes * (SPENT[0] <= 9)


NEURONS = {
    "tired": lambda: spikingjelly_neuron(single_step_forward=stepping(tired), start=started),
    "tired, in its memory": lambda: spikingjelly_neuron(single_step_forward=stepping(tired), start=remembering),
    "tired, in a global": lambda: spikingjelly_neuron(single_step_forward=stepping(tired_elsewhere), start=started),
    "annealed threshold": lambda: spikingjelly_neuron(single_step_forward=stepping(annealed), start=started),
    "annealed reset": lambda: spikingjelly_neuron(single_step_forward=stepping(forgetful), start=started),
    "time constant": lambda: spikingjelly_neuron("LIFNode", single_step_forward=stepping(slower), start=started),
    "refractory": lambda: spikingjelly_neuron(single_step_forward=stepping(of_two), start=started),
    "noise": lambda: spikingjelly_neuron(single_step_forward=stepping(lambda s, y: y * (torch.rand_like(y) < 0.9)),
                                         start=started),
}  # fmt: skip


@pytest.mark.parametrize("name", many(NEURONS, 2))
def test_neurons_that_change(name):
    SPENT.clear()
    assert not check_spikingjelly(nn.Identity(), "module '2'", first=NEURONS[name]())


@pytest.mark.parametrize("name", many([name for name in NEURONS if name != "time constant"]))
def test_neurons_that_would_change_in_another_mode(name):
    """A call of all steps does not run what they change."""
    assert check_spikingjelly(nn.Identity(), mode="m", first=NEURONS[name]())


def test_neurons_that_change_within_a_call():
    late_neuron = spikingjelly_neuron(multi_step_forward=late)
    assert not check_spikingjelly(nn.Identity(), "module '2'", "m", late_neuron)


def test_neurons_that_change_of_snntorch():
    snn = pytest.importorskip("snntorch")

    class Tired(snn.Leaky):
        def forward(self, x, mem=None):
            spikes = super().forward(x, mem)
            self.spent = getattr(self, "spent", 0) + spikes
            return spikes * (self.spent <= 9)

    class Fading(snn.Leaky):
        def forward(self, x, mem=None):
            self.beta.mul_(0.99)
            return super().forward(x, mem)

    for kind in (Tired, Fading):
        assert not check_snntorch(nn.Identity(), "module '2'", kind(beta=0.9, **HIDDEN))


class OfTheNetwork(nn.Module):
    """The forward pass of the network itself changes its neurons, or what is between them."""

    def __init__(self, change):
        super().__init__()
        neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
        torch.manual_seed(0)
        self.a, self.sa, self.b, self.sb = linear(8, 12), neuron.IFNode(), linear(12, 6), neuron.LIFNode()
        self.change, self.n = change, 0

    def forward(self, x):
        self.change(self)
        return self.sb(self.b(self.sa(self.a(x))))


def threshold(net):
    COUNTS[0] += 1
    if COUNTS[0] % 16 == 15:
        net.sa.v_threshold *= 0.5


def charge(net):
    net.sa.v = net.sa.v + 0.1


def back_to_rest(net):
    COUNTS[0] += 1
    if COUNTS[0] % 5 == 4:
        net.sa.reset()


def weight(net):
    with torch.no_grad():
        net.a.weight += 0.01


def other_layer(net):
    net.sa, net.sb = net.sb, net.sa


@pytest.mark.parametrize("change", [threshold, charge, back_to_rest, weight, other_layer])
def test_networks_that_change_their_modules(change):
    net = OfTheNetwork(change)
    assert not check_import(
        pk.from_spikingjelly, net.eval(), functools.partial(spikingjelly_fires, mode="s"), "OfTheNetwork"
    )


@pytest.fixture(autouse=True)
def outside():
    yield
    os.environ.pop("COUNT_OF_A_USER", None)
    vars(sys).pop("count_of_a_user", None)
    KEEP.clear()


@pytest.mark.costly
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", many(MODULES, 8))
def test_no_state_is_frozen(name, host):
    """None of them can be taken: each changes what follows from it within ``T`` steps."""
    assert not HOSTS[host](MODULES[name]())


CONSTANT = {"gain": 1}


@functools.lru_cache
def computed(n):
    return n * 0


def kept_once(m, x):
    m.shape = m.shape or x.shape[-1]
    return x


def noted_in_a_dict(m, x):
    if "zero" not in m.cache:
        m.cache["zero"] = 0
    return x


HARMLESS = {
    "kept once": lambda: Own(kept_once, shape=None),
    "cache": lambda: Own(noted_in_a_dict, cache={}),
    "lru_cache": lambda: Own(lambda m, x: x if computed(3) == 0 else -x),
    "global": lambda: Own(lambda m, x: x if CONSTANT["gain"] == 1 else -x),
    "closure": lambda: (lambda gain: Own(lambda m, x: x if gain else -x))(1),
    "not a number": lambda: Own(lambda m, x: x, nothing=float("nan"), missing=torch.tensor([float("nan")])),
    "generator that rests": lambda: Own(lambda m, x: x, numbers=iter([1, 2]), seeded=random.Random(0)),
    "nothing": nn.Identity,
}


@pytest.mark.costly
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_state_is_taken(name, host):
    assert HOSTS[host](HARMLESS[name]())


def test_potentials_that_the_network_keeps_itself():
    """They are those of its neurons."""
    snn = pytest.importorskip("snntorch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.la = linear(8, 12), snn.Leaky(0.9, reset_mechanism="zero")
            self.b, self.lb = linear(12, 6), snn.Leaky(0.8, reset_mechanism="zero")
            self.ma, self.mb = self.la.init_leaky(), self.lb.init_leaky()

        def forward(self, x):
            spikes, self.ma = self.la(self.a(x), self.ma)
            spikes, self.mb = self.lb(self.b(spikes), self.mb)
            return spikes

    assert check_import(pk.from_snntorch, Net().eval(), snntorch_fires, "never")


def test_generators_and_the_network_are_as_before():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    counted = Gate(closure())
    line = collections.deque([1, 2])
    module = Own(lambda m, x: m.line.append(0) or x, line=line)
    pk.from_spikingjelly(of_spikingjelly(module))  # what it keeps changes nothing that it gives
    for one in (counted, Gate(lambda: int(torch.randint(4, ())))):
        with pytest.raises(TypeError):
            pk.from_spikingjelly(of_spikingjelly(one))
        before = (torch.get_rng_state(), *before[1:]) if one is not counted else before
    assert list(line) == [1, 2]
    assert equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


class Foreign(nn.Module):
    """Of code that is not torch's; ``late``: it gives something else from so many calls on."""

    def __init__(self, late=None):
        super().__init__()
        self.layer, self.late, self.calls = nn.Linear(4, 3), late, [0]

    def forward(self, x):
        if self.late is None:
            return self.layer(x).relu()
        self.calls[0] += 1
        return self.layer(x).relu() * (1.0 if self.calls[0] < self.late else 2.0)


def test_networks_in_which_nothing_changes_are_called_a_few_times(generator, monkeypatch):
    x, linear, called = torch.rand(8, 4, generator=generator), nn.Linear.forward, []
    monkeypatch.setattr(nn.Linear, "forward", lambda module, x: called.append(1) or linear(module, x))
    assert pk.convert(Foreign().eval(), x)
    assert 16 <= len(called) < 36
    with pytest.raises(TypeError, match=r"calls\[0\] changes from call to call"):
        pk.convert(Foreign(late=60).eval(), x)


OF_HELD = ("held", "zeros for a held input")  # begin the names of loops that take one step's input
ENDS = {
    "all": lambda y: y, "sum": lambda y: y.sum(0), "mean": lambda y: y.mean(0), "last": lambda y: y[-1],
}  # fmt: skip


def network(forward) -> nn.Module:
    snn = pytest.importorskip("snntorch")
    generator = torch.Generator().manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(12, 16), snn.Leaky(beta=0.5, reset_mechanism="zero")
            self.fc2, self.lif2 = nn.Linear(16, 8), snn.Leaky(beta=0.75, reset_mechanism="zero")
            self.other = nn.Linear(12, 16)

        def forward(self, x):
            return forward(self, x)

    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.copy_(dyadic(*parameter.shape, generator=generator, span=12, unit=1 / 16))
    return net


def is_right(net, ours, name: str) -> bool:
    """Whether both give the same, on samples of several lengths: all steps, or one value for all in one way."""
    generator, ends = torch.Generator().manual_seed(1), set(ENDS)
    steps = [HELD] if name.startswith((*OF_HELD, "its own number")) else [HELD, 40, 112]
    for T in steps:
        x = dyadic(T, 3, 12, generator=generator).abs()
        held = name.startswith(OF_HELD)
        taken = x[0] if held else x.transpose(0, 1) if name == "samples first" else x
        with torch.no_grad():
            given = net(taken)
        given = given[0] if isinstance(given, tuple) else given
        given = given.transpose(0, 1) if name == "samples first" else given
        spikes = pk.simulate(ours, x[0] if held else x, T).spikes.dense()
        assert 0.02 < spikes.mean() < 0.98
        ends = {
            end for end in ends if ENDS[end](spikes).shape == given.shape and torch.allclose(ENDS[end](spikes), given)
        }
    return bool(ends)


@pytest.mark.parametrize("name", many(RIGHT, 5))
def test_loops_that_are_right(name):
    net = network(RIGHT[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = pk.from_snntorch(net)
    assert is_right(net, ours, name)


@pytest.mark.parametrize("name", many(OTHERS, 6))
def test_no_loop_is_frozen(name):
    net = network(OTHERS[name])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = pk.from_snntorch(net)
    except (TypeError, ValueError) as error:
        assert "Net" in str(error) and "\n" not in str(error)
        return
    assert is_right(net, ours, name)
