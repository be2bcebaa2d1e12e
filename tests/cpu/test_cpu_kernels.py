"""What the C++ kernels do beyond the oracle: digits, rows of integers, periods, tables, gathered windows."""

import pytest
import torch
import torch.nn.functional as F
from cases import RESETS, dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference
from proxykernels.kernels.cpu import abi
from proxykernels.kernels.cpu.abi import start_for_library
from proxykernels.kernels.cpu.conv2d import gather, gathered
from proxykernels.kernels.cpu.layer_plans import sizes
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.recording import recording
from proxykernels.kernels.table import Runner
from proxykernels.kernels.unfused import output_size
from proxykernels.spikes.storage import Periods, Words

FLOAT_ROW, SHORT_ROW, BYTE_ROW = 16, 32, 64  # channels of a row of weights: src/conv2d/weight_rows.h

has_tiles = pytest.mark.skipif(not cpu.load("amx"), reason="this machine has no matrix tiles (AMX)")


def force(monkeypatch, target, kernel=None):
    kernels = cpu.load(target, kernel)
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    return kernels


@has_tiles
@pytest.mark.parametrize("bits, digits", [(6, 1), (8, 2), (14, 2), (16, 3), (22, 3), (23, 4)], ids=lambda n: f"{n}")
def test_weights_get_as_many_digits_as_they_need(monkeypatch, generator, bits, digits):
    """Weights of so many bits, whose sums a float32 still holds: the tiles must hold them exactly."""
    inputs = 1 << (24 - bits)  # so that any sum of them fits 24 bits
    number = torch.randint(-(2**bits) + 1, 2**bits, (5, min(inputs, 100)), generator=generator)
    number[:, 0] = 2**bits - 1  # needs all of them
    weight = number / 2**20
    kernels = force(monkeypatch, "amx")
    threshold = 2.0 ** (bits - 20)  # about the largest weight
    theta = torch.full((5,), threshold)
    assert kernels._table.count_digits(weight.data_ptr(), theta.data_ptr(), *weight.shape) == digits
    x = spikes(40, 2, weight.shape[1], generator=generator, rate=0.5)
    expected, v_expected = reference.if_linear(x, weight, v_threshold=threshold)
    actual, v = pk.if_linear(pk.pack(x), weight, v_threshold=threshold)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


@has_tiles
def test_tiles_are_not_asked_for_currents(generator):
    """They write none: a layer of several convolutions took memory as it was for its currents."""
    kernels = cpu.load("amx")
    x, weight = spikes(9, 2, 64, 6, 6, generator=generator), dyadic(32, 64, 3, 3, generator=generator)
    v, bias, neuron = torch.zeros(2, 36, 32), torch.zeros(32), if_neuron(torch.ones(32), 0.0)
    call = kernels.pack(x.flatten(3).bool()), 9, (6, 6), weight, bias, v, neuron, (1, 1), (1, 1), (1, 1), 1
    with recording() as choices:
        currents = kernels.conv2d_currents(*call)
    assert choices and all(choice.kernel != "tiles" for choice in choices)
    expected = F.conv2d(x.flatten(0, 1), weight, padding=1).unflatten(0, (9, 2)).flatten(3).transpose(2, 3)
    assert expected.any() and equal(currents, expected)


@has_tiles
def test_sums_of_tiles_do_not_overflow(monkeypatch):
    """The lower two digits of these weights are -128 and 0, and every input fires: 2**16 of them fill 32 bits."""
    force(monkeypatch, "amx")
    for inputs in (65_280, 1 << 16):
        weight = torch.full((1, inputs), 32_640.0)
        weight[0, 0] = 1.0  # needs a finer unit than the others
        v = pk.if_linear(pk.pack(torch.ones(1, 1, inputs)), weight, v_threshold=1e30)[1]
        assert abs(v.item() / (32_640.0 * (inputs - 1) + 1) - 1) < 1e-5


@has_tiles
@pytest.mark.parametrize("v_reset", RESETS)
def test_tiles_on_the_edge(monkeypatch, v_reset):
    """A potential of exactly theta fires in tiles; one unit in the last place below does not."""
    force(monkeypatch, "amx")
    one = torch.tensor(1.0)
    start = torch.stack([torch.nextafter(one, one - 1), one, torch.nextafter(one, one + 1)]) - 0.5
    x, weight = pk.pack(torch.ones(1, 1, 1)), torch.full((3, 1), 0.5)
    actual, v = pk.if_linear(x, weight, None, start[None], v_reset=v_reset)
    assert actual.dense().flatten().tolist() == [0, 1, 1]
    assert equal(v, reference.if_linear(torch.ones(1, 1, 1), weight, None, start[None], v_reset=v_reset)[1])


