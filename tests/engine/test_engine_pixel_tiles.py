"""Convolutions of few steps by matrix tiles: the oracle's spikes, in each layout of inputs, steps and output pixels."""

import layerwise
import pytest
import torch
from cost_model import model
from equality import equal
from oracle import make_dyadic, trace
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

pytestmark = pytest.mark.skipif(not cpu.load("amx"), reason="a processor without matrix tiles")
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


@pytest.fixture(autouse=True)
def _pixel_tiles():
    """They are the fastest, whatever came, where the cost model lets them be chosen."""
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


@pytest.mark.parametrize("grain", [1 / 32, FINE])
@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("N, size", [(8, (9, 7)), (1, (30, 5)), (2, (14, 28)), (1, (5, 70))])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_oracle(layer, N, size, T, grain):
    check(network(layer, grain), spikes(T, N, layer, size))


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


@pytest.mark.parametrize("T", [2, 8])
def test_inputs_and_weights_beyond_the_cache(T, monkeypatch):
    """In bands of rows, and in spans of output channels."""
    monkeypatch.setitem(LAYERS, "large", (256, 520, 3, 1, 1, 1))
    check(network("large", 1 / 32), spikes(T, 1, "large", (40, 24)))


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


@pytest.mark.parametrize("T", [1, 4, 7, 8])
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_rounded_weights(layer, precision, T):
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


def test_more_digits_and_more_steps_are_left_to_others():
    torch.manual_seed(0)
    x = spikes(9, 1, "whole tiles", (9, 14))
    check(network("whole tiles", 1 / 32), x[:8])
    engine = Engine(follow(network("whole tiles", 1 / 32), x.shape[2:], False), target="amx")
    engine(pk.pack(x), 9)
    assert engine.ways != {0: "pixel tiles"}
    check(network("whole tiles", 2.0**-20), x[:4], way="patterns")


@pytest.mark.parametrize("C", [16, 128])
def test_the_cost_model_leaves_silent_layers_to_others(C, _pixel_tiles):
    for name, cost in _pixel_tiles.items():
        setattr(model().machines[True].pixel_tiles, name, cost)
    torch.manual_seed(0)
    conv = pk.FusedIFConv2d(C, C, 3, padding=1, v_threshold=0.05)
    engine = Engine(follow(nn.Sequential(conv).eval(), (C, 16, 16), False, "int8"), target="amx")
    for rate, way in ((0.2, "pixel tiles"), (0.0, "scattered")):
        engine(pk.pack(torch.rand(4, 1, C, 16, 16) < rate), 4)
        assert engine.ways == {0: way}
