"""One account: a call, simulate, an engine and a stream give the same figures, whatever was compiled and is run."""

import layerwise
import pytest
import torch
from cases import many, spikes
from equality import equal
from torch import nn

import proxykernels as pk

N, T = 2, 9
READOUT = pk.neurons.LINeuron(decay=0.0)  # gives currents as they are


class Twice(pk.Network):
    """The channels of an input two times."""

    def __init__(self):
        super().__init__()
        self.append("both", pk.Concatenate(), (self.INPUT, self.INPUT))


def dyadic(layer: nn.Module) -> nn.Module:
    """Weights whose sums are exact."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randint(-3, 7, parameter.shape) / 16
    return layer


def recurrent(inputs: int, outputs: int) -> nn.Module:
    """Neurons that inhibit each other, so that not all of them fire at each step."""
    layer = dyadic(pk.FusedRecurrentLinear(inputs, outputs, neuron=pk.neurons.IFNeuron(v_threshold=4.0)))
    layer.recurrent_weight.data = -layer.recurrent_weight.data
    return layer


FIRST = {  # name -> module, channels and side of what it gives
    "convolution": (nn.Identity(), 2, 6),
    "averages": (pk.AvgPool2d(2), 2, 3),
    "adaptive averages": (pk.AdaptiveAvgPool2d(3), 2, 3),
    "averages of one": (pk.AdaptiveAvgPool2d(6), 2, 6),
    "maxima": (pk.MaxPool2d(2), 2, 3),
    "running maxima": (pk.RunningMaxPool2d(2), 2, 3),
    "largest rates": (pk.MaxRatePool2d(2), 2, 3),
    "zeros": (pk.ZeroPad2d(1), 2, 8),
    "larger": (pk.Upsample(scale_factor=2), 2, 12),
    "channels": (pk.Channels(torch.tensor([1, -1, 0])), 3, 6),
    "concatenated": (Twice(), 4, 6),
    "dropout": (pk.Dropout(0.5), 2, 6),
    "delay": (pk.Delay(2), 2, 6),
    "delays": (pk.Delay([3, 0]), 2, 6),
    "features": (nn.Sequential(pk.Flatten(), pk.Unflatten((2, 6, 6))), 2, 6),
    "other images": (nn.Sequential(pk.Flatten(), pk.Unflatten((8, 3, 3))), 8, 3),
    "same padding": (dyadic(pk.FusedIFConv2d(2, 3, 2, padding="same", v_threshold=0.5)), 3, 6),
    "groups": (dyadic(pk.FusedIFConv2d(2, 4, 3, padding=1, groups=2, v_threshold=0.5)), 4, 6),
    "readout": (dyadic(pk.FusedConv2d(2, 3, 1, neuron=READOUT)), 3, 6),
    "currents": (pk.Population(READOUT), 2, 6),
    "neurons": (pk.IF(v_threshold=0.5), 2, 6),
    "recurrent": (nn.Sequential(pk.Flatten(), recurrent(72, 32), pk.Unflatten((2, 4, 4))), 2, 4),
}


def beside_neurons() -> pk.Network:
    """The input beside what neurons make of it, through all that passes on spikes and values."""
    net, x = pk.Network(), pk.Network.INPUT
    net.append("neurons", pk.IF(v_threshold=0.5), (x,))
    net.append("padded", pk.ZeroPad2d(1), (x,))
    net.append("padded neurons", pk.ZeroPad2d(1), ("neurons",))
    net.append("both", pk.Concatenate(), ("padded", "padded neurons"))
    net.append("maxima", pk.MaxPool2d(2), ("both",))
    net.append("convolution", dyadic(pk.FusedIFConv2d(4, 5, 2, v_threshold=0.5)), ("maxima",))
    inputs = nn.Conv2d(5, 3, 1), nn.Conv2d(2, 3, 3, padding=1, stride=3)
    net.append("sum", dyadic(pk.FusedIFSum(*inputs, v_threshold=0.5)), ("convolution", "padded"))
    return net


def network(first: str) -> nn.Module:
    """Of which every layer fires, and whose last one has logits."""
    module, C, side = FIRST[first]
    layers = pk.FusedIFConv2d(C, 4, 2, v_threshold=0.5), pk.FusedIFLinear(4 * (side - 1) ** 2, 5, v_reset=None)
    convolution, last = map(dyadic, layers)
    last.v_threshold, last.scale = 2.0, torch.tensor(0.5)
    return nn.Sequential(module, convolution, pk.Flatten(), last).eval()


def inputs(steps: int, samples: int = N) -> dict[str, torch.Tensor | pk.Spikes]:
    g = torch.Generator().manual_seed(1)
    values = torch.randint(0, 9, (steps, samples, 2, 6, 6), generator=g) / 4
    bits = spikes(steps, samples, 2, 6, 6, generator=g, rate=0.4).float()
    if steps > 1 and samples:
        bits[1, 0, 0, 0, 0], bits[0, 0, 0, 0, 0] = 1, 0  # no step is like another
    packed = pk.pack(bits)
    return {
        "image": values[0], "image of 0 and 1": bits[0], "image, float64": values[0].double(),
        "image, float16": values[0].half(), "image, channels last": values[0].to(memory_format=torch.channels_last),
        "image, every second pixel": torch.stack([values[0]] * 2, -1)[..., 0],
        "values": values, "values, float16": values.half(), "values, float64": values.double(),
        "values, steps behind": values.transpose(0, 1).contiguous().transpose(0, 1),
        "counts": values.long(), "counts, uint8": values.byte(),
        "0 and 1": bits, "0 and 1, float16": bits.half(), "0 and 1, float64": bits.double(), "bool": bits.bool(),
        "0 and 1, uint8": bits.byte(), "Spikes": packed, "Spikes of 2": pk.Spikes(packed._kept, packed.shape, 2.0),
        "repeated": values[0].expand(values.shape), "repeated 0 and 1": bits[0].expand(bits.shape),
        "repeated bool": bits[0].bool().expand(bits.shape), "repeated counts": values[0].long().expand(values.shape),
    }  # fmt: skip


COMPILED = {"constant": "image", "sequence": "values", "Spikes": "Spikes"}
SPIKES = {"0 and 1", "0 and 1, float16", "0 and 1, float64", "bool", "0 and 1, uint8", "Spikes", "Spikes of 2"}
SPIKES |= {"repeated 0 and 1", "repeated bool"}  # what an engine takes that was compiled for spikes alone
TAKE_ANY = {"convolution", "dropout", "averages of one", "same padding", "groups", "readout", "currents", "neurons"}
TAKE_ANY |= {"features", "recurrent"}  # neurons read the input


def dense(y) -> torch.Tensor:
    return y.dense() if isinstance(y, pk.Spikes) else y.float()


def figures(result) -> dict:
    """All that a result shows."""
    return {
        "spikes": result.spikes.dense(), "count": result.count(), "until": result.count(until=len(result.spikes) // 2),
        "steps": result.steps, "logits": result.logits, "rates": str(result.rates), "synops": result.synops,
        "total": result.synops.total, "joules": result.synops.joules, "ReLU": result.relu_joules,
        "printed": str(result),
    }  # fmt: skip


def same(got: dict, expected: dict, about: str) -> None:
    for name, value in expected.items():
        agree = torch.equal(got[name], value) if isinstance(value, torch.Tensor) else got[name] == value
        assert agree, f"{about}: {name} {got[name]}, expected {value}"


def streamed(engine: pk.Engine, x, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spikes, counts and logits of a stream that is given an image again and again, or parts of a sequence."""
    stream = engine.stream(N)
    if isinstance(x, torch.Tensor) and x.ndim == 4:
        parts = [stream(x) for _ in range(steps)]
    else:
        parts = [stream(x[t : t + 2]) for t in range(0, steps, 2)]
    return torch.cat([dense(part) for part in parts]), stream.count(), stream.logits


