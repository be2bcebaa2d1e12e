"""Matrix tiles hold weights as whole numbers of a few digits: which weights they take, and how much they may round."""

import pytest
import torch
from cases import spikes

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference


@pytest.fixture
def tiles():
    kernels = cpu.load("amx")
    if kernels is None:
        pytest.skip("no matrix tiles here: python tests/checked_build.py --emulate-tiles emulates them")
    return kernels


def digits(kernels, weight, theta=1.0):
    thresholds = torch.full((len(weight),), theta)
    return kernels._table.count_digits(weight.data_ptr(), thresholds.data_ptr(), *weight.shape)


@pytest.mark.parametrize("bits, expected", [(6, 1), (14, 2), (22, 3)])
@pytest.mark.parametrize("theta", [1e-3, torch.inf])
def test_whole_numbers_take_the_digits_that_hold_them(tiles, generator, theta, bits, expected):
    """Whatever the threshold is. A unit is a normal number: what lies below it would be lost."""
    weight = torch.randint(-(2**bits), 2**bits, (5, 40), generator=generator).float()
    weight[:, 0] = 1.0
    for shift in (-120, 0, 70):
        assert digits(tiles, weight * 2.0**shift, theta) == expected
    assert digits(tiles, weight * 2.0**-130, torch.inf) == 0


@pytest.mark.parametrize("theta, expected", [(64.0, 3), (1.0, 4), (2.0**-10, 0), (torch.inf, 0)])
def test_other_weights_are_rounded_as_the_threshold_allows(tiles, generator, theta, expected):
    """A readout has none, so nothing may be lost."""
    weight = torch.randn(16, 400, generator=generator)
    assert digits(tiles, weight, theta) == expected
    assert digits(tiles, weight * 2.0**20, theta * 2.0**20) == expected


@pytest.mark.parametrize("theta", [4.0, 0.5])
def test_potentials_err_by_little_of_the_threshold(tiles, generator, theta, monkeypatch):
    x, weight = spikes(1, 4, 64, 6, 6, generator=generator, rate=0.5), torch.randn(32, 64, 3, 3, generator=generator)
    monkeypatch.setattr(backends, "cpu_backend", lambda: tiles)
    _, v = pk.if_conv2d(pk.pack(x), weight, v_threshold=theta, v_reset=None)
    exact = torch.nn.functional.conv2d(x[0].double(), weight.double())
    error = v + theta * (exact >= theta).float() - exact
    assert error.pow(2).mean().sqrt() < 2.0**-18 * max(theta, 4.0)  # 4: of the sums themselves, in float32


@pytest.mark.parametrize("largest", [2.0**22, 2.0**30, 2.0**60])
def test_a_large_weight_of_an_input_that_never_fires_takes_nothing_from_the_others(instruction_set, generator, largest):
    """On the way that is chosen, too."""
    x, weight = spikes(64, 8, 64, 6, 6, generator=generator, rate=0.3), torch.randn(32, 64, 3, 3, generator=generator)
    x[:, :, 0], weight[:, 0] = 0.0, largest
    expected = reference.if_conv2d(x, weight, v_threshold=8.0)[0].mean()
    actual = pk.if_conv2d(pk.pack(x), weight, v_threshold=8.0)[0].dense().mean()
    assert expected > 0.05 and abs(actual - expected) < 1e-3
