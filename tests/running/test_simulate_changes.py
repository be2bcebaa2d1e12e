"""simulate, and a network that is called, notice what changes between two calls, however it is changed."""

import copy
from unittest import mock

import pytest
import torch
from equality import equal
from network_changes import CHANGES, OF_SUMS, T, changed, graph, image, sequence
from test_simulate_plans import by_layers, network, planned
from torch import nn

import proxykernels as pk
from proxykernels.running import planned as plans

KINDS = {"sequence": sequence, "graph": graph}
TABLE = [("sequence", name) for name in CHANGES] + [("graph", name) for name in (*CHANGES, *OF_SUMS)]


def called(net: nn.Module, x) -> torch.Tensor:
    y = net(x)
    return y.dense() if isinstance(y, pk.Spikes) else y


@torch.no_grad()
def called_by_layers(net: nn.Module, x) -> torch.Tensor:
    with mock.patch.object(plans, "run", return_value=None):
        return called(net, x)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("kind", "name"), TABLE)
@torch.no_grad()
def test_a_change_is_noticed(kind, name):
    """By simulate, by a call, and by a copy that is made of the network and simulated."""
    net, x = KINDS[kind](), image()
    frames = torch.stack([x] * (T - 1) + [2 * x])
    with changed(net, name) as change:
        assert called(net, frames).any()
        for _ in range(2):
            before = pk.simulate(net, x, T)
        change()
        results = [pk.simulate(net, x, T)]  # before anything else looks at the network
        fresh = copy.deepcopy(net)
        expected, y = by_layers(fresh, x, T), called_by_layers(fresh, frames)
        states = [k for k in before.state if k in expected.state]
        assert not equal(before.spikes, expected.spikes) or not all(
            equal(before.state[k][0], expected.state[k][0]) for k in states
        ), "the change changes nothing"
        for same in (net, fresh):
            results.append(pk.simulate(same, x, T))
            assert equal(called(same, frames), y)
            results.append(pk.simulate(same, x, T))
        for result in results:
            assert equal(result.spikes, expected.spikes) and result.state.keys() == expected.state.keys()
            assert all(equal(result.state[k][0], state[0]) for k, state in expected.state.items())


def test_the_table_is_long():
    assert len(TABLE) > 120 and len(CHANGES | OF_SUMS) >= 75


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
    "a bias of another shape": lambda net: setattr(net[3].bias, "data", torch.ones(255)),
    "no weight": lambda net: setattr(net[3], "weight", None),
    "a weight of one axis": lambda net: setattr(net[3].weight, "data", torch.ones(64)),
    "a complex weight": lambda net: setattr(net[3], "weight", nn.Parameter(net[3].weight.detach() * 1j)),
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


@pytest.mark.parametrize("shape", [(2, 2), (4, 4), (3, 4), (2,)])
def test_recurrent_weights_of_another_shape_are_refused(shape):
    net = nn.Sequential(pk.FusedRecurrentLinear(5, 3, neuron=pk.neurons.IFNeuron())).eval()
    pk.simulate(net, torch.rand(2, 5), T)
    net[0].recurrent_weight.data = torch.ones(shape)
    for run in (pk.simulate, by_layers):
        with pytest.raises(ValueError, match=r"layer 0: recurrent_weight must have the shape \[3, 3\]"):
            run(net, torch.rand(2, 5), T)
    with pytest.raises(TypeError, match="recurrent_weight has the shape"):
        pk.compile(net, torch.rand(2, 5))


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
