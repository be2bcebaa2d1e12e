"""Networks that keep a state in Python: each is translated to what it does step by step, or refused by name.

A translation follows a forward pass once. What Python counts, remembers or draws there would be frozen at its first
step, and many spikes be wrong in silence.
"""

import collections
import functools
import os
import random
import sys

import numpy as np
import pytest
import torch
from cases import many
from equality import equal
from exchange import snntorch_fires
from module_states import Own
from python_hosts import HOSTS, check_import, linear, of_spikingjelly
from python_states import KEEP, MODULES, Gate, closure
from torch import nn

import proxykernels as pk


@pytest.fixture(autouse=True)
def outside():
    yield
    os.environ.pop("COUNT_OF_A_USER", None)
    vars(sys).pop("count_of_a_user", None)
    KEEP.clear()


@pytest.mark.costly
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", many(MODULES, 4))
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
