"""The fused Triton convolution and matrix product, of few steps too: the oracle's bits where sums are exact."""

import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, fine, spikes, thresholds, words_over_time
from equality import equal

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import triton
from cases import RESETS

from proxykernels.kernels import reference, weight_layouts
from proxykernels.kernels.gpu import block_sizes, conv2d_launch
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.neuron_models import if_neuron

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("kernels_can_run")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = (1, 16, 32, 33)
PLAIN = dict(stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


# C_in, H, W, C_out, kernel_size, stride, padding, dilation, groups. As in cases.py but small: a block is 4 pixels by 16
# or 32 channels here, and the interpreter takes some 50 ms for each.
CONVOLUTIONS = [
    pytest.param((1, 4, 3, 3, (3, 3), 1, 1, 1, 1), id="one-channel"),
    pytest.param((8, 4, 4, 32, (3, 3), 1, 1, 1, 1), id="whole-blocks"),
    pytest.param((5, 5, 3, 11, (3, 3), 1, 1, 1, 1), id="odd-channels"),
    pytest.param((16, 3, 3, 33, (1, 1), 1, 0, 1, 1), id="pointwise-one-over-a-block"),
    pytest.param((64, 3, 5, 34, (3, 3), 2, 1, 1, 1), id="stride"),
    pytest.param((9, 6, 6, 20, (3, 2), (1, 2), (2, 0), (2, 3), 1), id="dilation"),
    pytest.param((24, 2, 3, 31, (5, 5), 1, 2, 1, 1), id="five-by-five"),
    pytest.param((72, 4, 4, 33, (4, 4), 1, 0, 1, 1), id="kernel-is-the-image"),
    pytest.param((16, 4, 3, 8, (2, 7), (2, 1), (1, 3), 1, 1), id="padding-over-the-edge"),
    pytest.param((6, 4, 3, 9, (3, 3), 1, 1, 1, 3), id="groups"),
    pytest.param((10, 3, 3, 10, (3, 3), 1, 1, 1, 10), id="depthwise"),
]


def pair(value):
    return (value, value) if isinstance(value, int) else value


def rows(v):
    """Potentials [N, C, H, W] as the kernels have them: [N, P, C]."""
    return v.flatten(2).transpose(1, 2)


def on_device(*tensors):
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


def run(x, weight, bias, v, theta, v_reset, options, **keywords):
    """The kernel on dense x [T, N, C, H, W] and v [N, C_out, H_out, W_out]; its results on the CPU."""
    words, weight, bias, v, theta = on_device(words_over_time(x.flatten(3)), weight, bias, rows(v), theta)
    arguments = (words, len(x), tuple(x.shape[3:]), weight, bias, v, if_neuron(theta, v_reset))
    return tuple(result.cpu() for result in gpu.if_conv2d(*arguments, **options, **keywords))


def assert_exact(x, weight, bias, v, theta, v_reset, options=PLAIN, some_fire=True):
    """Words, counts and potentials equal the oracle's, and the case is not one where nothing happens."""
    expected, v_expected = reference.if_conv2d(x, weight, bias, v, v_threshold=theta, v_reset=v_reset, **options)
    if some_fire:
        assert 0 < expected.mean() < 1
    before = v.clone()
    words, v_last = run(x, weight, bias, v, theta, v_reset, options)
    assert words.dtype == torch.int32 and words.is_contiguous()
    assert v_last.dtype == torch.float32 and v_last.is_contiguous()
    assert equal(words, words_over_time(expected.flatten(3)))
    assert equal(v_last, rows(v_expected))
    assert equal(v, before)


def layer(generator, T=33, C=5, size=(3, 3), C_out=7, kernel_size=(3, 3), N=2, rate=0.2, options=PLAIN):
    """(x, weight, bias, v, theta) whose sums are exact."""
    x = spikes(T, N, C, *size, generator=generator, rate=rate)
    weight = fine(C_out, C // options["groups"], *kernel_size, generator=generator)
    bias = dyadic(C_out, generator=generator)
    current = F.conv2d(torch.zeros(N, C, *size), weight, **options)
    return x, weight, bias, dyadic(*current.shape, generator=generator), thresholds(C_out, generator)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_shapes(generator, case, v_reset):
    C, H, W, C_out, kernel_size, stride, padding, dilation, groups = case
    options = dict(stride=pair(stride), padding=pair(padding), dilation=pair(dilation), groups=groups)
    T = 9 if stride == 1 else 33  # a second word where the output has another size than the input
    assert_exact(*layer(generator, T, C, (H, W), C_out, kernel_size, options=options), v_reset, options)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("has_bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("T", STEPS)
def test_steps(generator, T, has_bias, v_reset):
    x, weight, bias, v, theta = layer(generator, T)
    assert_exact(x, weight, bias if has_bias else None, v, theta, v_reset)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
def test_counts_only(generator, T, v_reset):
    x, weight, bias, v, theta = layer(generator, T)
    expected, v_expected = reference.if_conv2d(x, weight, bias, v, v_threshold=theta, v_reset=v_reset, **PLAIN)
    counts, v_last = run(x, weight, bias, v, theta, v_reset, PLAIN, counts_only=True)
    assert counts.dtype == torch.int32
    assert equal(counts, rows(expected.sum(0)).int())
    assert equal(v_last, rows(v_expected))


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("C", [3, 64])
def test_rates(generator, C, rate, v_reset):
    assert_exact(*layer(generator, C=C, size=(2, 3), rate=rate), v_reset)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("C, groups", [(3, 1), (64, 1), (6, 3)])
def test_weights_of_sixteen_bits(generator, C, groups, dtype, v_reset):
    options = PLAIN | dict(groups=groups)
    x, weight, bias, v, theta = layer(generator, C=C, size=(2, 3), C_out=9, options=options)
    assert_exact(x, weight.to(dtype), bias.to(dtype), v, theta, v_reset, options)


@pytest.mark.slow
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("pixels", [4, 8])
@pytest.mark.parametrize(
    "channels, block_k, C", [(16, 128, 5), (16, 16, 1), (16, 64, 64), (32, 64, 5), (32, 32, 3), (64, 32, 64)]
)
def test_block_sizes(generator, monkeypatch, channels, block_k, C, pixels, v_reset):
    """Sizes of the table that small layers do not choose: blocks partly outside, and more than one of each."""
    blocks = block_sizes.Blocks(pixels, channels, block_k, NUM_STAGES=3, num_warps=8 if channels == 64 else 4)
    monkeypatch.setattr(conv2d_launch, "choose_blocks", lambda *_: blocks)
    assert_exact(*layer(generator, 17, C, (3, 3), C_out=channels + 1), v_reset)


@pytest.mark.slow
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("parts", [(32, 13), (13, 32), (1, 43, 1)], ids=str)
def test_state_is_carried(generator, parts, v_reset):
    x, weight, bias, v, theta = layer(generator, 45)
    words, v_expected = run(x, weight, bias, v, theta, v_reset, PLAIN)
    dense = []
    for part in x.split(parts):
        part_words, v_rows = run(part, weight, bias, v, theta, v_reset, PLAIN)
        v = v_rows.transpose(1, 2).view(v.shape)
        dense.append(gpu.unpack(part_words, len(part), 7))
    assert equal(torch.cat(dense), gpu.unpack(words, 45, 7))
    assert equal(rows(v), v_expected)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("N, C, C_out", [(1, 64, 10), (3, 37, 11), (5, 130, 35), (9, 16, 33)])
@pytest.mark.parametrize("T", [16, 45])
def test_linear(generator, T, N, C, C_out, v_reset):
    x = spikes(T, N, C, generator=generator)
    weight, bias = fine(C_out, C, generator=generator), dyadic(C_out, generator=generator)
    v, theta = dyadic(N, C_out, generator=generator), thresholds(C_out, generator)
    expected, v_expected = reference.if_linear(x, weight, bias, v, v_threshold=theta, v_reset=v_reset)
    assert 0 < expected.mean() < 1
    *arguments, theta = on_device(weight[..., None, None], bias, v[:, None], theta)
    arguments.append(if_neuron(theta, v_reset))
    words = words_over_time(x[..., None]).to(DEVICE)
    result, v_last = gpu.if_conv2d(words, T, (1, 1), *arguments, (1, 1), (0, 0), (1, 1), 1)
    assert equal(result.cpu(), words_over_time(expected[..., None]))
    assert equal(v_last.cpu(), v_expected[:, None])


@pytest.mark.parametrize("theta", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("v_reset", RESETS)
def test_on_the_edge(theta, v_reset):
    """h one ulp below the threshold, on it and one ulp above; from the state, from the bias, from weights."""
    theta = torch.tensor([theta] * 3)
    h = torch.stack([theta[0].nextafter(theta[0] - 1), theta[0], theta[0].nextafter(theta[0] + 1)])
    nothing = torch.zeros(3)
    x = torch.ones(1, 1, 1, 1, 1)
    large = h.half().float()  # few enough bits to be exact as a weight; the bias brings the rest
    for weight, bias, v in ((nothing, h, nothing), (nothing, nothing, h), (large, h - large, nothing)):
        kernel, v = weight.view(3, 1, 1, 1), v.view(1, 3, 1, 1)
        words, v_last = run(x, kernel, bias, v, theta, v_reset, PLAIN | dict(padding=(0, 0)))
        fires = torch.tensor([0, 1, 1], dtype=torch.int32)
        after_spike = h - theta if v_reset is None else torch.full_like(h, v_reset)
        assert equal(words.flatten(), fires)
        assert equal(v_last.flatten(), torch.where(fires == 1, after_spike, h))


@pytest.mark.parametrize("counts_only", [False, True], ids=["words", "counts"])
@pytest.mark.parametrize("T, N", [(5, 0), (0, 2)], ids=["no-samples", "no-steps"])
def test_of_nothing(generator, T, N, counts_only):
    x, weight, bias, v, theta = layer(generator, T, N=N)
    result, v_last = run(x, weight, bias, v, theta, 0.0, PLAIN, counts_only=counts_only)
    assert result.dtype == torch.int32
    assert result.shape == ((N, 9, 7) if counts_only else (-(-T // 32), N, 9, 7))
    assert equal(v_last, rows(v))


def test_views(generator):
    """Arguments that are not contiguous."""
    x, weight, bias, v, theta = layer(generator, C=5, size=(4, 3))
    expected = run(x, weight, bias, v, theta, None, PLAIN)
    words = words_over_time(x.flatten(3))
    every_second = words.repeat_interleave(2, 3)[..., ::2]
    kernel = weight.to(memory_format=torch.channels_last)
    *arguments, theta = on_device(kernel, bias.repeat_interleave(2)[::2], rows(v), theta.repeat_interleave(2)[::2])
    result = gpu.if_conv2d(every_second.to(DEVICE), 33, (4, 3), *arguments, if_neuron(theta, None), **PLAIN)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(result, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("v_reset", RESETS)
def test_random_floats(generator, v_reset):
    """Two products of float32 weights flip fewer than one spike in 10,000 against float32 sums."""
    x = spikes(64, 1, 64, 4, 4, generator=generator)
    weight, bias = torch.randn(32, 64, 3, 3, generator=generator) / 12, torch.randn(32, generator=generator) / 8
    v, theta = torch.zeros(1, 32, 4, 4), torch.full((32,), 0.7)
    expected, _ = reference.if_conv2d(x, weight, bias, v, v_threshold=theta, v_reset=v_reset, **PLAIN)
    words, _ = run(x, weight, bias, v, theta, v_reset, PLAIN)
    flipped = (gpu.unpack(words, 64, 32) != expected.flatten(3).bool()).float().mean()
    assert 0.05 < expected.mean() < 0.5
    assert flipped < 1e-4


# ---- weights


def total(parts):
    """The weights that float16 parts stand for, in float64."""
    high, low, unit = (None if part is None else part.double() for part in parts)
    return 2 * unit[:, None] * (high if low is None else high + low)


@pytest.mark.parametrize("scale", [2.0**-90, 1e-20, 1e-3, 1.0, 1e3, 1e30], ids=str)
def test_error_of_float16_parts(generator, scale):
    weight = torch.randn(20, 48, generator=generator) * 10 ** (-9 * torch.rand(20, 48, generator=generator)) * scale
    parts = weight_layouts.float16_parts(weight)
    largest = weight.double().abs().amax(1, keepdim=True)
    bound = torch.maximum(2.0**-23 * weight.double().abs(), 2.0**-39 * largest)
    normal = weight.abs() > 2.0**-126  # the scaling of smaller numbers is not exact
    assert ((total(parts) - weight.double()).abs() <= bound)[normal].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_float16_parts_of_few_bits_are_exact(generator, dtype):
    weight = torch.cat([dyadic(4, 30, generator=generator, unit=unit) for unit in (1 / 16, 2.0**-20, 2.0**9)])
    weight[3] = 0
    high, low, unit = weight_layouts.float16_parts(weight.to(dtype))
    assert high.shape == (12, 32)
    assert (low is None) == (dtype != torch.float32)
    assert equal(total((high, low, unit))[:, :30].float(), weight)
    assert not high[:, 30:].any()


@pytest.mark.parametrize(
    "groups, C, C_out, joined",
    [
        pytest.param(1, 3, 5, 1, id="one-group"),
        pytest.param(10, 1, 1, 1, id="depthwise-of-10"),
        pytest.param(128, 1, 1, 8, id="depthwise-of-128"),
        pytest.param(17, 1, 2, 17, id="prime"),
        pytest.param(12, 2, 3, 3, id="small"),
        pytest.param(3, 20, 4, 3, id="large"),
    ],
)
def test_joined_groups_convolve_alike(generator, groups, C, C_out, joined):
    weight = dyadic(groups * C_out, C, 3, 2, generator=generator)
    x = dyadic(2, groups * C, 5, 5, generator=generator)
    wide, wide_groups = weight_layouts.join_small_groups(weight, groups)
    assert wide_groups == joined
    assert equal(F.conv2d(x, wide, groups=wide_groups), F.conv2d(x, weight, groups=groups))


@pytest.mark.parametrize(
    "neurons, C_out, K, expected",
    [
        pytest.param(128 * 784, 128, 1152, (8, 64, 32), id="paper-convolution"),
        pytest.param(128 * 784, 32, 9, (8, 32, 16), id="first-layer"),
        pytest.param(128, 2560, 6272, (8, 64, 32), id="paper-linear"),
        pytest.param(128, 10, 256, (4, 16, 32), id="last-layer"),
        pytest.param(1, 1152, 2560, (4, 32, 32), id="one-sample"),
    ],
)
def test_choice_of_blocks(neurons, C_out, K, expected):
    assert conv2d_launch.choose_blocks(neurons, C_out, K)[:3] == expected


def test_an_architecture_may_have_a_table_of_its_own():
    layer = 128 * 784, 128, 1152
    assert conv2d_launch.choose_blocks(*layer, "sm_90")[:3] == (4, 128, 64)
    assert conv2d_launch.choose_blocks(*layer, "sm_80") == conv2d_launch.choose_blocks(*layer)
    assert conv2d_launch.choose_blocks(*layer, "sm_90", digits=2)[:3] == (4, 128, 64)
    assert conv2d_launch.choose_blocks(*layer, "sm_89", digits=2)[:3] == (4, 128, 32)
    assert block_sizes.architecture(torch.device("cpu"))[:3] in ("", "sm_")  # interpreted, or emulated


@pytest.mark.parametrize(
    "C_out, columns", [(64, 64), (70, 128), (128, 128), (150, 64), (192, 64), (200, 128), (256, 128)]
)
def test_wide_blocks_have_no_empty_half(C_out, columns):
    assert conv2d_launch.choose_blocks(128 * 784, C_out, 1152, "sm_90", digits=2).CHANNELS == columns


def test_a_larger_card_takes_more_programs():
    layer = 600, 64, 1152
    small, large = (conv2d_launch.choose_blocks(*layer, multiprocessors=n) for n in (68, 132))
    assert small[:2] == (8, 64) and large[:2] == (8, 32)


@pytest.mark.parametrize("name", ["gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1151", "gfx1201"])
@pytest.mark.parametrize("C_out", [10, 32, 128])
def test_no_amd_takes_three_stages(name, C_out):
    """Triton 3.9.0 miscompiles them, test_triton_compile.py shows."""
    blocks = conv2d_launch.choose_blocks(128 * 784, C_out, 1152, name)
    assert blocks.NUM_STAGES == 2 and "maxnreg" not in block_sizes.launch_options(blocks)


@pytest.mark.parametrize("T, few, others", [(1, 1, 16), (2, 2, 16), (3, 4, 16), (4, 4, 16), (5, 8, 16), (8, 8, 16)])
def test_steps_at_a_time(T, few, others):
    assert [block_sizes.steps_at_a_time(T, name) for name in ("sm_80", "sm_90", "")] == [few] * 3
    assert [block_sizes.steps_at_a_time(T, name) for name in ("sm_100", "gfx942", "sm_130")] == [others] * 3
    assert [block_sizes.steps_at_a_time(T, "sm_90") for T in (9, 16, 17, 500)] == [16, 16, 32, 32]


@pytest.mark.parametrize("steps", [1, 4, 32])
@pytest.mark.parametrize("digits", [0, 1, 2, 3])
@pytest.mark.parametrize("multiprocessors", [8, 16])
def test_a_jetson_is_a_small_sm_80(monkeypatch, steps, digits, multiprocessors):
    """It has the instructions and the shared memory of sm_80, and a tenth of the multiprocessors."""
    options = digits, multiprocessors, steps
    jetson, a100 = (block_sizes.choose_blocks(3000, 128, 1152, name, *options) for name in ("sm_87", "sm_80"))
    assert jetson == a100
    assert block_sizes.steps_at_a_time(steps, "sm_87") == steps and block_sizes.takes_digits("sm_87")
    monkeypatch.setattr(triton, "__version__", "3.9.0")
    assert block_sizes.instructions("sm_87") == block_sizes.instructions("sm_80")
    assert block_sizes.is_of_one_step("sm_87", "3.9.0")


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("digits", [2, 3])
def test_blocks_of_few_steps(steps, digits):
    """As many rows as there are at 32 steps, as far as registers do; never fewer than tensor cores take."""
    large = [block_sizes.choose_blocks(100352, 64, 1152, "sm_90", digits, 132, n) for n in (32, steps)]
    assert large[1].PIXELS == (64 if steps == 1 else min(large[0].PIXELS * 32 // steps, 32))
    assert large[1] == large[0]._replace(PIXELS=large[1].PIXELS, BLOCK_K=32)
    for neurons in (1, 100, 3000, 100352):
        blocks = block_sizes.choose_blocks(neurons, 128, 1152, "sm_90", digits, 132, steps)
        assert 64 <= blocks.PIXELS * steps <= 256 and blocks.PIXELS % 4 == 0
    other = block_sizes.choose_blocks(100352, 64, 1152, "gfx942", steps=16)
    assert other == block_sizes.choose_blocks(100352, 64, 1152, "gfx942")


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("digits, columns", [(1, [128, 128]), (2, [128, 64]), (3, [64, 64])])
def test_sums_of_two_digits_leave_room_for_a_second_program(steps, digits, columns):
    """On cards with 100 KiB of shared memory, through which sums of 4 to 16 steps change places."""
    chosen = [block_sizes.choose_blocks(100352, 128, 1152, name, digits, steps=steps) for name in ("sm_80", "sm_89")]
    expected = {1: [64, 64], 2: columns[:1] * 2, 32: columns[:1] * 2}.get(steps, columns)
    assert [blocks.CHANNELS for blocks in chosen] == expected


@pytest.mark.costly
@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("C, C_out, groups, stride", [(20, 17, 1, 1), (64, 40, 1, 2), (8, 8, 8, 1), (3, 66, 1, 1)])
def test_equal_to_the_definition(generator, T, dtype, v_reset, C, C_out, groups, stride):
    x = spikes(T, 2, C, 7, 5, generator=generator)
    weight = fine(C_out, C // groups, 3, 3, generator=generator) if dtype == torch.float32 else None
    weight = dyadic(C_out, C // groups, 3, 3, generator=generator) if weight is None else weight
    bias, theta = dyadic(C_out, generator=generator), thresholds(C_out, generator)
    options = {"stride": stride, "padding": 1, "groups": groups, "v_threshold": theta, "v_reset": v_reset}
    expected, v_expected = reference.if_conv2d(x, weight, bias, **options)
    P = v_expected[0, 0].numel()
    v = torch.zeros(2, P, C_out, device=DEVICE)
    layer = (7, 5), weight.to(DEVICE, dtype), bias.to(DEVICE), v, if_neuron(theta.to(DEVICE), v_reset)
    window = (stride, stride), (1, 1), (1, 1), groups
    words, v_last = conv2d_launch.if_conv2d(words_over_time(x.flatten(3)).to(DEVICE), T, *layer, *window)
    assert 0.01 < expected.mean() < 0.99
    assert equal(words.cpu(), words_over_time(expected.flatten(3)))
    assert equal(v_last.cpu(), v_expected.flatten(2).transpose(1, 2))


@pytest.mark.costly
@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("T", [3, 4, 7, 8, 13, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels, warps", [(64, 4), (16, 4), (64, 8)])
def test_rows_of_layers_that_fill_the_card(generator, monkeypatch, T, dtype, channels, warps):
    """128 rows, of which the second half are later steps; of 8 warps twice as many. Pixels beyond the last one."""
    pixels = 128 * (warps // 4) // block_sizes.steps_at_a_time(T, "sm_90")
    blocks = block_sizes.Blocks(pixels, channels, 32, 3, warps, 128 if warps == 8 else 255)
    monkeypatch.setattr(conv2d_launch, "choose_blocks", lambda *_: blocks)
    x = spikes(T, 2, 35, 6, 5, generator=generator)  # two blocks of channels, for each of three taps
    fill = fine if dtype == torch.float32 else dyadic
    weight, theta = fill(channels + 1, 35, 1, 3, generator=generator), thresholds(channels + 1, generator)
    expected, v_expected = reference.if_conv2d(x, weight, padding=(0, 1), v_threshold=theta, v_reset=None)
    v, window = torch.zeros(2, 30, channels + 1, device=DEVICE), ((1, 1), (0, 1), (1, 1), 1)
    layer = (6, 5), weight.to(DEVICE, dtype), None, v, if_neuron(theta.to(DEVICE), None)
    words, v_last = conv2d_launch.if_conv2d(words_over_time(x.flatten(3)).to(DEVICE), T, *layer, *window)
    assert 0.01 < expected.mean() < 0.99
    assert equal(words.cpu(), words_over_time(expected.flatten(3)))
    assert equal(v_last.cpu(), v_expected.flatten(2).transpose(1, 2))


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("T", [1, 4, 7])
def test_pooling_and_counts(generator, T):
    x, weight = spikes(T, 2, 16, 8, 6, generator=generator), fine(24, 16, 3, 3, generator=generator)
    theta, window = thresholds(24, generator), ((1, 1), (1, 1), (1, 1), 1)
    expected, _ = reference.if_conv2d(x, weight, padding=1, v_threshold=theta)
    layer = (8, 6), weight.to(DEVICE), None, torch.zeros(2, 48, 24, device=DEVICE), if_neuron(theta.to(DEVICE), 0.0)
    given = words_over_time(x.flatten(3)).to(DEVICE), T
    words, pooled, _ = gpu.if_conv2d_pooled(*given, *layer, *window)
    assert 0.01 < expected.mean() < 0.99
    assert equal(words.cpu(), words_over_time(expected.flatten(3)))
    of_windows = reference.max_pool2d(expected, (2, 2), (2, 2), (0, 0))
    assert equal(pooled.cpu(), words_over_time(of_windows.flatten(3)))
    counts, _ = conv2d_launch.if_conv2d(*given, *layer, *window, counts_only=True)
    assert equal(counts.cpu(), expected.sum(0).int().flatten(2).transpose(1, 2))


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("T", [1, 4, 33])
def test_currents_are_those_of_the_neurons(generator, T):
    """To the bit, of any weights: a scan of them fires as the convolution did."""
    x = spikes(T, 2, 20, 3, 5, generator=generator)
    weight, bias = torch.randn(24, 20, 3, 3, generator=generator) / 4, torch.randn(24, generator=generator) / 4
    theta, window = torch.rand(24, generator=generator) + 0.5, ((1, 1), (1, 1), (1, 1), 1)
    neuron, v = if_neuron(theta.to(DEVICE), None), torch.randn(2, 15, 24, generator=generator).to(DEVICE)
    operands = words_over_time(x.flatten(3)).to(DEVICE), T, (3, 5), weight.to(DEVICE), bias.to(DEVICE), v, neuron
    words, v_last = gpu.if_conv2d(*operands, *window)
    currents = gpu.conv2d_currents(*operands, *window)
    again, v_again = gpu.if_scan(currents, v, neuron)
    assert words.any() and equal(again, words) and equal(v_again, v_last)
    dense = torch.nn.functional.conv2d(x.flatten(0, 1), weight, bias, padding=1)
    torch.testing.assert_close(currents.cpu().flatten(0, 1), dense.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
