"""The C interface: what it gives is what pk.Engine gives, bit for bit."""

import c_library
import pytest
import torch
from c_library import (
    BYTE_FRAMES,
    BYTE_IMAGE,
    EITHER_OUT,
    FRAMES,
    SIGNED_OUT,
    SPIKES,
    SPIKES_OUT,
    VALUES_OUT,
    CError,
    Network,
)
from equality import equal
from oracle import make_dyadic, trace
from sigma_delta_nets import exact, nets_fixture, pooled_fixture  # noqa: F401 - fixtures
from test_engine import NEURONS, TARGETS, image, network
from torch import nn

import proxykernels as pk


def saved(net, x, path, precision=None):
    """The engine, and the path of its file."""
    engine = pk.compile(net, x, precision=precision)
    engine.save(path / "net")
    return engine, path / "net"


def dense(spikes: pk.Spikes, out: tuple[int, ...]) -> torch.Tensor:
    return spikes.dense().to(torch.int8).view(*spikes.shape[:2], *out)


@pytest.mark.alike
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_each_layer_is_the_definition(neuron, target, tmp_path):
    """Of a held image, every layer's spikes at every step, counts, and states."""
    net, x, T = network(NEURONS[neuron]), image(), 37
    values, _ = trace(net, x.expand(T, *x.shape))
    _, path = saved(net, x, tmp_path)
    stream = Network(path, target).stream(2)
    stream.watch()
    stream.run(x, T)
    assert stream.network.info.target.decode() == target and stream.steps == T
    for k, layer in enumerate(stream.layers):
        expected = values[layer.name.decode()].view(T, 2, layer.C, layer.H, layer.W)
        if layer.gives == SPIKES_OUT:
            assert equal(stream.spikes(k), expected.to(torch.int8)), layer.name
        assert equal(stream.values(k), expected), layer.name
    assert {layer.gives for layer in stream.layers} == {SPIKES_OUT, VALUES_OUT}
    assert values["out"].any() and values["sum"].any()
    assert equal(stream.counts().flatten(1), values["out"].sum(0).int())


@pytest.mark.parametrize("last", ["spikes", "readout", "integers"])
def test_samples_of_different_lengths(last, tmp_path):
    """As the engine's ``lengths=``; what is watched is 0 behind a sample's end."""
    T, lengths = 40, [40, 1, 7, 33, 7]
    end = {
        "spikes": pk.FusedLIFLinear(24, 5, decay=0.5, v_threshold=0.25),
        "readout": pk.FusedLILinear(24, 5, decay=0.5),
        "integers": pk.FusedLinear(24, 5, neuron=pk.neurons.IntegerLIFNeuron(decay=0.5, v_threshold=0.125)),
    }[last]
    net = nn.Sequential(pk.FusedLIFLinear(30, 24, decay=0.5, v_threshold=0.25), end).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    x = torch.rand(T, 5, 30) < 0.3
    engine, path = saved(net, pk.pack(x), tmp_path)
    expected = engine(x, T, lengths=lengths)
    stream, packed = Network(path).stream(5), c_library.pack(x)
    stream.watch()
    for _ in range(2):
        stream.run_lengths(packed, T, lengths, SPIKES)
        assert stream.sample_steps == lengths and stream.steps == T
        output = expected.spikes.dense() if last == "spikes" else expected.output
        assert output.any() and equal(stream.values(1)[..., 0, 0], output)
        if last == "spikes":
            assert equal(stream.counts().flatten(1), expected.count())
        assert stream.work().additions == sum(expected.synops.accumulates.values())
        hidden = stream.spikes(0)
        assert all(hidden[:end, n].any() and not hidden[end:, n].any() for n, end in enumerate(lengths) if end > 7)
    stream.run(packed, T, SPIKES)
    assert stream.sample_steps == [T] * 5


def test_lengths_that_are_none(tmp_path):
    stream = Network(saved(network(), image(), tmp_path)[1]).stream(2)
    for lengths, sentence in (
        ([3], "lengths must have 2 elements, got 1"),
        ([3, 5], "from 1 to T = 4, got 5 for sample 1"),
        ([0, 4], "got 0 for sample 0"),
    ):
        with pytest.raises(CError, match=sentence):
            stream.run_lengths(image(), 4, lengths)


