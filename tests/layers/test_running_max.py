"""Max pooling of real values over time, against its definition: the maximum of the sums so far."""

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk

T = 9
LAYERS = {
    "images": (lambda **o: pk.RunningMaxPool2d(2, **o), (3, 6, 5), F.max_pool2d),
    "rows": (lambda **o: pk.layers.RunningMaxPool1d(2, **o), (3, 7), F.max_pool1d),
}
WINDOWS = {"plain": {}, "overlapping": {"stride": 1, "padding": 1}, "ceil": {"ceil_mode": True}}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", LAYERS)
def test_against_the_definition(generator, kind, window):
    make, size, pool = LAYERS[kind]
    layer, options = make(**WINDOWS[window]), WINDOWS[window]
    moving = dyadic(T, 2, *size, generator=generator)
    held = dyadic(2, *size, generator=generator).expand(T, 2, *size)
    for x in (moving, held, spikes(T, 2, *size, generator=generator)):
        maxima = torch.stack([pool(sums, 2, **options) for sums in x.cumsum(0)])
        expected = maxima.diff(dim=0, prepend=pool(torch.zeros_like(x[:1])[0], 2, **options).unsqueeze(0))
        y, v = layer.spike(x)
        assert expected.any() and equal(y, expected) and equal(v, x.sum(0))
        first, between = layer.spike(x[:4])
        rest, after = layer.spike(x[4:], between)
        assert equal(torch.cat([first, rest]), expected) and equal(after, v)
        assert equal(layer(x), expected)
    assert equal(layer(pk.pack(x)), expected)
    assert layer(held).stride(0) == 0


def test_the_mean_is_the_maximum_of_the_means(generator):
    """Which the maximum of each step is not."""
    x = dyadic(200, 1, 1, 4, 4, generator=generator)
    maximum = F.max_pool2d(x.mean(0), 2)
    torch.testing.assert_close(pk.RunningMaxPool2d(2)(x).mean(0), maximum)
    assert (pk.MaxPool2d(2)(x).mean(0) > maximum + 0.5).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_without_steps_nothing_changes(kind):
    make, size, pool = LAYERS[kind]
    x, sums = torch.zeros(0, 2, *size), torch.ones(2, *size)
    assert make()(x).shape == (0, *pool(sums, 2).shape)
    y, v = make()(x, sums)
    assert y.shape == (0, *pool(sums, 2).shape) and equal(v, sums)


def test_in_networks(generator):
    """Chunks, states, samples that are stopped; gradients, exported graphs."""
    torch.manual_seed(0)
    net = nn.Sequential(pk.RunningMaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(8, 3)).eval()
    net[2].weight.data.abs_()
    x = dyadic(T, 2, 2, 4, 4, generator=generator)
    whole = pk.simulate(net, x, T)
    chunked = layerwise.simulate(net, x, T, chunk=2)
    first = pk.simulate(net, x[:5], 5)
    rest = pk.simulate(net, x[5:], 4, state=first.state)
    assert whole.count().any() and equal(chunked.count(), whole.count())
    assert equal(first.count() + rest.count(), whole.count())
    stopped = layerwise.simulate(net, x, T, chunk=1, stop=lambda counts, t: torch.arange(len(counts)) < (t >= 4))
    assert stopped.steps.min() == 4
    expected = net(x)
    assert equal(torch.export.export(net, (x,)).module()(x), expected)
    given = x.clone().requires_grad_()
    net[0].train()(given).sum().backward()
    assert given.grad.any()


def test_bad_input():
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C, H, W\), got \[2, 1, 4\]"):
        pk.RunningMaxPool2d(2)(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C, L\)"):
        pk.layers.RunningMaxPool1d(2)(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        pk.RunningMaxPool2d(0)
