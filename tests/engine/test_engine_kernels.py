"""Layers that an engine runs by the kernels of the layers: the oracle's spikes, their figures, in each way."""

import layerwise
import pytest
import torch
from equality import equal
from oracle import make_dyadic, trace
from test_engine_file import CHECKED
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.kernels.cpu import abi
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
of_whole_segments = pytest.mark.skipif(CHECKED, reason="the checked build cuts runs into small segments")
# C_in, C_out, groups, kernel, stride, padding, dilation
LAYERS = {
    "depthwise": (40, 40, 40, 3, 1, 1, 1),
    "depthwise of few channels": (5, 5, 5, (2, 3), 2, 0, 1),
    "depthwise, dilated": (130, 130, 130, 3, 2, 2, 2),
    "multiplier": (12, 36, 12, 3, 1, 1, 1),
    "narrow groups": (64, 64, 8, 3, 1, 1, 1),
    "narrow groups in rows": (32, 64, 4, (1, 3), 1, (0, 1), 1),
    "groups of four": (96, 96, 24, 3, 2, 1, 1),
    "wide groups": (80, 96, 2, 3, 1, 1, 1),
    "groups that are not bytes": (6, 10, 2, 3, 1, 1, 1),
    "groups that cannot be joined": (105, 35, 5, 3, 1, 1, 1),
    "no groups": (40, 33, 1, 3, 1, 1, 1),
    "no groups, many channels": (100, 150, 1, 3, 2, 1, 2),
    "no groups, a pixel": (70, 24, 1, 1, 1, 0, 1),
}


def network(layer: str, shortcut: bool = False, **neuron) -> nn.Module:
    """A layer, and one that sees what it gives; its inputs are spikes of the network."""
    C_in, C_out, groups, kernel, stride, padding, dilation = LAYERS[layer]
    conv = nn.Conv2d(C_in, C_out, kernel, stride, padding, dilation, groups)
    neuron = {"v_threshold": 1 / 16, "v_reset": None} | neuron
    net = pk.Network()
    net.append("first", pk.IF(v_threshold=0.5, v_reset=None), ("",))
    if shortcut:
        net.append("conv", pk.FusedSum(conv, nn.Identity(), neuron=pk.neurons.IFNeuron(**neuron)), ("first", "first"))
    else:
        fused = pk.FusedConv2d(
            C_in, C_out, kernel, stride, padding, dilation, groups, neuron=pk.neurons.IFNeuron(**neuron)
        )
        net.append("conv", fused, ("first",))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 32)
    return net


def given(layer: str, T: int, N: int, rate: float) -> Tensor:
    return (torch.rand(T, N, LAYERS[layer][0], 9, 7) < rate).float() / 2


def check(net: nn.Module, x: Tensor, target: str) -> Engine:
    values, states = trace(net, x)
    engine = Engine(follow(net, tuple(x.shape[2:]), True), target=target)
    for _ in range(2):
        result = engine(x, len(x))
        assert equal(result.spikes.dense(), values["pool"])
    assert values["conv"].any() and not values["conv"].all()
    assert result.rates["conv"] == pytest.approx(values["conv"].mean().item())
    assert result.synops == layerwise.simulate(net, x, len(x)).synops
    stream, parts = engine.stream(x.shape[1]), []
    for start, stop in ((0, 1), (1, 9), (9, 40), (40, 120)):
        parts += [stream(x[start:stop]).dense()] if len(x) > start else []
    assert equal(torch.cat(parts), values["pool"])
    assert equal(stream.state["conv"], states["conv"][-1])
    return engine


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("T, N", [(1, 1), (7, 2), (8, 3), (16, 1), (33, 2), (70, 3)])
@pytest.mark.parametrize("rate", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_oracle(layer, rate, T, N, target):
    torch.manual_seed(T)
    check(network(layer), given(layer, T, N, rate), target)


@pytest.mark.costly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rate", [0.05, 0.9])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_input_of_several_segments(layer, rate, target):
    """Its images lie further apart than those of a segment."""
    torch.manual_seed(0)
    C_in, C_out, groups, kernel, stride, padding, dilation = LAYERS[layer]
    net = pk.Network()
    conv = pk.FusedIFConv2d(C_in, C_out, kernel, stride, padding, dilation, groups, v_threshold=1 / 16, v_reset=None)
    net.append("conv", conv, ("",))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 32)
    check(net, 2 * given(layer, 70, 2, rate), target)


