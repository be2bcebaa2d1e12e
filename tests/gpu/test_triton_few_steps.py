"""Convolutions of few steps, whose programs have more pixels, against the definition."""

import pytest
import torch
from cases import dyadic, fine, spikes, thresholds, words_over_time
from equality import equal
from neuron_cases import NAMES, channelwise, state

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.kernels.gpu import block_sizes, if_conv2d
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.neuron_models import if_neuron

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("T, few, others", [(1, 1, 16), (2, 2, 16), (3, 4, 16), (4, 4, 16), (5, 8, 16), (8, 8, 16)])
def test_steps_at_a_time(T, few, others):
    assert [block_sizes.steps_at_a_time(T, name) for name in ("sm_80", "sm_90", "")] == [few] * 3
    assert [block_sizes.steps_at_a_time(T, name) for name in ("sm_100", "gfx942", "sm_130")] == [others] * 3
    assert [block_sizes.steps_at_a_time(T, "sm_90") for T in (9, 16, 17, 500)] == [16, 16, 32, 32]


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


@pytest.mark.triton
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
    words, v_last = if_conv2d.if_conv2d(words_over_time(x.flatten(3)).to(DEVICE), T, *layer, *window)
    assert 0.01 < expected.mean() < 0.99
    assert equal(words.cpu(), words_over_time(expected.flatten(3)))
    assert equal(v_last.cpu(), v_expected.flatten(2).transpose(1, 2))


@pytest.mark.costly
@pytest.mark.triton
@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("T", [3, 4, 7, 8, 13, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels, warps", [(64, 4), (16, 4), (64, 8)])
def test_rows_of_layers_that_fill_the_card(generator, monkeypatch, T, dtype, channels, warps):
    """128 rows, of which the second half are later steps; of 8 warps twice as many. Pixels beyond the last one."""
    pixels = 128 * (warps // 4) // block_sizes.steps_at_a_time(T, "sm_90")
    blocks = block_sizes.Blocks(pixels, channels, 32, 3, warps, 128 if warps == 8 else 255)
    monkeypatch.setattr(if_conv2d, "choose_blocks", lambda *_: blocks)
    x = spikes(T, 2, 35, 6, 5, generator=generator)  # two blocks of channels, for each of three taps
    fill = fine if dtype == torch.float32 else dyadic
    weight, theta = fill(channels + 1, 35, 1, 3, generator=generator), thresholds(channels + 1, generator)
    expected, v_expected = reference.if_conv2d(x, weight, padding=(0, 1), v_threshold=theta, v_reset=None)
    v, window = torch.zeros(2, 30, channels + 1, device=DEVICE), ((1, 1), (0, 1), (1, 1), 1)
    layer = (6, 5), weight.to(DEVICE, dtype), None, v, if_neuron(theta.to(DEVICE), None)
    words, v_last = if_conv2d.if_conv2d(words_over_time(x.flatten(3)).to(DEVICE), T, *layer, *window)
    assert 0.01 < expected.mean() < 0.99
    assert equal(words.cpu(), words_over_time(expected.flatten(3)))
    assert equal(v_last.cpu(), v_expected.flatten(2).transpose(1, 2))


@pytest.mark.costly
@pytest.mark.triton
@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("T", [3, 12])
@pytest.mark.parametrize("name", NAMES)
def test_neurons_of_every_model(generator, T, name):
    """Their states come from before; the second one is read behind the main loop."""
    neuron, x = channelwise(5, generator)[name], spikes(T, 2, 3, 3, 2, generator=generator)
    weight, v0 = fine(5, 3, 3, 3, generator=generator), state(neuron, (2, 5, 3, 2), generator)
    expected, v_expected = reference.conv2d(x, weight, None, v0, neuron.on(5, x.device), 1, 1)
    found, v = pk.calls.neuron_ops.conv2d(pk.pack(x), weight, None, v0, neuron, 1, 1)
    assert expected.any() and equal(found.dense(), expected) and equal(v, v_expected)


@pytest.mark.triton
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
    counts, _ = if_conv2d.if_conv2d(*given, *layer, *window, counts_only=True)
    assert equal(counts.cpu(), expected.sum(0).int().flatten(2).transpose(1, 2))


@pytest.mark.triton
@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("T", [1, 4, 16, 33])
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
