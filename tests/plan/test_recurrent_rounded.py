"""Recurrent layers with precision="int16" and "int8": everywhere the spikes of a float64 loop of rounded weights."""

import layerwise
import pytest
import torch
from equality import equal
from oracle import recurrent_loop
from torch import nn

import proxykernels as pk
from proxykernels.kernels import cpu, rounding
from proxykernels.neurons import CubaLIFNeuron, IFNeuron, LIFNeuron
from proxykernels.plan import library
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

T, N = 45, 3
TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
PRECISIONS = list(rounding.PRECISIONS)
NEURONS = {
    "if": IFNeuron(v_threshold=1.0, v_reset=None),
    "lif": LIFNeuron(v_threshold=0.8, decay=0.9),
    "cuba": CubaLIFNeuron(v_threshold=1.0, v_reset=-0.25, decay=0.8, current_decay=0.6),
}


def oracle(net: pk.FusedRecurrentLinear, x: torch.Tensor, precision: str) -> torch.Tensor:
    return recurrent_loop(net, x, precision)[0]


def layer(outputs: int, neuron="lif", inputs=12, bias=True, **options) -> pk.FusedRecurrentLinear:
    """With weights that are no multiples of anything."""
    torch.manual_seed(outputs)
    made = pk.FusedRecurrentLinear(inputs, outputs, bias=bias, neuron=NEURONS[neuron], **options).eval()
    with torch.no_grad():
        made.weight.mul_(3)
        made.recurrent_weight.mul_(1.5)
    return made


def given(kind: str, inputs=12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "spikes":
        return (torch.rand(T, N, inputs, generator=generator) < 0.4).float()
    if kind == "held":
        return torch.rand(N, inputs, generator=generator).expand(T, N, inputs)
    return torch.rand(T, N, inputs, generator=generator)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["spikes", "held", "values"])
@pytest.mark.parametrize("recurrence", ["full", "elementwise"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("outputs", [1, 9, 40, 200])
def test_one_layer(instruction_set, outputs, neuron, recurrence, kind, precision):
    net, x = layer(outputs, neuron, recurrence=recurrence), given(kind)
    wanted = oracle(net, x, precision)
    assert 0.01 < wanted.mean() < 0.9
    x = x[0] if kind == "held" else pk.pack(x) if kind == "spikes" else x
    assert equal(layerwise.simulate(net, x, T, precision=precision).spikes.dense(), wanted)
    assert equal(pk.simulate(net, x, T, precision=precision).spikes.dense(), wanted)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("outputs", [5, 33, 130, 300])
def test_engines_streams_and_files(tmp_path, outputs, target, precision):
    """Two layers, of which the second reads spikes; with and without bias."""
    net = nn.Sequential(layer(outputs), layer(140, "if", inputs=outputs, bias=False)).eval()
    x = given("spikes")
    wanted = oracle(net[1], oracle(net[0], x, precision), precision)
    assert 0.01 < wanted.mean() < 0.9
    engine = Engine(follow(net, (12,), False, precision), target=target)
    assert equal(engine(pk.pack(x), T).spikes.dense(), wanted)
    stream = engine.stream(N)
    parts = [stream(pk.pack(x[t : t + 7])).dense() for t in range(0, T, 7)]
    assert equal(torch.cat(parts), wanted)
    engine.save(tmp_path / "net")
    assert equal(pk.load(tmp_path / "net")(pk.pack(x), T).spikes.dense(), wanted)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_come_back_are_short(target):
    """An engine keeps them in a quarter and in half of the memory."""
    net = nn.Sequential(layer(512, inputs=4)).eval()

    def size(precision: str | None) -> int:
        return library.Session(library.Compiled(follow(net, (4,), False, precision), target)).sizes.weights

    assert size("int8") < 0.3 * size(None) and size("int16") < 0.55 * size(None)


def test_a_neuron_of_all_spikes_is_exact():
    """Weights of one sign, and all neurons fire at each step: the largest sums that there can be."""
    net = pk.FusedRecurrentLinear(4, 600, bias=False, neuron=IFNeuron(v_threshold=1e-3)).eval()
    with torch.no_grad():
        net.weight.fill_(0.75), net.recurrent_weight.uniform_(0.5, 1.0, generator=torch.Generator().manual_seed(0))
    x = torch.ones(6, N, 4)
    for precision in PRECISIONS:
        wanted = oracle(net, x, precision)
        for target in TARGETS:
            engine = Engine(follow(nn.Sequential(net), (4,), False, precision), target=target)
            assert wanted.mean() == 1 and equal(engine(pk.pack(x), 6).spikes.dense(), wanted)
        soft = pk.FusedRecurrentLinear(4, 600, bias=False, neuron=IFNeuron(v_threshold=20.0, v_reset=None)).eval()
        soft.load_state_dict(net.state_dict() | {n: v for n, v in soft.state_dict().items() if n.startswith("v_")})
        wanted = oracle(soft, torch.ones(9, N, 4), precision)
        engine = Engine(follow(nn.Sequential(soft), (4,), False, precision))
        assert 0.05 < wanted.mean() < 1 and equal(engine(pk.pack(torch.ones(9, N, 4)), 9).spikes.dense(), wanted)


def test_operations_are_counted_as_without_rounding():
    net, x = nn.Sequential(layer(40)).eval(), pk.pack(given("spikes"))
    plan, layers = pk.simulate(net, x, T, precision="int8"), layerwise.simulate(net, x, T, precision="int8")
    fired = int(plan.spikes.count().sum())
    assert plan.synops == layers.synops and plan.rates == layers.rates and fired
    assert plan.synops.accumulates["0"] == 40 * (int(x.count().sum()) + fired)


def test_too_large_a_rounding_is_refused_by_name():
    net = nn.Sequential(layer(9))
    with torch.no_grad():
        net[0].recurrent_weight[2, 3] = torch.nan
    for precision in PRECISIONS:
        with pytest.raises(ValueError, match="recurrent_weight must be finite"):
            pk.simulate(net.eval(), given("spikes"), T, precision=precision)
