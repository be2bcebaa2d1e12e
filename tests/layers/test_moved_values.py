"""Layers that put values elsewhere: packed and dense spikes alike, forwards and in their gradients."""

import pytest
import torch
from cases import spikes
from equality import equal
from torch import nn

import proxykernels as pk

T = 37
ORDERS = {
    "shuffle": [4, 0, 5, 1, 2, 3],
    "part": [5, 2],
    "repeated": [1, 1, 0] * 30,
    "zeros": [-1, 3, -1, 0],
    "same": list(range(6)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [(3, 5), (7,), ()], ids=["image", "row", "features"])
def test_channels(generator, order, size):
    x, index = spikes(T, 2, 6, *size, generator=generator), torch.tensor(ORDERS[order])
    expected = x[:, :, index] * (index >= 0).view(-1, *[1] * len(size))
    layer = pk.Channels(index)
    assert expected.any() and equal(layer(x), expected) and equal(layer(pk.pack(x)).dense(), expected)
    assert not layer.state_dict()


@pytest.mark.parametrize("size", [(2, 3, 5), (6, 5)], ids=["image", "row"])
def test_features_become_images_and_back(generator, size):
    x = spikes(T, 2, 30, generator=generator)
    layer = pk.Unflatten(size)
    packed = layer(pk.pack(x))
    assert x.any() and equal(packed.dense(), x.view(T, 2, *size)) and equal(layer(x), packed.dense())
    assert equal(pk.Flatten()(packed).dense(), x)


def test_a_held_input_stays_held(generator):
    x = torch.rand(2, 6, 4, generator=generator).expand(T, 2, 6, 4)
    assert pk.Channels(torch.tensor([3, 1]))(x).stride(0) == 0


def test_spikes_that_repeat_themselves_and_that_count_more(generator):
    """Of neurons on a held input, kept as periods; behind Dropout, which scales them."""
    current = torch.rand(2, 6, 3, 5, generator=generator)
    periodic, _ = pk.if_hold(current, T)
    expected = periodic.dense()[:, :, [2, 0]]
    assert expected.any() and equal(pk.Channels(torch.tensor([2, 0]))(periodic).dense(), expected)
    torch.manual_seed(0)
    dropped = pk.Dropout(0.5).train()(periodic)
    moved = pk.Channels(torch.tensor([2, 0]))(dropped)
    assert moved.scale == 2 and equal(moved.dense(), dropped.dense()[:, :, [2, 0]])


def test_gradients_go_where_the_values_came_from(generator):
    torch.manual_seed(0)
    conv = pk.use_surrogate(pk.FusedIFConv2d(2, 6, 3, padding=1, v_threshold=0.5), pk.ATan(2.0)).train()
    x, weights = spikes(5, 2, 2, 4, 4, generator=generator), torch.randn(5, 2, 3, 4, 4, generator=generator)
    gradients = []
    for given in (x, pk.pack(x)):
        conv.zero_grad()
        y = pk.Unflatten((3, 4, 4))(pk.Flatten()(pk.Channels(torch.tensor([5, 5, 1]))(conv(given))))
        y = y.dense() if isinstance(y, pk.Spikes) else y
        assert y.any()
        (y * weights).sum().backward()
        gradients.append(conv.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0][5].any() and gradients[0][1].any() and not gradients[0][[0, 2, 3, 4]].any()


def test_networks_with_them_compile_and_copy(generator):
    import copy

    net = nn.Sequential(pk.FusedIFLinear(4, 12), pk.Unflatten((3, 2, 2)), pk.Channels(torch.tensor([2, 0]))).eval()
    nn.init.uniform_(net[0].weight)
    x = spikes(T, 2, 4, generator=generator)
    expected = copy.deepcopy(net)(x)
    assert expected.any() and equal(torch.compile(net, fullgraph=True, backend="eager")(x), expected)


BAD = {
    "index": (lambda: pk.Channels([1, 2]), TypeError, "index must be a tensor of int64, got list"),
    "index type": (lambda: pk.Channels(torch.ones(2)), TypeError, "index must be a tensor of int64, got torch.float32"),
    "negative": (lambda: pk.Channels(torch.tensor([-2])), ValueError, "numbers of at least 0, or -1 for zeros"),
    "missing": (
        lambda: pk.Channels(torch.tensor([4]))(torch.zeros(2, 1, 3, 2)),
        ValueError,
        r"x must have at least 5 channels, which index names; got \[2, 1, 3, 2\]",
    ),
    "size": (lambda: pk.Unflatten(3), TypeError, r"size must be \(C, H, W\) or \(C, L\), got 3"),
    "features": (
        lambda: pk.Unflatten((2, 2))(torch.zeros(2, 1, 5)),
        ValueError,
        r"x must have 4 features to become \(2, 2\), got \[2, 1, 5\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
