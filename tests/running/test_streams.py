"""Streams: states that are whole, samples that are reset or stopped one by one, and what a step may be."""

import copy
import io
import pickle

import pytest
import torch
from cases import dyadic
from equality import equal
from sigma_delta_nets import exact, nets_fixture  # noqa: F401 - a fixture
from torch import nn

import proxykernels as pk
from proxykernels.layers import Unflatten

T, N = 21, 3


@torch.no_grad()
def make_dyadic(net, generator):
    for parameter in net.parameters():
        parameter.copy_(dyadic(*parameter.shape, generator=generator).abs() / 2)


def converted(generator):
    """Whose logits count from rest, and from where a state was set."""
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    return pk.convert(ann, torch.rand(8, 1, 6, 6, generator=generator)), torch.rand(T, N, 1, 6, 6, generator=generator)


def states_of_all_kinds(generator):
    """Delays, running maxima, two states a neuron and recurrent spikes."""
    net = nn.Sequential(
        pk.Delay([2]), pk.FusedConv2d(1, 4, 3, neuron=pk.neurons.CubaLIFNeuron(decay=0.5, current_decay=0.5)),
        pk.MaxRatePool2d(2), pk.Flatten(), pk.FusedIFLinear(16, 6, v_reset=0.25),
        pk.FusedRecurrentLinear(6, 5, neuron=pk.neurons.LIFNeuron(decay=0.5)),
    )  # fmt: skip
    make_dyadic(net, generator)
    return net.eval(), dyadic(T, N, 1, 6, 6, generator=generator).abs()


def a_readout(generator):
    net = nn.Sequential(pk.FusedIFLinear(6, 8, v_threshold=0.5), pk.FusedLILinear(8, 3, decay=0.5))
    make_dyadic(net, generator)
    return net, dyadic(T, N, 6, generator=generator).abs()


def sigma_deltas(generator):
    """Whose biases come at a sample's first step, also through a layer without neurons."""
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    ).eval()  # fmt: skip
    net, x = exact(ann, torch.rand(T * N, 1, 6, 6, generator=generator), "sigma-delta")
    return net, x.unflatten(0, (T, N))


MAKERS = [converted, states_of_all_kinds, a_readout, sigma_deltas]
of_all = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)


def made(maker, generator):
    torch.manual_seed(0)
    net, x = maker(generator)
    return net, x, pk.compile(net, x)


def figures(stream) -> dict[str, torch.Tensor]:
    """All that a stream tells of what it has done."""
    state = stream.state
    layers = {
        f"{name} {k}": part
        for name, parts in state.items()
        for k, part in enumerate(parts if isinstance(parts, list) else [parts])
    }
    found = layers | {"steps": stream.sample_steps, "stopped": stream.stopped}
    if state.counts is not None:
        found["counts"] = stream.count()
    if stream.engine.plan.changes or stream.engine.plan.with_logits is not None:
        found["logits"] = stream.logits
    return found


def same(actual, expected, index=slice(None)) -> bool:
    assert actual.keys() == expected.keys()
    return all(equal(actual[name][index], expected[name][index]) for name in expected)


def dense(y):
    return y.dense() if isinstance(y, pk.Spikes) else y


@torch.no_grad()
@of_all
def test_a_state_is_whole(maker, generator):
    """What comes after it was set is what came after it was kept, whatever came between."""
    _, x, engine = made(maker, generator)
    stream = engine.stream(N)
    stream(x[:7])
    kept, before = stream.state, figures(stream)
    after = dense(stream(x[7:15]))
    at_end = figures(stream)
    assert after.any() and not equal(before["steps"], at_end["steps"])
    other = engine.stream(N)
    for taken in (stream, other):
        taken.state = kept
        assert taken.steps == 7 and same(figures(taken), before)
        assert equal(dense(taken(x[7:15])), after) and same(figures(taken), at_end)
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    for copied in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept)), torch.load(file)):
        other.reset()
        other.state = copied
        assert type(copied) is type(kept) and same(figures(other), before)


