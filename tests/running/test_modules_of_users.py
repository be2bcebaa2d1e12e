"""Modules and forward passes of the user's own: in a simulation as in a plain call, or refused by name."""

import threading
from types import MethodType

import layerwise
import pytest
import torch
from equality import equal
from own_forwards import FORWARDS, LIKE, dyadic, inputs, network
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


STEPS = 9
CALLED = {name: x for name, x in inputs(STEPS).items() if name != "image"}


def dense(y):
    return y.dense() if isinstance(y, pk.Spikes) else y


@pytest.mark.parametrize("name", FORWARDS)
def test_a_call_takes_spikes_as_it_takes_a_tensor(name):
    net = network(name)
    given = dense(CALLED["Spikes"])
    y, expected = net(CALLED["Spikes"]), net(given)
    assert expected.any() and not expected.all()
    assert equal(dense(y), expected)


@pytest.mark.parametrize("name", LIKE)
def test_it_is_what_layers_give(name):
    for x in CALLED.values():
        y, expected = dense(network(name)(x)), dense(network(LIKE[name])(x))
        assert expected.any() and not expected.all() and equal(y, expected)


@pytest.mark.costly
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", FORWARDS)
def test_a_simulation_by_layers_gives_what_a_call_gives(name, samples):
    net = network(name)
    for x in inputs(STEPS, samples).values():
        whole = x.expand(STEPS, *x.shape) if len(x.shape) == 4 else x
        expected = dense(net(whole))
        for chunk in (2, STEPS):
            y = layerwise.simulate(net, x, STEPS, chunk=chunk)
            assert expected.any() and equal(dense(y.spikes), expected)


