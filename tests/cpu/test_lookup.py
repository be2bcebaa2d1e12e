"""The lookup kernel on windows of every make: bits put together or not, several sets of tables, groups."""

import pytest
import torch
from cases import RESETS, dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference

pytestmark = pytest.mark.skipif(not cpu.load("avx512"), reason="this machine has no AVX-512")

# C_in, size, C_out, kernel_size, stride, padding, dilation, groups
WINDOWS = {
    "one channel": (1, 9, 5, 3, 1, 1, 1, 1),
    "more than a block of outputs": (20, 5, 150, 3, 1, 1, 1, 1),
    "one bit": (1, 4, 1, 1, 1, 0, 1, 1),
    "three channels": (3, 13, 17, 7, 2, 3, 1, 1),
    "11 x 11": (5, 12, 8, 11, 4, 2, 1, 1),
    "a word and a bit": (33, 6, 9, 3, 1, 1, 2, 1),
    "more taps than tables": (160, 6, 8, 5, 1, 2, 1, 1),
    "more words than tables": (2208, 2, 11, 1, 1, 0, 1, 1),
    "more words than tables, put together": (2100, 2, 11, 1, 1, 0, 1, 1),
    "groups of bytes": (16, 6, 16, 3, 1, 1, 1, 2),
    "groups across words": (60, 5, 40, 3, 1, 1, 1, 5),
    "groups of one": (4, 5, 32, 3, 2, 1, 1, 4),
    "wide groups": (64, 5, 48, 3, 1, 1, 1, 2),
}


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T, N, rate", [(1, 1, 0.5), (17, 3, 0.3), (70, 2, 0.02)], ids=["T1", "T17", "T70"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_windows(monkeypatch, generator, window, T, N, rate, v_reset):
    C_in, size, C_out, kernel, stride, padding, dilation, groups = window
    kernels = cpu.load("avx512")
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(T, N, C_in, size, size, generator=generator, rate=rate)
    weight, bias = (
        dyadic(C_out, C_in // groups, kernel, kernel, generator=generator),
        dyadic(C_out, generator=generator),
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "v_reset": v_reset}
    actual, v = pk.if_conv2d(pk.pack(x), weight, bias, **options)
    expected, v_expected = reference.if_conv2d(x, weight, bias, **options)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize(
    "C_in, kernel, groups",
    [(100, 3, 1), (120, 3, 1), (136, 3, 1), (152, 3, 1), (200, 3, 1), (104, 5, 1), (31 * 7, 3, 7), (25 * 3, 5, 3)],
)
def test_pieces_end_at_words_there_and_here(monkeypatch, generator, C_in, kernel, groups):
    """Such windows have nearly two pieces a word: their list once overran its memory, which malloc noticed later."""
    kernels = cpu.load("avx512")
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    weight = dyadic(8 * groups, C_in // groups, kernel, kernel, generator=generator)
    options = {"padding": kernel // 2, "groups": groups}
    for T in range(1, 20):
        x = spikes(T, 2, C_in, 5, 5, generator=generator, rate=0.5)
        actual, v = pk.if_conv2d(pk.pack(x), weight, **options)
        expected, v_expected = reference.if_conv2d(x, weight, **options)
        assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


def test_pieces_of_joined_groups_and_of_sums(monkeypatch, generator):
    """Groups of 30 channels are joined to 120; a sum of layers is one convolution."""
    kernels = cpu.load("avx512")
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(40, 2, 120, 5, 5, generator=generator, rate=0.5)
    weight = dyadic(40, 30, 3, 3, generator=generator)
    actual, v = pk.if_conv2d(pk.pack(x), weight, padding=1, groups=4)
    expected, v_expected = reference.if_conv2d(x, weight, padding=1, groups=4)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)
    conv, shortcut = (torch.nn.Conv2d(60, 24, k, padding=k // 2, bias=False) for k in (3, 1))
    for layer in (conv, shortcut):
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    wide = torch.cat([conv.weight.data, torch.nn.functional.pad(shortcut.weight.data, (1, 1, 1, 1))], 1)
    expected, _ = reference.if_conv2d(x, wide, padding=1)
    with torch.no_grad():
        actual = pk.FusedIFSum(conv, shortcut)(tuple(map(pk.pack, x.split(60, 2))))
    assert expected.any() and equal(actual.dense(), expected)
