"""Convolutions along one axis, against the definition and against the same network on images of one row."""

import layerwise
import pytest
import torch
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
