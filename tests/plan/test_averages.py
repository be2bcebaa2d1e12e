"""Averages that a matrix product follows are left out of a plan; its spikes and counts must be those with them."""

import layerwise
import pytest
import torch
from cases import dyadic
from equality import equal
from test_engine_file import change, refused
from torch import nn

import proxykernels as pk
from proxykernels.kernels.table import Kind
from proxykernels.plan.follow import follow


def make_net(pool: nn.Module, features: int, v_reset: float | None = None) -> nn.Sequential:
    """Weights and thresholds whose sums are exact, also those of averages of powers of two."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1, v_reset=v_reset),
        pool,
        pk.Flatten(),
        pk.FusedIFLinear(features, 12, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    net[3].weight.data *= 0.25
    return net


POOLS = {
    "larger": (pk.AdaptiveAvgPool2d(4), 2, 8 * 16),
    "larger, overlapping": (pk.AdaptiveAvgPool2d((3, 7)), 2, 8 * 21),
    "larger, height as it is": (pk.AdaptiveAvgPool2d((None, 4)), 2, 8 * 8),
    "one pixel": (pk.AdaptiveAvgPool2d(3), 1, 8 * 9),
    "as it is": (pk.AdaptiveAvgPool2d(2), 2, 8 * 4),
    "window": (pk.AvgPool2d(2, 1, 1), 2, 8 * 9),
    "smaller": (pk.AvgPool2d(2), 4, 8 * 4),
    "divisor": (pk.AvgPool2d(2, 1, 1, divisor_override=2), 3, 8 * 16),
    "half a window": (pk.AvgPool2d(2, 1, 1, ceil_mode=True, count_include_pad=False), 2, 8 * 9),
}


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("name", POOLS)
def test_spikes_are_those_with_averages(generator, name, v_reset):
    pool, size, features = POOLS[name]
    net = make_net(pool, features, v_reset)
    x = dyadic(3, 2, size, size, generator=generator, span=8)
    found, expected = pk.simulate(net, x, 33), layerwise.simulate(net, x, 33)
    assert 0 < expected.spikes.dense().mean() < 1
    assert equal(found.spikes.dense(), expected.spikes.dense())
    assert equal(found.state["3"][0], expected.state["3"][0])
    assert found.synops == expected.synops and found.relu_joules == expected.relu_joules
    assert (expected.synops.accumulates["3"] == 0) == (name != "as it is")


@pytest.mark.parametrize("name", ["larger", "window"])
def test_a_file_keeps_what_is_counted(generator, tmp_path, name):
    pool, size, features = POOLS[name]
    net, x = make_net(pool, features), dyadic(3, 2, size, size, generator=generator, span=8)
    engine = pk.compile(net, x)
    assert [op.kind for op in engine.plan.operations] == [Kind.FIRE, Kind.FIRE]
    engine.save(tmp_path / "net.safetensors")
    found = pk.load(tmp_path / "net.safetensors")(x, 20).synops
    assert found == engine(x, 20).synops == layerwise.simulate(net, x, 20).synops


@pytest.mark.parametrize("window, value", [((1, 0), 0), ((1, 0), -1), ((1, 0), "many"), ((1, 0), 1 << 30), ((0, 0), 8)])
def test_averages_that_no_weight_can_have_are_refused(generator, tmp_path, window, value):
    """A number that is none; and of values, which the first layer reads."""
    pool, size, features = POOLS["larger"]
    path, x = tmp_path / "net", dyadic(3, 2, size, size, generator=generator, span=8)
    pk.compile(make_net(pool, features), x).save(path)
    assert refused(path) is False
    change(path, lambda plan: plan["operations"][window[0]]["windows"][window[1]].update(averages=value))
    assert refused(path)


def test_what_else_reads_an_average_still_has_it(generator):
    net = pk.Network()
    net.append("conv", pk.FusedIFConv2d(2, 8, 3, padding=1), ("",))
    net.append("mean", pk.AdaptiveAvgPool2d(4), ("conv",))
    net.append("flatten", pk.Flatten(), ("mean",))
    net.append("linear", pk.FusedIFLinear(128, 12), ("flatten",))
    x = (2, 2, 2)
    assert [op.kind for op in follow(net, x, True).operations] == [Kind.FIRE, Kind.FIRE]
    net.append("other", pk.FusedIFSum(nn.Linear(128, 12), nn.Identity()), ("flatten", "linear"))
    kinds = [op.kind for op in follow(net, x, True).operations]
    assert kinds == [Kind.FIRE, Kind.AVERAGE_POOL, Kind.FIRE, Kind.FIRE]


def test_weights_that_change_are_merged_anew(generator):
    net = make_net(pk.AdaptiveAvgPool2d(4), 8 * 16)
    x = dyadic(3, 2, 2, 2, generator=generator, span=8)
    before = pk.simulate(net, x, 20).count()
    weight = net[3].weight.data.clone()
    net[3].weight.data.neg_()
    assert not torch.equal(pk.simulate(net, x, 20).count(), before)
    net[3].weight.data.copy_(weight)
    assert equal(pk.simulate(net, x, 20).count(), before) and before.any()


def test_a_wrong_number_of_features_is_an_error_as_ever():
    net = make_net(pk.AdaptiveAvgPool2d(4), 8 * 15)
    with pytest.raises(ValueError, match=r"layer 3: x must have .* features, as weights .* got 128"):
        pk.simulate(net, torch.zeros(1, 2, 2, 2), 3)
