"""Networks whose neurons fire several times in a step, run as a whole: by the definition, in streams, from files."""

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import cpu, reference
from proxykernels.neurons import IntegerLIFNeuron
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
T = 6


def network(generator, C=40, end="counts", decay=1.0, groups=1) -> pk.Network:
    """A convolution, one that is followed by a pooling of integers, a residual sum, averages, a matrix product."""
    neuron = IntegerLIFNeuron(v_threshold=1.0, decay=decay, max_spike_count=3)
    net = pk.Network()
    net.append("conv", pk.FusedConv2d(2, C, 3, padding=1, neuron=neuron), ("",))
    net.append("deep", pk.FusedConv2d(C, C, 3, padding=1, stride=2, groups=groups, neuron=neuron), ("conv",))
    net.append("pool", pk.MaxPool2d(2), ("deep",))
    net.append("sum", pk.FusedSum(nn.Conv2d(C, C, 1), nn.Identity(), neuron=neuron), ("pool", "pool"))
    net.append("average", pk.AvgPool2d(2), ("sum",))
    net.append("flatten", pk.Flatten(), ("average",))
    if end == "readout":
        net.append("out", pk.FusedLILinear(C, 10, decay=0.5), ("flatten",))
    else:
        last = neuron if end == "counts" else pk.neurons.IFNeuron(v_threshold=0.25)
        net.append("out", pk.FusedLinear(C, 10, neuron=last), ("flatten",))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8, unit=1 / 8)
    return net.eval()


def inputs(generator):
    return (dyadic(T, 3, 2, 8, 8, generator=generator).abs() * 4).round() / 4


def by_definition(net, x) -> dict[str, torch.Tensor]:
    """What each layer gives."""
    with pk.use_reference():
        y = {"conv": net.get_submodule("conv")(x)}
        y["deep"] = net.get_submodule("deep")(y["conv"])
        y["pool"] = reference.max_pool2d(y["deep"], 2)
        y["sum"] = net.get_submodule("sum")((y["pool"], y["pool"]))
        y["out"] = net.get_submodule("out")(reference.avg_pool2d(y["sum"], 2).flatten(2))
    return y


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("end", ["counts", "spikes", "readout"])
def test_engine_is_the_definition(generator, target, end):
    net, x = network(generator, end=end), inputs(generator)
    expected = by_definition(net, x)
    assert all(expected[name].max() > 1 for name in ("conv", "deep", "sum")) and expected["out"].any()
    result = Engine(follow(net, x.shape[2:], True), target=target)(x, T)
    output = result.output.dense() if end == "spikes" else result.output
    assert equal(output, expected["out"])
    for name in ("conv", "deep", "sum"):
        assert result.rates[name] == pytest.approx(expected[name].mean().item())


@pytest.mark.parametrize("groups", [1, 4, 40])
def test_layers_and_engine_agree(generator, groups):
    """Potentials too, in the layers' own units, and with leaks; also of an input that is held, and of spikes."""
    net = network(generator, decay=0.5, groups=groups)
    x = inputs(generator)
    for given in (x, x[0], pk.pack((x > 0.5).float())):
        by_layers, whole = layerwise.simulate(net, given, T), pk.simulate(net, given, T)
        assert by_layers.output.max() == 3 and equal(whole.output, by_layers.output)
        assert whole.rates == pytest.approx(by_layers.rates) and whole.places == by_layers.places
        for name, states in by_layers.state.items():
            assert all(map(equal, whole.state[name], states))


def test_streams_and_files(generator, tmp_path):
    net, x = network(generator), inputs(generator)
    engine = pk.compile(net, x)
    expected = engine(x, T).output
    assert expected.max() > 1
    stream = engine.stream(3)
    assert equal(torch.cat([stream(step) for step in x]), expected)
    engine.save(tmp_path / "net.pk")
    loaded = pk.load(tmp_path / "net.pk")
    assert equal(loaded(x, T).output, expected)
    stream = loaded.stream(3)
    first = stream(x[:2])
    state = stream.state
    other = engine.stream(3)
    other.state = state
    assert equal(torch.cat([first, other(x[2:])]), expected)


def test_counts_of_a_result(generator):
    net, x = network(generator), inputs(generator)
    for result in (pk.simulate(net, x, T), layerwise.simulate(net, x, T)):
        assert result.count().dtype == torch.int32 and equal(result.count().float(), result.output.sum(0))
        assert equal(result.count(until=2).float(), result.output[:2].sum(0))
        with pytest.raises(AttributeError, match="counts"):
            result.spikes  # noqa: B018


def test_what_counts_spikes_is_refused_and_says_why(generator):
    net, x = network(generator), inputs(generator)
    engine, stop = pk.compile(net, x), pk.stop.margin(1)
    for call in (lambda: engine(x, T, stop=stop), lambda: pk.simulate(net, x, T, stop=stop), engine.stream(3).count):
        with pytest.raises((AttributeError, ValueError), match="several times in a step"):
            call()


def test_one_channel_and_few_steps(generator):
    net = nn.Sequential(
        pk.FusedConv2d(1, 1, 3, neuron=IntegerLIFNeuron(max_spike_count=255)),
        pk.FusedConv2d(1, 3, (2, 1), neuron=IntegerLIFNeuron(v_threshold=0.5)),
    ).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = 50 * spikes(1, 1, 1, 7, 9, generator=generator, rate=0.5)
    with pk.use_reference():
        expected = net(x)
    assert net[0](x).max() > 20 and expected.max() == 4
    assert equal(pk.simulate(net, x, 1).output, expected)
