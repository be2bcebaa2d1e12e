"""A layer's call walks few Python functions: what stays the same is not checked, looked up or computed again."""

import copy
import functools

import pytest
import torch
from equality import equal
from hops import walked
from torch import nn

import proxykernels as pk

LEAD = pk.stop.margin(0.5, of="logits", at=[1])


LAYERS = [  # each with the shape of an input, whether it is packed, and the most functions of a call
    (pk.FusedIFLinear(100, 50), (1, 1, 100), True, 29),
    (pk.FusedIFLinear(100, 50), (1, 1, 100), False, 51),
    (pk.FusedIFConv2d(32, 64, 3, padding=1), (16, 1, 32, 28, 28), True, 31),
    (pk.FusedIFConv2d(32, 64, 3, padding=1), (16, 1, 32, 28, 28), False, 48),
]


def given(layer, shape, packed):
    """A call of a layer on random spikes."""
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    x = pk.pack(x) if packed else x
    layer.eval()
    return lambda: layer(x)


@pytest.mark.parametrize(("layer", "shape", "packed", "most"), LAYERS)
@torch.no_grad()
def test_functions_of_a_call(layer, shape, packed, most):
    assert len(walked(given(layer, shape, packed))) <= most


def run_of_a_network(simulated: bool, stop=None):
    """A call of three layers, which was converted, on an image that others have gone before, and its logits."""
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)
    torch.manual_seed(3)
    x = torch.rand(1, 1, 8, 8)
    net = pk.convert(nn.Sequential(*layers).eval(), torch.rand(9, 1, 8, 8))
    run = functools.partial(pk.simulate, net) if simulated else pk.compile(net, x)
    return lambda: run(x, T=4, stop=stop).logits


@pytest.mark.parametrize(
    ("simulated", "stop", "most"), [(False, None, 19), (False, LEAD, 24), (True, None, 28), (True, LEAD, 32)]
)
def test_functions_of_a_run(simulated, stop, most):
    """Four of them compare the input with the calibration data, in the first calls and then in one of sixteen."""
    assert len(walked(run_of_a_network(simulated, stop))) <= most


def test_a_neuron_of_other_numbers_is_checked_again():
    layer = pk.FusedIFLinear(4, 3).eval()
    x = torch.ones(2, 1, 4)
    layer(x)
    layer.v_threshold = 2.0
    assert layer.neuron.v_threshold == 2.0
    layer.v_reset = 3.0
    with pytest.raises(ValueError, match="below v_threshold"):
        layer(x)


def test_one_step_equals_the_first_of_more():
    """Of one step no periods are kept."""
    torch.manual_seed(0)
    layer, x = pk.FusedIFLinear(20, 30).eval(), torch.rand(1, 2, 20) * 4
    one, more = layer(x), layer(x.expand(3, 2, 20))
    assert equal(one[0], more[0]) and one.any() and not one.all()


def test_what_is_kept_between_calls_follows_every_change():
    """Attributes, state_dicts, functional_call, values written past autograd, and copies."""
    layer, x = pk.FusedIFLinear(20, 30).eval(), torch.rand(2, 3, 20) * 4
    other = pk.FusedIFLinear(20, 30, v_threshold=3.0).eval()
    other.weight, other.bias = layer.weight, layer.bias
    low, high = layer(x), other(x)
    assert not torch.equal(low, high)
    layer.v_threshold = 3.0
    assert equal(layer(x), high) and equal(copy.deepcopy(layer)(x), high)
    layer.v_threshold = torch.full((30,), 1.0)
    assert equal(layer(x), low)
    layer.load_state_dict(other.state_dict())
    assert equal(layer(x), high)
    given = {"v_threshold": torch.tensor(1.0)}
    for _ in range(2):
        assert equal(torch.func.functional_call(layer, given, x), low) and equal(layer(x), high)
    layer.bias.data[:] = -1e3
    assert not layer(x).any()
    layer.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="bias must be finite"):
        layer(x)


@pytest.mark.parametrize("neuron", [pk.neurons.IFNeuron(), pk.neurons.CubaLIFNeuron()], ids=["one-state", "two-states"])
def test_what_inference_has_kept_serves_training(neuron):
    layer, x = pk.FusedLinear(20, 30, neuron=neuron), torch.rand(3, 2, 20) * 4
    with torch.inference_mode():
        expected = layer(x)
    layer.surrogate = pk.ATan()
    spikes = layer(x)
    spikes.sum().backward()
    assert equal(spikes, expected) and layer.weight.grad.any()