@torch.no_grad()
@of_all
def test_samples_that_are_reset(maker, generator):
    """They begin again, and the others go on; steps may be cut anywhere."""
    _, x, engine = made(maker, generator)
    stream, going, again = (engine.stream(N) for _ in range(3))
    for one in (stream, going):
        one(x[:9])
    stream.reset(samples=[1])
    assert stream.sample_steps.tolist() == [9, 0, 9] and stream.steps == 9
    kept, other = stream.state, engine.stream(N)
    other.state = kept
    for one in (stream, other):
        got = torch.cat([dense(one(x[9])), dense(one(x[10:16]))])
        if one is stream:
            wanted, alone = dense(going(x[9:16])), dense(again(x[9:16]))
            assert wanted.any() and alone.any() and not equal(wanted[:, 1], alone[:, 1])
        assert equal(got[:, [0, 2]], wanted[:, [0, 2]]) and equal(got[:, 1], alone[:, 1])
        assert same(figures(one), figures(going), [0, 2]) and same(figures(one), figures(again), [1])
    assert stream.sample_steps.tolist() == [16, 7, 16] and stream.steps == 16
    stream.reset(torch.arange(N))
    again.reset()
    assert stream.steps == 0 and equal(dense(stream(x[3:9])), dense(again(x[3:9])))
    assert same(figures(stream), figures(again))


def test_samples_that_cannot_be_reset(generator):
    _, x, engine = made(converted, generator)
    stream = engine.stream(N)
    stream(x[:3])
    for samples, error, message in (
        ([3], ValueError, r"samples must be from 0 to 2, in a batch of 3, got \[3\]"),
        ([-1], ValueError, "samples must be from 0 to 2"),
        ([0.5], TypeError, r"samples must be integers, numbers of samples such as \[2\]"),
        (torch.tensor([True, False, True]), TypeError, "samples must be integers"),
        (1, TypeError, "samples must be integers"),
    ):
        with pytest.raises(error, match=message):
            stream.reset(samples=samples)
    stream.reset(samples=[])
    assert stream.sample_steps.tolist() == [3, 3, 3]


@torch.no_grad()
@of_all
def test_simulate_goes_on_from_a_stream_and_back(maker, generator):
    net, x, engine = made(maker, generator)
    stream, whole = engine.stream(N), engine.stream(N)
    stream(x[:8])
    result = pk.simulate(net, x[8:13], 5, state=stream.state)
    wanted = whole(x)
    got = result.potentials if isinstance(wanted, torch.Tensor) else result.spikes
    assert equal(dense(got), dense(wanted[8:13])) and dense(got).any()
    stream.state = result.state  # which has no counts
    assert stream.steps == 0 and (engine.plan.last.real or not stream.count().any())
    assert equal(dense(stream(x[13:])), dense(wanted[13:])) and stream.steps == T - 13
    if not engine.plan.last.real:
        assert equal(stream.count(), wanted[13:].count())


