"""The parts of weights that the Triton convolution takes, made in one launch, are those of weight_layouts.py."""

import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from proxykernels.kernels import weight_layouts
from proxykernels.kernels.gpu.weight_parts import float16_parts

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
    assert torch.equal(high, expected[0]) and torch.equal(unit, expected[2]) and high.any()
    assert (low is None) == (dtype != torch.float32) and (low is None or torch.equal(low, expected[1]))


@pytest.mark.parametrize("scale", [0.0, 2.0**-140, 2.0**-120, 2.0**100], ids=str)
def test_parts_of_extreme_weights(generator, scale):
    weight = (torch.randn(2, 5, 1, 1, generator=generator) * scale).to(DEVICE)
    high, low, unit = float16_parts(weight)
    expected = weight_layouts.float16_parts(weight.flatten(1))
    assert torch.equal(high, expected[0]) and torch.equal(low, expected[1]) and torch.equal(unit, expected[2])
