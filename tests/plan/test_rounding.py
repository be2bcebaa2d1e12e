"""Units of rounded weights: the definition (kernels/rounding.py) and each instruction set, against whole numbers."""

import math

import pytest
import torch
from equality import equal
from torch import Tensor

from proxykernels.kernels import cpu, rounding
from proxykernels.kernels.rounding import LARGEST_SUM, PRECISIONS

WAYS = {
    "definition": rounding.round_weights,
    **{name: kernels.round_weights for name in ("amx", "avx512", "avx2", "portable") if (kernels := cpu.load(name))},
}
ROOM_OF_HALF = {"int16": math.inf, "int8": 2**15 - 1}
LARGEST = {"int16": 8191, "int8": 63}


GRID = 2.0**-9


def smallest_unit(weight: Tensor, bias: int, precision: str) -> float:
    """The smallest power of two that keeps all bounds, of one channel's whole numbers of GRID: int64 [inputs].

    Rounding may add half a unit to each term, for which room is left.
    """
    bounds = [(weight.abs().max(), LARGEST[precision]), (weight.abs().sum() + abs(bias), LARGEST_SUM - len(weight) - 1)]
    half = ROOM_OF_HALF[precision] - len(weight) / 2
    if 0 < half < math.inf:
        bounds += [(weight.clamp(min=0).sum(), half), (-weight.clamp(max=0).sum(), half)]
    unit = 2.0**-30
    while any(int(size) > room * unit for size, room in bounds):
        unit *= 2
    return unit * GRID


def channels(inputs: int, generator: torch.Generator) -> Tensor:
    """Whole numbers; of all signs, of one sign each, large ones of one sign among small ones of the other."""
    whole = torch.randint(1, 127, (inputs,), generator=generator)
    small = torch.randint(1, 3, (inputs,), generator=generator)
    alone = torch.zeros(inputs, dtype=torch.int64)
    alone[inputs // 2] = -96
    signs = torch.randint(0, 2, (inputs,), generator=generator) * 2 - 1
    mostly = torch.where(torch.arange(inputs) % 8 > 0, whole, -1)
    same = torch.full((inputs,), 63)
    return torch.stack([whole, -whole, whole * signs, mostly, -mostly, small, alone, same, -same, -2 * same])


@pytest.mark.parametrize("inputs", [1, 9, 300, 520, 1040, 3000, 65_533, 65_536])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
def test_the_smallest_unit_that_keeps_the_bounds(generator, precision, way, inputs, with_bias):
    """Of positive sums and of negative ones; one way is as the other, and no channel looks at another."""
    weight = channels(inputs, generator)
    bias = torch.randint(-(2**12), 2**12, (len(weight),), generator=generator) * int(with_bias)
    given = bias * GRID if with_bias else None
    rounded, rounded_bias, unit = WAYS[way](weight * GRID, given, PRECISIONS[precision])
    expected = [smallest_unit(row, int(b), precision) for row, b in zip(weight, bias, strict=True)]
    assert unit.tolist() == expected and (inputs == 1 or len(set(expected)) > 1)
    units = torch.tensor(expected, dtype=torch.float64)[:, None]
    whole = rounded.double() / units
    assert equal(whole, torch.round(weight * GRID / units))
    assert whole.abs().max() <= LARGEST[precision] and whole.abs().sum(1).max() < 2**24
    if inputs / 2 < ROOM_OF_HALF[precision]:
        assert max(whole.clamp(min=0).sum(1).max(), -whole.clamp(max=0).sum(1).min()) <= ROOM_OF_HALF[precision]
    if with_bias:
        assert equal(rounded_bias.double(), (torch.round(bias * GRID / units[:, 0]) * units[:, 0]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_signs_change_no_unit(generator, precision, way):
    weight = torch.randn(40, 700, generator=generator) + torch.linspace(-3, 3, 40)[:, None]
    bias = torch.randn(40, generator=generator)
    rounded, rounded_bias, unit = WAYS[way](weight, bias, PRECISIONS[precision])
    negated, negated_bias, same_unit = WAYS[way](-weight, -bias, PRECISIONS[precision])
    assert rounded.any() and equal(negated, -rounded) and equal(negated_bias, -rounded_bias) and equal(same_unit, unit)


@pytest.mark.parametrize("negative", [False, True])
def test_half_of_int8_binds(negative):
    """516 weights of 63 units, and half a unit for each, are all of the room but 1; one more doubles the unit."""
    sign = -1.0 if negative else 1.0
    for inputs, expected in [(516, 1.0), (517, 2.0)]:
        _, _, unit = rounding.round_weights(sign * torch.full((1, inputs), 63.0), None, PRECISIONS["int8"])
        assert unit.item() == expected
    halves = sign * 63.0 * torch.tensor([1.0, -1.0]).repeat(1, 300)  # together 37,800
    assert rounding.round_weights(halves, None, PRECISIONS["int8"])[2].item() == 1.0


def test_ones_beside_the_weights_take_room():
    """Of the sum, not of a half; a unit above 1 is none of theirs."""
    rows = torch.full((1, 2048), 8000.0).double()
    units = [rounding.unit_of(rows * 2**-13, None, PRECISIONS["int16"], ones=n).item() for n in (0, 1, 2**12)]
    assert units == [2.0**-13, 2.0**-13, 2.0**-11]
    with pytest.raises(ValueError, match="beside an identity, .* at most 8191, got up to 16000"):
        rounding.unit_of(2 * rows[:, :8], None, PRECISIONS["int16"], ones=1)


def test_more_inputs_than_sums_are_for():
    for inputs, biases in [(LARGEST_SUM - 1, 0), (LARGEST_SUM - 1, 1), (LARGEST_SUM - 3, 3)]:
        with pytest.raises(
            ValueError, match=f"exact sums are for at most {LARGEST_SUM - 2} inputs a neuron, got {inputs}"
        ):
            rounding.room_for(inputs, biases)
    assert [rounding.room_for(LARGEST_SUM - 4, biases) for biases in (0, 1, 3)] == [3, 3, 1]


def test_powers_of_two():
    for exponent in (-126, -60, -1, 0, 1, 24, 100):
        power = 2.0**exponent
        values = torch.tensor(
            [power, math.nextafter(power, math.inf), math.nextafter(2 * power, 0)], dtype=torch.float64
        )
        assert rounding.power_of_two(values).tolist() == [power, 2 * power, 2 * power]
    assert rounding.power_of_two(torch.zeros(1, dtype=torch.float64)).item() == torch.finfo(torch.float32).tiny