@pytest.mark.parametrize("target", ["avx512", "avx2", "portable"])
@pytest.mark.parametrize("sign", [1, -1])
def test_short_rows_do_not_overflow(monkeypatch, target, sign):
    """The largest weights of 14 bits, and every input fires: groups fill 16 bits, sums 24."""
    if not force(monkeypatch, target, "plan"):
        pytest.skip(f"this machine has no {target}")
    inputs, unit = 2048, 2.0**-13
    x, weight = torch.ones(3, 2, inputs), torch.full((40, inputs), sign * 8191 * unit)
    x[1] = 0.0
    spikes, v = pk.if_linear(pk.pack(x), weight, v_threshold=1e6)
    assert not spikes.count().any() and equal(v, torch.full((2, 40), sign * 2 * inputs * 8191 * unit))


def fitting(weight) -> tuple[int, list[float]]:
    """Channels of the widest rows that weights fit, and their units."""
    unit = torch.zeros(len(weight))
    return cpu.load()._table.row_channels(weight.data_ptr(), *weight.shape, unit.data_ptr()), unit.tolist()


def test_short_rows_take_weights_of_14_bits():
    numbers = torch.tensor([[8191, -1, 0], [-8191, 8190, 1], [0, 0, 0], [4, -12, 0]])
    assert fitting(numbers / 1024) == (SHORT_ROW, [2**-10, 2**-10, 1, 2**-8])
    assert fitting(torch.full((1, 2048), 8191.0))[0] == SHORT_ROW
    assert fitting(torch.full((1, 2049), 8191.0))[0] == FLOAT_ROW  # sums leave 24 bits
    assert fitting(numbers / 1024 + 2**-11)[0] == FLOAT_ROW
    for weight in [8192.0, 1.0], [8193.0, 1.0], [float("inf"), 1.0], [float("nan"), 1.0], [1e-38, 0.0]:
        assert fitting(torch.tensor([weight]))[0] == FLOAT_ROW


