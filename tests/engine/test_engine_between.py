"""What stands between the neurons of a compiled network: poolings of sums over time, moved values, groups, averages."""

from functools import cache

import layerwise
import pytest
import torch
from equality import equal
from oracle import make_dyadic, trace
from test_engine import TARGETS
from torch import nn

import proxykernels as pk
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

BETWEEN = {
    "rates": [pk.MaxRatePool2d(2, ceil_mode=True)],
    "rates that overlap": [pk.MaxRatePool2d(3, 2, 1)],
    "running maxima": [pk.AvgPool2d(2, 1), pk.RunningMaxPool2d(3, 2, 1)],
    "running maxima of spikes": [pk.RunningMaxPool2d(2)],
    "concatenated": [pk.Concatenate()],
    "concatenated with means": [pk.AvgPool2d(3, 1, 1, divisor_override=4), pk.Concatenate()],
    "features and images": [pk.Flatten(), pk.Unflatten((5, 8, 6)), pk.Flatten()],
    "as it was": [pk.Flatten(), pk.Unflatten((8, 6, 5))],
    "shuffled": [pk.Channels(torch.tensor([3, -1, 0, 7, 4, 5, 6, 7, 0, 1, 2]))],
    "padded": [pk.ZeroPad2d((1, 0, 2, 3), spread=(2, 3))],
    "upsampled": [pk.Upsample(size=(9, 11))],
    "upsampled means": [pk.AvgPool2d(2), pk.Upsample(scale_factor=2)],
    "one axis": [pk.Flatten(), pk.Unflatten((8, 30)), pk.layers.MaxRatePool1d(4, 2)],
    "voting": [pk.Flatten(), pk.Voting(4)],
    "adaptive": [pk.AdaptiveAvgPool2d((4, 4))],
    "groups": [pk.FusedIFConv2d(8, 24, 3, groups=4, v_threshold=0.25)],
    "groups of means": [pk.AvgPool2d(2), pk.FusedIFConv2d(8, 8, 2, padding=1, groups=8, v_threshold=0.125)],
}
GIVEN = "held", "spikes", "real"


def inputs(given: str, T: int = 37) -> torch.Tensor:
    x = (torch.rand(T, 2, 8, 6, 5, generator=torch.Generator().manual_seed(1)) * 4).round() / 4
    return x[:1].expand(x.shape) if given == "held" else (x > 0.5).float() if given == "spikes" else x


def network(modules: list[nn.Module], x: torch.Tensor) -> pk.Network:
    """Neurons, the modules, and neurons that take what these give."""
    torch.manual_seed(0)
    net = pk.Network()
    net.append("first", pk.FusedIFConv2d(8, 8, 3, padding=1, v_threshold=0.5, v_reset=None), ("",))
    name = "first"
    for k, module in enumerate(modules):
        net.append(f"m{k}", module, ("first", name, "first") if isinstance(module, pk.Concatenate) else (name,))
        name = f"m{k}"
    C, *size = trace(net, x[:1])[0][name].shape[2:]
    make = (pk.FusedIFLinear, pk.FusedIFConv1d, pk.FusedIFConv2d)[len(size)]
    net.append("last", make(C, 20, *[2] * bool(size), v_threshold=0.25), (name,))
    make_dyadic(net, 1 / 16)
    return net.eval()


@cache
def traced(modules: str, given: str) -> tuple:
    """The network, its input, and what the oracle gives: the same on every instruction set."""
    x = inputs(given)
    net = network(BETWEEN[modules], x)
    return net, x, *trace(net, x)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("modules", BETWEEN)
def test_between(modules, target, given):
    net, x, values, states = traced(modules, given)
    engine = Engine(follow(net, x.shape[2:], given != "spikes"), target=target)
    as_given = {"held": x[0], "real": x}.get(given) if given != "spikes" else pk.pack(x)
    result = engine(as_given, len(x))
    assert values["last"].any() and equal(result.spikes.dense(), values["last"])
    stream = engine.stream(2)
    parts = [stream(x[0] if given != "spikes" else as_given[:1]), stream(as_given[1:4] if given != "held" else x[1:4])]
    parts.append(stream(as_given[4:] if given != "held" else x[4:]))
    assert equal(torch.cat([part.dense() for part in parts]), values["last"])
    assert all(torch.equal(v, states[name][-1]) for name, v in stream.state.items())
    expected = layerwise.simulate(net, as_given, len(x))
    assert result.rates == pytest.approx(expected.rates, nan_ok=True) and result.synops == expected.synops


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("precision", ["int16", "int8"])
@pytest.mark.parametrize("modules", ["rates", "concatenated with means", "groups", "groups of means", "shuffled"])
def test_precision_is_that_of_simulate(modules, precision, given):
    x = inputs(given) * (1 if given == "spikes" else 0.7)  # which is rounded
    net = network(BETWEEN[modules], x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    as_given = x[0] if given == "held" else pk.pack(x) if given == "spikes" else x
    expected = layerwise.simulate(net, as_given, len(x), precision=precision).spikes.dense()
    for target in TARGETS:
        engine = Engine(follow(net, x.shape[2:], given != "spikes", precision), target=target)
        assert equal(engine(as_given, len(x)).spikes.dense(), expected) and expected.any()


def test_converted_with_max_pooling(tmp_path):
    torch.manual_seed(0)
    relu = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    x = torch.rand(6, 1, 10, 10)
    net = pk.convert(relu, x)
    engine, expected = pk.compile(net, x), relu(x)
    result = engine(x, 200)
    assert (result.logits - expected).abs().max() < 0.1 * expected.abs().max()
    engine.save(tmp_path / "net")
    assert equal(pk.load(tmp_path / "net")(x, 200).count(), result.count()) and result.count().any()
