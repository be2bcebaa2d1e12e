"""Networks of sigma-delta neurons that go on from where they were, and samples that stop when they have settled."""

import copy
from itertools import product

import pytest
import torch
from equality import equal
from sigma_delta_nets import by_layers, exact, nets_fixture  # noqa: F401 - a fixture
from torch import nn

import proxykernels as pk


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("bytes_together", [1, 1 << 30])
def test_chunks_and_states_go_on(nets, frames, bytes_together, monkeypatch, generator):
    ann, x = nets
    net, x = exact(ann, x, pk.neurons.SigmaDelta(6, signed=True))
    if frames:
        x = x + torch.randint(-1, 2, (7, *x.shape), generator=generator).cumsum(0) / 4
    expected = pk.simulate(net, x, 7)
    assert not torch.equal(expected.potentials[3], expected.potentials[1]) and expected.state == {}
    monkeypatch.setattr("proxykernels.running.sigma_delta_layers.BYTES", {"cpu": bytes_together})
    for run, chunk in product((pk.simulate, by_layers), (1, 3)):
        result = run(net, x, 7, chunk=chunk)
        assert equal(result.potentials, expected.potentials) and result.rates == expected.rates
        assert result.synops.accumulates == expected.synops.accumulates
    for run in (pk.simulate, by_layers):
        state: dict = {}
        potentials = []
        for start, steps in ((0, 1), (1, 4), (5, 2)):
            before = copy.deepcopy(state)
            result = run(net, x[start : start + steps] if frames else x, steps, state=state, chunk=2)
            assert all(map(torch.equal, state.get("stem_0", []), before.get("stem_0", [])))  # what is given stays
            potentials.append(result.potentials)
            state = result.state
        assert equal(torch.cat(potentials), expected.potentials)
        assert set(state) > {"", "stem_0", "pool"} and state["stem_0"][0].shape == (8, 64, 12)


@torch.no_grad()
def test_chunks_round_nothing_otherwise(generator):
    """The kernels add in one order, whether they add rows or multiply windows: of floats too."""
    ann = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 70, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(70 * 16, 5),
    ).eval()  # fmt: skip
    x = torch.randn(8, 2, 8, 8, generator=generator)
    net = pk.convert(ann, x, neuron="sigma-delta")
    whole = pk.simulate(net, x, 9)
    for run, chunk in product((pk.simulate, by_layers), (1, 4)):
        assert equal(run(net, x, 9, chunk=chunk).potentials, whole.potentials)


@torch.no_grad()
def test_a_state_can_be_of_some_of_the_samples(nets):
    ann, x = nets
    net, x = exact(ann, x, "sigma-delta")
    state = pk.simulate(net, x, 2, state={}).state
    some = {name: [part[2:5] for part in parts] for name, parts in state.items()}
    result = pk.simulate(net, x[2:5], 3, state=some)
    assert equal(result.potentials, pk.simulate(net, x, 5).potentials[2:, 2:5])


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
def test_a_rule_is_asked_after_each_chunk(nets, chunk, monkeypatch):
    ann, x = nets
    net, x = exact(ann, x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1), "sigma-delta")
    results, seen = [], []
    for run in (pk.simulate, by_layers):
        asked: set[int] = set()

        def rule(potentials, t, asked=asked):
            asked.add(t)
            return pk.stop.settled(8)(potentials, t)

        results.append(run(net, x, 14, chunk=chunk, stop=rule))
        seen.append(asked)
    assert seen[0] == seen[1] <= {*range(chunk, 14, chunk)} and bool(seen[0]) == (chunk < 14)
    assert equal(results[0].steps, results[1].steps) and equal(results[0].potentials, results[1].potentials)
    assert chunk == 100 or results[0].steps.min() < 14
    assert chunk > 3 or len(results[0].steps.unique()) > 1
    monkeypatch.setattr("proxykernels.running.sigma_delta_layers._Samples", None)  # the plan runs chunks as well
    assert equal(pk.simulate(net, x, 14, chunk=chunk).potentials, pk.simulate(net, x, 14).potentials)


