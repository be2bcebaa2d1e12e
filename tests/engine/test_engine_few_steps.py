"""Few steps: rounded weights added as integers, what starts from rest, and what stands between the neurons."""

from dataclasses import replace
from functools import cache

import layerwise
import pytest
import torch
from equality import equal
from oracle import make_dyadic, trace
from test_engine import TARGETS
from test_engine_file import CHECKED
from torch import nn

import proxykernels as pk
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

NEURONS = {
    "hard": pk.neurons.IFNeuron(v_threshold=0.5),
    "soft": pk.neurons.IFNeuron(v_threshold=0.5, v_reset=None),
    "leaky": pk.neurons.LIFNeuron(v_threshold=0.5, v_reset=None, decay=0.75),
}


def network(neuron, C: int = 70) -> nn.Sequential:
    torch.manual_seed(C)
    net = nn.Sequential(
        pk.FusedConv2d(2, C, 3, neuron=neuron), pk.FusedConv2d(C, 33, 3, stride=2, padding=1, neuron=neuron),
        pk.Flatten(), pk.FusedLinear(33 * 49, 200, neuron=neuron), pk.FusedLinear(200, 11, neuron=neuron),
    )  # fmt: skip
    net[1].weight.data[5, :3] *= 30  # its channel has room for few units
    for layer, times in zip((net[0], net[1], net[3], net[4]), (3, 3, 3, 4), strict=True):
        layer.weight.data *= times
    return net.eval()


