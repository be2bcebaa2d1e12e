"""Convolutions of many pixels and steps, and of few by matrix tiles: the oracle's spikes."""

import layerwise
import pytest
import torch
from cost_model import model
from equality import equal
from oracle import make_dyadic, trace
from test_engine import TARGETS
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine


def periodic(T: int, *shape: int) -> Tensor:
    """Few patterns, which many inputs share."""
    period = torch.randint(1, 9, shape)
    return (torch.arange(1, T + 1).view(-1, *[1] * len(shape)) % period == 0).float()


def nearly_steady(T: int, *shape: int) -> Tensor:
    """Some inputs fire at most steps, the others seldom."""
    return (torch.rand(T, *shape) < torch.where(torch.rand(shape) < 0.3, 0.9, 0.05)).float()


def anything(T: int, *shape: int) -> Tensor:
    return (torch.rand(T, *shape) < 0.2).float()


INPUTS = {"periodic": periodic, "nearly steady": nearly_steady, "anything": anything}
# C_in, C_out, kernel, stride, padding, dilation: a slice is the window, a row of it, a pixel, or a part of a pixel.
WINDOWS = [(40, 33, 3, 1, 1, 1), (100, 16, 3, 2, 1, 1), (150, 40, (1, 3), 1, (0, 1), 1), (400, 17, 2, 1, 0, 2)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("T", [8, 33, 64, 70])
def test_the_oracle(given, window, T, target):
    torch.manual_seed(T)
    C_in, C_out, kernel, stride, padding, dilation = window
    conv = pk.FusedIFConv2d(C_in, C_out, kernel, stride, padding, dilation, v_threshold=2.0, v_reset=None)
    net = pk.Network()
    net.append("conv", conv, ("",))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 64)
    x = INPUTS[given](T, 2, C_in, 7, 9)
    x[..., 4:, :] = 0  # a background
    values, _ = trace(net, x)
    result = Engine(follow(net, x.shape[2:], False), target=target)(pk.pack(x), T)
    assert values["pool"].any() and not values["conv"].all()
    assert equal(result.spikes.dense(), values["pool"])
    assert result.rates["conv"] == pytest.approx(values["conv"].mean().item())


def test_operations_are_counted():
    net = nn.Sequential(pk.FusedIFConv2d(40, 33, 3, 2, 1), pk.FusedIFConv2d(33, 20, 3, dilation=2)).eval()
    x = anything(40, 3, 40, 21, 17)
    result, expected = pk.compile(net, pk.pack(x))(pk.pack(x), 40), layerwise.simulate(net, pk.pack(x), 40)
    assert result.synops == expected.synops and result.count().any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("T", [8, 64, 70])
