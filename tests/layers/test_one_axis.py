"""Convolution and pooling along one axis, and sums of windows, against torch's and against images of one row."""

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import RESETS, dyadic, spikes
from equality import equal
from oracle import make_dyadic, step_loop
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference

T, L = 33, 14
WINDOWS = {  # C_in, C_out, kernel_size, stride, padding, dilation, groups
    "plain": (3, 8, 5, 1, 2, 1, 1),
    "stride": (5, 9, 3, 2, 1, 1, 1),
    "dilation": (4, 6, 3, 1, 0, 3, 1),
    "same-even": (4, 6, 4, 1, "same", 1, 2),
    "depthwise": (8, 8, 3, 1, "same", 1, 8),
}


@pytest.mark.parametrize("kind", ["spikes", "real", "held", "packed"])
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("window", WINDOWS)
def test_against_the_definition(generator, window, v_reset, kind):
    layer = pk.FusedIFConv1d(*WINDOWS[window], v_threshold=0.75, v_reset=v_reset)
    make_dyadic(layer, 1 / 16)
    shape = T, 2, layer.in_channels, L
    x = dyadic(*shape, generator=generator) if kind == "real" else spikes(*shape, generator=generator)
    if kind == "held":
        x = dyadic(*shape[1:], generator=generator).expand(shape)
    with torch.no_grad():
        current = nn.functional.conv1d(
            x.flatten(0, 1), layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
        ).unflatten(0, (T, 2))
    v0 = dyadic(*current.shape[1:], generator=generator) / 2
    expected, v_expected = reference.if_scan(current, v0, v_threshold=0.75, v_reset=v_reset)
    y, v = layer(pk.pack(x) if kind == "packed" else x, v0)
    assert 0 < expected.mean() < 1 and equal(v, v_expected)
    assert equal(y.dense() if kind == "packed" else y, expected)


def networks(**neuron) -> tuple[nn.Sequential, nn.Sequential]:
    """The same network along one axis and on images of one row."""
    along = nn.Sequential(
        pk.FusedIFConv1d(3, 8, 5, 2, 2, batch_norm=True, **neuron), pk.FusedIFConv1d(8, 6, 3, padding="same", **neuron),
        pk.Flatten(), pk.FusedIFLinear(6 * 7, 5, **neuron),
    )  # fmt: skip
    rows = nn.Sequential(
        pk.FusedIFConv2d(3, 8, (1, 5), (1, 2), (0, 2), batch_norm=True, **neuron),
        pk.FusedIFConv2d(8, 6, (1, 3), padding="same", **neuron), pk.Flatten(), pk.FusedIFLinear(6 * 7, 5, **neuron),
    )  # fmt: skip
    make_dyadic(along, 1 / 16)
    for parameter, same in zip(along.parameters(), rows.parameters(), strict=True):
        same.data = parameter.data.view_as(same).clone()
    return along, rows


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_simulation_is_that_of_images_of_one_row(generator, v_reset):
    torch.manual_seed(0)  # of the weights
    along, rows = networks(v_threshold=0.5, v_reset=v_reset)
    along.eval(), rows.eval()
    along[0].bn.eps = rows[0].bn.eps = 0.0  # of a variance of 1: what is folded stays dyadic
    held, sequence = dyadic(2, 3, L, generator=generator), spikes(T, 2, 3, L, generator=generator)
    for x in (held, sequence, pk.pack(sequence)):
        image = pk.pack(sequence.unsqueeze(3)) if isinstance(x, pk.Spikes) else x.unsqueeze(-2)
        result, expected = layerwise.simulate(along, x, T, chunk=7), pk.simulate(rows, image, T)
        assert result.count().any() and equal(result.count(), expected.count())
        assert result.rates == expected.rates and result.synops == expected.synops
        assert equal(result.state["0"][0], expected.state["0"][0].squeeze(2))
    with pytest.raises(ValueError, match=r"constant input, \[N, features\] or \[N, C, L\], or a sequence"):
        pk.simulate(along, held.expand(1, T, *held.shape), T)