def test_states_of_other_streams(generator):
    _, x, engine = made(converted, generator)
    stream, other = engine.stream(N), engine.stream(N - 1)
    stream(x[:4]), other(x[:4, 1:])
    kept, before = stream.state, figures(stream)
    wrong = copy.deepcopy(kept)
    wrong.steps = wrong.steps[:2]
    mixed = copy.deepcopy(kept)
    mixed.counts = None
    for given, message in (
        (other.state, r"state of \w+ must have the shape \[3, "),
        (wrong, r"state.steps must be int64 \[3\], got int64 \[2\]: it is of another stream"),
        (mixed, r"state.counts must be int32 \[3, 5\], got None: it is of another stream"),
        ({}, "state must hold the layers"),
        (None, "state must hold the layers .*, got NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.state = given
        assert same(figures(stream), before)


def test_layers_of_a_state_may_be_changed(generator):
    """What is added to potentials no input did: logits stay, and so do counts and steps."""
    _, x, engine = made(converted, generator)
    stream = engine.stream(N)
    stream(x[:9])
    before, kept = figures(stream), stream.state
    last = list(kept)[-1]
    kept[last] = kept[last] + 0.5
    stream.state = kept
    after = figures(stream)
    assert equal(after[f"{last} 0"], before[f"{last} 0"] + 0.5) and before["logits"].any()
    torch.testing.assert_close(after["logits"], before["logits"], rtol=1e-4, atol=1e-5)
    assert equal(after["counts"], before["counts"]) and equal(after["steps"], before["steps"])


RULES = {
    "margin": pk.stop.margin(2),
    "logits": pk.stop.margin(1.5, of="logits", at=[1, 3, 9, 12]),
    "own": lambda counts, t: (counts.sum(1) > 6) & (t >= 8),
}


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[T], [1] * T, [5, 1, 2, 13]], ids=["whole", "steps", "parts"])
@pytest.mark.parametrize("rule", RULES)
def test_samples_stop(rule, cuts, generator):
    """However calls are cut: by the definition, a sample at a time."""
    _, x, engine = made(converted, generator)
    x = x[:1].expand(T, N, 1, 6, 6) * torch.tensor([0.4, 1.0, 2.0]).view(1, N, 1, 1, 1)
    stop, looks = RULES[rule], RULES[rule].at if rule == "logits" else range(8, T + 1, 8)
    ends = []
    for n in range(N):
        one, t = engine.stream(1), 0
        for t in range(1, T + 1):
            one(x[t - 1, n : n + 1])
            if t in looks and bool(stop(one.logits if rule == "logits" else one.count(), t)):
                break
        ends.append((one.count(), one.logits, t))
    steps = torch.tensor([t for _, _, t in ends])
    assert steps.min() < T
    stream, parts, start = engine.stream(N, stop=stop), [], 0
    for n in cuts:
        parts.append(stream(x[start : start + n]).dense())
        start += n
    expected = engine(x, T).spikes.dense() * (torch.arange(T)[:, None] < steps)[..., None]
    assert equal(torch.cat(parts), expected) and expected.any()
    assert equal(stream.sample_steps, steps)
    assert equal(
        stream.stopped, torch.tensor([t < T for t in steps]) | torch.tensor([t == T and T in looks for t in steps])
    )
    assert equal(stream.count(), torch.cat([counts for counts, _, _ in ends]))
    assert equal(stream.logits, torch.cat([logits for _, logits, _ in ends]))
    gone = stream.stopped.nonzero().flatten()
    before, kept = figures(stream), stream.state
    again, rest = dense(stream(x[:2])), engine.stream(N)
    assert not again[:, gone].any() and same(figures(stream), before, gone)
    stream.state = kept
    assert same(figures(stream), before)
    stream.reset(samples=gone)
    assert not stream.stopped.any() and equal(dense(stream(x[:2]))[:, gone], dense(rest(x[:2]))[:, gone])


def test_rules_that_streams_refuse(generator):
    for maker, stop, error, message in (
        (a_readout, pk.stop.margin(2), ValueError, "stop counts the output spikes of a stream, and this network gives"),
        (sigma_deltas, pk.stop.settled(), ValueError, "this network gives values; leave stop out"),
        (converted, 8, TypeError, r"stop must be a rule such as proxykernels.stop.margin\(8\)"),
        (states_of_all_kinds, pk.stop.margin(1, of="logits"), ValueError, r"margin\(of='logits'\) needs logits"),
    ):
        with pytest.raises(error, match=message):
            made(maker, generator)[2].stream(N, stop=stop)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int8])
def test_an_image_of_integers_is_refused_by_all(dtype, generator):
    net, x, engine = made(converted, generator)
    image, stream = (x[0] * 100).to(dtype), engine.stream(N)
    for call in (lambda: pk.simulate(net, image, 4), lambda: engine(image, 4), lambda: stream(image)):
        with pytest.raises(TypeError, match="x must be floating point"):
            call()
    assert stream.steps == 0
    counts = (x[:4] * 3).to(dtype)  # of events, in a sequence
    assert equal(stream(counts).dense(), pk.simulate(net, counts, 4).spikes.dense()) and stream.count().any()
    stream.reset()
    for step in counts:
        stream(step.unsqueeze(0))
    assert equal(stream.count(), pk.simulate(net, counts, 4).count())


def test_one_step_of_bool_is_spikes():
    net = nn.Sequential(Unflatten((2, 3)), pk.IF(v_threshold=2.0))
    stream = pk.compile(net, torch.rand(2, 6)).stream(2)
    bits = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    assert not stream(bits).dense().any() and equal(stream(bits).dense()[0].flatten(1) > 0, bits) and bits.any()
