"""Batches whose samples each stop at their own end, ``lengths=``: equal to a loop over single samples."""

from functools import partial

import numpy as np
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.running import kept_plans, sigma_delta_layers

T = 100
LENGTHS = [100, 3, 64, 65, 1, 32, 3, 99, 17]


def on_a_grid(*layers: nn.Module) -> nn.Sequential:
    """A network whose sums are exact in float32, so that they do not depend on how samples are batched."""
    net = nn.Sequential(*layers).eval()
    for weight in net.parameters():
        weight.data = (weight.data * 64).round() / 64
    return net


def integers(i: int, o: int) -> nn.Module:
    return pk.FusedLinear(i, o, neuron=pk.neurons.IntegerLIFNeuron(decay=0.5, v_threshold=0.125))


NETWORKS = {
    "spikes": lambda: on_a_grid(
        pk.FusedLIFLinear(30, 24, decay=0.5, v_threshold=0.25), pk.FusedLIFLinear(24, 5, decay=0.5, v_threshold=0.25)
    ),
    "readout": lambda: on_a_grid(
        pk.FusedLIFLinear(30, 24, decay=0.5, v_threshold=0.25), pk.FusedLILinear(24, 5, decay=0.5)
    ),
    "recurrent": lambda: on_a_grid(
        pk.FusedRecurrentLinear(30, 24, neuron=pk.neurons.LIFNeuron(decay=0.5, v_threshold=0.25)),
        pk.FusedLILinear(24, 5, decay=0.5),
    ),
    "delay": lambda: on_a_grid(pk.Delay(2), pk.FusedLIFLinear(30, 5, decay=0.5, v_threshold=0.25)),
    "integers": lambda: on_a_grid(integers(30, 24), integers(24, 5)),
    "convolution": lambda: on_a_grid(
        pk.Unflatten((2, 3, 5)),
        pk.FusedIFConv2d(2, 8, 3, padding=1, v_threshold=0.5),
        pk.Flatten(),
        pk.FusedIFLinear(120, 5, v_threshold=0.5),
    ),
}


def recordings(N: int) -> torch.Tensor:
    """Spikes [T, N, 30]; what comes after an end must not matter."""
    return torch.rand(T, N, 30, generator=torch.Generator().manual_seed(N)) < 0.2


def dense(y) -> torch.Tensor:
    return y.dense() if isinstance(y, pk.Spikes) else y


def check(found, alone: list, lengths: list[int], *, states: bool = True) -> None:
    """``found``: of the batch. ``alone``: of each sample, which was run for its length only."""
    y = dense(found.output)
    assert y.any() and found.steps.tolist() == lengths
    for n, (end, one) in enumerate(zip(lengths, alone, strict=True)):
        assert equal(y[:end, n : n + 1], dense(one.output))
        after = y[end - 1, n] if isinstance(one.output, torch.Tensor) and not one._gives_integers else 0 * y[0, n]
        assert equal(y[end:, n], after.expand_as(y[end:, n]))
        if states:
            assert found.state.keys() == one.state.keys()
            assert all(
                equal(v[n : n + 1], w) for k in one.state for v, w in zip(found.state[k], one.state[k], strict=True)
            )
        if not isinstance(one.output, torch.Tensor) or one._gives_integers:
            assert equal(found.count()[n : n + 1], one.count())
    for name in found.places:
        assert found.places[name] == sum(one.places[name] for one in alone)
        if name in found.rates:
            spikes = sum(one.rates[name] * one.places[name] for one in alone)
            assert found.rates[name] == pytest.approx(spikes / found.places[name])
    for kind in ("accumulates", "multiply_accumulates"):
        ours = getattr(found.synops, kind)
        assert ours == {name: sum(getattr(one.synops, kind)[name] for one in alone) for name in ours}


CASES = [
    (name, way)
    for name in NETWORKS
    for way in ("plan", "layers", "engine", "values", "int8")
    if way in ("plan", "layers", "engine") or (name, way) not in [("integers", "int8"), ("delay", "values")]
]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_batch_equals_a_loop(name, way):
    torch.manual_seed(0)
    net, x = NETWORKS[name](), recordings(9)
    x = torch.where(x, 0.5, 0.0) if way == "values" else pk.pack(x)
    precision = "int8" if way == "int8" else None
    if way == "layers":
        net.register_forward_hook(lambda *called: None)  # which a plan does not call
    if way == "engine":
        run = pk.compile(net, x)
    else:

        def run(x, T, **options):
            return pk.simulate(net, x, T, precision=precision, **options)

    def sample(n, end):
        return pk.pack(x.dense()[:end, n : n + 1].bool()) if isinstance(x, pk.Spikes) else x[:end, n : n + 1]

    found = run(x, T, lengths=torch.tensor(LENGTHS))
    alone = [run(sample(n, end), end) for n, end in enumerate(LENGTHS)]
    check(found, alone, LENGTHS, states=way != "engine")


