"""simulate by a network's plan notices what changes in the network between two calls, however it is changed."""

import pytest
import torch
from equality import equal
from test_simulate_plans import T, by_layers, image, network, planned
from torch import nn

import proxykernels as pk
from proxykernels.running import planned as plans


def _optimizer(net):
    weight = net[0].weight
    weight.grad = torch.full_like(weight, 0.25)
    torch.optim.SGD(net.parameters(), 1.0).step()


def _held_array(net):
    net.held = None
    array = net[3].weight.detach().numpy()
    pk.simulate(net, image(), T)
    array[17, 5] -= 64


def _held_data(net):
    data = net[3].weight.data
    pk.simulate(net, image(), T)
    data[17, 5] -= 64


def _iterated(net):
    for parameter in net.parameters():
        parameter.data *= 2


def _a_part_of_each(net):
    for parameter in net.parameters():
        parameter.data.view(-1)[7:9] -= 64


def _kept_and_let_go(net):
    """Somebody has it at one call, writes, and has it no more at the next."""
    kept = list(net.parameters())
    pk.simulate(net, image(), T)
    kept[-2].data[17, 5] -= 64


def _held_memory(net):
    net.held = None
    memory = net[3].weight.untyped_storage()
    pk.simulate(net, image(), T)
    memory[4 * (17 * 64 + 5) + 3] = 0xC2  # -32 or less


def _saved(net):
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.data *= 2


def _padded(net):
    net[0].padding, net[1].kernel_size, net[1].stride = (1, 1), (3, 3), (1, 1)


CHANGES = {
    "an optimizer": _optimizer,
    "in place": lambda net: net[0].weight.detach().mul_(2),
    "a part, through .data": lambda net: net[3].weight.data[17].sub_(4),
    "one value, through .data": lambda net: net[3].weight.data[17, 5:6].sub_(64),
    "an array that is kept": _held_array,
    "data that is kept": _held_data,
    "all, through an iterator": _iterated,
    "a part, through an iterator": _a_part_of_each,
    "a part, through an iterator that is kept": _kept_and_let_go,
    "memory that is kept": _held_memory,
    "all, through a state_dict": _saved,
    "other data": lambda net: setattr(net[3].weight, "data", net[3].weight.data * 2),
    "another parameter": lambda net: setattr(net[3], "weight", nn.Parameter(net[3].weight.detach() * 2)),
    "a bias": lambda net: net[3].bias.data.add_(0.5),
    "no bias": lambda net: setattr(net[3], "bias", None),
    "statistics": lambda net: net[0].bn.running_mean.sub_(1),
    "statistics, through .data": lambda net: net[0].bn.running_var.data.fill_(0.25),
    "eps": lambda net: setattr(net[0].bn, "eps", 3.0),
    "a threshold": lambda net: setattr(net[0], "v_threshold", 0.5),
    "thresholds": lambda net: setattr(net[0], "v_threshold", torch.full((4,), 0.5)),
    "another reset": lambda net: setattr(net[3], "v_reset", None),
    "a start": lambda net: setattr(net[0], "v_init", 0.5),
    "a padding": _padded,
    "another layer": lambda net: net.__setitem__(1, pk.AvgPool2d(1)) or net[0].weight.data.mul_(2),
    "one layer more": lambda net: net.append(pk.IF(v_threshold=2.0)),
    "a state_dict": lambda net: net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()}, strict=False),
    "another class": lambda net: setattr(net[0], "__class__", _Louder),
}  # fmt: skip


class _Louder(pk.FusedIFConv2d):
    def _fire(self, x, v, batch_statistics):
        return super()._fire(2 * x, v, batch_statistics)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change):
    net = network()
    before = planned(net, image(), T)
    CHANGES[change](net)
    expected = by_layers(net, image(), T)
    assert not equal(expected.state["3"][0], before.state["3"][0]) or not equal(expected.spikes, before.spikes)
    for _ in range(3):
        result = pk.simulate(net, image(), T)
        assert equal(result.spikes, expected.spikes) and equal(result.state["3"][0], expected.state["3"][0])