@pytest.mark.parametrize("precision", [None, "int16", "int8"])
@pytest.mark.parametrize("given", ["held", "frames", "spikes", "bytes", "byte frames"])
def test_runs_and_streams_are_the_engines(given, precision, tmp_path):
    """Of random floats too, on one machine: the same kernels are chosen."""
    net, T = network(), 33
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.05, 0.15)
    frames = torch.rand(T, 3, 2, 9, 7)
    x, kind, as_given = {
        "held": (frames[0], c_library.IMAGE, frames[0]),
        "frames": (frames, FRAMES, frames),
        "spikes": (frames > 0.7, SPIKES, None),
        "bytes": ((255 * frames[0]).byte().float() / 255, BYTE_IMAGE, (255 * frames[0]).byte()),
        "byte frames": ((255 * frames).byte().float() / 255, BYTE_FRAMES, (255 * frames).byte()),
    }[given]
    as_given = c_library.pack(x) if as_given is None else as_given
    engine, path = saved(net, frames[0], tmp_path, precision)
    stream, expected = Network(path).stream(3), engine(x, T)
    for _ in range(2):  # a session's memory is used again
        stream.run(as_given, T, kind)
        assert equal(stream.spikes(len(stream.layers) - 1), dense(expected.spikes, (10, 1, 1)))
        assert equal(stream.counts().flatten(1), expected.count()) and expected.count().any()
    work = stream.work()
    assert work.additions == sum(expected.synops.accumulates.values())
    assert work.multiplications == sum(expected.synops.multiply_accumulates.values())
    python, held = engine.stream(3), given in ("held", "bytes")
    stream.reset()
    for start, steps in ((0, 1), (1, 1), (2, 7), (9, 24)):
        if held:
            spikes = torch.cat([python(x).dense() for _ in range(steps)])
            stream.advance(as_given, steps, kind)
        else:
            spikes = python(x[start : start + steps]).dense()
            part = as_given[:, start : start + steps] if kind == SPIKES else as_given[start : start + steps]
            stream.advance(part, steps, kind)
        assert equal(stream.spikes(len(stream.layers) - 1).flatten(2), spikes.to(torch.int8))
    assert stream.steps == python.steps == T and equal(stream.counts().flatten(1), python.count())
    assert python.count().any()


LAST = {
    "readout": lambda: pk.FusedLinear(40, 4, neuron=pk.neurons.LINeuron(decay=0.5)),
    "recurrent": lambda: pk.FusedRecurrentLinear(40, 4, neuron=pk.neurons.LIFNeuron(v_threshold=0.5, decay=0.5)),
    "one value": lambda: pk.FusedRecurrentLinear(
        40, 4, neuron=pk.neurons.IFNeuron(v_threshold=0.5), recurrence="elementwise"
    ),
    "delay": lambda: nn.Sequential(pk.Delay([0, 3] * 20), pk.FusedIFLinear(40, 4, v_threshold=0.25)),
}