def gradients(model, x) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a model gives in training, and the gradients of its weights."""
    model.train().zero_grad()
    y = model(x)
    (y * torch.arange(1.0, y.shape[1] + 1)).sum().backward()
    return y.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


TRAINED = {"proxy": pk.ProxyNet, "surrogate": pk.SurrogateNet}
WITH_TWINS = [name for name in FORWARDS if name != "view"]  # whose activations lie channels last


@pytest.mark.costly
@pytest.mark.parametrize("how", TRAINED)
@pytest.mark.parametrize("name", WITH_TWINS)
def test_training_gives_the_spikes_and_a_gradient(name, how):
    for x in inputs(STEPS).values():
        net = network(name)
        y, found = gradients(TRAINED[how](net, STEPS), x)
        assert equal(y, pk.simulate(net, x, STEPS).count().float()) and y.any()
        assert "net.a.weight" in found and all(grad.isfinite().all() and grad.any() for grad in found.values())


@pytest.mark.costly
@pytest.mark.parametrize("how", TRAINED)
@pytest.mark.parametrize("name", [name for name in LIKE if name in WITH_TWINS])
def test_the_gradient_is_that_of_layers(name, how):
    for x in inputs(STEPS).values():
        (y, found), (expected, wanted) = (
            gradients(TRAINED[how](network(which), STEPS), x) for which in (name, LIKE[name])
        )
        assert equal(y, expected) and found.keys() == wanted.keys() and len(found) >= 4
        for of, gradient in wanted.items():
            assert gradient.any() and torch.allclose(found[of], gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max())


@pytest.mark.parametrize("how", TRAINED)
def test_a_product_is_one_with_the_weights_behind_it(how):
    """0.5 * s, and the weights of the layer that takes it halved: half the gradient."""
    x = inputs(STEPS)["Spikes"]
    scaled, plain = network("a product"), network("chain")
    plain.b.weight.data /= 2
    (y, found), (expected, wanted) = (gradients(TRAINED[how](net, STEPS), x) for net in (scaled, plain))
    assert equal(y, expected) and y.any()
    for of, gradient in wanted.items():
        times = 0.5 if of == "net.b.weight" else 1.0
        assert torch.allclose(found[of], times * gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max())


def spikes() -> pk.Spikes:
    return CALLED["Spikes"]


VALUES = {
    "sum": (lambda x, y: x + y, True), "difference": (lambda x, y: x - y, True),
    "number": (lambda x, y: x + 1.5, False), "from a number": (lambda x, y: 1 - x, False),
    "a tensor's": (lambda x, y: torch.ones(6) + x, False), "minus": (lambda x, y: -x, False),
    "product": (lambda x, y: x * y, True), "of a tensor": (lambda x, y: torch.full((6,), 3.0) * x, False),
    "zero": (lambda x, y: 0 * x, False), "quotient": (lambda x, y: x / 4, False),
    "of another scale": (lambda x, y: 2 * x + y / 2, True), "an alpha": (lambda x, y: torch.add(x, y, alpha=2), True),
    "channels": (lambda x, y: torch.cat([x, 2 * y], 2), True), "a mix": (lambda x, y: torch.cat([x, y - 1], 2), True),
    "chained": (lambda x, y: (0.5 * x) * 4 / 2, False),
    "rows": (lambda x, y: x.reshape(STEPS, 3, 2, 36), False), "features": (lambda x, y: x.view((STEPS, 3, -1)), False),
    "axes": (lambda x, y: x.reshape(STEPS, 3, 4, 3, -1), False), "the same": (lambda x, y: x.view(x.shape), False),
}  # fmt: skip


@pytest.mark.parametrize("function, two", VALUES.values(), ids=VALUES)
def test_the_values_are_those_of_a_tensor(function, two):
    x, y = spikes(), pk.pack(spikes().dense().flip(0))
    expected = function(x.dense(), y.dense())
    assert expected.any() or function is VALUES["zero"][0]
    found = dense(function(x, y))
    assert found.dtype == torch.float32 and equal(found, expected)


def test_what_stays_packed():
    x = spikes()
    for y in (
        2 * x,
        x / 2,
        sum([x]),
        torch.cat([x, x], 2),
        x.flatten(2),
        x.view(STEPS, 3, -1),
        x.reshape(STEPS, 3, 2, 36),
    ):
        assert isinstance(y, pk.Spikes) and y.rate() == x.rate()


REFUSED = {
    "over the steps": (lambda x: torch.cat([x, x]), r"along their channels, dim=2, got dim=0; \.dense\(\)"),
    "other sizes": (lambda x: torch.cat([x, x.reshape(STEPS, 3, 2, 4, 9)], 2), "the same shape except for their chan"),
    "mixed steps": (lambda x: x.reshape(STEPS * 3, 2, 6, 6), r"keep their steps and samples .* \.dense\(\)"),
    "mixed samples": (lambda x: x.view(STEPS, 6, 36), r"keep their steps and samples"),
    "other numbers": (lambda x: x.view(STEPS, 3, 71), r"cannot have the shape \[9, 3, 71\]"),
    "flattened steps": (lambda x: x.flatten(), "torch's flatten takes tensors, and got Spikes; use proxykernels.Fl"),
    "a root": (lambda x: x**0.5, "unsupported operand"),
    "a mean": (lambda x: x.mean(0), r"torch's mean takes tensors, and got Spikes; use .* \.dense\(\)"),
}


@pytest.mark.parametrize("function, message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(function, message):
    with pytest.raises((TypeError, ValueError), match=message):
        function(spikes())


def test_a_sum_carries_the_gradients_of_its_parts():
    x = torch.rand(STEPS, 3, 4)
    layers = [pk.use_surrogate(dyadic(pk.FusedIFLinear(4, 5)), pk.ATan()) for _ in range(2)]
    y, z = (layer(pk.pack((x > 0.5).float())) for layer in layers)
    (y + 2 * z).sum().backward()
    (found, other), expected = [layer.weight.grad.clone() for layer in layers], []
    for layer in layers:
        layer.zero_grad()
        layer((x > 0.5).float()).sum().backward()
        expected.append(layer.weight.grad)
    assert found.any() and torch.allclose(found, expected[0]) and torch.allclose(other, 2 * expected[1])
