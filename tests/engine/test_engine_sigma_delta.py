"""Compiled networks of sigma-delta neurons: as simulate, bit for bit, in any portions, and from a file."""

import copy

import pytest
import torch
from equality import equal
from sigma_delta_nets import Skip, by_layers, exact, nets_fixture, pooled_fixture  # noqa: F401 - fixtures
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends, cpu
from proxykernels.plan.follow_sigma_delta import follow_changes
from proxykernels.running.engine import Engine

TARGETS = ("portable", "avx2", "avx512")
NEURONS = pk.neurons.SigmaDelta(6), pk.neurons.SigmaDelta(6, True), pk.neurons.Graded(0.25), pk.neurons.Graded()


def video(x: torch.Tensor, T: int, generator: torch.Generator) -> torch.Tensor:
    """Frames of which some pixels change, and some nothing."""
    moved = torch.randint(-4, 5, (T, *x.shape), generator=generator) / 4
    frames = torch.where(torch.rand(T, *x.shape, generator=generator) < 0.05, moved, x)
    frames[2] = frames[1]
    return frames


def same_results(actual, expected, graded: bool = False) -> None:
    """Of an engine, and of simulate; ``graded``: all may be settled after the first step."""
    assert expected.potentials.any()
    assert graded or not torch.equal(expected.potentials[0], expected.potentials[-1])
    assert equal(actual.potentials, expected.potentials) and equal(actual.logits, expected.logits)
    assert equal(actual.steps, expected.steps) and actual.synops == expected.synops
    assert actual.rates == expected.rates and actual.places == expected.places
    assert expected.rates.keys() <= expected.synops.accumulates.keys()
    assert actual.relu_joules == expected.relu_joules


@pytest.mark.alike
@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
@pytest.mark.parametrize("floats", [False, True])
def test_runs_are_those_of_simulate(request, net_of, frames, neuron, floats, generator):
    """Of floats that are rounded, too: the same kernels add in the same order."""
    ann, x = request.getfixturevalue(net_of)
    net, x = (pk.convert(ann, x, neuron=neuron), x) if floats else exact(ann, x, neuron)
    given = video(x, 5, generator) if frames else x
    engine = pk.compile(net, given)
    for T in (5,) if frames else (2, 3, 5, 40):
        expected = by_layers(net, given, T)
        assert (expected.relu_joules is None) == frames
        same_results(engine(given, T), expected, graded=isinstance(neuron, pk.neurons.Graded))
    assert equal(engine(given[:, :1] if frames else given[:1], T).potentials, expected.potentials[:, :1])
    assert "Result" in repr(engine(given, T)) and "sigma-delta" in repr(engine)


@torch.no_grad()
@pytest.mark.parametrize("unmoved", [nn.AdaptiveAvgPool2d(4), nn.AdaptiveAvgPool2d((4, None)), nn.Identity()])
def test_spikes_that_an_average_leaves_as_they_are_stay_spikes(unmoved, generator):
    ann = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), unmoved, nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)
    )
    net, x = exact(ann, torch.rand(8, 1, 4, 4, generator=generator), pk.neurons.SigmaDelta(6))
    expected = by_layers(net, x, 4)
    same_results(pk.compile(net, x)(x, 4), expected)
    first, *others = expected.synops.multiply_accumulates.values()
    assert first and not any(others)


@torch.no_grad()
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
@pytest.mark.parametrize("neuron", [pk.neurons.SigmaDelta(9, True), pk.neurons.Graded(0.5)], ids=str)
def test_instruction_sets(request, monkeypatch, net_of, target, neuron, generator):
    """Of values, whose products are rounded, beside layers of the same instruction set."""
    net, x = exact(*request.getfixturevalue(net_of), neuron)
    try:
        engine = Engine(follow_changes(net, tuple(x.shape[1:])), target=target)
    except RuntimeError:
        pytest.skip(f"this machine has no {target}")
    if isinstance(neuron, pk.neurons.Graded):
        monkeypatch.setattr(backends, "cpu_backend", lambda: cpu.load(target))
    frames = video(x, 6, generator)
    same_results(engine(frames, 6), by_layers(net, frames, 6), graded=isinstance(neuron, pk.neurons.Graded))


