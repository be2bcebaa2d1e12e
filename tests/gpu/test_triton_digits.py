"""Weights of the Triton convolution in parts: int8 digits and float16 numbers, and how they are split in one launch."""

import pytest
import torch
import torch.nn.functional as F
from equality import equal

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import RESETS, dyadic, spikes, thresholds, words_over_time

from proxykernels.kernels import reference, rounding, weight_cache, weight_layouts
from proxykernels.kernels.gpu import block_sizes, conv2d_launch
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.gpu.weight_parts import float16_parts, int8_digits, parts_of
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.weight_cache import CONSTANTS, WHOLE_BITS

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("kernels_can_run")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BITS = pytest.mark.parametrize("bits", [13, 7], ids=["two-digits", "one-digit"])

# C_in, H, W, C_out, kernel_size, stride, padding, dilation, groups
LAYERS = [
    pytest.param((1, 4, 3, 3, (3, 3), (1, 1), (1, 1), (1, 1), 1), id="one-channel"),
    pytest.param((64, 2, 3, 17, (3, 3), (1, 1), (1, 1), (1, 1), 1), id="whole-blocks"),
    pytest.param((20, 5, 6, 17, (3, 2), (2, 1), (2, 0), (1, 2), 1), id="odd"),
    pytest.param((6, 4, 3, 9, (3, 3), (1, 1), (1, 1), (1, 1), 3), id="groups"),
    pytest.param((10, 3, 3, 10, (3, 3), (1, 1), (1, 1), (1, 1), 10), id="depthwise"),
    pytest.param((200, 1, 1, 35, (1, 1), (1, 1), (0, 0), (1, 1), 1), id="linear"),
]