@pytest.mark.parametrize("last", LAST)
def test_other_layers(last, tmp_path):
    """Depthwise and grouped convolutions, poolings with states, recurrence, delays, readouts; and all their states."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 16, 3, padding=1, v_threshold=0.5), pk.FusedIFConv2d(16, 16, 3, padding=1, groups=16),
        pk.MaxRatePool2d(2), pk.FusedIFConv2d(16, 40, 3, groups=4, v_threshold=0.25), pk.AdaptiveAvgPool2d(1),
        pk.Flatten(), LAST[last](),
    )  # fmt: skip
    make_dyadic(net, 1 / 64)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                parameter.abs_()
    x = image(3, 12)
    engine, path = saved(net.eval(), x[0], tmp_path)
    stream, python = Network(path).stream(3), engine.stream(3)
    for start in (0, 5):
        part = x[start : start + 5]
        y = python(part)
        stream.advance(part, 5, FRAMES)
        final = len(stream.layers) - 1
        y = y if isinstance(y, torch.Tensor) else y.dense()
        assert equal(stream.values(final).flatten(2), y.float()) and y.any()
    kept = {k: stream.state(k) for k, layer in enumerate(stream.layers) if layer.state_size}
    for k, state in kept.items():
        op = engine.plan.operations[k]
        C = stream.layers[k].C
        if k not in engine.plan.within:
            states = state.view(3, op.states, -1, C).transpose(2, 3)
            assert equal(states.flatten(), python.state[op.name].float().flatten()), op.name
    other = Network(path).stream(3)
    for k, state in kept.items():
        other.set_state(k, state)
    other.advance(x[10:], 2, FRAMES), stream.advance(x[10:], 2, FRAMES)
    assert equal(other.values(final), stream.values(final))


@torch.no_grad()
def test_averages_in_weights_are_counted_as_products(tmp_path):
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3), pk.AdaptiveAvgPool2d(3), pk.Flatten(), pk.FusedIFLinear(72, 4, v_threshold=0.25)
    )
    make_dyadic(net, 1 / 16)
    x = image(3, 12)[0, ..., :4, :4]
    engine, path = saved(net.eval(), x, tmp_path)
    assert len(engine.plan.operations) == 2
    expected, stream = engine(x, 20), Network(path).stream(3)
    stream.run(x, 20)
    first, last = stream.work(0), stream.work(1)
    assert first.spikes and not last.additions and last.multiplications == 20 * 3 * 4 * 72
    assert expected.synops.multiply_accumulates == {"0": first.multiplications, "3": last.multiplications}


@torch.no_grad()
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("precision", [None, "int8"])
def test_sigma_delta(request, net_of, frames, precision, generator, tmp_path):
    """Outputs after each step, codes of layers, states, and operations; in 8 bits of graded neurons."""
    ann, x = request.getfixturevalue(net_of)
    net, x = exact(ann, x, pk.neurons.SigmaDelta(6, True) if precision is None else pk.neurons.Graded(0.25))
    given = torch.stack([x, x, x + (torch.rand(x.shape, generator=generator) < 0.1), x]) if frames else x
    engine, path = saved(net, given, tmp_path, precision)
    T = 4
    expected, stream = engine(given, T), Network(path).stream(len(x))
    stream.watch()
    info, final = stream.network.info, len(stream.layers) - 1
    assert info.is_sigma_delta and not info.fires and info.has_logits and not info.takes_spikes
    stream.run(given, T, FRAMES if frames else c_library.IMAGE)
    assert equal(stream.values(final).flatten(2), expected.potentials) and expected.potentials.any()
    assert equal(stream.logits().flatten(1), expected.logits)
    synops, work = expected.synops, stream.work()
    assert (work.additions, work.multiplications) == tuple(
        sum(part.values()) for part in (synops.accumulates, synops.multiply_accumulates)
    )
    signed = [k for k, layer in enumerate(stream.layers) if layer.gives == SIGNED_OUT and b"sigma" in layer.kind]
    for k in signed:
        codes, values = stream.spikes(k), stream.values(k)
        assert codes.any() and int(codes.count_nonzero()) == stream.work(k).spikes
        assert equal(values, torch.where(codes == 0, 0.0, codes.sign() * 2.0 ** (1 - codes.abs().float())))
    python, stream = engine.stream(len(x)), Network(path).stream(len(x))
    for t in range(T):
        step = given[t : t + 1] if frames else given
        y = python(step)
        stream.advance(step, 1, FRAMES if frames else c_library.IMAGE)
        assert equal(stream.values(final).flatten(2), y)
    assert equal(stream.logits().flatten(1), python.logits)
    last_state, ends = python.state[""], [stream.state(0), stream.state(final)]
    for mine, theirs in zip(ends, last_state, strict=True):
        shape = theirs.flatten(2).transpose(1, 2) if theirs.ndim > 2 else theirs
        assert equal(mine, shape.flatten())
    for k, op in enumerate(engine.plan.operations):
        if op.senders:
            assert equal(stream.state(k), torch.cat([part.flatten() for part in python.state[op.name]]))


def told(stream) -> list:
    """All that a stream tells of what it has done."""
    states = [stream.state(k) for k, layer in enumerate(stream.layers) if layer.state_size]
    info, work = stream.network.info, stream.work()
    found = [
        torch.tensor(stream.sample_steps),
        torch.tensor([work.spikes, work.additions, work.multiplications]),
        *states,
    ]
    return [*found, *([stream.counts()] if info.fires else []), *([stream.logits()] if info.has_logits else [])]


def alike(actual: list, expected: list) -> bool:
    return len(actual) == len(expected) and all(map(equal, actual, expected))


@pytest.mark.parametrize("neuron", ["if", "sigma-delta", "leaky", "readout"])
def test_whole_states(neuron, converted, tmp_path):
    """A stream that takes a kept state goes on as that one did."""
    net, images = converted
    if neuron == "sigma-delta":
        net = pk.convert(pk.samples.relu_network(), images, neuron=neuron)
    elif neuron != "if":
        recurrent = pk.FusedRecurrentLinear(50, 4, neuron=pk.neurons.LIFNeuron(decay=0.5))
        last = pk.FusedLILinear(50, 4, decay=0.5) if neuron == "readout" else recurrent
        first = pk.FusedConv2d(1, 2, 5, 4, neuron=pk.neurons.CubaLIFNeuron(decay=0.5, current_decay=0.5))
        net = nn.Sequential(pk.Delay(2), first, pk.RunningMaxPool2d(2, 1), pk.Flatten(), last).eval()
    _, path = saved(net, images[:1], tmp_path)
    x = images[:3] * 2
    stream, other = Network(path).stream(3), Network(path).stream(3)
    at_rest = stream.save()
    stream.advance(x, 5)
    kept, before = stream.save(), told(stream)
    stream.advance(x, 6)
    after = told(stream)
    assert stream.steps == 11 and not alike(before, after) and any(part.any() for part in before[2:])
    for one in (stream, other):
        one.restore(kept)
        assert one.steps == 5 and alike(told(one), before)
        one.advance(x, 6)
        assert alike(told(one), after)
    stream.restore(at_rest)
    assert stream.steps == 0 and stream.work().additions == 0
    stream.advance(x, 5)
    assert alike(told(stream), before)


def test_a_sample_that_is_reset(converted, tmp_path):
    """As in Python; sigma-delta neurons start together."""
    net, images = converted
    engine, path = saved(net, images[:1], tmp_path, "int8")
    stream, python = Network(path).stream(3), engine.stream(3)
    stream.reset_sample(0)
    stream.advance(images[:3], 5), python(images[:3].expand(5, *images[:3].shape))
    stream.reset_sample(1), python.reset(samples=[1])
    assert stream.sample_steps == [5, 0, 5] == python.sample_steps.tolist() and stream.steps == 5
    for _ in range(4):
        assert equal(stream.counts().flatten(1), python.count()) and equal(stream.logits().flatten(1), python.logits)
        stream.advance(images[:3]), python(images[:3])
    assert stream.sample_steps == [9, 4, 9] and stream.counts().any()
    kept = stream.save()
    stream.reset()
    assert stream.sample_steps == [0, 0, 0]
    stream.restore(kept)
    assert stream.sample_steps == [9, 4, 9] and equal(stream.logits().flatten(1), python.logits)
    deltas = pk.convert(pk.samples.relu_network(), images, neuron="sigma-delta")
    stream = Network(saved(deltas, images[:1], tmp_path)[1]).stream(3)
    stream.reset_sample(2)
    stream.advance(images[:3], 2)
    with pytest.raises(CError, match="samples of sigma-delta neurons start from rest together"):
        stream.reset_sample(2)


@pytest.fixture(scope="module")
def converted():
    images, _ = pk.samples.fashion_mnist()
    return pk.convert(pk.samples.relu_network(), images), images


@pytest.mark.parametrize("precision", [None, "int16", "int8"])
def test_logits(converted, precision, tmp_path):
    net, images = converted
    engine, path = saved(net, images[:1], tmp_path, precision)
    stream = Network(path).stream(5)
    for T in (1, 4):
        stream.run(images[:5], T)
        assert equal(stream.logits().flatten(1), engine(images[:5], T).logits)
    python = engine.stream(5)
    stream.reset()
    for _ in range(3):
        python(images[:5]), stream.advance(images[:5])
    assert equal(stream.logits().flatten(1), python.logits)
    (name, k), *_ = [(op.name, k) for k, op in enumerate(engine.plan.operations) if k == engine.plan.with_logits]
    states = python.state
    states[name] = states[name] + 0.5
    python.state = states
    stream.set_state(k, stream.state(k) + 0.5)
    assert equal(stream.logits().flatten(1), python.logits)
    python(images[:5]), stream.advance(images[:5])
    assert equal(stream.logits().flatten(1), python.logits) and equal(stream.counts().flatten(1), python.count())


@pytest.mark.parametrize("rate", [0.001, 0.1])
def test_events(rate, tmp_path):
    """Few ones, whose layers are scattered, and many: each layer at each step."""
    torch.manual_seed(3)
    size, T, dt = (32, 40), 20, 1000
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 16, 5, padding=2, bias=False, v_threshold=0.25), pk.MaxPool2d(2),
        pk.FusedIFConv2d(16, 16, 3, padding=1, bias=False, v_threshold=0.25), pk.Flatten(),
        pk.FusedIFLinear(16 * 16 * 20, 11, v_threshold=0.25),
    )  # fmt: skip
    make_dyadic(net, 1 / 64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    n = int(rate * T * size[0] * size[1] * 2)
    t, x, y, p = torch.randint(T * dt, (n,)), torch.randint(40, (n,)), torch.randint(32, (n,)), torch.randint(2, (n,))
    packed = pk.events(t, x, y, p, size=size, dt=dt, T=T)
    mine = c_library.pack_events(t + 77, x, y, p, size, begin=77, span=T * dt, T=T)
    assert equal(mine, packed._words.view(mine.shape)) and packed.dense().any()
    engine, path = saved(net.eval(), packed, tmp_path)
    result = pk.simulate(net, packed, T, record=["0", "2"])
    stream = Network(path).stream(1)
    stream.watch()
    stream.run(mine, T, SPIKES)
    assert equal(stream.counts().flatten(1), engine(packed, T).count())
    for k, name in ((0, "0"), (2, "2")):
        assert (
            equal(stream.spikes(k), result.records[name].dense().to(torch.int8)) and result.records[name].dense().any()
        )


def test_what_a_network_is(converted, tmp_path):
    net, images = converted
    engine, path = saved(net, images[:1], tmp_path, "int8")
    network = Network(path.read_bytes())
    info, layers = network.info, network.layers()
    assert (info.C, info.H, info.W, info.dims, info.out_C, info.layers) == (
        1,
        28,
        28,
        3,
        10,
        len(engine.plan.operations),
    )
    assert info.precision == b"int8" and info.packed_bytes == engine.sizes[0] and info.target.decode() == engine.target
    assert info.takes_values and info.takes_spikes and info.fires and info.has_logits and not info.is_sigma_delta
    for layer, op in zip(layers, engine.plan.operations, strict=True):
        assert (layer.name.decode(), layer.kind.decode()) == (op.name, op.kind)
        assert (layer.C, layer.H, layer.W, layer.dims) == (*op.image, len(op.shape))
        assert layer.neuron.decode() == (op.neurons.model if op.neurons else "")
        weights = sum(weight.numel() for weight in op.weights)
        rest = op.neurons.bias.numel() + op.neurons.channels.numel() if op.neurons else 0
        assert layer.parameters == weights + rest
    assert c_library.library().pk_version().decode() == pk.__version__


def test_a_pooling_gives_what_it_reads(tmp_path):
    net = nn.Sequential(pk.MaxPool2d(2), pk.FusedIFConv2d(2, 4, 1, v_threshold=0.25))
    _, path = saved(net, image(), tmp_path)
    stream = Network(path).stream(2)
    stream.watch()
    assert stream.layers[0].gives == EITHER_OUT
    stream.run(image(), 3)
    assert equal(stream.values(0), nn.functional.max_pool2d(image(), 2).expand(3, 2, 2, 4, 3))
    spikes = image(2, 3) > 0.5
    stream.run(c_library.pack(spikes), 3, SPIKES)
    expected = net[0](pk.pack(spikes.float())).dense()
    assert equal(stream.spikes(0), expected.to(torch.int8)) and expected.any()