@pytest.mark.parametrize("target", ["avx512", "avx2", "portable"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("inputs, largest", [(520, 63), (2047, 16), (4096, 7)])
def test_byte_rows_do_not_overflow(monkeypatch, target, sign, inputs, largest):
    """Every input fires, each pair of rows fills a byte, and sums come close to all that 16 bits hold."""
    if not force(monkeypatch, target, "plan"):
        pytest.skip(f"this machine has no {target}")
    x, weight = torch.ones(3, 2, inputs), torch.full((100, inputs), sign * largest * 2.0**-9)
    weight[:, 0] = sign * 2.0**-9  # no coarser unit
    weight[50:] *= -1
    x[1] = 0.0
    spikes, v = pk.if_linear(pk.pack(x), weight, v_threshold=1e6)
    assert not spikes.count().any() and equal(v, (2 * weight.sum(1)).expand(2, -1))


def test_byte_rows_take_weights_of_7_bits():
    numbers = torch.tensor([[63, -1, 0], [-63, 62, 1], [0, 0, 0], [4, -12, 0], [32, 0, 0]])
    assert fitting(numbers / 1024) == (BYTE_ROW, [2**-10, 2**-10, 1, 2**-8, 2**-5])
    assert fitting(numbers / 1024 + 2**-11)[0] == SHORT_ROW
    assert fitting(torch.tensor([[64.0, 1.0]]))[0] == SHORT_ROW
    assert fitting(torch.full((1, 521), 63.0))[0] == SHORT_ROW  # 32,823
    assert fitting(torch.full((1, 520), -63.0))[0] == BYTE_ROW
    assert fitting(torch.full((1, 1025), 32.0)) == (BYTE_ROW, [32])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
@pytest.mark.parametrize("x", [torch.ones(3, 2, 32), torch.full((3, 2, 32), 0.5), torch.ones(2, 32).expand(3, 2, 32)])
def test_weights_and_biases_that_are_not_finite(backend, x, value):
    """Not silent neurons: 1e39 is infinite in float32."""
    weight, bias = torch.ones(8, 32, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    pk.if_linear(x, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        tensor.view(-1)[5] = value
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{name} must be finite"):
                pk.if_linear(x, weight, bias)
            with pytest.raises(ValueError, match=f"{name} must be finite"):
                pk.if_conv2d(x[..., None, None], weight[..., None, None], bias)
        tensor.view(-1)[5] = 0.0
    assert pk.if_linear(x, weight, bias)[0].rate() == 1.0


@pytest.mark.alike
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T, cuts", [(1, []), (64, [7]), (300, [256]), (600, [1, 300, 599])], ids=str)
def test_periods(backend, generator, T, cuts, v_reset):
    """Neurons that repeat, convolved in parts of any length, from rest and not."""
    current = dyadic(2, 5, 7, 5, generator=generator)
    weight, bias = dyadic(37, 5, 3, 3, generator=generator), dyadic(37, generator=generator, span=4)
    options = {"padding": 1, "v_reset": v_reset}
    held, v_held = pk.if_hold(current, T)
    assert isinstance(held._kept, Periods if T > 1 else Words) and equal(v_held, reference.if_hold(current, T)[1])
    dense = reference.if_hold(current, T)[0]
    expected, v_expected = reference.if_conv2d(dense, weight, bias, **options)
    v, parts = None, []
    for start, stop in zip([0, *cuts], [*cuts, T], strict=True):
        part, v = pk.if_conv2d(held[start:stop], weight, bias, v, **options)
        parts.append(part.dense())
    assert equal(torch.cat(parts), expected) and equal(v, v_expected)
    assert T == 1 or held._kept._words is None  # nobody asked for bits
    assert held.rate() == dense.mean().double().item() or abs(held.rate() - dense.double().mean()) < 1e-12
    assert equal(held.dense(), dense) and equal(held[T // 2 :].count(), dense[T // 2 :].sum(0).int())


def test_only_neurons_that_repeat_have_periods():
    current = torch.full((1, 2), 0.3)
    assert isinstance(pk.if_hold(current, 9)[0]._kept, Periods)
    for options in ({"v": torch.zeros(1, 2)}, {"v_reset": None}, {"v_reset": -1.0}):  # a state: perhaps not at rest
        assert isinstance(pk.if_hold(current, 9, **options)[0]._kept, Words)


def test_the_choice_changes_no_spike(monkeypatch, generator):
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 24, 3, padding=1), pk.FusedIFConv2d(24, 33, 3), pk.Flatten(), pk.FusedIFLinear(33 * 36, 9)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    image = dyadic(3, 1, 8, 8, generator=generator).abs()
    results = []
    for kernel in ("dense", "im2col", None):
        force(monkeypatch, None, kernel)
        results.append(pk.simulate(net, image, 70).spikes.dense())
    assert all(torch.equal(result, results[0]) for result in results[1:])


needs_avx512 = pytest.mark.skipif(not cpu.load("avx512"), reason="this machine has no AVX-512")

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


@needs_avx512
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


@needs_avx512
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


@needs_avx512
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


TARGETS = [target for target in ("avx512", "avx2", "portable") if cpu.load(target)]
needs_library = pytest.mark.skipif(not TARGETS, reason="the C++ kernels are not built here")

# C_in, (H, W), C_out, kernel, stride, padding, dilation
GATHERED = {
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


@needs_library
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T, N, rate", [(1, 1, 0.5), (17, 3, 0.3), (70, 2, 0.05)], ids=["T1", "T17", "T70"])
@pytest.mark.parametrize("window", GATHERED.values(), ids=GATHERED)
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


@needs_library
@pytest.mark.parametrize("target", TARGETS)
def test_a_window_holds_its_own_bits_alone(generator, target):
    kernels = cpu.load(target, None)
    for window in GATHERED.values():
        C_in, size, C_out, kernel, stride, padding, dilation = window
        x = spikes(5, 2, C_in, *size, generator=generator, rate=0.5)
        weight = dyadic(C_out, C_in, *kernel, generator=generator)
        words = kernels.pack(x.flatten(3).bool())
        window = stride, padding, dilation
        out = output_size(size, kernel, *window)
        neurons = abi.Neurons(T=5, N=2, P=out[0] * out[1], C=C_out)
        conv = abi.Conv2d(neurons, words.data_ptr(), *sizes(size, weight.shape, window))
        windows = gather(kernels._table, words, conv)
        columns = torch.nn.functional.unfold(x.flatten(0, 1).float(), kernel, dilation, padding, stride)
        columns = columns.view(5, 2, C_in, -1, out[0] * out[1]).transpose(2, 3).flatten(2, 3)
        assert columns.any() and equal(windows, kernels.pack(columns.bool()))
        assert equal(gathered(weight).flatten(1), weight.flatten(2).transpose(1, 2).flatten(1))


@needs_library
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
    """By pixels in one row, of one image and step."""
    C_out, _, height, width = weight
    size = dilation[0] * (height - 1) + 1, pixels + dilation[1] * (width - 1)
    neurons, *_ = start_for_library(1, torch.zeros(1, 1, 1).expand(1, pixels, C_out), if_neuron(torch.ones(C_out), 0.0))
    conv = abi.Conv2d(neurons, None, *sizes(size, weight, ((1, 1), (0, 0), dilation)))
    chosen = cpu.load(TARGETS[0])._plans.choice(conv, Runner.GATHERED_PLAN, False)
    assert (chosen.runner == Runner.GATHERED_PLAN) == possible


@needs_library
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


@needs_library
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
