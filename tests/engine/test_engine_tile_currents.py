"""Convolutions whose currents matrix tiles write, for neurons of any kind: by the oracle, and how much tiles may round.

Their currents are pooled, their neurons fire several times in a step, or their inputs are whole numbers.
"""

import pytest
import torch
from equality import equal
from oracle import trace
from test_engine import TARGETS
from torch import nn

import proxykernels as pk
from proxykernels.neurons import IFNeuron, IntegerLIFNeuron, LINeuron
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

UNIT = 1 / 16
SIZE = (12, 11)
needs_tiles = pytest.mark.skipif("amx" not in TARGETS, reason="no matrix tiles here")
CURRENTS = LINeuron(decay=0.0)
KINDS = ("pool", "maxima", "currents", "sum of 2", "sum of 3", "counts to 4", "counts to 127")
LARGE = {1: 0, 2: 2_000, 3: 100_000}  # units of some weights, by the number of digits


def weights_of(layer: nn.Module, large: int, g: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-6, 7, parameter.shape, generator=g) * UNIT)
        if large:
            layer.weight[::2, 1, 0, 0], layer.weight[1::2, 1, 0, 0] = large * UNIT, -large * UNIT


def network(kind: str, C_in: int, C: int, v_reset: float | None, digits: int = 1) -> pk.Network:
    """Neurons, and a convolution "conv" of what they give; "last" gives the spikes or counts that are compared."""
    g = torch.Generator().manual_seed(C_in)
    last, most = IFNeuron(v_threshold=24 * UNIT, v_reset=v_reset), int(kind.split()[-1]) if " " in kind else 1
    net = pk.Network()

    def convolution(neuron, source: str, name: str = "conv") -> None:
        wide = (1, 3) if most == 127 else (3, 3)  # so many inputs that their sums fit 32 bits
        conv = pk.FusedConv2d(C_in, C, wide, padding=(wide[0] // 2, 1), neuron=neuron)
        weights_of(conv, LARGE[digits], g)
        net.append(name, conv, (source,))

    if kind.startswith("counts"):
        net.append("first", pk.Population(neuron=IntegerLIFNeuron(max_spike_count=most)), ("",))
        convolution(IntegerLIFNeuron(v_threshold=8 * UNIT, max_spike_count=most), "first", "last")
        return net.eval()
    for k in range(most):
        net.append(f"first{k}", pk.IF(v_threshold=0.5 + k, v_reset=None), ("",))
    if kind.startswith("sum"):
        net.append(
            "sum", pk.FusedSum(*[nn.Identity()] * most, neuron=CURRENTS), tuple(f"first{k}" for k in range(most))
        )
        convolution(last, "sum", "last")
        return net.eval()
    convolution(CURRENTS, "first0")
    if kind == "currents":
        one = nn.Conv2d(C_in, C, 1, bias=False)
        weights_of(one, LARGE[digits], g)
        net.append("more", pk.FusedSum(one, nn.Identity(), neuron=CURRENTS), ("first0", "conv"))
    else:
        net.append("pooled", pk.MaxPool2d(2) if kind == "maxima" else pk.MaxPool2d(3, 2, 1), ("conv",))
    net.append("last", pk.Population(neuron=last), (list(net._modules)[-1],))
    return net.eval()


def tiled(net: pk.Network, engine: Engine) -> list[bool]:
    """Whether tiles ran each convolution."""
    convolutions = [k for k, op in enumerate(engine.plan.operations) if any(w.weight is not None for w in op.windows)]
    return [engine.ways[k] == "pixel tiles" for k in convolutions]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("N", [1, 8])
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("C_in, C, digits", [(72, 40, 1), (64, 48, 2), (130, 70, 3), (67, 130, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle(kind, C_in, C, digits, v_reset, T, N, target):
    net = network(kind, C_in, C, v_reset, digits)
    x = torch.rand(T, N, C_in, *SIZE, generator=torch.Generator().manual_seed(T)) * 1.5
    x = (x * (140 if kind == "counts to 127" else 3)).floor()
    values, states = trace(net, x)
    assert values["last"].any() and not values["last"].all()
    if kind.startswith("counts"):
        assert all(values[name].max() == int(kind.split()[-1]) for name in ("first", "last"))
    engine = Engine(follow(net, (C_in, *SIZE), True), target=target)
    for _ in range(2):
        output = engine(x, T).output
        assert equal(output if isinstance(output, torch.Tensor) else output.dense(), values["last"])
    assert all(tiled(net, engine)) == (target == "amx")
    stream = engine.stream(N)
    parts = [stream(part) for part in (x[:1], x[1:]) if len(part)]
    assert equal(torch.cat([p if isinstance(p, torch.Tensor) else p.dense() for p in parts]), values["last"])
    assert equal(stream.state["last"], states["last"][-1])


@pytest.mark.parametrize("kind", ["pool", "maxima", "counts to 4"])
def test_images_whose_currents_are_computed_part_by_part(kind):
    """Their currents take more than the memory that keeps them in a cache."""
    net, N = network(kind, 72, 130, None), 20
    x = (torch.rand(4, N, 72, *SIZE, generator=torch.Generator().manual_seed(0)) * 3).floor()
    values, _ = trace(net, x)
    output = pk.compile(net, x)(x, 4).output
    assert values["last"].any() and not values["last"].all()
    assert equal(output if isinstance(output, torch.Tensor) else output.dense(), values["last"])


def test_numbers_that_a_byte_does_not_hold():
    net = network("counts to 128", 72, 40, None)
    x = (torch.rand(4, 2, 72, *SIZE, generator=torch.Generator().manual_seed(0)) * 200).floor()
    engine = pk.compile(net, x)
    assert equal(engine(x, 4).output, trace(net, x)[0]["last"]) and not any(tiled(net, engine))


def of_random_weights(reader: nn.Module, theta: float, unused: float = 1.0) -> tuple[pk.Network, torch.Tensor]:
    """A convolution of spikes, what reads its currents, neurons. ``unused``: the weights of a silent channel."""
    torch.manual_seed(0)
    net = pk.Network()
    net.append("first", pk.IF(v_threshold=0.5), ("",))
    net.append("conv", pk.FusedConv2d(72, 40, 3, padding=1, neuron=CURRENTS), ("first",))
    net.append("reader", reader, ("conv",))
    net.append("last", pk.IF(v_threshold=theta, v_reset=None), ("reader",))
    net.get_submodule("conv").weight.data.normal_()[:, 0] = unused
    x = (torch.rand(4, 2, 72, *SIZE) < 0.5).float()
    x[:, :, 0] = 0
    return net.eval(), x


@needs_tiles
@pytest.mark.parametrize("theta", [16.0, 1.0])
@torch.no_grad()
def test_currents_are_rounded_as_the_thresholds_behind_them_allow(theta):
    net, x = of_random_weights(pk.MaxPool2d(3, 2, 1), theta)
    engine = Engine(follow(net, x.shape[2:], True), target="amx")
    stream = engine.stream(2)
    stream(x)
    engine(x, len(x))
    conv = net.get_submodule("conv")
    currents = nn.functional.conv2d(x.flatten(0, 1).double(), conv.weight.double(), conv.bias.double(), padding=1)
    sums = nn.functional.max_pool2d(currents, 3, 2, 1).unflatten(0, x.shape[:2]).sum(0)
    error = stream.state["last"] + theta * stream.count() - sums
    assert tiled(net, engine) == [True] and stream.count().any()
    assert error.pow(2).mean().sqrt() < 2.0**-17 * max(theta, 16.0)  # 16: of the sums themselves, in float32


@needs_tiles
@pytest.mark.parametrize(
    ("reader", "unused"), [(pk.AvgPool2d(2), 1.0), (pk.MaxPool2d(3, 2, 1), 2.0**30)], ids=["average", "large weights"]
)
def test_nothing_is_lost_of_other_currents(reader, unused):
    """Weights of currents that anything but neurons with thresholds reads, and weights beside far larger ones."""
    net, x = of_random_weights(reader, 16.0, unused)
    engine = Engine(follow(net, x.shape[2:], True), target="amx")
    assert engine(x, len(x)).count().any() and tiled(net, engine) == [False]