def check(first: str, steps: int, only: set[str] | None = None) -> None:
    net, given = network(first), inputs(steps)
    engines = {
        compiled: pk.compile(net, given[sample])
        for compiled, sample in COMPILED.items()
        if first != "largest rates" or compiled == "Spikes"  # of counted spikes alone
    }
    fired = 0
    for name, x in given.items():
        if only and name not in only or (first == "largest rates" and name not in SPIKES - {"Spikes of 2"}):
            continue
        result = layerwise.simulate(net, x, steps)
        expected, held = figures(result), isinstance(x, torch.Tensor) and x.ndim == 4
        fired += int(result.count().sum())
        sequence = x.expand(steps, *x.shape) if held else x
        assert equal(dense(net(sequence)), expected["spikes"]), name
        assert layerwise.simulate(net, x, steps, chunk=4).synops == expected["synops"], name
        same(figures(pk.simulate(net, x, steps)), expected, f"{first}, simulated whole, run on {name}")
        for compiled, engine in engines.items():
            about = f"{first}, compiled with {compiled}, run on {name}"
            if compiled == "Spikes" and first not in TAKE_ANY and name not in SPIKES:
                with pytest.raises(TypeError, match="x must be spikes, as in the sample"):
                    engine(x, steps)
                continue
            same(figures(engine(x, steps)), expected, about)
            y, count, logits = streamed(engine, x, steps)
            got = {"spikes": y, "count": count, "logits": logits}
            same(got, {key: expected[key] for key in got}, f"a stream of {about}")
    assert fired > 8