def spikes(T: int, N: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(T + N)
    x = torch.rand(T, N, 2, 15, 15, generator=generator) < torch.rand(N, 2, 15, 15, generator=generator) * 0.6
    x[..., 11:, :] = False  # a background
    return x


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("N", [0, 1, 2, 33])
@pytest.mark.parametrize("T", [1, 2, 3, 4, 7, 8, 9, 33, 64])
def test_the_spikes_of_simulate(T, N, neuron, precision, target):
    net, x = network(NEURONS[neuron]), pk.pack(spikes(T, N))
    result = Engine(follow(net, x.shape[2:], False, precision), target=target)(x, T)
    if not N:
        assert result.count().shape == (0, 11)
        return
    expected = layerwise.simulate(net, x, T, precision=precision)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.rates["1"] > 0
    assert T < 7 or expected.count().any()
    assert result.synops == expected.synops and result.rates == pytest.approx(expected.rates)


# Modules that batches go through in parts: some channels of a tap, all of a tap, or those of some taps.
LARGE = {
    "linear": (pk.FusedIFLinear(21_000, 130, v_threshold=0.5), (21_000,)),
    "channels of a tap": (pk.FusedIFConv2d(2400, 130, 3, padding=1, v_threshold=0.5), (2400, 4, 4)),
    "taps": (pk.FusedIFConv2d(600, 140, 3, padding=1, v_threshold=0.5), (600, 3, 4)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", [None, "int8", "int16"])
@pytest.mark.parametrize("module", LARGE)
@pytest.mark.parametrize(("T", "N"), [(1, 1), (1, 5), (3, 1), (3, 5), (6, 5), (40, 3)])
def test_large_matrices(T, N, module, precision, target):
    layer, shape = LARGE[module]
    generator = torch.Generator().manual_seed(T * N)
    layer.weight.data = (torch.randint(-8, 9, layer.weight.shape, generator=generator) / 64).contiguous()
    layer.bias.data = torch.randint(-8, 9, layer.bias.shape, generator=generator) / 64
    net = nn.Sequential(pk.IF(v_threshold=1.0), layer).eval()
    x = pk.pack(torch.rand(T, N, *shape, generator=generator) < 0.1)
    result = Engine(follow(net, shape, False, precision), target=target)(x, T)
    expected = layerwise.simulate(net, x, T, precision=precision)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.count().any()
    assert result.synops == expected.synops


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
@pytest.mark.parametrize("parts", [[1] * 9, [2, 3, 4], [7, 2], [4, 4, 1]])
def test_streams_in_chunks(parts, precision, target):
    """States go in and out, and on in another stream."""
    net, x = network(NEURONS["soft"]), spikes(9, 2)
    engine = Engine(follow(net, x.shape[2:], False, precision), target=target)
    expected = layerwise.simulate(net, pk.pack(x), 9, precision=precision)
    stream, found = engine.stream(2), []
    for part in x.split(parts):
        if found:
            kept, stream = stream.state, engine.stream(2)
            stream.state = kept
        found.append(stream(pk.pack(part)).dense())
    assert equal(torch.cat(found), expected.spikes.dense()) and expected.count().any()
    for name, v in stream.state.items():
        assert equal(v, expected.state[name][0]), name


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_stop(precision, target):
    net, x = network(NEURONS["hard"]), pk.pack(spikes(20, 33))
    engine = Engine(follow(net, x.shape[2:], False, precision), target=target)
    stopped = engine(x, 20, stop=pk.stop.margin(1))
    expected = layerwise.simulate(net, x, 20, stop=pk.stop.margin(1), precision=precision)
    assert equal(stopped.spikes.dense(), expected.spikes.dense()) and equal(stopped.steps, expected.steps)
    assert stopped.steps.min() < 20


# Weights whose inputs all fire: of the largest sum that bytes have room for, and of one more; of four at a time in 16
# bits, and of the largest sum that a float has room for.
EDGES = {
    "bytes": [63] * 520 + [7],
    "bytes, of both signs": [63] * 520 + [7] + [-63] * 520 + [-8],
    "one more": [63] * 520 + [8],
    "one less": [-63] * 520 + [-8],
    "many": [63] * 6000,
    "shorts": [8191] * 2048,
    "negative shorts": [-8191] * 2048,
    "a large one": [64] + [63] * 40,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", EDGES)
@pytest.mark.parametrize("T", [1, 3, 4, 9])
@pytest.mark.parametrize("N", [1, 9])
def test_the_largest_sums(N, T, weights, target):
    """The current is read where it is: neurons fire if it is what it should be, and not if it is one unit less."""
    row = torch.tensor(EDGES[weights], dtype=torch.float32)
    inputs, outputs = len(row), 40
    net = nn.Sequential(pk.IF(v_threshold=1.0), pk.FusedLinear(inputs, outputs, neuron=pk.neurons.LINeuron(decay=0.0)))
    net[1].weight.data, net[1].bias.data = row.repeat(outputs, 1), torch.zeros(outputs)
    net[1].weight.data[1::2] *= -1
    net[1].weight.data[2] /= 4
    plan = replace(follow(net.eval(), (inputs,), False), precision="int8")  # weights as they are
    x = torch.ones(T, N, inputs)
    x[T // 2] = torch.rand(N, inputs) < 0.5
    found = Engine(plan, target=target)(pk.pack(x), T).output
    assert equal(found, x @ net[1].weight.T) and found.any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), ((1, 4), 1, 0)])
@pytest.mark.parametrize("C", [3, 64, 129, 250])
def test_max_pooling_of_sums_from_rest(C, window, target):
    """Words of 16 bytes and of what is left of them; steps below, at and above those that levels are kept for."""
    torch.manual_seed(C)
    net = nn.Sequential(pk.FusedIFConv2d(2, C, 1, v_threshold=1.0, v_reset=None), pk.MaxRatePool2d(*window)).eval()
    net[0].weight.data = torch.randint(0, 5, net[0].weight.shape) / 8.0
    x = torch.randint(0, 5, (3, 2, 7, 9)) / 4.0
    engine, fired = Engine(follow(net, x.shape[1:], True), target=target), 0
    for T in (1, 2, 3, 4, 5, 8, 9, 17):
        result, expected = engine(x, T), layerwise.simulate(net, x, T)
        assert equal(result.spikes.dense(), expected.spikes.dense())
        assert result.rates == pytest.approx(expected.rates)
        fired += int(result.count().sum())
    assert fired
    stream = engine.stream(3)  # whose sums go on
    found = torch.cat([stream(x.expand(t, *x.shape)).dense() for t in (3, 1, 8, 5)])
    assert equal(found, expected.spikes.dense())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("C", "size", "padding"), [(1, 3, 1), (2, 5, 2), (7, 3, 0), (8, 3, 1)])  # the last: 72 inputs
def test_exact_sums_of_values(C, size, padding, held, target):
    """Rounded weights and any values; blocks of one to eight registers, and batches of pixels that are not full."""
    torch.manual_seed(C)
    for channels in (16, 24, 40, 128, 150):
        net = nn.Sequential(pk.FusedIFConv2d(C, channels, size, padding=padding, v_threshold=0.7, v_reset=None)).eval()
        for precision in ("int8", "int16"):
            x = torch.randn(2, C, 7, 6) if held else torch.randn(5, 2, C, 7, 6)
            engine = Engine(follow(net, x.shape[-3:], True, precision), target=target)
            expected = layerwise.simulate(net, x, 5, precision=precision)
            assert equal(engine(x, 5).spikes.dense(), expected.spikes.dense()) and expected.count().any()


@pytest.mark.parametrize("rectifies", [False, True])
def test_logits_are_those_of_the_equation(rectifies):
    """In the library as in torch, bit for bit: of classes, and of maps; from rest; with a rule; of what was pickled."""
    torch.manual_seed(1)
    for tail in ([nn.Flatten(), nn.Linear(6 * 36, 5)], [nn.Conv2d(6, 3, 3)], [nn.Conv2d(6, 3, 3), nn.Flatten()]):
        ann = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), *tail, *[nn.ReLU()] * rectifies).eval()
        images = torch.rand(9, 1, 8, 8)
        net = pk.convert(ann, images)
        engine = pk.compile(net, images)
        readout, k = engine.plan.readout, engine.plan.with_logits
        for T in (1, 3, 7):
            result = engine(images, T)
            state = engine.plan.as_simulated(k, result._states_of(k))
            wanted = readout.logits(result.count(), state, T)
            assert torch.equal(result.logits, wanted) and result.logits.any()
        stopped = engine(images, 40, stop=lambda counts, t: torch.arange(len(counts)) < 2)
        state, steps = engine.plan.as_simulated(k, stopped._states_of(k)), stopped.steps
        assert torch.equal(stopped.logits, readout.logits(stopped.count(), state, steps))
        assert len(set(steps.tolist())) == (3 if CHECKED else 5) and stopped.logits.any()  # which has shorter segments


