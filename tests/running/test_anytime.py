"""Early exit by counts and by logits, records, and synaptic operations."""

import math

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, spikes
from equality import equal
from test_simulate import Twice, make_net, oracle
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference


@pytest.fixture
def case(generator):
    """A network, images of which some are brighter, and the outputs of the oracle for 40 steps."""
    net = make_net(generator)
    x = dyadic(9, 1, 8, 7, generator=generator).abs() * torch.arange(1, 10).view(-1, 1, 1, 1) / 8
    return net, x, oracle(net, x.expand(40, *x.shape), 0.0)


def stopping_steps(out: torch.Tensor, lead: int, chunk: int) -> torch.Tensor:
    """When each sample of out [T, N, classes] is decided, looked at every ``chunk`` steps."""
    T, N, _ = out.shape
    steps = torch.full((N,), T)
    for t in reversed([*range(chunk, T, chunk), T]):
        first, second = out[:t].sum(0).topk(2, 1).values.unbind(1)
        steps[first - second >= lead] = t
    return steps


@pytest.mark.parametrize("kind", ["held", "sequence", "spikes"])
@pytest.mark.parametrize("chunk", [1, 7, 100, None])
@pytest.mark.parametrize("run", [pk.simulate, layerwise.simulate], ids=["plan", "layers"])
def test_decided_samples_stop(case, generator, run, chunk, kind):
    net, x, (_, _, out) = case
    if kind != "held":
        dense = spikes(40, *x.shape, generator=generator, rate=0.4)
        x, out = pk.pack(dense) if kind == "spikes" else dense, oracle(net, dense, 0.0)[2]
    result = run(net, x, 40, chunk=chunk, stop=pk.stop.margin(4))
    steps = stopping_steps(out, 4, chunk or 8)
    assert equal(result.steps, steps) and (1 < len(steps.unique()) or chunk == 100)
    alive = torch.arange(40).view(-1, 1, 1) < steps.view(-1, 1)
    assert equal(result.spikes.dense(), out * alive)
    whole = pk.simulate(net, x, 40)
    assert whole.steps.tolist() == [40] * 9
    last = steps == 40
    for name, (v,) in result.state.items():
        assert v.shape == whole.state[name][0].shape and equal(v[last], whole.state[name][0][last])


def test_states_of_stopped_samples_are_in_their_places(case):
    net, x, _ = case
    result = pk.simulate(net, x, 40, chunk=5, stop=pk.stop.margin(3))
    for k, steps in enumerate(result.steps.tolist()):
        alone = pk.simulate(net, x[k : k + 1], steps)
        for name, (v,) in alone.state.items():
            assert equal(result.state[name][0][k : k + 1], v)


def test_all_samples_stop(case):
    net, x, _ = case
    result = pk.simulate(net, x, 1000, chunk=10, stop=lambda counts, t: torch.full((len(counts),), t >= 20))
    assert result.steps.tolist() == [20] * 9 and result.spikes.T == 1000
    assert equal(result.count(), pk.simulate(net, x, 20).count())
    assert result.rates["0"] == pytest.approx(pk.simulate(net, x, 20).rates["0"])


@pytest.mark.parametrize("run", [pk.simulate, layerwise.simulate], ids=["plan", "layers"])
def test_of_no_samples_no_rule_is_asked(case, run):
    net, x, _ = case
    asked = []
    for samples in (x[:0], x):
        result = run(net, samples, 40, stop=lambda counts, t: asked.append(t) or torch.ones(len(counts)).bool())
        assert len(result.steps) == len(samples) and asked == [8] * bool(len(samples))


