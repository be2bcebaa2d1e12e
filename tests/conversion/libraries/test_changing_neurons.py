"""Neurons of other libraries that change from step to step, by themselves or by the network: refused by name."""

import functools

import pytest
import torch
from cases import many
from exchange import spikingjelly_fires
from python_hosts import HIDDEN, check_import, check_snntorch, check_spikingjelly, linear
from python_states import COUNTS
from torch import nn

import proxykernels as pk


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