def test_weights_that_nobody_has_are_not_read():
    net = network()
    planned(net, image(), T)
    snapshot = plans._networks[net].snapshot
    looked, hashed = [], snapshot._all.hashed
    snapshot._all.hashed = lambda lines: (looked.append(lines), hashed(lines))[1]
    pk.simulate(net, image(), T)
    assert not looked
    weight = net[3].weight
    for _ in range(2):
        pk.simulate(net, image(), T)
    assert len(looked) == 2 and weight.any()


def _conv(net, **attributes):
    vars(net[0]).update(attributes)


def _pool(net, **attributes):
    vars(net[1]).update(attributes)


def _channels(net):
    net[1] = pk.Channels(torch.arange(4))
    pk.simulate(net, image(), T)
    net[1].index.data[2] = 10**6


def _delays(net):
    net[1] = pk.Delay([0, 1, 2, 3])
    pk.simulate(net, image(), T)
    net[1].delay.data[2] = -(10**6)


NONSENSE = {
    "stride": lambda net: _conv(net, stride=(-1, -1)),
    "three strides": lambda net: _conv(net, stride=(1, 1, 1)),
    "dilation": lambda net: _conv(net, dilation=(-1, 1)),
    "no dilation": lambda net: _conv(net, dilation=(0, 0)),
    "groups": lambda net: _conv(net, groups=2),
    "a pool's stride": lambda net: _pool(net, stride=0),
    "a pool's window": lambda net: _pool(net, kernel_size=0),
    "a pool's padding": lambda net: _pool(net, padding=9),
    "channels that there are not": _channels,
    "negative delays": _delays,
}  # fmt: skip


@pytest.mark.parametrize("change", NONSENSE)
def test_what_becomes_nonsense_is_refused(change):
    """By plans as by layers: no kernel reads what there is not."""
    net = network()
    planned(net, image(), T)
    NONSENSE[change](net)
    with pytest.raises((ValueError, TypeError, IndexError)) as refused:
        by_layers(net, image(), T)
    with pytest.raises(refused.type):
        pk.simulate(net, image(), T)
    with pytest.raises((ValueError, TypeError)):
        pk.compile(net, image())


SIZES = "output_size must be an integer or two of them, or None for the size of the input, got "
WRONG = {  # layer, its attribute, what that becomes, the error
    "a size that is none": (pk.AdaptiveAvgPool2d, "output_size", True, TypeError, SIZES + "True"),
    "three sizes": (pk.AdaptiveAvgPool2d, "output_size", (2, 2, 2), TypeError, SIZES + r"\(2, 2, 2\)"),
    "no voters": (pk.Voting, "voters", 0, ValueError, "voters must be at least 1, got 0"),
    "half a voter": (pk.Voting, "voters", 0.5, TypeError, "voters must be an integer, got 0.5"),
    "no divisor": (pk.AvgPool2d, "divisor_override", 0, ValueError, "divisor_override must not be 0, got 0; None"),
    "a divisor that is none": (pk.AvgPool2d, "divisor_override", True, TypeError, "divisor_override must be an int"),
    "a negative size": (pk.AdaptiveAvgPool2d, "output_size", -1, ValueError, "output_size must be at least 0, got -1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_pooling_of_a_wrong_number_is_refused(wrong):
    pool, name, value, error, message = WRONG[wrong]
    net, x = nn.Sequential(pool(2), pk.IF()).eval(), image()
    if pool is pk.Voting:
        x = x.flatten(1)
    planned(net, x, T)
    setattr(net[0], name, value)
    for run in (pk.simulate, by_layers):
        with pytest.raises(error, match=f"layer 0: {message}"):
            run(net, x, T)
    with pytest.raises(error, match=message):
        pk.compile(net, x)