def test_bad_rules(case):
    net, x, _ = case
    with pytest.raises(TypeError, match="stop must return a bool tensor"):
        pk.simulate(net, x, 10, stop=lambda counts, t: counts)
    with pytest.raises(ValueError, match="lead must be above 0 spikes, got 0"):
        pk.stop.margin(0)
    with pytest.raises(TypeError, match="lead must be a number of spikes, got '3'"):
        pk.stop.margin("3")
    with pytest.raises(ValueError, match="record and stop exclude each other"):
        pk.simulate(net, x, 10, stop=pk.stop.margin(3), record=["0"])


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_records(case, chunk):
    net, x, (s1, s2, _) = case
    records = pk.simulate(net, x, 40, chunk=chunk, record=["0", "1", "1.v", "4.v"]).records
    assert list(records) == ["0", "1", "1.v", "4.v"]
    assert equal(records["0"].dense(), s1) and equal(records["1"].dense(), s2)
    v, potentials = None, []
    for t in range(40):
        _, v = reference.if_conv2d(s1[t : t + 1], net[1].weight.data, net[1].bias.data, v)
        potentials.append(v)
    assert equal(records["1.v"], torch.stack(potentials))
    assert equal(records["4.v"][-1], pk.simulate(net, x, 40).state["4"][0])
    for record, message in (
        (["conv9"], "record names a layer that net has not: 'conv9'"),
        (["3"], "'3'; it has"),
        ("0", "record must be a list of layer names, got the string '0'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.simulate(net, x, 4, record=record)
    with pytest.raises(ValueError, match="layer inner is called more than once a step"):
        pk.simulate(Twice(), torch.rand(3, 5), 4, record=["inner"])


def test_records_of_a_joining_layer(generator):
    net = pk.Network()
    net.append("first", pk.FusedIFLinear(5, 6), ("",))
    net.append("last", pk.FusedIFSum(nn.Linear(6, 6), nn.Identity()), ("first", "first"))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(3, 5, generator=generator).abs()
    result = pk.simulate(net, x, 30, record=["last.v"])
    assert equal(result.records["last.v"][-1], result.state["last"][0])


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.Conv2d(4, 6, (2, 3), padding="same"),
    nn.Conv2d(4, 6, 3, dilation=2, padding=(1, 2), groups=2), nn.Conv2d(4, 6, 1, stride=(1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_operations_of_a_convolution(generator, convolution):
    """Every spike, once for each output that a convolution of ones connects it with."""
    c = convolution
    dense = spikes(9, 2, 4, 7, 8, generator=generator)
    layer = pk.FusedIFConv2d(4, 6, c.kernel_size, c.stride, c.padding, c.dilation, c.groups)
    with torch.no_grad():
        reached = F.conv2d(
            dense.flatten(0, 1), torch.ones_like(c.weight), None, c.stride, c.padding, c.dilation, c.groups
        ).sum()
    result = pk.simulate(nn.Sequential(layer, pk.Flatten()), pk.pack(dense), 9, chunk=4)
    assert result.synops.accumulates == {"0": int(reached)} and result.synops.multiply_accumulates == {"0": 0}


def test_operations_of_a_network(case):
    net, x, (s1, s2, _) = case
    synops = pk.simulate(net, x, 40, chunk=7).synops
    pooled = reference.max_pool2d(s2, 2)
    assert synops.accumulates["4"] == int(pooled.sum()) * 7 and synops.accumulates["0"] == 0
    assert synops.multiply_accumulates == {"0": 9 * 6 * 8 * 7 * 9, "1": 0, "4": 0}  # the image is multiplied once
    assert synops.total == sum(synops.accumulates.values()) + 9 * 6 * 8 * 7 * 9
    assert synops.joules == pytest.approx(
        0.9e-12 * sum(synops.accumulates.values()) + 4.6e-12 * synops.multiply_accumulates["0"]
    )
    sequence = x.expand(40, *x.shape).contiguous()
    assert pk.simulate(net, sequence, 40).synops.multiply_accumulates["0"] == 40 * 9 * 6 * 8 * 7 * 9


def test_operations_of_joined_inputs(generator):
    dense = [spikes(9, 2, 4, 6, 6, generator=generator), spikes(9, 2, 6, 6, 6, generator=generator)]

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = pk.MaxRatePool2d(2)
            self.sum = pk.FusedIFSum(nn.Conv2d(4, 6, 1), nn.Identity())

        def forward(self, x):
            return self.pool(self.sum((x, pk.pack(dense[1]))))

    synops = pk.simulate(Pair(), pk.pack(dense[0]), 9, chunk=9).synops
    assert synops.accumulates == {"sum": 6 * int(dense[0].sum()) + int(dense[1].sum()), "pool": 0}


def network(classes: int = 5, rectifies: bool = False) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 24, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24 * 16, classes), *[nn.ReLU()] * rectifies,
    ]  # fmt: skip
    images = torch.rand(24, 1, 12, 12)
    return pk.convert(nn.Sequential(*layers).eval(), images), images


def logits_of(engine: pk.Engine, images: torch.Tensor, T: int) -> dict[int, torch.Tensor]:
    """After each number of steps at which logits are looked at, from runs without a rule."""
    return {t: engine(images, t).logits for t in (1, 4, 16, T)}


def expected(logits: dict[int, torch.Tensor], lead: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of each sample, and its logits after these."""
    steps = torch.full((len(logits[1]),), max(logits))
    for t in (16, 4, 1):
        first, second = logits[t].topk(2, dim=1).values.unbind(1)
        steps[(first - second) * t >= lead] = t
    return steps, torch.stack([logits[t][n] for n, t in enumerate(steps.tolist())])


@pytest.mark.parametrize("precision", [None, "int8"])
@pytest.mark.parametrize("rectifies", [False, True])
def test_samples_stop_where_logits_lead(precision, rectifies):
    net, images = network(rectifies=rectifies)
    engine = pk.compile(net, images, precision=precision)
    looks = logits_of(engine, images, 24)
    leads = torch.cat([looks[t].topk(2, dim=1).values.diff(dim=1).abs() * t for t in (1, 4, 16)])
    found = [expected(looks, lead) for lead in leads.sort(dim=0).values.flatten().tolist()]
    best = max(range(len(found)), key=lambda k: len(found[k][0].unique()))
    lead, (steps, logits) = leads.sort(dim=0).values[best].item(), found[best]
    assert len(steps.unique()) >= 3 and steps.max() == 24
    rule = pk.stop.margin(lead, of="logits")
    for run in (engine, lambda *args, **options: pk.simulate(net, *args, precision=precision, **options)):
        result = run(images, 24, stop=rule)
        assert torch.equal(result.steps, steps) and torch.equal(result.logits, logits)
        dense = result.spikes.dense()
        assert dense.any() and not any(dense[t:, n].any() for n, t in enumerate(steps.tolist()))
        alone = [run(image[None], 24, stop=rule) for image in images]
        assert torch.equal(torch.cat([one.steps for one in alone]), steps)
    if precision == "int8":  # sums are exact, so layers one by one say the same
        layers = pk.simulate(net, images, 24, precision=precision, chunk=1, stop=rule)
        assert torch.equal(layers.steps, steps) and torch.equal(layers.logits, logits)


@pytest.mark.parametrize("precision", [None, "int8"])
@pytest.mark.parametrize("rectifies", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_classes_that_are_pixels_of_maps(seed, rectifies, precision):
    """A threshold a channel, and fewer samples at each run: of layers whose pixels are left behind in between."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3), *[nn.ReLU()] * rectifies, nn.Flatten()]
    images = torch.rand(16, 1, 6, 6)
    engine = pk.compile(pk.convert(nn.Sequential(*layers).eval(), images), images, precision=precision)
    lead = 4.000001 * engine(images, 4).logits.topk(2, dim=1).values.diff(dim=1).abs().median().item()
    steps, logits = expected(logits_of(engine, images, 16), lead)
    result = engine(images, 16, stop=pk.stop.margin(lead, of="logits"))
    assert len(steps.unique()) > 1 and result.spikes.dense().any()
    assert torch.equal(result.steps, steps)
    torch.testing.assert_close(result.logits, logits, atol=1e-6 if precision is None else 0, rtol=0)  # int8: exact sums


def test_rate_and_operations_are_those_of_the_steps_that_ran():
    net, images = network()
    engine = pk.compile(net, images, precision="int8")
    first = engine(images, 1)
    early = engine(
        images,
        4,
        stop=pk.stop.margin(first.logits.topk(2, dim=1).values.diff(dim=1).abs().median().item(), of="logits"),
    )
    again = early.steps == 4
    assert again.any() and not again.all()
    rest = engine(images[again], 4)
    for layer, additions in early.synops.accumulates.items():
        assert additions == first.synops.accumulates[layer] + rest.synops.accumulates[layer]
        products = [result.synops.multiply_accumulates[layer] for result in (early, first, rest)]
        assert products[0] == products[1] + products[2]
    assert sum(early.synops.accumulates.values()) > 0


@pytest.mark.parametrize("run", ["simulate", "engine"])
def test_errors(run):
    net, images = network()
    plain = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(144, 10))
    one = network(classes=1)[0]
    for module in (plain, one):
        call = pk.compile(module, images) if run == "engine" else lambda *a, m=module, **o: pk.simulate(m, *a, **o)
        with pytest.raises(ValueError, match="of='logits'"):
            call(images, 4, stop=pk.stop.margin(1, of="logits"))
    if run == "simulate":
        state = pk.simulate(net, images, 4).state
        for options in ({}, {"chunk": 1}):
            with pytest.raises(ValueError, match="leave state out"):
                pk.simulate(net, images, 4, state=state, stop=pk.stop.margin(1, of="logits"), **options)


def test_sigma_delta_has_settled():
    images = torch.rand(4, 1, 12, 12)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    net = pk.convert(ann, images, neuron="sigma-delta")
    for run in (pk.compile(net, images), lambda *args, **options: pk.simulate(net, *args, **options)):
        with pytest.raises(ValueError, match="settled"):
            run(images, 4, stop=pk.stop.margin(1, of="logits"))


@pytest.mark.parametrize("arguments, message", [
    ({"lead": 0}, "lead must be above 0, got 0"), ({"lead": 1, "at": [4, 1]}, "at must be ascending"),
    ({"lead": 1, "at": []}, "at must be ascending"),
    ({"lead": 1, "of": "spikes", "at": [1]}, "leave at out"),
    ({"lead": 1, "of": "rates"}, "of must be 'spikes' or 'logits'"),
])  # fmt: skip
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pk.stop.margin(**{"of": "logits"} | arguments)


T, N = 9, 2


class TwiceApplied(nn.Module):
    """The channels of an input two times."""

    def __init__(self):
        super().__init__()
        self.concatenate = pk.Concatenate()

    def forward(self, x):
        return self.concatenate((x, x))


READOUT = pk.neurons.LINeuron(decay=0.0)  # gives currents as they are
STAGES = {
    "nothing": nn.Identity(),
    "averages": pk.AvgPool2d(2),
    "maxima": pk.MaxPool2d(2),
    "zeros": pk.ZeroPad2d(1),
    "larger": pk.Upsample(scale_factor=2),
    "channels": pk.Channels(torch.tensor([1, 0])),
    "concatenated": TwiceApplied(),
    "readout": pk.FusedConv2d(2, 3, 1, neuron=READOUT),
    "currents": pk.Population(READOUT),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["constant", "moving", "constant counts"])
def test_a_constant_input_is_multiplied_once_in_every_chunk(generator, kind, stage):
    x = 2 * torch.rand(T, N, 2, 6, 6, generator=generator) + 1
    x = x[0] if kind == "constant" else x[0].byte().expand(x.shape) if kind == "constant counts" else x
    first = STAGES[stage]
    channels = {"concatenated": 4, "readout": 3}.get(stage, 2)
    net = nn.Sequential(first, pk.FusedIFConv2d(channels, 4, 3), pk.Flatten())
    for chunk, stop in (1, None), (2, None), (4, None), (8, None), (9, None), (8, pk.stop.margin(1000)), (8, _half):
        result = layerwise.simulate(net, x, T, chunk=chunk, stop=stop)
        neurons = math.prod(result.spikes.shape[2:])
        steps = N if kind != "moving" else int(result.steps.sum())
        assert result.synops.multiply_accumulates["1"] == steps * neurons * channels * 9, chunk


def _half(counts, t):
    return torch.arange(len(counts)) % 2 == 1


TYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64]
FIRST = {**STAGES, "neurons": pk.IF(v_threshold=0.5)}


@pytest.mark.alike
@pytest.mark.parametrize("most", [1, 2], ids=["spikes", "counts"])
@pytest.mark.parametrize("stage", FIRST)
def test_only_the_values_count(generator, stage, most):
    """Frames of 0 and 1 are spikes in every type; one event more in one step, and they are real values in all."""
    x = spikes(T, N, 2, 6, 6, generator=generator, rate=0.4)
    x[5, 0, 1, 2, 2] = most
    channels = {"concatenated": 4, "readout": 3}.get(stage, 2)
    net = nn.Sequential(FIRST[stage], pk.FusedIFConv2d(channels, 4, 3), pk.Flatten())
    given = [pk.pack(x)] if most == 1 else []
    given += [x.to(dtype) for dtype in TYPES[most - 1 :]]
    expected = pk.simulate(net, x, T).synops
    of_spikes = stage == "neurons" or (most == 1 and stage not in ("averages", "readout", "currents"))
    assert (expected.accumulates["1"] > 0) == of_spikes != (expected.multiply_accumulates["1"] > 0)
    for each in given:
        for chunk in (4, T):
            assert layerwise.simulate(net, each, T, chunk=chunk).synops == expected, (each, chunk)
        rate = pk.explain(net, each, T).rows[-1].input_rate
        assert 0.05 < rate < 0.95 if of_spikes else rate is None


class Doubled(nn.Module):
    """A module of a user, who reads values."""

    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return 2 * x


def test_modules_of_users_see_the_tensor_that_was_given(generator):
    x = spikes(T, N, 2, 6, 6, generator=generator, rate=0.4)
    layer = pk.FusedIFConv2d(2, 4, 3, v_threshold=0.5)
    expected = pk.simulate(layer, 2 * x, T)
    for net in nn.Sequential(Doubled(), layer), nn.Sequential(pk.Channels(torch.arange(2)), Doubled(), layer):
        result = layerwise.simulate(net, x, T, chunk=4)
        assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.spikes.rate() > 0.01
        assert list(result.synops.multiply_accumulates.values()) == [T * N * 64 * 18]
