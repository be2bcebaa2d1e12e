"""The parts of weights that the Triton convolution takes, made in one launch, are those of weight_layouts.py."""

import pytest
import torch
from equality import equal

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from proxykernels.kernels import weight_layouts
from proxykernels.kernels.gpu.weight_parts import float16_parts, int8_digits

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("kernels_can_run")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (2, 1100, 1, 1), (3, 16, 2, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_parts(generator, shape, dtype):
    weight = torch.randn(shape, generator=generator) * 0.1
    weight[0] *= 2.0**-10  # channels have scales of their own
    weight[1, 0] = 0
    weight[-1, 0] *= 2.0**-20  # and weights within a channel
    weight = weight.to(dtype).to(DEVICE)
    high, low, unit = float16_parts(weight)
    expected = weight_layouts.float16_parts(weight.permute(0, 2, 3, 1).flatten(1))
    assert equal(high, expected[0]) and equal(unit, expected[2]) and high.any()
    assert (low is None) == (dtype != torch.float32) and (low is None or torch.equal(low, expected[1]))


@pytest.mark.parametrize("scale", [0.0, 2.0**-140, 2.0**-120, 2.0**100], ids=str)
def test_parts_of_extreme_weights(generator, scale):
    weight = (torch.randn(2, 5, 1, 1, generator=generator) * scale).to(DEVICE)
    high, low, unit = float16_parts(weight)
    expected = weight_layouts.float16_parts(weight.flatten(1))
    assert equal(high, expected[0]) and equal(low, expected[1]) and equal(unit, expected[2])


@pytest.mark.parametrize("places", [7, 13, 23])
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (2, 1100, 1, 1), (3, 16, 2, 4)], ids=str)
def test_digits(generator, shape, places):
    most = weight_layouts.MOST_OF_THREE if places == 23 else 2**places - 1
    weight = torch.randint(-most, most + 1, shape, generator=generator).float()
    weight[0] = weight[0].sign() * most
    weight *= torch.tensor([2.0**-30, 2.0**20, 1.0, 0.25, 2.0**-126])[: shape[0], None, None, None]
    check_digits(weight.to(DEVICE), places)
    if places == 23:  # whole or not
        check_digits((torch.randn(shape, generator=generator) * 0.1).to(DEVICE), places)
        check_digits(torch.zeros(shape, device=DEVICE), places)


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-120, 2.0**100], ids=str)
def test_digits_of_extreme_weights(generator, scale):
    check_digits((torch.randn(2, 5, 1, 1, generator=generator) * scale).to(DEVICE), 23)


def test_halves_are_rounded_to_even_numbers():
    most = weight_layouts.MOST_OF_THREE
    check_digits(torch.tensor([most + 1.0, 1.0, 3.0, -1.0, -3.0, 5.0]).view(1, 6, 1, 1).to(DEVICE), 23)


def check_digits(weight, places):
    digits, unit = int8_digits(weight, places)
    expected, expected_unit = weight_layouts.int8_digits(weight.permute(0, 2, 3, 1).flatten(1), places)
    assert equal(unit, expected_unit) and (unit > 0).all()
    assert all(torch.equal(a, b) for a, b in zip(digits, expected, strict=True))
