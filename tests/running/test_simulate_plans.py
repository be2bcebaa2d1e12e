"""simulate by a network's plan: the same results as of its layers, and no change of the network is missed."""

import copy
import pickle

import layerwise
import pytest
import torch
from cases import spikes
from equality import equal
from network_changes import N, T, dyadic, image
from torch import nn

import proxykernels as pk
from proxykernels.running import kept_plans as plans


def network(v_reset: float | None = None) -> nn.Sequential:
    """Of which every layer fires."""
    torch.manual_seed(0)
    convolution, last = pk.FusedIFConv2d(2, 4, 3, batch_norm=True, v_reset=v_reset), pk.FusedIFLinear(64, 256)
    convolution.bn.eps = 0.0
    return nn.Sequential(dyadic(convolution), pk.MaxPool2d(1), pk.Flatten(), dyadic(last)).eval()


def is_planned(net: nn.Module) -> bool:
    known = plans._kept(net)
    return known is not None and any(found is not None for found in known.engines.values())


def planned(net: nn.Module, *given, **options):
    """The result of a call that runs a plan that is there."""
    pk.simulate(net, *given, **options)
    result = pk.simulate(net, *given, **options)
    assert is_planned(net)
    return result


def by_layers(net: nn.Module, *given, **options):
    """Of the layers one by one, in chunks."""
    return layerwise.simulate(copy.deepcopy(net), *given, chunk=8, **options)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_are_those_of_a_rule(monkeypatch, chunk):
    """A chunk that is asked for is no reason to leave the plan: a rule is asked after each."""
    net, x = network(), image()
    expected, seen = by_layers(net, x, T), list[int]()

    def rule(counts, t):
        seen.append(t)
        return torch.zeros(len(counts), dtype=torch.bool)

    monkeypatch.setattr("proxykernels.running.simulate._by_layers", None)
    for stop in (None, rule):
        result = planned(net, x, T, chunk=chunk, stop=stop)
        assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.spikes.dense().any()
    assert seen == 2 * [*range(chunk, T, chunk), T]


INPUTS = {
    "image": image(), "float64": image().double(), "values": torch.stack([image()] * (T - 1) + [image() * 2]),
    "Spikes": pk.pack(spikes(T, N, 2, 6, 6, generator=torch.Generator().manual_seed(2), rate=0.5).float()),
    "counts": torch.stack([image().long()] * (T - 1) + [image().long() * 2]), "transposed": image().transpose(2, 3),
}  # fmt: skip


@pytest.mark.parametrize("precision", [None, "int8"])
@pytest.mark.parametrize("v_reset", [None, 0.0])
@pytest.mark.parametrize("x", INPUTS)
def test_a_plan_gives_what_the_layers_give(x, v_reset, precision):
    net = network(v_reset)
    got, expected = (run(net, INPUTS[x], T, precision=precision) for run in (planned, by_layers))
    assert got.spikes.count().any()
    assert equal(got.spikes, expected.spikes)
    assert str(got) == str(expected) and got.rates == expected.rates and got.synops == expected.synops
    assert equal(got.steps, expected.steps) and got.state.keys() == expected.state.keys()
    for name, states in expected.state.items():
        assert len(got.state[name]) == 1 and equal(got.state[name][0], states[0])


@pytest.mark.parametrize("samples", [1, N])
@pytest.mark.parametrize("stop", [None, pk.stop.margin(2)])
def test_a_state_goes_on(stop, samples):
    net, x = network(), image()[:samples]
    first = planned(net, x, T, stop=stop)
    second = pk.simulate(net, x, T, state=first.state, stop=stop)
    expected = by_layers(net, x, T, state=by_layers(net, x, T, stop=stop).state, stop=stop)
    assert second.spikes.count().any() and equal(second.spikes, expected.spikes)
    assert equal(second.steps, expected.steps)
    assert second.state.keys() == expected.state.keys() and len(expected.state) == 2
    for name, states in expected.state.items():
        assert equal(second.state[name][0], states[0])


