"""ProxyNet on sequences: event data, of which the twin takes the mean over time."""

import pytest
import torch
import torch.nn.functional as F
from cases import bright_halves, learned, spikes
from equality import equal
from test_proxy import make_pair
from torch import nn

import proxykernels as pk

T = 20


def sequence(kind: str, generator: torch.Generator):
    """A sequence as ProxyNet takes it, and dense."""
    if kind == "held":
        x = torch.rand(5, 1, 8, 8, generator=generator).expand(T, 5, 1, 8, 8)
        return x, x
    x = spikes(T, 5, 1, 8, 8, generator=generator, rate=0.4)
    if kind == "real":
        x = x * torch.rand(T, 5, 1, 8, 8, generator=generator)
    if kind == "counts":
        x = torch.randint(0, 4, x.shape, generator=generator) * x
        return x.to(torch.int16), x
    return (pk.pack(x) if kind == "Spikes" else x.bool() if kind == "bool" else x), x


@pytest.mark.parametrize("kind", ["spikes", "Spikes", "bool", "counts", "real", "held"])
def test_gradient_is_that_of_the_relu_network_on_the_mean(generator, kind):
    torch.manual_seed(0)
    net, relu = make_pair()
    x, dense = sequence(kind, generator)
    model = pk.ProxyNet(net, T, **pk.ProxyNet.PAPER)
    output = model(x)
    counts = pk.simulate(net, x, T).count()
    assert equal(output, counts.float()) and counts.sum() > 0
    gradient = torch.randn(5, 4, generator=generator)
    output.backward(gradient)
    expected = relu(dense.mean(0))
    torch.testing.assert_close(model.ann(x), expected)
    expected.backward(gradient)
    for ours, theirs in zip(net.parameters(), relu.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5 * theirs.grad.abs().max().item())
    model.eval()
    assert equal(model(x), output)


def test_spikes_behind_a_dropout_count_more(generator):
    x = pk.Dropout(0.5).train()(pk.pack(spikes(T, 5, 1, 8, 8, generator=generator)))
    net, relu = make_pair()
    torch.testing.assert_close(pk.ProxyNet(net, T, clip=False).ann(x), relu(x.dense().mean(0)))


def test_features_over_time(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFLinear(6, 16), pk.FusedIFLinear(16, 3))
    model = pk.ProxyNet(net, T)
    x = 2 * torch.rand(T, 4, 6, generator=generator)
    output = model(x)
    assert output.shape == (4, 3) and output.sum() > 0
    torch.testing.assert_close(model.ann(x), model.ann(x.mean(0)))
    for dtype in (torch.float64, torch.bfloat16):
        model.to(dtype)
        assert model.ann(pk.pack(x > 1)).dtype == model.ann(x.to(dtype)).dtype == dtype


def test_other_shapes_are_refused_before_any_work(generator, monkeypatch):
    model = pk.ProxyNet(make_pair()[0], T)
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: pytest.fail("the twin ran"))
    for training in (True, False):
        model.train(training)
        with pytest.raises(ValueError, match="x is a sequence of 19 steps, and T is 20"):
            model(torch.rand(19, 5, 1, 8, 8, generator=generator))
        with pytest.raises(ValueError, match=r"x must be a constant input, .* or a sequence, .*; got \[8\]"):
            model(torch.rand(8, generator=generator))
    model.train()
    with pytest.raises(TypeError, match="x must be floating point, got torch.uint8 .* a constant input"):
        model(torch.ones(5, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"x is a sequence of 5 steps, and T is 20; .* pass proxykernels.time_first\(x\)"
    ):
        model(torch.rand(5, T, 1, 8, 8, generator=generator))


def test_statistics_are_measured_on_sequences(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFConv2d(1, 6, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(216, 4))
    model = pk.ProxyNet(net, T, statistics_of="steps")
    for kind in ("Spikes", "bool", "counts", "real", "held"):
        x, dense = sequence(kind, generator)
        model.measure_batch_norm(x, batch=5)
        current = F.conv2d(dense.flatten(0, 1), net[0].weight, net[0].bias)
        torch.testing.assert_close(net[0].bn.running_mean, current.mean((0, 2, 3)))
        if kind != "held":  # of which one step is normalised, for all
            torch.testing.assert_close(net[0].bn.running_var, current.var((0, 2, 3)))


@pytest.mark.costly
@pytest.mark.parametrize("packed", [True, False])
def test_it_learns_from_events(generator, packed):
    """Which half of the image sends more events."""
    torch.manual_seed(0)
    rates, labels = bright_halves(128, 0.05, 0.4)
    events = (torch.rand(16, *rates.shape, generator=generator) < rates).float()
    x = pk.pack(events) if packed else events
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, padding=1), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(64, 2))
    model = pk.ProxyNet(net, T=16, clip=True)
    assert learned(model, x, labels) > 0.95