@pytest.mark.alike
@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
@pytest.mark.parametrize("neuron", NEURONS[::2], ids=str)
def test_streams_go_on_as_simulate_does(request, net_of, threads, neuron, generator):
    net, x = exact(*request.getfixturevalue(net_of), neuron)
    frames = video(x, 9, generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stream, state = pk.compile(net, x).stream(8), {}
        for start, steps in ((0, 1), (1, 1), (2, 1), (3, 4), (7, 1), (8, 1), (8, 1), (8, 1)):
            part = frames[start : start + steps]
            expected = by_layers(net, part, steps, state=state)
            given = part[0] if steps == 1 else part
            assert equal(stream(given), expected.potentials) and equal(stream.logits, expected.logits)
            state = expected.state
            kept = stream.state
            assert kept.keys() == state.keys()
            assert all(equal(*pair) for name in state for pair in zip(kept[name], state[name], strict=True))
    finally:
        torch.set_num_threads(before)
    other = stream.engine.stream(8)
    other.state = state  # of simulate
    assert equal(other(x), stream(x))
    stream.reset()
    assert stream.steps == 0 and equal(stream(x), by_layers(net, x, 1).potentials)


@torch.no_grad()
def test_a_still_frame_is_free(nets):
    """Neurons that have settled are not visited, and the first change wakes those that it reaches."""
    net, x = exact(*nets, "sigma-delta")
    engine = pk.compile(net, x[:1])
    stream = engine.stream()
    before = [stream(x[:1]) for _ in range(30)][-1]
    tally = list(stream._past.tally)
    assert equal(stream(x[:1]), before) and list(stream._past.tally) == tally
    frames = x[:1].repeat(40, 1, 1, 1, 1)
    frames[30:, :, :, 3, 3] += 1
    assert equal(stream(frames[-1]), by_layers(net, torch.cat([frames[:30], frames[-1:]]), 31).potentials[-1:])
    assert sum(stream._past.tally) > sum(tally)
    same_results(engine(frames, 40), by_layers(net, frames, 40))


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
def test_samples_stop_when_they_have_settled(nets, frames, generator):
    ann, x = nets
    net, x = exact(ann, x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1), pk.neurons.SigmaDelta(signed=True))
    given = video(x, 12, generator) if frames else x
    seen = []

    def rule(potentials, t):
        seen.append((t, *potentials.shape))
        told = pk.stop.settled(1)(potentials, t)
        potentials.zero_()  # it is the rule's own
        return told

    engine, expected = pk.compile(net, given), by_layers(net, given, 12, stop=pk.stop.settled(1))
    actual = engine(given, 12, stop=rule)
    assert 2 <= expected.steps.min() < expected.steps.max() < (13 if frames else 12)
    same_results(actual, expected)
    assert all(shape[1] == t < 12 and t % 2 == 0 and shape[3] == 5 for t, *_ in seen for shape in seen if shape[0] == t)
    assert [sum(n for at, _, n, _ in seen if at == t) for t in (2, 4)] == [8, int((expected.steps > 2).sum())]
    with pytest.raises(TypeError, match="stop must be a rule"):
        engine(given, 12, stop=3)
    with pytest.raises(ValueError, match="margin"):
        engine(given, 12, stop=lambda *_: pk.stop.settled()(torch.zeros(1), 1))