@pytest.mark.parametrize("samples", [1, N])
def test_states_of_samples_that_logits_stopped(samples):
    """Each has run anew up to its last look."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    net = pk.convert(nn.Sequential(*layers).eval(), image())
    first = planned(net, image()[:samples], T, stop=pk.stop.margin(1e-9, of="logits", at=[4]))
    assert first.steps.tolist() == [4] * samples
    pk.simulate(net, image(), T)
    expected = by_layers(net, image()[:samples], 4)
    for name, states in expected.state.items():
        assert states[0].any() and torch.allclose(first.state[name][0], states[0], atol=1e-5)


def test_states_are_there_whenever_they_are_asked_for():
    """However many results are still there; also where the input is another by then, or another number of threads."""
    net = network()
    images = [image() * (k + 1) / 4 for k in range(5)]
    planned(net, images[0], T)
    ((_, engine),) = plans._kept(net).engines.values()
    results = []
    for x in images:
        given = x.clone()
        results.append(pk.simulate(net, given, T))
        given.zero_()
    assert not engine._states_are_read
    copied = pickle.loads(pickle.dumps(results[-1]))
    assert engine._states_are_read
    assert equal(pk.simulate(net, images[1], T, state=results[0].state).spikes, went_on(net, images[0], images[1]))
    seen = set()
    for x, result in zip([*images, images[-1]], [*results, copied], strict=True):
        expected = by_layers(net, x, T).state
        for name, (states,) in expected.items():
            assert equal(result.state[name][0], states)
        seen.add(expected["3"][0].sum().item())
    assert len(seen) == len(images)
    assert len(engine._sessions) == 1


def went_on(net, first, second):
    return by_layers(net, second, T, state=by_layers(net, first, T).state).spikes


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
@pytest.mark.parametrize("options", [{}, {"with_kwargs": True}, {"prepend": True}])
def test_hooks_are_called(kind, options):
    net, seen = network(), []
    planned(net, image(), T)
    getattr(net[1], f"register_{kind}")(lambda *given: seen.append(given), **options)
    pk.simulate(net, image(), T)
    assert seen


def test_a_plan_stays_where_no_run_looks():
    """At hooks of state_dicts and of gradients."""
    net = network()
    planned(net, image(), T)
    known = plans._kept(net)
    net[0].register_state_dict_post_hook(lambda *given: None)
    net[0].register_load_state_dict_post_hook(lambda *given: None)
    net[3].register_full_backward_pre_hook(lambda *given: None)
    before = pk.simulate(net, image(), T)
    assert plans._kept(net) is known and equal(before.spikes, by_layers(net, image(), T).spikes)


@pytest.mark.parametrize(
    "x", [image()[:, :1], image()[0], image().long(), image() / 0, torch.rand(T + 1, N, 2, 6, 6), image().tolist()]
)
def test_errors_are_the_same(x):
    net = network()
    with pytest.raises((TypeError, ValueError)) as expected:
        pk.simulate(net, x, T)
    planned(net, image(), T)
    with pytest.raises(expected.type) as got:
        pk.simulate(net, x, T)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize(
    "last", [pk.FusedIFConv2d(4, 5, 4), pk.FusedConv2d(4, 5, 4, neuron=pk.neurons.LINeuron(decay=0.5))]
)
def test_one_pixel_that_is_flattened(last):
    """What is flattened is the output, as it is, and has the shape of features."""
    net = nn.Sequential(network()[0], dyadic(last), pk.Flatten())
    for x in INPUTS["image"], INPUTS["values"]:
        got, expected, compiled = planned(net, x, T), by_layers(net, x, T), pk.compile(net, x)(x, T)
        outputs = [y.output.dense() if isinstance(y.output, pk.Spikes) else y.output for y in (got, expected, compiled)]
        assert outputs[1].any() and outputs[1].shape == (T, N, 5)
        assert equal(outputs[0], outputs[1]) and equal(outputs[2], outputs[1])
        assert equal(got.state["1"][0], expected.state["1"][0])


def test_a_network_that_is_called():
    """net(x) in evaluation; its layers where a gradient is wanted, with hooks, or in training."""
    net, layers = pk.Network(), network()
    layers[0].bn.weight.data *= 8  # that one step of spikes is enough
    for k, layer in enumerate(layers):
        net.append(f"layer{k}", layer, (f"layer{k - 1}" if k else net.INPUT,))
    net.eval()
    steps = 64 * INPUTS["values"][:1], torch.ones(1, N, 2, 6, 6)
    for x in (INPUTS["values"], INPUTS["Spikes"], INPUTS["counts"], *steps):
        expected = layers(x)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                got = net(x)
            assert is_planned(net) and type(got) is type(expected)
            a, b = (y.dense() if isinstance(y, pk.Spikes) else y for y in (got, expected))
            assert b.any() and equal(a, b) and a.dtype == b.dtype and not a.requires_grad
    seen = []
    with torch.no_grad():
        hook = net.layer1.register_forward_hook(lambda *given: seen.append(given))
        net(INPUTS["values"])
        assert len(seen) == 1
        hook.remove()
        net.layer0.train().bn.eps = 1.0
        before = net.layer0.bn.running_mean.clone()
        net(INPUTS["values"])
        assert not equal(before, net.layer0.bn.running_mean)


@pytest.mark.parametrize("last", [None, pk.FusedLILinear(256, 3, decay=0.5)])
def test_a_gradient_that_is_wanted(last):
    """Of weights or of x by a surrogate derivative; of layers that have none there is no gradient, by either way."""
    net = pk.Network()
    for k, layer in enumerate([*network(), *([last] if last else [])]):
        net.append(f"layer{k}", layer, (f"layer{k - 1}" if k else net.INPUT,))
    net.eval()
    x = INPUTS["values"]
    assert not net(x).requires_grad and is_planned(net)
    hook = net.layer1.register_forward_hook(lambda *given: None)
    assert not net(x).requires_grad
    hook.remove()
    pk.use_surrogate(net, pk.ATan())
    assert net(x).requires_grad
    net.requires_grad_(False)
    wanted = x.clone().requires_grad_()
    net(wanted).sum().backward()
    assert wanted.grad.any()