@pytest.mark.costly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("T", [8, 64, 70])
@pytest.mark.parametrize("layer", LAYERS)
def test_neurons_that_fire_in_periods(layer, T, target):
    """A constant input of neurons that start from the potential that they are reset to."""
    torch.manual_seed(T)
    net = network(layer)
    net._modules["first"] = pk.IF(v_threshold=1.0, v_reset=0.0)
    x = (torch.rand(2, LAYERS[layer][0], 9, 7) * 8).round() / 8
    values, _ = trace(net.eval(), x.expand(T, *x.shape))
    result = Engine(follow(net, tuple(x.shape[1:]), True), target=target)(x, T)
    assert len(values["first"].sum(0).unique()) > 4 and values["conv"].any() and not values["conv"].all()
    assert equal(result.spikes.dense(), values["pool"])
    assert result.synops == layerwise.simulate(net, x, T).synops


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("T, N, rate", [(3, 2, 0.3), (16, 2, 0.05), (70, 3, 0.9)])
@pytest.mark.parametrize("model", ["IFNeuron", "CubaLIFNeuron", "RefractoryLIFNeuron"])
@pytest.mark.parametrize("layer", ["depthwise", "narrow groups", "wide groups", "no groups"])
def test_beside_spikes_that_add(layer, model, T, N, rate, target):
    """A shortcut, and neurons of several states."""
    torch.manual_seed(T)
    C_in, C_out, groups, kernel, stride, padding, _ = LAYERS[layer]
    leaks = {
        "IFNeuron": {}, "CubaLIFNeuron": {"decay": 0.5, "current_decay": 0.5},
        "RefractoryLIFNeuron": {"decay": 0.5, "refractory": 2},
    }  # fmt: skip
    neuron = getattr(pk.neurons, model)(v_threshold=0.5, v_reset=0.0, **leaks[model])
    C = min(C_in, C_out) // 8 * 8 if groups == 1 else C_in
    conv = nn.Conv2d(C, C, kernel, 1, padding, groups=groups)
    net = pk.Network()
    net.append("first", pk.IF(v_threshold=0.5, v_reset=None), ("",))
    net.append("conv", pk.FusedSum(conv, nn.Identity(), neuron=neuron), ("first", "first"))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 32)
    check(net, (torch.rand(T, N, C, 9, 7) < rate).float() / 2, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_values(layer, held, pool, target):
    """Of the input, channel after channel, and of averages, pixel after pixel."""
    torch.manual_seed(0)
    C_in, C_out, groups, kernel, stride, padding, dilation = LAYERS[layer]
    conv = pk.FusedIFConv2d(C_in, C_out, kernel, stride, padding, dilation, groups, v_threshold=0.5, v_reset=None)
    net = pk.Network()
    if pool:
        net.append("average", pk.AvgPool2d(1, divisor_override=2), ("",))
    net.append("conv", conv, (list(net._modules)[-1] if pool else "",))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 32)
    x = (torch.rand(1 if held else 20, 2, C_in, 9, 7) * 8).round() / 8
    x = x.expand(20, *x.shape[1:])
    check(net, x, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("C_in, kernel, stride, padding", [(3, 7, 2, 3), (2, (7, 8), 1, 9), (50, 3, 1, 1)])
def test_windows_of_images_whose_channels_are_planes(C_in, kernel, stride, padding, target):
    """The first layer of many networks; rows of taps that reach over the border, and some of over 128 values."""
    torch.manual_seed(0)
    net = pk.Network()
    conv = pk.FusedIFConv2d(C_in, 24, kernel, stride, padding, v_threshold=0.5, v_reset=None)
    net.append("conv", conv, ("",))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 32)
    x = (torch.rand(2, C_in, 9, 11) * 8).round() / 8
    check(net, x.expand(20, *x.shape), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int16", "int8"])
@pytest.mark.parametrize("rate", [0.05, 0.9])
@pytest.mark.parametrize("layer", LAYERS)
def test_rounded_weights(layer, rate, precision, target):
    torch.manual_seed(0)
    C_in, C_out, groups, kernel, stride, padding, dilation = LAYERS[layer]
    conv = pk.FusedIFConv2d(C_in, C_out, kernel, stride, padding, dilation, groups, v_threshold=0.3, v_reset=None)
    net = nn.Sequential(conv.eval(), pk.FusedIFConv2d(C_out, 9, 1, v_threshold=0.1)).eval()
    x = pk.pack((torch.rand(40, 2, C_in, 9, 7) < rate).float())
    expected = layerwise.simulate(net, x, 40, precision=precision)
    result = Engine(follow(net, tuple(x.shape[2:]), False, precision), target=target)(x, 40)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.count().any()
    assert result.synops == expected.synops


@of_whole_segments
@pytest.mark.parametrize("target", TARGETS)
def test_it_takes_what_the_cost_model_says(target):
    """By the rate of each segment."""
    tables = {"amx": "tiles", "avx512": "tables"}.get(target, "rows")
    few = "pixel tiles" if target == "amx" else "patterns"
    torch.manual_seed(0)
    net = pk.Network()
    net.append("conv", pk.FusedIFConv2d(128, 128, 3, padding=1, v_threshold=0.5, v_reset=None), ("",))
    make_dyadic(net.eval(), 2.0**-15)  # two digits in tiles
    seldom, often = ((torch.rand(64, 2, 128, 12, 12) < rate).float() for rate in (0.01, 0.5))
    engine = Engine(follow(net, (128, 12, 12), False), target=target)
    for x, way in ((seldom, "rows"), (often, tables), (torch.cat([often, seldom]), "rows"), (often[:4], few)):
        assert equal(engine(pk.pack(x), len(x)).spikes.dense(), trace(net, x)[0]["conv"])
        assert list(engine.ways.values()) == [way]
    assert f"  {way}  " in repr(engine)


@of_whole_segments
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("W", [14, 21, 28])
def test_the_rate_is_that_of_all_columns(W, target):
    """Columns that are a multiple of seven apart are silent: of 28 pixels a row, each 49th pixel is one of these."""
    torch.manual_seed(0)
    x = (torch.rand(16, 2, 64, 28, W) < 0.5).float()
    x[..., ::7] = 0
    words = pk.pack(x)
    packed = words._words
    sample = abi.Sample(packed.data_ptr(), *packed.shape[:3], 64, *packed.stride()[:3])
    cpu.load(target)._table.sample_rates(sample)
    assert sample.rate == pytest.approx(x.mean().item(), rel=0.25)
    net = nn.Sequential(pk.FusedIFConv2d(64, 64, 3, padding=1)).eval()
    engine = Engine(follow(net, (64, 28, W), False), target=target)
    engine(words, 16)
    assert list(engine.ways.values()) == [{"amx": "tiles", "avx512": "tables"}.get(target, "rows")]


def test_depthwise_convolutions_have_a_kernel_of_their_own():
    net, x = network("depthwise"), given("depthwise", 1, 1, 0.5)
    engine = pk.compile(net, x)
    engine(x, 1)
    assert engine.ways == {0: "patterns", 1: "depthwise"}


def by_quarters(counts: Tensor, t: int) -> Tensor:
    """A rule that ends about a quarter of the samples each time, whatever samples lie beside them."""
    return counts.sum(1) % 4 == 2


@pytest.mark.parametrize("layer", LAYERS)
def test_early_exit_and_files(layer, tmp_path):
    torch.manual_seed(0)
    C_in, C_out, groups, kernel, stride, padding, dilation = LAYERS[layer]
    conv = pk.FusedIFConv2d(C_in, C_out, kernel, stride, padding, dilation, groups, v_threshold=1 / 16, v_reset=None)
    x, layers = given(layer, 40, 9, 0.6), [pk.IF(v_threshold=0.5), conv, pk.MaxPool2d(2), pk.Flatten()]
    features = nn.Sequential(*layers).eval()(x[:1]).shape[2]
    theta = round(features**0.5) * 3 / 8  # of sums of so many weights: neurons fire in some steps
    net = nn.Sequential(*layers, pk.FusedIFLinear(features, 5, v_threshold=theta, v_reset=None)).eval()
    net[-1].weight.data.abs_()
    make_dyadic(net, 1 / 32)
    expected, engine = layerwise.simulate(net, x, 40, stop=by_quarters), pk.compile(net, x)
    engine.save(tmp_path / "net")
    for one in (engine, pk.load(tmp_path / "net")):
        result = one(x, 40, stop=by_quarters)
        assert equal(result.steps, expected.steps) and equal(result.count(), expected.count())
        assert result.synops == expected.synops
        assert one(x[:, :0], 40).count().shape == (0, 5)
    assert expected.steps.min() < expected.steps.max() and expected.count().any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("neurons", [20, 150])
def test_spikes_and_values_in_turn(neurons, precision, target):
    """The first layer has rows of integers for spikes, and rows of floats for values; sums are exact in both."""
    net = nn.Sequential(
        pk.Flatten(),
        pk.FusedLinear(70, neurons, neuron=pk.neurons.LIFNeuron(decay=0.9, v_threshold=0.5)),
        pk.FusedLIFLinear(neurons, 9, decay=0.9, v_threshold=0.5),
    ).eval()
    engine = Engine(follow(net, (2, 5, 7), False, precision), target=target)
    for T, N, rate in ((7, 1, 0.1), (70, 5, 0.5), (33, 40, 0.02), (1, 3, 0.9)):
        fired = torch.rand(T, N, 2, 5, 7) < rate
        for x in (fired, torch.randn(T, N, 2, 5, 7), fired):
            given = pk.pack(x) if x.dtype == torch.bool else x
            expected = layerwise.simulate(net, given, T, precision=precision)
            found = engine(given, T)
            assert found.spikes.dense().any() or T == 1
            assert equal(found.spikes.dense(), expected.spikes.dense()) and found.synops == expected.synops
