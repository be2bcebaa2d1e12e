"""A state that is given must be one of the network's: of its shape, on its device, finite. In every way to go on."""

import copy

import layerwise
import pytest
import torch
from equality import equal
from test_simulate_plans import dyadic, image
from torch import nn

import proxykernels as pk

T = 5
CEIL = dict(kernel_size=3, ceil_mode=True)


def network(pool: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(dyadic(pk.FusedIFConv2d(2, 4, 3)), pool, pk.Flatten(), dyadic(pk.FusedIFLinear(16, 5))).eval()


BETWEEN = {
    "rates": lambda: pk.MaxRatePool2d(2),
    "rates, ceil": lambda: pk.MaxRatePool2d(**CEIL),
    "maxima": lambda: pk.RunningMaxPool2d(2),
    "delay": lambda: nn.Sequential(pk.Delay(1), pk.MaxPool2d(2)),
    "delays": lambda: nn.Sequential(pk.MaxPool2d(2), pk.Delay([2, 0, 3, 1])),
    "neurons": lambda: nn.Sequential(pk.MaxPool2d(2), pk.IF()),
}
WRONG = {
    "samples": (lambda v: v[:1], "must have the shape"),
    "channels": (lambda v: v[:, :1], "must have the shape"),
    "values": (torch.sum, "must have the shape"),
    "half of a row": (lambda v: v[..., :1], "must have the shape"),
    "integers": (lambda v: v.int(), "must be floating point"),
    "sparse": (lambda v: v.to_sparse(), "must be a dense tensor"),
    "elsewhere": (lambda v: v.to("meta"), "is on meta"),
    "infinite": (lambda v: v + torch.inf, "must be finite"),
    "huge": (lambda v: v + 1e38, "must be finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("between", BETWEEN)
def test_a_wrong_state_is_refused(between, wrong):
    net, (change, error) = network(BETWEEN[between]()), WRONG[wrong]
    kept = pk.simulate(net, image(), T).state
    stream = pk.compile(net, image()).stream(3)
    name = list(kept)[1]
    kept[name] = [change(kept[name][0])]
    for run in (pk.simulate, layerwise.simulate):
        with pytest.raises((TypeError, ValueError), match=f"layer {name}: v {error}"):
            run(net, image(), T, state=kept)
    with pytest.raises((TypeError, ValueError), match=f"state of {name} {error}"):
        stream.state = {layer: v for layer, (v,) in kept.items()}


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0**24 + 2])
@pytest.mark.parametrize("between", ["rates", "rates, ceil"])
def test_counts_of_spikes_are_whole(between, wrong):
    """Of others a plan and layers would make different spikes."""
    net = network(BETWEEN[between]())
    kept = pk.simulate(net, image(), T).state
    stream = pk.compile(net, image()).stream(3)
    kept["1"][0][-1, -1, 2, 2] = wrong
    error = rf"must hold counts of spikes, whole numbers from 0 to 2\*\*24, got {wrong:.9g}; take the state of"
    for run in (pk.simulate, layerwise.simulate):
        with pytest.raises(ValueError, match=f"layer 1: v {error}"):
            run(net, image(), T, state=kept)
    with pytest.raises(ValueError, match=f"state of 1 {error}"):
        stream.state = {layer: v for layer, (v,) in kept.items()}


@pytest.mark.parametrize("between", BETWEEN)
def test_plans_and_layers_go_on_from_each_other(between):
    """They keep states of the same shapes, also where ceil_mode adds pixels."""
    net = network(BETWEEN[between]())
    by_plan, by_layers = pk.simulate(net, image(), T), layerwise.simulate(copy.deepcopy(net), image(), T, chunk=2)
    for (name, (v,)), (_, (w,)) in zip(by_plan.state.items(), by_layers.state.items(), strict=True):
        assert equal(v, w), name
    expected = pk.simulate(net, image(), 2 * T).spikes[T:]
    assert expected.count().any()
    assert equal(pk.simulate(net, image(), T, state=by_layers.state).spikes, expected)
    assert equal(layerwise.simulate(net, image(), T, state=by_plan.state).spikes, expected)


def test_a_row_of_rates_with_ceil_mode():
    torch.manual_seed(0)
    net = nn.Sequential(dyadic(pk.FusedIFConv1d(2, 4, 3)), pk.layers.MaxRatePool1d(**CEIL)).eval()
    x = image()[:, :, 0]
    for run in (pk.simulate, layerwise.simulate):
        first = run(net, x, T)
        assert first.state["1"][0].shape == (3, 4, 4)
        assert equal(layerwise.simulate(net, x, T, state=first.state).spikes, pk.simulate(net, x, 2 * T).spikes[T:])


def test_sigma_delta_states_elsewhere():
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    net = pk.convert(ann, image(), neuron="sigma-delta")
    stream = pk.compile(net, image()).stream(3)
    stream(image())
    kept = stream.state
    for name, (z, a) in kept.items():
        with pytest.raises(ValueError, match=f"state of '{name}' is on meta and the input on cpu"):
            stream.state = kept | {name: [z.to("meta"), a]}
        with pytest.raises(TypeError, match=f"state of '{name}' must be a dense tensor"):
            pk.simulate(net, image(), T, state=kept | {name: [z, a.to_sparse()]})
    outputs = kept[""][1]
    with pytest.raises(ValueError, match=r"\(the input and the outputs\) must be .* \[3, 5\]\], .* got .* \[3, 4\]\]"):
        pk.simulate(net, image(), T, state=kept | {"": [kept[""][0], outputs[:, :4]]})