def whole(*shape: int, generator, bits: int, scales=(1.0, 2.0, 0.5, 1.0, 4.0)) -> torch.Tensor:
    """Random weights of so many bits and a sign, the largest ones among them, of which channels have other scales."""
    weight = torch.randint(1 - 2**bits, 2**bits, shape, generator=generator) * 2.0**-bits
    weight[0].flatten()[:2] = torch.tensor([2**bits - 1, 1 - 2**bits])[: weight[0].numel()] * 2.0**-bits
    scale = torch.tensor(scales).repeat(-(-shape[0] // len(scales)))[: shape[0]]
    return weight * scale.view(-1, *[1] * (len(shape) - 1))


def known_to_be_whole(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The weights, as quantize.py would hand them on."""
    CONSTANTS.add(weight.untyped_storage())
    WHOLE_BITS[weight.untyped_storage()] = bits
    return weight


def assert_exact(generator, case, T: int, bits: int, v_reset, pooled=False, **keywords):
    """Words or counts and potentials equal the oracle's; some neurons fire, and the weights were digits."""
    C, H, W, C_out, kernel_size, stride, padding, dilation, groups = case
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    x = spikes(T, 3, C, H, W, generator=generator, rate=0.3)
    weight = known_to_be_whole(whole(C_out, C // groups, *kernel_size, generator=generator, bits=bits).to(DEVICE), bits)
    parts = parts_of(weight, groups, True)
    assert parts.first.dtype == torch.int8 and (parts.second is None) == (bits == 7)
    bias, theta = dyadic(C_out, generator=generator).abs(), thresholds(C_out, generator)
    current = F.conv2d(torch.zeros(3, C, H, W), weight.cpu(), **options)
    v = dyadic(*current.shape, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight.cpu(), bias, v, v_threshold=theta, v_reset=v_reset, **options)
    assert 0.01 < expected.mean() < 0.99
    rows = v.flatten(2).transpose(1, 2).to(DEVICE)
    operands = words_over_time(x.flatten(3)).to(DEVICE), T, (H, W), weight, bias.to(DEVICE), rows
    window = stride, padding, dilation, groups
    run = gpu.if_conv2d_pooled if pooled else gpu.if_conv2d
    result, *more, v_last = run(*operands, if_neuron(theta.to(DEVICE), v_reset), *window, **keywords)
    if keywords.get("counts_only"):
        assert equal(result.cpu(), expected.sum(0).flatten(2).transpose(1, 2).int())
    else:
        assert equal(result.cpu(), words_over_time(expected.flatten(3)))
    if pooled:
        assert equal(more[0].cpu(), words_over_time(reference.max_pool2d(expected, 2).flatten(3)))
    assert equal(v_last.cpu(), v_expected.flatten(2).transpose(1, 2))


@pytest.mark.costly
@BITS
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("T", [7, 33])
def test_layers(generator, case, T, bits, v_reset):
    assert_exact(generator, case, T, bits, v_reset)


@pytest.mark.slow
@pytest.mark.costly
@BITS
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("draw", range(6))
def test_random_layers(generator, draw, bits, v_reset):
    def pick(*choices):
        return choices[torch.randint(len(choices), (), generator=generator)]

    generator.manual_seed(draw)
    groups, kernel_size, dilation = pick(1, 1, 2, 5), (pick(1, 2, 3), pick(1, 3)), (pick(1, 2), pick(1, 2))
    size = [pick(0, 1, 3) + d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    window = kernel_size, (pick(1, 2), pick(1, 3)), (pick(0, 1), pick(0, 2)), dilation, groups
    case = (groups * pick(1, 3, 16, 37, 64), *size, groups * pick(1, 8, 13, 65), *window)
    assert_exact(generator, case, pick(1, 15, 31, 32, 50), bits, v_reset)


@pytest.mark.costly
@BITS
@pytest.mark.parametrize("counts_only", [False, True], ids=["words", "counts"])
@pytest.mark.parametrize("T", [1, 16, 17, 32, 64])
def test_steps(generator, T, counts_only, bits):
    case = (5, 2, 3, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    assert_exact(generator, case, T, bits, None, counts_only=counts_only)


@pytest.mark.costly
@BITS
@pytest.mark.parametrize("T", [5, 40])
def test_pooled_words(generator, T, bits):
    assert_exact(generator, (3, 2, 6, 5, (3, 3), (1, 1), (1, 1), (1, 1), 1), T, bits, 0.0, pooled=True)


@pytest.mark.slow
@BITS
@pytest.mark.parametrize(
    "channels, block_k, C", [(16, 64, 70), (32, 32, 64), (64, 32, 96), (64, 64, 64), (128, 64, 64)]
)
@pytest.mark.parametrize("T", [16, 40])
def test_block_sizes(generator, monkeypatch, channels, block_k, C, T, bits):
    """Sizes of the table that small layers do not choose, and more than one block of each."""
    pixels, warps, registers = {128: (4, 4, 255), 64: (8, 8, 128)}.get(channels, (8, 4, 128))
    blocks = block_sizes.Blocks(pixels, channels, block_k, 3, warps, registers)
    monkeypatch.setattr(conv2d_launch, "choose_blocks", lambda *_: blocks)
    assert_exact(generator, (C, 3, 3, channels + 1, (3, 3), (1, 1), (1, 1), (1, 1), 1), T, bits, None)


# ---- the digits themselves


def total(digits, unit):
    """The weights that digits stand for, in float64."""
    base = 64 if len(digits) == 2 else 256
    return sum(digit.double() * base**k for k, digit in enumerate(digits)) * unit[:, None].double()


@pytest.mark.parametrize("bits", [*range(1, 15), 22])
def test_digits_are_the_weights(generator, bits):
    weight = whole(20, 43, generator=generator, bits=bits, scales=(1.0, 2.0**-30, 2.0**20, 0.25))
    weight[7] = 0
    digits, unit = weight_layouts.int8_digits(weight, weight_layouts.places_of(bits, 43))
    assert all(digit.shape == (20, 48) and digit.dtype == torch.int8 and not digit[:, 43:].any() for digit in digits)
    assert len(digits) == 1 + (bits > 7) + (bits > 13)
    assert equal(total(digits, unit)[:, :43], weight.double())


def test_sums_of_many_inputs_do_not_leave_32_bits():
    assert weight_layouts.places_of(13, 2**17) == 13 and weight_layouts.places_of(13, 2**17 + 1) == 23
    assert weight_layouts.places_of(7, conv2d_launch.LARGEST_WEIGHTS) == 7
    assert 128 * conv2d_launch.LARGEST_WEIGHTS + 2**24 < 2**31


@pytest.mark.parametrize("scale", [2.0**-90, 1e-20, 1e-3, 1.0, 1e3, 1e30], ids=str)
def test_error_of_three_digits(generator, scale):
    weight = torch.randn(20, 48, generator=generator) * 10 ** (-9 * torch.rand(20, 48, generator=generator)) * scale
    digits, unit = weight_layouts.int8_digits(weight, 23)
    largest = weight.double().abs().amax(1, keepdim=True)
    assert ((total(digits, unit) - weight.double()).abs() <= 2.0**-23 * largest).all()
    assert (unit[:, None] * weight_layouts.MOST_OF_THREE >= largest).all()


def test_three_digits_hold_their_largest_numbers():
    most = weight_layouts.MOST_OF_THREE
    weight = torch.tensor([[most, -most, most - 1.0, 1.0], [most + 1.0, -most - 1.0, 2.0, 0.0], [2**24 - 1.0, 1, 0, 0]])
    digits, unit = weight_layouts.int8_digits(weight, 23)
    assert unit.tolist() == [1, 2, 4]
    expected = torch.tensor([[most, -most, most - 1, 1], [most + 1, -most - 1, 2, 0], [2**24, 0, 0, 0]])
    assert equal(total(digits, unit)[:, :4], expected.double())


def test_every_number_of_14_bits_has_two_digits():
    weight = torch.arange(-8191.0, 8192)[None] * 2.0**-13
    assert equal(total(*weight_layouts.int8_digits(weight, 13))[:, : weight.shape[1]], weight.double())


@pytest.mark.parametrize("precision", ["int16", "int8"])
def test_rounded_weights_are_whole_at_every_scale(generator, precision):
    """The least unit that rounding takes, and the largest weights that a float32 holds."""
    scales = (2.0**-126, 2.0**-120, 2.0**-113, 2.0**-80, 1.0, 2.0**110, 2.0**126)
    weight = torch.randn(21, 19, generator=generator).clamp(-1.9, 1.9) * torch.tensor(scales).repeat(3)[:, None]
    bounds = rounding.PRECISIONS[precision]
    rounded = rounding.round_weights(weight, None, bounds)[0].float()
    digits = weight_layouts.int8_digits(rounded, weight_layouts.places_of(bounds.largest.bit_length(), 19))
    assert equal(total(*digits)[:, :19], rounded.double()) and (rounded[-1] != 0).all()


def test_only_weights_known_to_be_whole_have_few_digits(generator):
    """Others would have to be looked at in each call, and waited for."""
    weight = whole(4, 3, 1, 1, generator=generator, bits=7).to(DEVICE)
    assert parts_of(weight, 1, True).third is not None
    assert parts_of(weight.half(), 1, True).first.dtype == torch.float16
    known_to_be_whole(weight, 7)
    assert parts_of(weight, 1, False).first.dtype == torch.float16
    with weight_cache.unchanging(), torch.no_grad():
        parts = parts_of(weight, 1, True)
        assert parts.second is None and parts_of(weight, 1, True) is parts  # made once a simulation
        wide = weight.double()
        assert parts_of(wide, 1, True) is parts_of(wide, 1, True)


@pytest.mark.parametrize(
    "architecture, digits",
    [(name, True) for name in ("sm_80", "sm_89", "sm_90", "sm_120", "sm_121")]
    + [(name, False) for name in ("sm_75", "sm_100", "sm_103", "sm_110", "gfx942", "gfx1100")],
)
def test_architectures_of_digits(architecture, digits):
    assert block_sizes.takes_digits(architecture) == digits


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
