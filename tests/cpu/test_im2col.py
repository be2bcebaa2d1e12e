"""Windows of few channels that are gathered into pixels, on each instruction set, against the definition."""

import pytest
import torch
from cases import RESETS, dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference
from proxykernels.kernels.cpu import abi, im2col
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.recording import recording
from proxykernels.kernels.unfused import output_size

TARGETS = [target for target in ("avx512", "avx2", "portable") if cpu.load(target)]
pytestmark = pytest.mark.skipif(not TARGETS, reason="the C++ kernels are not built here")

# C_in, (H, W), C_out, kernel, stride, padding, dilation
WINDOWS = {
    "one channel": (1, (9, 9), 5, (3, 3), (1, 1), (1, 1), (1, 1)),
    "two taps": (1, (4, 3), 1, (1, 2), (1, 1), (0, 0), (1, 1)),
    "a column": (3, (9, 2), 4, (7, 1), (2, 1), (3, 0), (1, 1)),
    "events of a camera": (2, (15, 13), 17, (7, 7), (2, 2), (3, 3), (1, 1)),
    "three channels": (3, (12, 16), 8, (11, 11), (4, 4), (2, 2), (1, 1)),
    "a row of 57 bits": (3, (3, 25), 6, (2, 19), (1, 1), (0, 1), (1, 1)),
    "one bit in the second word": (1, (6, 14), 5, (5, 13), (1, 1), (0, 0), (1, 1)),
    "four channels, rows apart": (4, (11, 6), 33, (3, 5), (1, 3), (2, 2), (3, 1)),
    "one dimension": (2, (1, 40), 9, (1, 9), (1, 2), (0, 4), (1, 1)),
    "rows that are left out": (2, (11, 9), 7, (2, 2), (5, 4), (0, 0), (1, 1)),
    "rows far apart": (1, (6, 5), 3, (2, 2), (1, 1), (40, 1), (45, 1)),
    "padding alone": (1, (2, 2), 3, (3, 3), (1, 1), (3, 3), (1, 1)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T, N, rate", [(1, 1, 0.5), (17, 3, 0.3), (70, 2, 0.05)], ids=["T1", "T17", "T70"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_gathered_windows_fire_the_same(monkeypatch, generator, window, T, N, rate, v_reset, target):
    C_in, size, C_out, kernel, stride, padding, dilation = window
    kernels = cpu.load(target, "im2col")
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(T, N, C_in, *size, generator=generator, rate=rate)
    weight, bias = dyadic(C_out, C_in, *kernel, generator=generator), dyadic(C_out, generator=generator)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "v_reset": v_reset}
    with recording() as choices:
        actual, v = pk.if_conv2d(pk.pack(x), weight, bias, **options)
    expected, v_expected = reference.if_conv2d(x, weight, bias, **options)
    assert choices[0].kernel == "im2col"
    assert expected.any() or v_expected.any()
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("target", TARGETS)
def test_a_window_holds_its_own_bits_alone(generator, target):
    kernels = cpu.load(target, None)
    for window in WINDOWS.values():
        C_in, size, C_out, kernel, stride, padding, dilation = window
        x = spikes(5, 2, C_in, *size, generator=generator, rate=0.5)
        weight = dyadic(C_out, C_in, *kernel, generator=generator)
        words = kernels.pack(x.flatten(3).bool())
        window = stride, padding, dilation
        out = output_size(size, kernel, *window)
        neurons = abi.Neurons(T=5, N=2, P=out[0] * out[1], C=C_out)
        windows = im2col.gather(kernels._table, words, neurons, size, weight.shape, window)
        columns = torch.nn.functional.unfold(x.flatten(0, 1).float(), kernel, dilation, padding, stride)
        columns = columns.view(5, 2, C_in, -1, out[0] * out[1]).transpose(2, 3).flatten(2, 3)
        assert columns.any() and equal(windows, kernels.pack(columns.bool()))
        assert equal(im2col.gathered(weight).flatten(1), weight.flatten(2).transpose(1, 2).flatten(1))


@pytest.mark.parametrize(
    "weight, dilation, pixels, possible",
    [
        ((8, 3, 7, 7), (1, 1), 512, True),
        ((8, 5, 7, 7), (1, 1), 512, False),  # half the byte is full
        ((8, 3, 7, 19), (1, 1), 512, True),
        ((8, 3, 7, 20), (1, 1), 512, False),  # a row of a window is longer than a word
        ((8, 3, 7, 7), (2, 1), 512, True),
        ((8, 3, 7, 7), (1, 2), 512, False),
        ((8, 3, 1, 1), (1, 1), 512, False),  # a window is a pixel
        ((8, 3, 7, 7), (1, 1), 1 << 22, False),  # the windows would take 80 MB
    ],
)
def test_which_layers_can_be_gathered(weight, dilation, pixels, possible):
    assert im2col.is_possible(weight, dilation, pixels) == possible


@pytest.mark.parametrize("kernel, gathers", [(7, True), (3, False)])
def test_large_windows_of_few_channels_are_gathered(monkeypatch, generator, kernel, gathers):
    """ResNet's first layer on the events of a camera: half the time of any kernel that visits its pixels."""
    kernels = cpu.load(TARGETS[0])
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(8, 2, 2, 64, 64, generator=generator, rate=0.05)
    weight = dyadic(64, 2, kernel, kernel, generator=generator)
    with recording() as choices:
        actual, v = pk.if_conv2d(pk.pack(x), weight, stride=2, padding=3)
    expected, v_expected = reference.if_conv2d(x, weight, stride=2, padding=3)
    assert (choices[0].kernel == "im2col") == gathers
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


def test_currents_of_gathered_windows(generator):
    kernels, dense = cpu.load(TARGETS[0], "im2col"), cpu.load(TARGETS[0], "dense")
    x = kernels.pack(spikes(9, 2, 3, 10, 10, generator=generator, rate=0.3).flatten(3).bool())
    weight, bias = dyadic(20, 3, 5, 5, generator=generator), dyadic(20, generator=generator)
    neuron = if_neuron(torch.ones(20), 0.0)
    window = (2, 2), (2, 2), (1, 1), 1
    found, expected = (
        each.conv2d_currents(x, 9, (10, 10), weight, bias, torch.zeros(2, 25, 20), neuron, *window)
        for each in (kernels, dense)
    )
    assert expected.any() and equal(found, expected)
