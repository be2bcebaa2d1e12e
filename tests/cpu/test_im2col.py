"""Windows of few channels that are gathered into pixels, on each instruction set, against the definition."""

import layerwise
import pytest
import torch
from cases import RESETS, dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference
from proxykernels.kernels.cpu import im2col
from proxykernels.kernels.cpu.cost_model import Layer
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.recording import recording

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


def layer_of(window, T: int, N: int) -> Layer:
    C_in, size, C_out, kernel, stride, padding, dilation = window
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    return Layer(T, (N, out[0] * out[1], C_out), size, (C_out, C_in, *kernel), stride, padding, dilation)


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
    assert [choice.kernel for choice in choices] == ["im2col"]
    assert expected.any() or v_expected.any()
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("target", TARGETS)
def test_a_window_holds_its_own_bits_alone(generator, target):
    kernels = cpu.load(target, None)
    for window in WINDOWS.values():
        C_in, size, C_out, kernel, stride, padding, dilation = window
        layer = layer_of(window, 5, 2)
        x = spikes(5, 2, C_in, *size, generator=generator, rate=0.5)
        weight = dyadic(C_out, C_in, *kernel, generator=generator)
        words = kernels.pack(x.flatten(3).bool())
        windows, _, out, gathered = im2col.gather(kernels._table, words, layer, kernels._packed.of(weight))
        columns = torch.nn.functional.unfold(x.flatten(0, 1).float(), kernel, dilation, padding, stride)
        columns = columns.view(5, 2, C_in, -1, out[0] * out[1]).transpose(2, 3).flatten(2, 3)
        assert columns.any() and equal(windows, kernels.pack(columns.bool()))
        assert equal(gathered.flatten(1), weight.flatten(2).transpose(1, 2).flatten(1))


@pytest.mark.parametrize(
    "change, possible",
    [
        ({}, True),
        ({"weight": (8, 5, 7, 7)}, False),  # half the byte is full
        ({"weight": (8, 3, 7, 19)}, True),
        ({"weight": (8, 3, 7, 20)}, False),  # a row of a window is longer than a word
        ({"dilation": (2, 1)}, True),
        ({"dilation": (1, 2)}, False),
        ({"weight": (8, 3, 1, 1)}, False),  # a window is a pixel
        ({"T": 1 << 16}, False),  # the windows would take 200 MB
    ],
)
def test_which_layers_can_be_gathered(change, possible):
    layer = Layer(4, (2, 64, 8), (20, 40), (8, 3, 7, 7), (1, 1), (0, 0), (1, 1))._replace(**change)
    assert im2col.is_possible(layer) == possible


def test_a_large_window_of_few_channels_is_gathered_by_itself(monkeypatch, generator):
    """ResNet's first layer on the events of a camera: half the time of any kernel that visits its pixels."""
    kernels = cpu.load(TARGETS[0], None)
    monkeypatch.setattr(kernels, "has_tiles", False)
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(8, 2, 2, 64, 64, generator=generator, rate=0.05)
    weight = dyadic(64, 2, 7, 7, generator=generator)
    with recording() as choices:
        actual, v = pk.if_conv2d(pk.pack(x), weight, stride=2, padding=3)
    expected, v_expected = reference.if_conv2d(x, weight, stride=2, padding=3)
    (choice,) = choices
    others = [cycles for kernel, cycles in choice.cycles.items() if kernel != "im2col"]
    assert choice.kernel == "im2col" and choice.cycles["im2col"] < min(others)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("precision, rows", [("int16", 32), ("int8", 64)])
def test_what_is_known_of_the_weights_stays_known(monkeypatch, generator, precision, rows):
    """Windows of rounded weights are added in rows as wide as those of the layer itself."""
    kernels, taken = cpu.load(TARGETS[0], None), []
    monkeypatch.setattr(kernels, "has_tiles", False)
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    monkeypatch.setattr(kernels, "_table", Watched(kernels._table, taken))
    layer = pk.FusedIFConv2d(2, 64, 7, stride=2, padding=3)
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
    x = pk.pack(spikes(8, 2, 2, 64, 64, generator=generator, rate=0.05))
    found = layerwise.simulate(torch.nn.Sequential(layer), x, 8, chunk=8, precision=precision)
    assert taken == [rows] and found.spikes.dense().any()
    monkeypatch.setattr(backends, "cpu_backend", lambda: cpu.load(TARGETS[0], "events"))
    assert equal(
        layerwise.simulate(torch.nn.Sequential(layer), x, 8, chunk=8, precision=precision).spikes.dense(),
        found.spikes.dense(),
    )


class Watched:
    """The functions of a table; channels of the rows that the event kernel adds are noted."""

    def __init__(self, table, taken: list[int]):
        self._table, self._taken = table, taken

    def __getattr__(self, name: str):
        return getattr(self._table, name)

    def event_conv2d(self, conv) -> None:
        self._taken.append(conv.row_channels)
        self._table.event_conv2d(conv)


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
