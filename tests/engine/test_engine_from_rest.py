"""What an engine does in other ways for few steps from rest, and for values of few inputs: the same spikes."""

import layerwise
import pytest
import torch
from equality import equal
from oracle import make_dyadic, trace
from test_engine import TARGETS
from test_engine_memory import CHECKED
from torch import nn

import proxykernels as pk
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine


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
            state = engine.plan.as_simulated(k, result._figures.states(k))
            wanted = readout.logits(result.count(), state, T)
            assert torch.equal(result.logits, wanted) and result.logits.any()
        stopped = engine(images, 40, stop=lambda counts, t: torch.arange(len(counts)) < 2)
        state, steps = engine.plan.as_simulated(k, stopped._figures.states(k)), stopped.steps
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
@pytest.mark.parametrize("target", TARGETS)
def test_ways_of_linear_layers(target):
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
        for precision in ("int8", "int16", None):
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
