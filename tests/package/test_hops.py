"""A layer's call walks few Python functions: what stays the same is not checked, looked up or computed again."""

import sys

import pytest
import torch

import proxykernels as pk


def functions(call) -> int:
    """Python functions that are entered; a generator each time it goes on."""
    found = 0

    def count(frame, event, argument) -> None:
        nonlocal found
        found += event == "call"

    for _ in range(3):
        call()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(
    ("layer", "shape", "packed", "most"),
    [
        (pk.FusedIFLinear(100, 50), (1, 1, 100), True, 62),
        (pk.FusedIFLinear(100, 50), (1, 1, 100), False, 68),
        (pk.FusedIFConv2d(32, 64, 3, padding=1), (16, 1, 32, 28, 28), False, 100),
    ],
)
@torch.no_grad()
def test_functions_of_a_call(generator, layer, shape, packed, most):
    x = (torch.rand(shape, generator=generator) < 0.2).float()
    x = pk.pack(x) if packed else x
    layer.eval()
    assert functions(lambda: layer(x)) <= most


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
    assert torch.equal(one[0], more[0]) and one.any() and not one.all()