@pytest.mark.parametrize("first", many(FIRST, 3))
def test_all_ways_in_tell_the_same(first):
    check(first, T)


@pytest.mark.parametrize("given", [name for name in inputs(2) if name != "Spikes of 2"])
def test_an_input_beside_neurons(given):
    net, x = beside_neurons(), inputs(T)[given]
    expected = layerwise.simulate(net, x, T)
    assert expected.count().any() and expected.rates["convolution"] > 0.01
    if given in SPIKES and not given.startswith("repeated"):
        assert not any(expected.synops.multiply_accumulates.values())
    for compiled, sample in COMPILED.items():
        if compiled != "Spikes" or given in SPIKES:
            result = pk.compile(net, inputs(T)[sample])(x, T)
            assert equal(result.spikes.dense(), expected.spikes.dense())
            assert result.synops == expected.synops and result.rates == expected.rates


def test_running_maxima_of_half_precision():
    """Their sums are states, in float32: float16 does not hold those of 600 steps."""
    net = nn.Sequential(pk.RunningMaxPool2d(2), dyadic(pk.FusedIFConv2d(2, 4, 2, v_threshold=0.5)))
    values = inputs(600)["values"] + 1 / 8
    counts = [layerwise.simulate(net, x, 600).spikes.dense() for x in (values, values.half())]
    assert equal(*counts) and counts[0].any()


@pytest.mark.costly
@pytest.mark.parametrize("steps", [1, 33, 70])
@pytest.mark.parametrize("first", ["averages", "running maxima", "larger", "concatenated", "same padding"])
def test_of_any_number_of_steps(first, steps):
    check(first, steps, {"image", "values", "0 and 1", "Spikes", "repeated", "repeated bool"})


@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("first", ["averages", "maxima", "zeros"])
def test_of_any_number_of_samples(first, samples):
    net = network(first)
    for compiled in COMPILED.values():
        engine = pk.compile(net, inputs(T)[compiled])
        for name in ("Spikes", "bool", "0 and 1", *(("image", "values", "repeated") if compiled != "Spikes" else ())):
            x = inputs(T, samples)[name]
            if samples or name != "image":
                expected = layerwise.simulate(net, x, T)
                assert engine(x, T).synops == expected.synops and str(engine(x, T).rates) == str(expected.rates)
                assert equal(engine(x, T).count(), expected.count())
            assert engine(x, T).count().shape == (samples, 5)