@pytest.mark.parametrize("threads", [1, 2])
def test_many_samples(threads):
    """More than an engine has in one group."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        net, lengths = NETWORKS["convolution"](), np.random.default_rng(0).integers(1, T + 1, 150).tolist()
        x = recordings(150)
        found = pk.simulate(net, pk.pack(x), T, lengths=lengths)
        check(found, [pk.simulate(net, pk.pack(x[:end, n : n + 1]), end) for n, end in enumerate(lengths)], lengths)
    finally:
        torch.set_num_threads(before)


def test_one_after_the_other():
    """A kept session that ran with a rule, lengths and neither has memory for each, and goes on from a state."""
    torch.manual_seed(0)
    net, x = NETWORKS["spikes"](), pk.pack(recordings(9))
    loop = [
        pk.simulate(net, x, T, lengths=LENGTHS),
        pk.simulate(net, x, T, stop=pk.stop.margin(2)),
        pk.simulate(net, x, T),
    ]
    again = [
        pk.simulate(net, x, T, stop=pk.stop.margin(2), chunk=4),
        pk.simulate(net, x, T, lengths=LENGTHS),
        pk.simulate(net, x, T, stop=pk.stop.margin(2), chunk=64),
        pk.simulate(net, x, T, stop=pk.stop.margin(2)),
        pk.simulate(net, x, T),
    ]
    assert equal(loop[0].count(), again[1].count()) and equal(loop[1].count(), again[3].count())
    assert equal(loop[2].count(), again[4].count()) and again[0].steps.min() < T
    first = pk.simulate(net, x[:40], 40, lengths=[min(40, end) for end in LENGTHS])
    rest = pk.simulate(net, x[40:], 60, state=first.state, lengths=[max(1, end - 40) for end in LENGTHS])
    for n, end in enumerate(LENGTHS):
        if end > 40:
            assert equal((first.count() + rest.count())[n], loop[0].count()[n]) and loop[0].count()[n].any()


def test_held_images_and_logits():
    """Constant inputs, each for a time of its own: logits count the steps of each sample."""
    torch.manual_seed(0)
    ann, images = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 5)).eval(), torch.rand(9, 30)
    net = pk.convert(ann, images)
    found = pk.simulate(net, images, T, lengths=LENGTHS)
    for n, end in enumerate(LENGTHS):
        one = pk.simulate(net, images[n : n + 1], end)
        assert torch.allclose(found.logits[n], one.logits[0], atol=1e-4) and found.logits[n].any()


def test_a_batch_of_recordings():
    """From events to classes."""
    torch.manual_seed(0)
    rng, net = np.random.default_rng(0), NETWORKS["readout"]()
    given = [{"t": rng.integers(0, 30 * (k + 1), 200), "x": rng.integers(0, 30, 200)} for k in range(5)]
    spikes, lengths, _ = pk.recordings.batch(given, size=(30,), dt=5)
    found = pk.simulate(net, spikes, spikes.T, lengths=lengths)
    assert len({*lengths.tolist()}) > 2
    for k, recording in enumerate(given):
        alone = pk.events(recording, size=(30,), dt=5)
        expected = pk.simulate(net, alone, alone.T).potentials[-1]
        assert equal(found.potentials[-1, k : k + 1], expected) and expected.any()


X = torch.ones(T, 9, 30, dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lengths": LENGTHS[:3]}, ValueError, "lengths must have an entry for each of the 9 samples, got 3"),
        ({"lengths": [101] * 9}, ValueError, "lengths must lie from 1 to T = 100, got 101"),
        ({"lengths": [0] * 9}, ValueError, "lengths must lie from 1 to T = 100, got 0"),
        ({"lengths": [1.5] * 9}, TypeError, "lengths must be the steps of each sample, integers"),
        ({"lengths": 5}, TypeError, "lengths must be the steps of each sample, integers .* got 5"),
        ({"lengths": LENGTHS, "stop": pk.stop.margin(2)}, ValueError, "stop and lengths exclude each other"),
        ({"lengths": LENGTHS, "record": ["0"]}, ValueError, "record and lengths exclude each other"),
    ],
)
def test_bad_lengths(options, error, text):
    net = NETWORKS["spikes"]()
    with pytest.raises(error, match=text):
        pk.simulate(net, X, T, **options)
    if "record" not in options:
        with pytest.raises(error, match=text):
            pk.compile(net, X)(X, T, **options)


def relu_network(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A ReLU network converted to sigma-delta or graded neurons, and nine inputs for it."""
    torch.manual_seed(0)
    if kind == "images":
        layers = [nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
        x = torch.rand(9, 2, 6, 6)
    else:
        layers, x = [nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)], torch.rand(9, 30)
    ann = nn.Sequential(*layers).eval()
    for weight in ann.parameters():
        weight.data = (weight.data * 64).round() / 64
    return pk.convert(ann, x, neuron=kind if kind == "graded" else "sigma-delta"), (x * 16).round() / 16


@pytest.mark.parametrize("way", ["plan", "layers", "engine"])
@pytest.mark.parametrize("given", ["held", "frames"])
@pytest.mark.parametrize("kind", ["sigma-delta", "images", "graded"])
def test_networks_of_changes(kind, given, way, monkeypatch):
    net, x = relu_network(kind)
    lengths, longest = [12, 3, 1, 7, 12, 2, 8, 5, 4], 12
    if given == "frames":
        moves = torch.rand(longest, *x.shape, generator=torch.Generator().manual_seed(1)) < 0.1
        x = torch.where(moves, x.flip(0), x)
    if way == "layers":
        monkeypatch.setattr(kept_plans, "may_run", lambda x: False)
        monkeypatch.setattr(sigma_delta_layers, "FIRST", 4)  # samples at a time
    run = pk.compile(net, x) if way == "engine" else partial(pk.simulate, net)
    keeps = {} if way == "engine" else {"state": {}}

    def alone(n: int, end: int):
        return run(x[n : n + 1] if given == "held" else x[:end, n : n + 1], end, **keeps)

    found = run(x, longest, lengths=lengths, **keeps)
    check(found, [alone(n, end) for n, end in enumerate(lengths)], lengths, states=bool(keeps))


@pytest.mark.parametrize("way", ["plan", "layers"])
def test_networks_of_changes_check_lengths(way, monkeypatch):
    net, x = relu_network("sigma-delta")
    if way == "layers":
        monkeypatch.setattr(kept_plans, "may_run", lambda x: False)
    with pytest.raises(ValueError, match="lengths must have an entry for each of the 9 samples, got 1"):
        pk.simulate(net, x, 4, lengths=[1])
