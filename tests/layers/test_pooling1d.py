"""Pooling along one axis, against torch's and against images of one row; networks of sound with it."""

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from oracle import make_dyadic, step_loop
from torch import nn

import proxykernels as pk

T, L = 33, 14
POOLS = {
    "plain": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "beyond the end": {"kernel_size": 5, "stride": 4, "padding": 1, "ceil_mode": True},
    "whole": {"kernel_size": L},
}


@pytest.mark.parametrize("window", POOLS)
def test_max_pooling_is_torchs(generator, window):
    x = spikes(T, 2, 5, L, generator=generator, rate=0.2)
    expected = nn.MaxPool1d(**POOLS[window])(x.flatten(0, 1)).unflatten(0, (T, 2))
    layer = pk.layers.MaxPool1d(**POOLS[window])
    assert 0 < expected.mean() < 1 and equal(layer(pk.pack(x)).dense(), expected)
    assert equal(layer(x), expected) and equal(layer(x.bool()), expected.bool())


@pytest.mark.parametrize("window", POOLS)
def test_max_pooling_of_counts_is_that_of_one_row(generator, window):
    x = spikes(T, 2, 5, L, generator=generator, rate=0.3)
    across = {"kernel_size": 1, "stride": 1, "padding": 0}
    options = {name: (across[name], value) if name in across else value for name, value in POOLS[window].items()}
    rows = pk.MaxRatePool2d(**options)
    layer = pk.layers.MaxRatePool1d(**POOLS[window])
    expected = rows(pk.pack(x.unsqueeze(3))).dense().squeeze(3)
    assert expected.any() and equal(layer(x), expected)
    v = torch.zeros(2, 5, L)
    parts = []
    for part in (x[:10], x[10:]):
        y, v = layer(pk.pack(part), v)
        parts.append(y.dense())
    assert equal(torch.cat(parts), expected) and equal(v, x.sum(0))


@pytest.mark.parametrize(
    "layer", [pk.layers.AvgPool1d(3, 2, 1, True), pk.layers.AdaptiveAvgPool1d(4)], ids=["window", "adaptive"]
)
def test_averages_are_torchs(generator, layer):
    x = spikes(T, 2, 5, L, generator=generator)
    expected = super(type(layer), layer).forward(x.flatten(0, 1)).unflatten(0, (T, 2))
    assert expected.any()
    for given in (pk.pack(x), x, x.bool()):
        assert equal(layer(given), expected)
    assert isinstance(pk.layers.AdaptiveAvgPool1d(L)(pk.pack(x)), pk.Spikes)


def test_votes_are_means(generator):
    x = spikes(T, 2, 12, generator=generator)
    expected = x.unflatten(2, (3, 4)).mean(3)
    assert expected.any() and equal(pk.Voting(4)(pk.pack(x)), expected) and equal(pk.Voting(4)(x), expected)


class Audio(nn.Module):
    """Every pooling along one axis, by module and by function; the features end in a row, as the M5 tutorial has it."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv1d(1, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.MaxPool1d(2)
        self.inner, self.shortcut = nn.Conv1d(8, 8, 3, 2, 1), nn.Sequential(nn.AvgPool1d(2), nn.Conv1d(8, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.norm(self.stem(x)).relu())
        x = (self.inner(x) + self.shortcut(x)).relu()
        x = nn.functional.avg_pool1d(nn.functional.max_pool1d(x, 2), 4)
        return nn.functional.log_softmax(self.head(x.permute(0, 2, 1)), dim=2)


@pytest.fixture
def sound(generator) -> torch.Tensor:
    return dyadic(3, 1, 64, generator=generator).abs()


def test_a_network_of_sound_is_converted(sound):
    torch.manual_seed(0)
    ann = Audio().eval()
    net = pk.convert(ann, sound, method="max")
    kinds = {type(layer).__name__ for _, layer, _ in net.layers()}
    assert {"MaxRatePool1d", "AvgPool1d", "FusedIFConv1d", "Flatten"} <= kinds
    with torch.no_grad():
        traced = torch.fx.symbolic_trace(ann)
        last = next(node for node in traced.graph.nodes if node.target is nn.functional.log_softmax)
        last.replace_all_uses_with(last.args[0])
        traced.recompile()
        expected = traced(sound).squeeze(1)
    result = pk.simulate(net, sound, 2000)
    assert result.spikes.rate() > 0.01
    assert (result.logits - expected).abs().max() < 0.01 * expected.abs().max()


def test_the_step_loop_agrees(sound):
    torch.manual_seed(0)
    net = pk.convert(Audio().eval(), sound)
    make_dyadic(net)
    values = step_loop(net, sound, T)
    result = layerwise.simulate(net, sound, T, chunk=7)
    assert values["head"].mean() > 0.01 and equal(result.spikes.dense(), values["head"])


def test_simulate_takes_samples_of_one_axis(generator):
    """Without a convolution, too: [N, C, L] is held."""
    x = dyadic(2, 3, 8, generator=generator).abs()
    net = nn.Sequential(pk.layers.MaxPool1d(2), pk.IF(v_threshold=2.0), pk.Flatten())
    count = pk.simulate(net, x, 10).count()
    assert count.any() and count.shape == (2, 12)


BAD = {
    "images": (lambda: pk.layers.MaxPool1d(2)(torch.zeros(2, 1, 3, 5, 5)), ValueError, r"shape \(T, N, C, L\)"),
    "rates of images": (
        lambda: pk.layers.MaxRatePool1d(2)(torch.zeros(2, 1, 3, 5, 5)),
        ValueError,
        r"shape \(T, N, C, L\)",
    ),
    "pair": (lambda: pk.layers.AvgPool1d((2, 2)), TypeError, r"kernel_size must be an integer, got \(2, 2\)"),
    "padding": (lambda: pk.layers.MaxPool1d(2, padding=2), ValueError, "padding must be at most half of kernel_size"),
    "voters": (lambda: pk.Voting(0), ValueError, "voters must be at least 1, got 0"),
    "votes": (lambda: pk.Voting(3)(torch.zeros(2, 1, 4)), ValueError, "x must have a multiple of 3 features"),
    "torch's, given spikes": (
        lambda: pk.simulate(nn.Sequential(pk.FusedIFConv1d(1, 2, 3), nn.AvgPool1d(2)), torch.zeros(2, 1, 8), 4),
        TypeError,
        "layer 1 is an nn.AvgPool1d.* use proxykernels.layers.AvgPool1d",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