@torch.no_grad()
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
def test_files(request, net_of, tmp_path):
    ann, x = request.getfixturevalue(net_of)
    net = pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(5, True))
    engine = pk.compile(net, x)
    engine.save(tmp_path / "one")
    loaded = pk.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    same_results(loaded(x, 5), engine(x, 5))
    same_results(copy.deepcopy(engine)(x, 5), engine(x, 5))
    result = copy.deepcopy(engine(x, 5))
    same_results(result, engine(x, 5))


@torch.no_grad()
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
def test_simulate_runs_the_plan(request, net_of, generator):
    """Until something of the network changes; the states of samples that have stopped are those at their ends."""
    ann, x = request.getfixturevalue(net_of)
    x = x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1)
    net = pk.convert(ann, x, neuron="sigma-delta")
    middle = by_layers(net, x, 2).logits[:, 0].median()

    def stop(potentials, t):
        return potentials[-1, :, 0] > middle

    results = [run(net, x, 12, stop=stop, state={}) for run in (pk.simulate, by_layers)]
    assert [type(result).__name__ for result in results] == ["ChangesResult", "SigmaDeltaResult"]
    assert 2 <= results[1].steps.min() < results[1].steps.max()
    same_results(*results)
    states = [result.state for result in results]
    assert states[0].keys() == states[1].keys()
    assert all(equal(*pair) for name in states[0] for pair in zip(states[0][name], states[1][name], strict=True))
    frames = video(x, 6, generator)
    results = [run(net, frames, 6, state=state) for run, state in zip((pk.simulate, by_layers), states, strict=True)]
    same_results(*results)
    assert results[0].places == results[1].places and results[0].sums == results[1].sums
    assert copy.deepcopy(results[0]).sums == results[1].sums and pk.simulate(net, x, 2).state == {}
    before = results[0].potentials
    next(net.parameters()).mul_(0.5)
    same_results(*(run(net, frames, 6) for run in (pk.simulate, by_layers)))
    net.stem_0.limit = 0.25
    same_results(*(run(net, frames, 6) for run in (pk.simulate, by_layers)))
    assert not torch.equal(pk.simulate(net, frames, 6).potentials, before)