def test_neurons_that_fire_in_periods(T, decay, target):
    """Their input is constant, and they start from the potential that they are reset to."""
    torch.manual_seed(T)
    neuron = (
        pk.neurons.IFNeuron(v_threshold=1.0, v_reset=0.25)
        if decay is None
        else pk.neurons.LIFNeuron(v_threshold=1.0, v_reset=0.25, decay=decay)
    )
    net = pk.Network()
    net.append("first", pk.FusedConv2d(2, 40, 3, padding=1, neuron=neuron), ("",))
    net.append("conv", pk.FusedIFConv2d(40, 33, 3, padding=1, v_threshold=2.0, v_reset=None), ("first",))
    make_dyadic(net.eval(), 1 / 16)
    x = (torch.rand(2, 2, 7, 9) * 8).round() / 8
    values, _ = trace(net, x.expand(T, *x.shape))
    result = Engine(follow(net, x.shape[1:], True), target=target)(x, T)
    assert len(values["first"].sum(0).unique()) > 4 and values["conv"].any() and not values["conv"].all()
    assert equal(result.spikes.dense(), values["conv"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int16", "int8"])
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("C_out", [33, 70])
def test_rounded_weights(C_out, given, precision, target):
    """Rows of integers hold 32 or 64 channels; a weight far beyond the others leaves them room for few units."""
    torch.manual_seed(C_out)
    conv = pk.FusedIFConv2d(40, C_out, 3, padding=1, v_threshold=0.5)
    conv.weight.data[5, :3] *= 100
    net = nn.Sequential(conv, pk.FusedIFConv2d(C_out, 20, 3, v_threshold=0.1, v_reset=None)).eval()
    x = pk.pack(INPUTS[given](40, 2, 40, 7, 9))
    expected = layerwise.simulate(net, x, 40, precision=precision)
    result = Engine(follow(net, x.shape[2:], False, precision), target=target)(x, 40)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.count().any()
    assert result.synops == expected.synops


@pytest.mark.parametrize("T", [1, 20])
def test_input_of_rounded_weights(T):
    """Values of many bits are rounded for each sample, as simulate does, whether constant or not."""
    torch.manual_seed(T)
    net = nn.Sequential(pk.FusedIFConv2d(3, 20, 3), pk.FusedIFConv2d(20, 40, 3, v_threshold=0.1)).eval()
    x = torch.rand(2, 3, 8, 8) * torch.tensor([1e-3, 1e6]).view(2, 1, 1, 1)
    x[1, 0, 0, 0] = 3e-7
    engine = pk.compile(net, x, precision="int8")
    for given in (x, torch.stack([x, 3 * x] * (T // 2 + 1))[:T]):
        expected = layerwise.simulate(net, given, T, precision="int8")
        assert equal(engine(given, T).spikes.dense(), expected.spikes.dense()) and expected.count().any()


def test_an_input_of_float64_is_rounded_once():
    """Just above a half of the last of 24 bits: float32, which has no room for the rest, would make it the half."""
    unit = 2.0**-23
    layer = pk.FusedIFLinear(2, 1, bias=False, v_threshold=(2**21 + 1) * unit).eval()
    layer.weight.data = torch.tensor([[0.0, 1.0]])
    x = torch.tensor([[1.0, (2**21 + 0.5) * unit + 2.0**-45]], dtype=torch.float64)
    engine = pk.compile(layer, x.float(), precision="int8")
    for given in (x, x[None]):
        expected = layerwise.simulate(layer, given, 1, precision="int8").count()
        assert expected.item() == 1 and equal(engine(given, 1).count(), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_sums_of_bytes_with_weights_taken_off(target):
    """All negative weights are taken off at the step at which all positive ones fire: twice what 16 bits hold."""
    conv = pk.FusedIFConv2d(128, 70, 3, bias=False, v_threshold=50.0, v_reset=None).eval()
    conv.weight.data[:] = 55 * 2.0**-9
    conv.weight.data[:, :64] *= -1
    x = torch.ones(32, 2, 128, 4, 4)
    x[:, :, 64:], x[0, :, :64], x[0, :, 64:] = 0.0, 0.0, 1.0
    counts = Engine(follow(nn.Sequential(conv), x.shape[2:], False, "int8"), target=target)(pk.pack(x), 32).count()
    assert counts.unique().tolist() == [1.0]


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_drown_the_others_are_not_taken_off(target):
    """They make their neurons fire at all steps but one. There they are silent, and the others' weights alone count."""
    torch.manual_seed(0)
    conv = pk.FusedIFConv2d(40, 16, 3, bias=False).eval()
    conv.weight.data = (8 * torch.randn(16, 40, 3, 3)).round() / 16
    conv.weight.data[:, :20] = 2.0**30
    x = (torch.rand(32, 1, 40, 6, 6) < 0.3).float()
    x[:, :, :20], x[9, :, :20] = 1.0, 0.0
    alone = torch.nn.functional.conv2d(x[9], conv.weight.data) >= 1
    engine = Engine(follow(nn.Sequential(conv), x.shape[2:], False), target=target)
    spikes = engine(pk.pack(x), 32).spikes.dense()
    assert 0.1 < alone.float().mean() < 0.9 and equal(spikes[9], alone.float()) and spikes[:9].all()


# C_in, C_out, kernel, stride, padding, dilation
LAYERS = {
    "whole tiles": (64, 64, 3, 1, 1, 1),
    "two tiles of inputs": (128, 33, 3, 1, 1, 1),
    "a row of taps": (40, 33, 3, 1, 1, 1),
    "few inputs": (8, 9, 7, 1, 3, 1),
    "a stride": (64, 40, 3, 2, 1, 1),
    "a stride that leaves pixels out": (192, 20, 2, 3, 0, 1),
    "a stride of a row of taps": (24, 16, 3, 2, 1, 1),
    "dilation": (65, 17, 3, 1, 2, 2),
    "dilation and a stride": (70, 48, 3, 3, 2, 2),
    "one pixel": (100, 150, 1, 1, 0, 1),
    "a wide border": (64, 16, 3, 1, 5, 1),
    "a flat window": (64, 80, (1, 5), 1, (0, 2), 1),
}
FINE = 2.0**-12  # a grain of weights that need two digits


needs_tiles = pytest.mark.usefixtures("pixel_tiles")


@pytest.fixture
def pixel_tiles():
    """They are the fastest, whatever came, where the cost model lets them be chosen."""
    if not cpu.load("amx"):
        pytest.skip("a processor without matrix tiles")
    costs = model().machines[True].pixel_tiles
    before = {name: getattr(costs, name) for name, _ in costs._fields_}
    for name in before:
        setattr(costs, name, 0.0)
    yield before
    for name, cost in before.items():
        setattr(costs, name, cost)


def network(layer: str, grain: float, neuron: pk.neurons.AnyNeuron | None = None) -> pk.Network:
    C_in, C_out, kernel, stride, padding, dilation = LAYERS[layer]
    net = pk.Network()
    neuron = neuron or pk.neurons.IFNeuron(v_threshold=0.5, v_reset=None)
    net.append("conv", pk.FusedConv2d(C_in, C_out, kernel, stride, padding, dilation, neuron=neuron), ("",))
    net.eval()
    with torch.no_grad():
        net._modules["conv"].weight.mul_(4)
    make_dyadic(net, grain)
    return net


def check(net: pk.Network, x: Tensor, way: str = "pixel tiles") -> None:
    values, states = trace(net, x)
    if values["conv"][:, :, 0].numel() < 64:  # less than four tiles
        way = "patterns"
    engine = Engine(follow(net, tuple(x.shape[2:]), False), target="amx")
    for _ in range(2):  # memory of the run before
        result = engine(pk.pack(x), len(x))
        assert list(engine.ways.values())[-1:] == [way]
        assert equal(result.spikes.dense(), values["conv"]) and values["conv"].any()
    assert result.rates["conv"] == pytest.approx(values["conv"].mean().item())
    stream, parts = engine.stream(x.shape[1]), []
    for part in x.split([1, len(x) - 1] if len(x) > 1 else [1]):
        parts.append(stream(pk.pack(part)).dense())
    assert equal(torch.cat(parts), values["conv"])
    for name, v in stream.state.items():
        assert equal(v, states[name][-1])


def spikes(T: int, N: int, layer: str, size: tuple[int, int]) -> Tensor:
    """Many on the left; on the right they leave most tiles silent."""
    torch.manual_seed(T)
    x = torch.rand(T, N, LAYERS[layer][0], *size) < 0.3
    x[..., size[1] // 2 :] &= torch.rand(T, N, 1, size[0], size[1] - size[1] // 2) < 0.05
    return x.float()


@needs_tiles
@pytest.mark.parametrize("grain", [1 / 32, FINE])
@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("N, size", [(8, (9, 7)), (1, (30, 5)), (2, (14, 28)), (1, (5, 70))])
@pytest.mark.parametrize("layer", LAYERS)
def test_tiles_give_the_oracles_spikes(layer, N, size, T, grain):
    check(network(layer, grain), spikes(T, N, layer, size))


@needs_tiles
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("layer", LAYERS)
def test_tasks_of_several_threads(layer, N, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(network(layer, 1 / 32), spikes(4, N, layer, (11, 13)))
    finally:
        torch.set_num_threads(before)


@needs_tiles
@pytest.mark.parametrize("T", [2, 8])
def test_inputs_and_weights_beyond_the_cache(T, monkeypatch):
    """In bands of rows, and in spans of output channels."""
    monkeypatch.setitem(LAYERS, "large", (256, 520, 3, 1, 1, 1))
    check(network("large", 1 / 32), spikes(T, 1, "large", (40, 24)))


@needs_tiles
@pytest.mark.parametrize("T", [1, 3, 4, 8])
@pytest.mark.parametrize("C", [40, 64, 72])
@pytest.mark.parametrize("model", ["IFNeuron", "CubaLIFNeuron", "ALIFNeuron", "RefractoryLIFNeuron"])
def test_beside_spikes_that_add(model, C, T):
    """A shortcut, and neurons of several states; the segments of a stream go on from theirs."""
    more = {
        "IFNeuron": {}, "CubaLIFNeuron": {"decay": 0.5, "current_decay": 0.5},
        "ALIFNeuron": {"decay": 0.5, "adaptation": 0.25, "adaptation_decay": 0.5},
        "RefractoryLIFNeuron": {"decay": 0.5, "refractory": 2},
    }  # fmt: skip
    neuron = getattr(pk.neurons, model)(v_threshold=0.5, v_reset=0.0, **more[model])
    net = pk.Network()
    net.append("first", pk.IF(v_threshold=0.5, v_reset=None), ("",))
    conv = nn.Conv2d(C, C, 3, padding=1)
    net.append("conv", pk.FusedSum(conv, nn.Identity(), neuron=neuron), ("first", "first"))
    make_dyadic(net.eval(), 1 / 32)
    torch.manual_seed(T)
    check(net, (torch.rand(T, 2, C, 9, 10) < 0.3).float())


@needs_tiles
@pytest.mark.parametrize("T", [1, 4, 7, 8])
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_rounded_weights_in_tiles(layer, precision, T):
    C_in, C_out, *conv = LAYERS[layer]
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFConv2d(C_in, C_out, *conv, v_threshold=0.3, v_reset=None)).eval()
    x = pk.pack(spikes(T, 2, layer, (20, 14)))
    expected = layerwise.simulate(net, x, T, precision=precision)
    engine = Engine(follow(net, tuple(x.shape[2:]), False, precision), target="amx")
    result = engine(x, T)
    assert engine.ways == {0: "pixel tiles"}
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.count().any()
    assert result.synops == expected.synops


@needs_tiles
@pytest.mark.parametrize("T", [1, 4, 7])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("grain, large", [(2.0**-20, 0), (2.0**-24, 2**23 + 3)], ids=["three", "four"])
def test_weights_of_more_digits(grain, large, layer, T):
    """``large``: a weight that needs the fourth, in units of the grain; the others are small."""
    net = network(layer, grain)
    weight = net._modules["conv"].weight
    if large:
        with torch.no_grad():
            weight.copy_((weight * 256).round() * grain)
            weight[:, 0, 0, 0], net._modules["conv"].bias[:] = large * grain, 0
    check(net, spikes(T, 2, layer, (9, 14)))


@needs_tiles
def test_more_steps_are_left_to_others():
    torch.manual_seed(0)
    x = spikes(9, 1, "whole tiles", (9, 14))
    check(network("whole tiles", 1 / 32), x[:8])
    engine = Engine(follow(network("whole tiles", 1 / 32), x.shape[2:], False), target="amx")
    engine(pk.pack(x), 9)
    assert engine.ways != {0: "pixel tiles"}


@needs_tiles
@pytest.mark.parametrize("C", [16, 128])
def test_the_cost_model_leaves_silent_layers_to_others(C, pixel_tiles):
    for name, cost in pixel_tiles.items():
        setattr(model().machines[True].pixel_tiles, name, cost)
    torch.manual_seed(0)
    conv = pk.FusedIFConv2d(C, C, 3, padding=1, v_threshold=0.05)
    engine = Engine(follow(nn.Sequential(conv).eval(), (C, 16, 16), False, "int8"), target="amx")
    for rate, way in ((0.2, "pixel tiles"), (0.0, "scattered")):
        engine(pk.pack(torch.rand(4, 1, C, 16, 16) < rate), 4)
        assert engine.ways == {0: way}
