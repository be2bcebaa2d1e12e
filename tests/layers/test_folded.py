"""Folded batch normalisation is kept between simulations, and never when a value has changed."""

import copy

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import weight_cache


def make_net(generator) -> nn.Sequential:
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 6, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(6 * 16, 5, batch_norm=True)
    )
    for layer in (net[0], net[2]):
        layer.weight.data.normal_(0, 0.3, generator=generator)
        layer.bias.data.normal_(0, 0.3, generator=generator)
        layer.bn.running_mean.normal_(0, 0.3, generator=generator)
        layer.bn.running_var.uniform_(0.3, 2, generator=generator)
        layer.bn.weight.data.uniform_(0.5, 2, generator=generator)
        layer.bn.bias.data.normal_(0, 0.3, generator=generator)
    return net.eval()


def outcome(net, x, precision):
    result = pk.simulate(net, x, 12, precision=precision)
    return result.spikes.dense(), *(v for states in result.state.values() for v in states)


@pytest.mark.parametrize("precision", [None, "int16", "int8"])
@pytest.mark.parametrize(
    "name", ["weight", "bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.eps"]
)
@pytest.mark.parametrize("layer", [0, 2])
def test_a_change_is_seen(generator, layer, name, precision):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    before = outcome(net, x, precision)
    assert before[0].any() and all(map(torch.equal, before, outcome(net, x, precision)))
    if name == "bn.eps":
        net[layer].bn.eps = 0.4
    else:
        tensor = net[layer].get_submodule(name.rpartition(".")[0]) if "." in name else net[layer]
        values = getattr(tensor, name.rpartition(".")[2]).detach().numpy()  # past every version counter
        values += 0.3
    after, anew = outcome(net, x, precision), outcome(copy.deepcopy(net), x, precision)
    assert all(map(torch.equal, after, anew)) and not all(map(torch.equal, after, before))


def test_two_layers_with_one_weight_and_two_normalisations(generator):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    other = copy.deepcopy(net)
    other[0].bn.running_mean += 0.5
    apart = [outcome(copy.deepcopy(one), x, "int16") for one in (net, other)]
    other[0].weight, other[2].weight = net[0].weight, net[2].weight
    for one, expected in [*zip((net, other), apart, strict=True)] * 2:
        assert all(map(torch.equal, outcome(one, x, "int16"), expected))
    assert not torch.equal(apart[0][0], apart[1][0])


def test_folded_once(generator, monkeypatch):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    calls = []
    fold = pk.layers.normalisation.fold_values
    monkeypatch.setattr(pk.layers.normalisation, "fold_values", lambda *values: (calls.append(1), fold(*values))[1])
    for _ in range(3):
        pk.simulate(net, x, 5)
    assert len(calls) == 2
    net[0](torch.rand(4, 3, 2, 6, 6))  # by itself, not by the plan
    net[0](torch.rand(4, 3, 2, 6, 6))
    assert len(calls) == 3
    net[0].surrogate = pk.ATan()  # a gradient goes to what is folded: nothing is kept
    net[0](torch.rand(4, 3, 2, 6, 6))
    net[0](torch.rand(4, 3, 2, 6, 6))
    assert len(calls) == 5


def test_other_types_and_values_that_are_not_finite(generator):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    spikes, *_ = outcome(net, x, None)
    doubles = copy.deepcopy(net).double()  # not kept, and the same weights but for the last bit
    assert spikes.any() and (outcome(doubles, x.double(), None)[0] != spikes).float().mean() < 0.01
    doubles[0].bn.running_mean += 5
    assert (outcome(doubles, x.double(), None)[0] != spikes).float().mean() > 0.05
    net[0].bn.running_var[1] = float("nan")
    with pytest.raises(ValueError, match="finite|NaN"):
        pk.simulate(net, x, 4)


def test_a_call_looks_at_folded_weights_once(generator, monkeypatch):
    layer = make_net(generator)[2]
    x, looks = torch.rand(2, 3, 96, generator=generator), []
    look = weight_cache.require_finite
    monkeypatch.setattr(weight_cache, "require_finite", lambda *values: (looks.append(1), look(*values))[1])
    with torch.no_grad():
        expected = layer(x) + 0
        looks.clear()
        assert expected.any() and equal(layer(x), expected) and not looks
        layer.bn.weight.data[1] = float("inf")  # every value that is folded in is finite or not at each call
        for _ in range(2):
            with pytest.raises(ValueError, match="weight must be finite"):
                layer(x)
        layer.bn.weight.data[1] = 1e-3
        assert layer(x).any() and looks
