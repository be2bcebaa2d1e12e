"""Modules with code of the user's own: all of it runs in a simulation, as in a plain call, or it is refused by name."""

import threading
from types import MethodType

import layerwise
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk

T = 64


def layers():
    torch.manual_seed(0)
    first, last = pk.FusedIFConv2d(1, 4, 3, v_threshold=9.3), pk.FusedIFLinear(144, 5, v_threshold=0.3)
    for layer in (first, last):
        layer.weight.data.abs_()
    return first, pk.Flatten(), last


def sequence(*parts) -> nn.Sequential:
    return nn.Sequential(*(parts or layers())).eval()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(3, 1, 8, 8)


class Functions(nn.Module):
    """A function in the place of the first layer."""

    def __init__(self, function):
        super().__init__()
        self.first, self.flatten, self.last = layers()
        self.function = function

    def forward(self, x):
        return self.last(self.flatten(self.function(self, x)))


FUNCTIONS = {
    "if_scan": lambda net, x: pk.if_scan(x.dense() if isinstance(x, pk.Spikes) else x)[0],
    "if_hold": lambda net, x: pk.if_hold(x[0], len(x))[0],
    "if_conv2d": lambda net, x: pk.if_conv2d(x, torch.ones(4, 1, 3, 3))[0],
    "if_linear": lambda net, x: pk.if_linear(x.flatten(2), torch.ones(144, 64))[0],
    "if_scan_surrogate": lambda net, x: pk.functional.if_scan_surrogate(x),
}
WAYS = {
    "simulate": lambda net, x: pk.simulate(net, x, T),  # also in one chunk
    "twin": lambda net, x: pk.ProxyNet(net, T).ann(x),
    "proxy": lambda net, x: pk.ProxyNet(net, T).snn(x),
    "surrogate": lambda net, x: pk.SurrogateNet(net, T)(x),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_at_rest_are_refused(name, way, x):
    net = Functions(FUNCTIONS[name])
    with pytest.raises(ValueError, match=f"{name} was called without a state .* use the layer (Fused)?IF"):
        WAYS[way](net, x)
    assert len(FUNCTIONS[name](net, x[None])) == 1  # outside it runs


def test_a_module_may_keep_a_state_itself(x):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            first, self.flatten, self.last = layers()
            self.weight, self.bias, self.v = first.weight, first.bias, 0.0

        def forward(self, x):
            spikes, self.v = pk.if_conv2d(x, self.weight, self.bias, self.v, v_threshold=9.3)
            return self.last(self.flatten(spikes))

    expected = pk.simulate(sequence(), x, T).count()
    assert equal(layerwise.simulate(Own(), x, T, chunk=5).count(), expected) and expected.any()


class Listed(nn.Module):
    """Layers in a plain list, which are attributes as well or not."""

    def __init__(self, registered: bool, extra: nn.Module):
        super().__init__()
        parts = *layers(), extra
        self.last = pk.IF()
        self.parts = nn.ModuleList(parts) if registered else None
        self.listed = list(parts)

    def forward(self, x):
        for part in self.listed:
            x = part(x)
        return self.last(x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("registered", [False, True])
def test_layers_of_a_plain_list_are_refused(registered, way, x):
    who = r"layer parts.0 \(FusedIFConv2d\)" if registered else "a FusedIFConv2d that is no submodule"
    with pytest.raises(ValueError, match=f"^{who}.* past its attribute.*nn.ModuleList"):
        WAYS[way](Listed(registered, nn.Identity()), x)


@pytest.mark.parametrize("extra", [pk.Dropout(), pk.FusedIFSum(nn.Identity()), pk.MaxRatePool2d(2)])
def test_so_is_every_layer_with_a_memory(extra, x):
    net = Listed(False, extra)
    net.listed = [lambda x: extra((x,)) if isinstance(extra, pk.FusedIFSum) else extra(x)]
    with pytest.raises(ValueError, match=f"^a {type(extra).__name__} that is no submodule"):
        pk.simulate(net, x, T)


def test_other_threads_call_what_they_like(x):
    """While a network is simulated."""
    counts = []

    def function(net, x):
        thread = threading.Thread(target=lambda: counts.append(pk.if_scan(x)[0].count().sum().item()))
        thread.start()
        thread.join()
        return net.first(x)

    pk.simulate(Functions(function), x, T)
    assert counts and all(counts)


class Twice(pk.FusedIFConv2d):
    def forward(self, x, v=None):
        return super().forward(x * 2.0, v)


@pytest.mark.parametrize("way", [*WAYS, "compile", "averages"])
@pytest.mark.parametrize("how", ["subclass", "instance"])
def test_a_layer_with_a_forward_of_its_own_is_refused(how, way, x):
    first, flatten, last = layers()
    if how == "subclass":
        first.__class__ = Twice
    else:
        first.forward = MethodType(Twice.forward, first)
    name = "0"
    if way == "averages":  # which become part of the weights of the layer that follows
        first, name = pk.AvgPool2d(1, 1), "2"
        last = pk.FusedIFLinear(64, 5)
        last.forward = MethodType(lambda self, x: pk.FusedIFLinear.forward(self, x), last)
    net = sequence(first, flatten, last)
    with pytest.raises(TypeError, match=rf"^layer {name} \(\w+\) has a forward pass of its own.* module of its own"):
        {**WAYS, "compile": pk.compile, "averages": WAYS["simulate"]}[way](net, x)


@pytest.mark.parametrize("how", ["subclass", "instance"])
def test_nir_has_no_forward_of_its_own(how):
    pytest.importorskip("nir")
    first, flatten, last = layers()
    if how == "subclass":
        first.__class__ = Twice
    else:
        first.forward = MethodType(Twice.forward, first)
    with pytest.raises(TypeError, match=r"^layer 0 \(\w+\) has a forward pass of its own"):
        pk.to_nir(nn.Sequential(first, flatten, last), (3, 8, 8))


def test_of_other_modules_it_runs_or_is_refused(x):
    """Set on a container; an engine does not take it."""
    net, plain = sequence(), sequence()
    net.forward = MethodType(lambda self, x: nn.Sequential.forward(self, x * 2.0), net)
    expected = pk.simulate(plain, x * 2.0, T).count()
    assert equal(layerwise.simulate(net, x, T, chunk=5).count(), expected) and expected.any()
    with pytest.raises(TypeError, match=r"does not take net \(Sequential\)"):
        pk.compile(net, x)


def averages() -> tuple[nn.Sequential, pk.Spikes]:
    """A pooling that simulations make part of the next weights, and spikes for it."""
    torch.manual_seed(0)
    net = sequence(pk.AvgPool2d(1, 1), pk.Flatten(), pk.FusedIFLinear(64, 5, v_threshold=2.0))
    net[2].weight.data.abs_()
    return net, pk.pack((torch.rand(3, 1, 8, 8) > 0.5).expand(T, 3, 1, 8, 8))


def test_a_pooling_s_own_forward_runs():
    net, spikes = averages()
    before = pk.simulate(net, spikes, T).count()
    net[0].forward = lambda x: pk.AvgPool2d.forward(net[0], x) - 0.25
    after = pk.simulate(net, spikes, T).count()
    assert after.any() and not torch.equal(after, before)
    assert equal(after, net(spikes).sum(0))
    with pytest.raises(TypeError, match="does not take module 0"):
        pk.compile(net, spikes)


def test_a_pooling_s_hooks_run():
    net, spikes = averages()
    seen = []
    net[0].register_forward_hook(lambda pool, given, y: seen.append(tuple(y.shape)))
    layerwise.simulate(net, spikes, T, chunk=T)
    assert seen == [(T, 3, 1, 8, 8)]


def test_states_are_the_simulation_s(x):
    net = Functions(lambda net, x: net.first(x, torch.zeros(3, 4, 6, 6))[0])
    with pytest.raises(TypeError, match="layer first was called with a state"):
        pk.simulate(net, x, T)


@pytest.mark.parametrize("how", ["network", "part", "in-place"])
def test_compiled_modules_keep_their_state(how, x):
    """And stay as they are."""
    net = sequence()
    expected = pk.simulate(net, x, T).count()
    if how == "network":
        net = torch.compile(net, backend="eager")
    elif how == "part":
        net = nn.Sequential(torch.compile(nn.Sequential(net[0], net[1]), backend="eager"), net[2])
    else:
        net.compile(backend="eager")
    names = list(net.state_dict())
    assert equal(layerwise.simulate(net, x, T, chunk=5).count(), expected) and expected.any()
    assert list(net.state_dict()) == names


def test_so_do_averages_in_them():
    net, spikes = averages()
    expected = pk.simulate(net, spikes, T).count()
    compiled = nn.Sequential(torch.compile(net, backend="eager"))
    assert equal(layerwise.simulate(compiled, spikes, T, chunk=5).count(), expected) and expected.any()
    assert type(net[0]) is pk.AvgPool2d


@pytest.mark.parametrize("readout", ["count", "potential"])
def test_dropouts_are_prepared_twice(readout, x):
    """Of these models; nothing was set on them by the user."""
    first, flatten, last = layers()
    net = nn.Sequential(first, pk.Dropout(), flatten, last)
    for model in (pk.ProxyNet(net, T, readout=readout), pk.SurrogateNet(net, T, readout=readout)):
        assert model(x).any() and model.eval()(x).any()


def test_a_layer_may_be_skipped(x):
    net = Functions(lambda net, x: net.first(x))
    net.never = pk.IF()
    assert layerwise.simulate(net, x, T, chunk=5).count().any()
