"""The oracle against traces written out by hand, and the equations' invariants."""

import pytest
import torch
from equality import equal

from proxykernels.kernels import reference

# current, v_reset, threshold, spikes, v after each step: worked out on paper from DESIGN's equations
GOLDEN = [
    pytest.param([0.5, 0.5, 0.5, 0.5], 0.0, 1.0, [0, 1, 0, 1], [0.5, 0.0, 0.5, 0.0], id="fires-at-the-threshold"),
    pytest.param([0.75, 0.75, 0.75, 0.75], 0.0, 1.0, [0, 1, 0, 1], [0.75, 0.0, 0.75, 0.0], id="hard-loses-the-rest"),
    pytest.param([0.75, 0.75, 0.75, 0.75], None, 1.0, [0, 1, 1, 1], [0.75, 0.5, 0.25, 0.0], id="soft-keeps-the-rest"),
    pytest.param([3.0, 0.0, 0.0, -1.0], None, 1.0, [1, 1, 1, 0], [2.0, 1.0, 0.0, -1.0], id="soft-one-spike-a-step"),
    pytest.param([3.0, 0.0, 0.5, 1.0], -0.5, 2.0, [1, 0, 0, 0], [-0.5, -0.5, 0.0, 1.0], id="hard-below-zero"),
    pytest.param([-4.0, 2.0, 2.0, 2.0], 0.0, 2.0, [0, 0, 0, 1], [-4.0, -2.0, 0.0, 0.0], id="no-floor"),
]


@pytest.mark.parametrize("current, v_reset, v_threshold, spikes, potentials", GOLDEN)
def test_golden_traces(current, v_reset, v_threshold, spikes, potentials):
    current = torch.tensor(current).view(-1, 1, 1)
    for t in range(1, len(current) + 1):
        s, v = reference.if_scan(current[:t], v_threshold=v_threshold, v_reset=v_reset)
        assert s.flatten().tolist() == spikes[:t]
        assert v.item() == potentials[t - 1]


def test_state_is_handed_on(generator):
    current = torch.randn(20, 2, 3, 4, generator=generator)
    whole, v = reference.if_scan(current)
    first, middle = reference.if_scan(current[:13])
    second, last = reference.if_scan(current[13:], middle)
    assert equal(torch.cat([first, second]), whole) and equal(last, v)


def test_layers_are_their_currents_fired(generator):
    x = (torch.rand(6, 2, 3, 5, 4, generator=generator) < 0.3).float()
    weight, bias = torch.randn(4, 3, 3, 3, generator=generator), torch.randn(4, generator=generator)
    current = torch.stack([torch.conv2d(step, weight, bias, padding=1) for step in x])
    expected = reference.if_scan(current, v_reset=None)
    actual = reference.if_conv2d(x, weight, bias, padding=1, v_reset=None)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-5)
    assert equal(actual[0], expected[0])
