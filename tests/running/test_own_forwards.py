"""Sums, products, concatenations and reshapes in a forward pass of its own: in calls, simulations and training."""

import layerwise
import pytest
import torch
from equality import equal
from own_forwards import FORWARDS, LIKE, dyadic, inputs, network

import proxykernels as pk

T = 9
CALLED = {name: x for name, x in inputs(T).items() if name != "image"}


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


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", FORWARDS)
def test_a_simulation_by_layers_gives_what_a_call_gives(name, samples):
    net = network(name)
    for x in inputs(T, samples).values():
        whole = x.expand(T, *x.shape) if len(x.shape) == 4 else x
        expected = dense(net(whole))
        for chunk in (2, T):
            y = layerwise.simulate(net, x, T, chunk=chunk)
            assert expected.any() and equal(dense(y.spikes), expected)


def gradients(model, x) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a model gives in training, and the gradients of its weights."""
    model.train().zero_grad()
    y = model(x)
    (y * torch.arange(1.0, y.shape[1] + 1)).sum().backward()
    return y.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


TRAINED = {"proxy": pk.ProxyNet, "surrogate": pk.SurrogateNet}
WITH_TWINS = [name for name in FORWARDS if name != "view"]  # whose activations lie channels last


@pytest.mark.parametrize("how", TRAINED)
@pytest.mark.parametrize("name", WITH_TWINS)
def test_training_gives_the_spikes_and_a_gradient(name, how):
    for x in inputs(T).values():
        net = network(name)
        y, found = gradients(TRAINED[how](net, T), x)
        assert equal(y, pk.simulate(net, x, T).count().float()) and y.any()
        assert "net.a.weight" in found and all(grad.isfinite().all() and grad.any() for grad in found.values())


@pytest.mark.parametrize("how", TRAINED)
@pytest.mark.parametrize("name", [name for name in LIKE if name in WITH_TWINS])
def test_the_gradient_is_that_of_layers(name, how):
    for x in inputs(T).values():
        (y, found), (expected, wanted) = (gradients(TRAINED[how](network(which), T), x) for which in (name, LIKE[name]))
        assert equal(y, expected) and found.keys() == wanted.keys() and len(found) >= 4
        for of, gradient in wanted.items():
            assert gradient.any() and torch.allclose(found[of], gradient, rtol=1e-5, atol=1e-6 * gradient.abs().max())


@pytest.mark.parametrize("how", TRAINED)
def test_a_product_is_one_with_the_weights_behind_it(how):
    """0.5 * s, and the weights of the layer that takes it halved: half the gradient."""
    x = inputs(T)["Spikes"]
    scaled, plain = network("a product"), network("chain")
    plain.b.weight.data /= 2
    (y, found), (expected, wanted) = (gradients(TRAINED[how](net, T), x) for net in (scaled, plain))
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
    "rows": (lambda x, y: x.reshape(T, 3, 2, 36), False), "features": (lambda x, y: x.view((T, 3, -1)), False),
    "axes": (lambda x, y: x.reshape(T, 3, 4, 3, -1), False), "the same": (lambda x, y: x.view(x.shape), False),
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
    for y in (2 * x, x / 2, sum([x]), torch.cat([x, x], 2), x.flatten(2), x.view(T, 3, -1), x.reshape(T, 3, 2, 36)):
        assert isinstance(y, pk.Spikes) and y.rate() == x.rate()


REFUSED = {
    "over the steps": (lambda x: torch.cat([x, x]), r"along their channels, dim=2, got dim=0; \.dense\(\)"),
    "other sizes": (lambda x: torch.cat([x, x.reshape(T, 3, 2, 4, 9)], 2), "the same shape but for their channels"),
    "mixed steps": (lambda x: x.reshape(T * 3, 2, 6, 6), r"keep their steps and samples .* \.dense\(\)"),
    "mixed samples": (lambda x: x.view(T, 6, 36), r"keep their steps and samples"),
    "other numbers": (lambda x: x.view(T, 3, 71), r"cannot have the shape \[9, 3, 71\]"),
    "flattened steps": (lambda x: x.flatten(), "torch's flatten takes tensors, and got Spikes; use proxykernels.Fl"),
    "a root": (lambda x: x**0.5, "unsupported operand"),
    "a mean": (lambda x: x.mean(0), r"torch's mean takes tensors, and got Spikes; use .* \.dense\(\)"),
}


@pytest.mark.parametrize("function, message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(function, message):
    with pytest.raises((TypeError, ValueError), match=message):
        function(spikes())


def test_a_sum_carries_the_gradients_of_its_parts():
    x = torch.rand(T, 3, 4)
    layers = [pk.use_surrogate(dyadic(pk.FusedIFLinear(4, 5)), pk.ATan()) for _ in range(2)]
    y, z = (layer(pk.pack((x > 0.5).float())) for layer in layers)
    (y + 2 * z).sum().backward()
    (found, other), expected = [layer.weight.grad.clone() for layer in layers], []
    for layer in layers:
        layer.zero_grad()
        layer((x > 0.5).float()).sum().backward()
        expected.append(layer.weight.grad)
    assert found.any() and torch.allclose(found, expected[0]) and torch.allclose(other, 2 * expected[1])