@pytest.mark.parametrize("precision", ["int16", "int8"])
@pytest.mark.parametrize("first", ["averages", "maxima", "concatenated", "same padding", "readout"])
def test_of_rounded_weights(first, precision):
    net, given = network(first), inputs(T)
    for compiled in COMPILED.values():
        engine = pk.compile(net, given[compiled], precision=precision)
        for name in ("Spikes", "0 and 1", "bool", *(("image", "values", "repeated") if compiled != "Spikes" else ())):
            expected = figures(layerwise.simulate(net, given[name], T, precision=precision))
            same(figures(engine(given[name], T)), expected, f"{first}, {compiled}, {name}")


@pytest.mark.parametrize("first", ["averages", "maxima", "running maxima", "concatenated"])
def test_of_samples_that_stop(first):
    """Held values are multiplied once a sample, the others at the steps that each was simulated for."""
    net, given = network(first), inputs(40)
    engine = pk.compile(net, given["values"])
    for name in ("image", "values", "0 and 1", "Spikes", "repeated"):
        expected = layerwise.simulate(
            net, given[name], 40, stop=lambda counts, t: torch.tensor([True, False])[-len(counts) :]
        )
        result = engine(given[name], 40, stop=lambda counts, t: torch.tensor([True, False])[-len(counts) :])
        assert expected.steps.tolist() == [8, 40] and expected.count().any()
        assert equal(result.steps, expected.steps) and equal(result.count(), expected.count())
        assert result.synops == expected.synops and str(result.rates) == str(expected.rates), name


def test_a_stream_takes_values_and_spikes_in_turn():
    for first in ("averages", "maxima", "zeros", "other images"):
        net, given = network(first), inputs(T)
        stream, state, parts = pk.compile(net, given["values"]).stream(N), None, []
        for name in ("values", "Spikes", "counts", "0 and 1", "repeated"):
            result = layerwise.simulate(net, given[name], T, state=state)
            state = result.state
            assert equal(stream(given[name]).dense(), result.spikes.dense()), (first, name)
            parts.append(result.count())
        assert equal(stream.count(), sum(parts)) and all(part.any() for part in parts)


def test_averages_that_a_product_takes_over():
    """Spikes that fewer pixels hold than their averages go to the product of a plan as they are. What is counted is the
    network as it is written, whose averages are values."""
    first = dyadic(pk.FusedIFConv2d(2, 4, 6, v_threshold=0.5))
    net = nn.Sequential(first, pk.AdaptiveAvgPool2d(2), pk.Flatten(), dyadic(pk.FusedIFLinear(16, 5, v_threshold=0.25)))
    for name, x in inputs(T).items():
        expected, engine, found = layerwise.simulate(net, x, T), pk.compile(net, x), pk.simulate(net, x, T)
        assert engine(x, T).synops == found.synops == expected.synops, name
        assert expected.synops.multiply_accumulates["3"] == N * T * 16 * 5, name
        assert equal(engine(x, T).count(), expected.count()) and expected.count().any()


def test_a_pool_before_the_neurons_is_multiplied_once():
    """By hand: 2 samples of 2 x 2 outputs, 4 channels, windows of 2 x 2 of 2 channels."""
    net, image = network("averages"), inputs(T)["image"]
    for x in (image, image.expand(T, *image.shape)):
        for sample in COMPILED.values():
            if sample != "Spikes":
                synops = pk.compile(net, inputs(T)[sample])(x, T).synops
                assert synops.multiply_accumulates["1"] == 2 * (2 * 2 * 4) * (2 * 2 * 2) and not synops.accumulates["1"]