def linear_network(inputs: int, neurons: int, grain: float = 2.0**-10) -> pk.Network:
    torch.manual_seed(neurons)
    net, last = pk.Network(), pk.FusedIFLinear(neurons, 11)
    net.append("0", pk.FusedIFLinear(inputs, neurons, v_threshold=1.0, v_reset=None), ("",))
    net.append("1", last, ("0",))
    last.weight.data *= 4
    make_dyadic(net.eval(), grain)
    return net


def spikes_of(T, N, inputs, steady=0.2, others=0.2):
    """Many in 64 steps, then few. ``steady``: the rate of one input of five."""
    of_inputs = torch.where(torch.arange(inputs) % 5 == 0, steady, others)
    rates = torch.where(torch.arange(T) < 64, 1.0, 0.05).view(-1, 1, 1) * of_inputs
    return pk.pack((torch.rand(T, N, inputs) < rates).float())


STEADY = 0.95, 0.03  # rates, at which slices add few rows


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16", None])
@pytest.mark.parametrize(("inputs", "neurons"), [(3000, 750), (300, 80)])  # the checked build takes small ones, too
@pytest.mark.parametrize("N", [1, 4, 9])
@pytest.mark.parametrize("T", [33, 64, 70, 130])
def test_linear_layers_of_many_steps(T, N, inputs, neurons, precision, target):
    """Rows by slices where much fires, and by patterns where little does, from segment to segment."""
    net, x = linear_network(inputs, neurons), spikes_of(T, N, inputs, *STEADY)
    result = Engine(follow(net, (inputs,), False, precision), target=target)(x, T)
    expected = layerwise.simulate(net, x, T, precision=precision)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.rates["1"] > 0
    assert result.synops == expected.synops and result.rates == pytest.approx(expected.rates)


@pytest.mark.skipif("amx" not in TARGETS, reason="a processor without matrix tiles")
@pytest.mark.parametrize("N", [4, 50])
@pytest.mark.parametrize("grain", [2.0**-10, 2.0**-18, 2.0**-22])  # of weights of one, two and three digits
def test_linear_layers_by_tiles(grain, N):
    """Potentials, too, and on from them; 50 samples are several tasks, whose last one has few."""
    net, x = linear_network(1500, 1500, grain), spikes_of(67, N, 1500)
    values, states = trace(net, x.dense())
    engine = Engine(follow(net, (1500,), False), target="amx")
    assert equal(engine(x[:64], 64).spikes.dense(), values["1"][:64])
    assert CHECKED or engine.ways[0] == "tiles"  # the checked build cuts runs into smaller segments
    stream = engine.stream(N)
    parts = [stream(part).dense() for part in (x[:64], x[64:])]
    assert equal(torch.cat(parts), values["1"]) and 0 < values["1"].mean() < 1
    assert all(equal(v, states[name][-1]) for name, v in stream.state.items())


@pytest.mark.skipif(CHECKED, reason="the checked build takes small ones by slices, too")
@pytest.mark.alike
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int8", "int16", None])
def test_ways_of_linear_layers(precision, target):
    """By the size, the steps of a segment, and the rate.

    Tiles, where there are some, are for all of many spikes: what they take does not depend on their number."""
    few = ["patterns"] * 4
    many = ["tiles", "tiles", "patterns", "patterns"] if target == "amx" else ["rows", "rows", "patterns", "patterns"]
    for inputs, neurons, rates, ways in (
        (3000, 750, (0.2, 0.2), many),
        (3000, 750, STEADY, many),
        (3000, 750, (0.01, 0.01), few),
        (300, 80, (0.2, 0.2), few),
    ):
        engine = Engine(follow(linear_network(inputs, neurons), (inputs,), False, precision), target=target)
        for T, way in zip((33, 64, 70, 128), ways, strict=True):  # the last segment's: of 33, 64, 6 and 64 steps
            engine(spikes_of(T, 9, inputs, *rates), T)
            assert engine.ways[0] == way


@pytest.mark.skipif(CHECKED, reason="the checked build cuts runs into small segments")
@pytest.mark.parametrize("target", [target for target in TARGETS if target != "amx"])
@pytest.mark.parametrize(("inputs", "way"), [(3000, "rows"), (400, "patterns")])
def test_ways_of_linear_layers_in_few_steps(inputs, way, target):
    """Rows where they are so many that the lists of slices are soon made."""
    engine = Engine(follow(linear_network(inputs, 750), (inputs,), False), target=target)
    engine(spikes_of(16, 40, inputs, 0.1, 0.1), 16)
    assert engine.ways[0] == way


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


def network_between(modules: list[nn.Module], x: torch.Tensor) -> pk.Network:
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
    net = network_between(BETWEEN[modules], x)
    return net, x, *trace(net, x)


@pytest.mark.costly
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
    net = network_between(BETWEEN[modules], x)
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