class Moves(nn.Module):
    """Average poolings, padding, features as images, larger images, other channels, a shortcut of three."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3, padding="same"),
        )
        self.wide, self.shuffle, self.up = (
            nn.AdaptiveAvgPool2d((3, 2)),
            nn.ChannelShuffle(2),
            nn.Upsample(scale_factor=2),
        )
        self.average = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.even = nn.Conv2d(8, 8, 2, padding="same")
        self.features, self.image = nn.Linear(48, 36), nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.left(x) + self.right(x) + x).relu()
        x = self.average(nn.functional.pad(x, (1, 2, 0, 1)))
        x = self.shuffle(self.up(x))
        x = self.even(x).relu()
        x = self.features(self.wide(x).flatten(1)).relu()
        x = self.image(x.unflatten(1, (1, 6, 6))).relu()
        return self.last(x.mean((2, 3)))


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
def test_what_is_between_neurons(frames, generator):
    ann, x = Moves().eval(), torch.randn(4, 3, 9, 7, generator=generator)
    net, x = exact(ann, x, pk.neurons.SigmaDelta(8))
    kinds = {type(layer) for layer in net.children()}
    assert kinds >= {
        pk.ZeroPad2d,
        pk.AvgPool2d,
        pk.AdaptiveAvgPool2d,
        pk.Upsample,
        pk.Channels,
        pk.Unflatten,
        pk.Flatten,
    }
    given = video(x, 6, generator) if frames else x
    engine, expected = pk.compile(net, given), by_layers(net, given, 6)
    same_results(engine(given, 6), expected)


@torch.no_grad()
@pytest.mark.parametrize("taken", ["a layer", "a pooling", "real values"])
def test_maxima_of_what_was_sent(taken, generator):
    net, x = exact(Skip(taken).eval(), torch.randn(8, 2, 8, 8, generator=generator), "sigma-delta")
    frames = video(x, 6, generator)
    engine = pk.compile(net, x)
    same_results(engine(frames, 6), by_layers(net, frames, 6))
    stream, state = engine.stream(8), {}
    for frame in frames:
        expected = by_layers(net, frame, 1, state=state)
        state = expected.state
        assert equal(stream(frame), expected.potentials)


@torch.no_grad()
def test_rows_of_values(generator):
    ann = nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 3), nn.ReLU(), nn.AvgPool1d(2),
        nn.Flatten(), nn.Linear(8, 3), nn.ReLU(),
    ).eval()  # fmt: skip
    net, x = exact(ann, torch.randn(5, 2, 14, generator=generator), "sigma-delta")
    same_results(pk.compile(net, x)(x, 4), by_layers(net, x, 4))
    features, y = exact(
        nn.Sequential(nn.Linear(7, 70), nn.ReLU(), nn.Linear(70, 3)).eval(), torch.randn(5, 7), "sigma-delta"
    )
    same_results(pk.compile(features, y)(y, 4), by_layers(features, y, 4))


@torch.no_grad()
def test_samples_of_other_kinds(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    engine = pk.compile(net, x)
    expected = engine(x, 3).potentials
    for same in (x.double(), x.to(memory_format=torch.channels_last), x.expand(3, *x.shape), x.flip(3).flip(3)):
        assert equal(engine(same, 3).potentials, expected)
    binary = (x > 0).float().expand(3, *x.shape).clone()  # values, and no spikes
    assert equal(engine(binary, 3).potentials, by_layers(net, binary, 3).potentials)
    assert engine(x[:0], 3).potentials.shape == (3, 0, 5)
    many = x.repeat(9, 1, 1, 1)  # more than go at a time
    assert equal(engine(many, 3).potentials[:, -8:], expected)


@torch.no_grad()
def test_what_is_refused(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    engine = pk.compile(net, x)
    for given, error, message in (
        (pk.pack(torch.ones(2, *x.shape)), TypeError, "x must be floating point for a network of sigma-delta"),
        (x.int(), TypeError, "x must be floating point for a network of sigma-delta"),
        (x[:, :1], ValueError, r"x must have the shape \[N, 2, 16, 16\] or"),
        (x * torch.nan, ValueError, "x must be finite"),
        (x[None][:0], ValueError, "at least one step"),
        (x.expand(4, *x.shape), ValueError, "a sequence of 4 steps, and T is 3"),
    ):
        with pytest.raises(error, match=message):
            engine(given, 3)
    with pytest.raises(ValueError, match="precision must be None for a network of sigma-delta neurons"):
        pk.compile(net, x, precision="int8")
    with pytest.raises(TypeError, match="does not take net .*is not what convert returned"):
        pk.compile(nn.Sequential(net), x)
    with pytest.raises(AttributeError, match="potentials"):
        _ = engine(x, 3).spikes
    stream = engine.stream(8)
    with pytest.raises(AttributeError, match="after its first step"):
        _ = stream.state
    with pytest.raises(AttributeError, match="logits need at least one step"):
        _ = stream.logits
    stream(x)
    with pytest.raises(AttributeError, match="does not fire"):
        stream.count()
    state = stream.state
    for wrong in ({}, state | {"stem_0": state["stem_0"][:1]}, {name: [t[:2] for t in s] for name, s in state.items()}):
        with pytest.raises(ValueError, match="state"):
            stream.state = wrong
    with pytest.raises(ValueError, match="state of 'stem_0' must be finite"):
        stream.state = state | {"stem_0": [t / 0 for t in state["stem_0"]]}
    broken = copy.deepcopy(net)
    next(broken.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="layer stem_0: weight must be finite"):
        pk.compile(broken, x)
    smooth = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 3, 1)
    )
    with pytest.raises(TypeError, match="Upsample.*interpolates"):
        pk.compile(pk.convert(smooth.eval(), x, neuron="sigma-delta"), x)
