"""Networks that keep a state in Python: each is translated to what it does step by step, or refused by name.

A translation follows a forward pass once. What Python counts, remembers or draws there would be frozen at its first
step, and many spikes be wrong in silence.
"""

import collections
import functools
import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from equality import equal
from exchange import snntorch_fires, spikingjelly_fires
from module_states import Own
from python_states import COUNTS, KEEP, MODULES, Gate, closure
from torch import nn

import proxykernels as pk

T = 128


def linear(inputs: int, outputs: int) -> nn.Linear:
    fc = nn.Linear(inputs, outputs)
    fc.weight.data.mul_(3.0)
    return fc


def of_spikingjelly(module, mode="s", first=None):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    net = nn.Sequential(linear(8, 12), module, first or neuron.IFNode(), linear(12, 6), neuron.LIFNode())
    functional.set_step_mode(net, mode)
    return net.eval()


def of_snntorch(module, first=None):
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    first = first or snn.Leaky(beta=0.9, **HIDDEN)
    return nn.Sequential(linear(8, 12), module, first, linear(12, 6), snn.Leaky(beta=0.8, **HIDDEN)).eval()


HIDDEN = {"init_hidden": True, "reset_mechanism": "zero"}


def held() -> torch.Tensor:
    return torch.rand(3, 8, generator=torch.Generator().manual_seed(3))


def check_import(take, net: nn.Module, fires, path: str) -> bool:
    """Whether it is taken, and then right for ``T`` steps in which it fires; else it is refused by name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            ours = take(net)
    except (TypeError, ValueError) as error:
        assert path in str(error) and "\n" not in str(error), error
        return False
    expected = fires(net, held(), T)
    assert 0.02 < expected.mean() < 0.98
    assert equal(pk.simulate(ours, held(), T).spikes.dense(), expected)
    return True


def check_spikingjelly(module, path="module '1", mode="s", first=None) -> bool:
    net = of_spikingjelly(module, mode, first)
    return check_import(pk.from_spikingjelly, net, functools.partial(spikingjelly_fires, mode=mode), path)


def check_snntorch(module, path="module '1", first=None) -> bool:
    return check_import(pk.from_snntorch, of_snntorch(module, first), snntorch_fires, path)


def check_convert(module, path="module '1") -> bool:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), module, nn.ReLU(), nn.Linear(12, 6)).eval()
    try:
        pk.convert(net, torch.rand(16, 8))
    except (TypeError, ValueError) as error:
        assert path in str(error) and "\n" not in str(error), error
        return False
    with torch.no_grad():
        first, *others = (net(held()) for _ in range(T))
    assert first.any() and all(torch.equal(y, first) for y in others)
    return True


HOSTS = {
    "SpikingJelly": check_spikingjelly,
    "SpikingJelly, all steps in a call": functools.partial(check_spikingjelly, mode="m"),
    "snnTorch": check_snntorch,
    "convert": check_convert,
}


@pytest.fixture(autouse=True)
def outside():
    yield
    os.environ.pop("COUNT_OF_A_USER", None)
    vars(sys).pop("count_of_a_user", None)
    KEEP.clear()


@pytest.mark.costly
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", MODULES)
def test_no_state_is_frozen(name, host):
    """None of them can be taken: each changes what follows from it within ``T`` steps."""
    assert not HOSTS[host](MODULES[name]())


# Neurons that change


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


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_that_change(name):
    SPENT.clear()
    assert not check_spikingjelly(nn.Identity(), "module '2'", first=NEURONS[name]())


@pytest.mark.parametrize("name", [name for name in NEURONS if name != "time constant"])
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


# What is no state


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
    for one in (counted, module, Gate(lambda: int(torch.randint(4, ())))):
        with pytest.raises(TypeError):
            pk.from_spikingjelly(of_spikingjelly(one))
        before = (torch.get_rng_state(), *before[1:]) if one not in (counted, module) else before
    assert list(line) == [1, 2]
    assert equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