def test_proxy_gradients_are_those_of_images_of_one_row(generator):
    torch.manual_seed(0)
    (along, rows), x = networks(v_threshold=0.5), torch.rand(4, 3, L, generator=generator)
    gradients = []
    for net, given in ((along, x), (rows, x.unsqueeze(2))):
        model = pk.ProxyNet(net, 8)
        count = model(given)
        count.square().sum().backward()
        assert count.any()
        gradients.append([parameter.grad.flatten() for parameter in net.parameters()])
    ours, theirs = map(torch.cat, gradients)
    assert theirs.abs().max() > 1 and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_conversion_and_sums(generator):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
            self.inner, self.head = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8 * L, 5)

        def forward(self, x):
            x = self.norm(self.stem(x)).relu()
            return self.head((self.inner(x) + x).relu().flatten(1))

    x = torch.rand(4, 3, L, generator=generator)
    torch.manual_seed(0)
    ann = Residual().eval()
    net = pk.convert(ann, x)
    assert isinstance(net.stem, pk.FusedIFConv1d) and isinstance(net.inner, pk.FusedIFSum)
    make_dyadic(net)
    held = (x * 16).round() / 16
    count, steps = pk.simulate(net, held, T).count(), step_loop(net, held, T)
    assert count.any() and equal(count, steps[list(steps)[-1]].sum(0).int())


def test_nir_there_and_back(generator):
    pytest.importorskip("nir")
    net, x = networks(v_threshold=0.5)[0].eval(), dyadic(2, 3, L, generator=generator)
    back = pk.from_nir(pk.to_nir(net, (3, L)))
    count = pk.simulate(net, x, T).count()
    assert count.any() and equal(pk.simulate(back, x, T).count(), count)


def test_bad_input():
    layer = pk.FusedIFConv1d(3, 4, 3)
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C_in, L\)"):
        layer(torch.zeros(2, 1, 3, 5, 5))
    with pytest.raises(TypeError, match="layer 0 is an nn.Conv1d, .* use FusedIFConv1d"):
        pk.simulate(nn.Sequential(nn.Conv1d(3, 4, 3), pk.IF()), torch.zeros(2, 3, 9), 4)
    with pytest.raises(ValueError, match="padding_mode must be 'zeros'"):
        pk.FusedIFConv1d(3, 4, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        pk.FusedIFConv1d(3, 4, 0)
    with pytest.raises(TypeError, match=r"stride must be an integer, got \(1, 2\)"):
        pk.FusedIFConv1d(3, 4, 3, stride=(1, 2))


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
def test_bad_pooling(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


POOLED_T = 9


@pytest.mark.parametrize("kernel, stride, padding", [(2, None, 0), ((3, 2), (2, 1), (1, 0)), (4, 2, 2), (1, 3, 0)])
def test_sums_are_the_spikes_of_a_window(generator, kernel, stride, padding):
    """Of spikes, packed or not, and of values, whose convolution with ones it is."""
    x = spikes(POOLED_T, 3, 5, 9, 8, generator=generator, rate=0.4)
    pool = pk.SumPool2d(kernel, stride, padding)
    ones = torch.ones(5, 1, *nn.modules.utils._pair(kernel))
    for values in (x, x * 0.25 - 2.0):
        expected = F.conv2d(values.flatten(0, 1), ones, None, stride or kernel, padding, groups=5)
        assert expected.abs().sum() > 10 and equal(pool(values), expected.unflatten(0, (POOLED_T, 3)))
    assert equal(pool(pk.pack(x)), pool(x))


def test_sum_pooling_in_a_network(generator):
    """In chunks of steps, and with a gradient."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 4, 3), pk.SumPool2d(2), pk.FusedIFConv2d(4, 3, 3), pk.Flatten(), pk.FusedIFLinear(3, 6)
    )
    for parameter in net.parameters():
        parameter.data = torch.randint(-4, 7, parameter.shape, generator=generator) / 8.0
    x = torch.rand(3, 2, 8, 8, generator=generator)
    whole, parts = pk.simulate(net, x, 40), layerwise.simulate(net, x, 40, chunk=7)
    assert equal(whole.spikes.dense(), parts.spikes.dense()) and 0.02 < whole.spikes.rate() < 0.98
    trained = pk.use_surrogate(net, pk.ATan()).train()
    trained(x.expand(8, *x.shape)).sum().backward()
    assert net[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("steps", [2, 40], ids=["dense", "packed"])
def test_adaptive_averages_keep_a_size(generator, steps):
    """None stands for the input's size, of tensors small and large and of Spikes."""
    x, pool = pk.IF()(torch.rand(steps, 1, 5, 9, 8, generator=generator)), nn.AdaptiveAvgPool2d((None, 3))
    expected = pool(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    assert x.any() and equal(pk.AdaptiveAvgPool2d((None, 3))(pk.pack(x)), expected)
    assert equal(pk.AdaptiveAvgPool2d((None, 3))(pk.IF()(x)), expected)
    assert isinstance(pk.AdaptiveAvgPool2d((None, 8))(pk.pack(x)), pk.Spikes)


def test_what_sum_pooling_refuses():
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        pk.SumPool2d(0)
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C, H, W\), got \[4, 2, 7\]"):
        pk.SumPool2d(2)(torch.zeros(4, 2, 7))