@torch.no_grad()
@pytest.mark.parametrize("signed", [False, True])
def test_samples_stop_when_they_have_settled(nets, signed):
    ann, x = nets
    net, x = exact(ann, x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1), pk.neurons.SigmaDelta(signed=signed))
    whole, seen = pk.simulate(net, x, 12), []

    def rule(potentials, t):
        seen.append((t, *potentials.shape))
        return pk.stop.settled(8)(potentials, t)

    result = pk.simulate(net, x, 12, stop=rule, state={}, chunk=1)
    steps = result.steps.tolist()
    assert 2 <= min(steps) < max(steps) < 12 and "stopped after" in repr(result)
    for t in range(1, 12):  # in parts of the samples
        parts = [shape for shape in seen if shape[0] == t]
        assert sum(n for _, _, n, _ in parts) == sum(t <= s for s in steps)
        assert all(shape[1] == t and shape[3] == 5 for shape in parts)
    for k, t in enumerate(steps):
        assert equal(result.potentials[:t, k], whole.potentials[:t, k])
        assert equal(result.potentials[t:, k], whole.potentials[t - 1, k].expand(12 - t, 5))
        first, second = whole.potentials[t - 1, k].topk(2).values
        assert first - second >= 8 * (whole.potentials[t - 1, k] - whole.potentials[t - 2, k]).abs().max()
    assert result.synops.total < whole.synops.total
    k = steps.index(max(steps))
    on = pk.simulate(net, x[k : k + 1], 2, state={name: [v[k : k + 1] for v in s] for name, s in result.state.items()})
    assert equal(on.potentials[:, 0], pk.simulate(net, x[k : k + 1], 12).potentials[steps[k] : steps[k] + 2, 0])


@pytest.mark.parametrize("run", [pk.simulate, by_layers], ids=["plan", "layers"])
def test_of_no_samples_no_rule_is_asked(nets, run):
    ann, x = nets
    asked = []
    net = pk.convert(ann, x, neuron="sigma-delta")
    for samples in (x[:0], x):
        result = run(net, samples, 4, stop=lambda seen, t: asked.append(t) or torch.ones(seen.shape[1]).bool())
        assert len(result.steps) == len(samples) and bool(asked) == bool(len(samples))


def test_rules_that_do_not_fit(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    for times, error in ((0, ValueError), (-1.0, ValueError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="times must be"):
            pk.stop.settled(times)
    with pytest.raises(ValueError, match=r"pk.stop.settled\(\) for sigma-delta"):
        pk.simulate(net, x, 4, stop=pk.stop.margin(3))
    with pytest.raises(TypeError, match="stop must be a rule such as proxykernels.stop.settled"):
        pk.simulate(net, x, 4, stop=3)
    with pytest.raises(TypeError, match=r"stop must return a bool tensor \[8\]"):
        pk.simulate(net, x, 4, stop=lambda potentials, t: potentials[-1, :, 0])
    with pytest.raises(ValueError, match=r"settled compares .* pk.stop.margin\(3\) for IF neurons"):
        pk.simulate(pk.convert(ann, x), x, 16, stop=pk.stop.settled())


def test_states_that_do_not_fit(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    state = pk.simulate(net, x, 2, state={}).state
    for change, message in (
        ({"no": state["stem_0"]}, r"layers that net has not: \['no'\]"),
        ({"stem_0": state["stem_0"][:1]}, "state of 'stem_0' must be two float32 tensors"),
        ({"stem_0": [v.double() for v in state["stem_0"]]}, "state of 'stem_0' must be two float32 tensors"),
        ({"stem_0": [v / 0 for v in state["stem_0"]]}, "state of 'stem_0' must be finite"),
        ({"stem_0": [v[:7] for v in state["stem_0"]]}, "state of 'stem_0' is of 7 samples, and x has 8"),
        ({"stem_0": [v[:, 1:] for v in state["stem_0"]]}, r"state of 'stem_0' must be two tensors \[\[8, 64, 12\]"),
        ({"pool": [v[:, 1:] for v in state["pool"]]}, r"state of 'pool' must be two tensors \[\[8, 64, 12\]"),
        ({"": [state[""][0][..., 1:], state[""][1]]}, "state is of inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.simulate(net, x, 2, state=state | change)
    for chunk, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="chunk must"):
            pk.simulate(net, x, 2, chunk=chunk)


@torch.no_grad()
@pytest.mark.parametrize("first", ["maxima", "neurons"])
def test_inputs_that_no_window_of_a_pooling_reads(generator, first):
    """Their sums are part of the state as well, also where nothing else has changed."""
    layers = [] if first == "maxima" else [nn.Conv2d(1, 1, 1), nn.ReLU()]
    ann = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()
    x = torch.rand(4, 1, 5, 5, generator=generator) + 0.25  # row and column 4 are not read
    net, x = exact(ann, x, pk.neurons.SigmaDelta(4))
    if layers:
        net.get_parameter("0.synapses.0.weight").fill_(1)
    later = x.clone()
    later[:, :, 4, 1:4] += 1
    frames, stream = torch.stack([x, later, later]), pk.compile(net, x).stream(4)
    wanted = by_layers(net, frames, 3, state={})
    result = pk.simulate(net, frames[1:], 2, state=pk.simulate(net, frames[:1], 1, state={}).state)
    for frame in frames:
        stream(frame)
    assert any(parts[0].numel() == 100 and parts[0].any() for name, parts in wanted.state.items() if name)
    for name, parts in wanted.state.items():
        for state in (result.state, stream.state):
            assert all(map(equal, state[name], parts))
    assert equal(result.potentials, wanted.potentials[1:]) and result.potentials.any()
