"""Graphs of NIR with cycles that have a Delay: the spikes of a loop that is written out, and graphs written again."""

import copy

import pytest
import torch
from cases import spikes
from equality import equal, in_parts

import proxykernels as pk
from proxykernels.layers import RecurrentGraph

np = pytest.importorskip("numpy")
nir = pytest.importorskip("nir")

C, B, T, N = 4, 3, 40, 3  # neurons of two populations
R = (np.arange(C * C).reshape(C, C) % 5 - 2) / 8
TO_B = ((np.arange(B * C).reshape(B, C) % 4) + 1) / 8
FROM_B = (np.arange(C * B).reshape(C, B) % 3 - 1.25) / 4
FC = ((np.arange(C * 3).reshape(C, 3) * 5) % 7 - 1) / 8


def neurons(n: int, threshold: float = 1.0):
    one = np.ones(n, np.float32)
    return nir.LIF(tau=2 * one, r=2 * one, v_leak=0 * one, v_threshold=threshold * one, v_reset=0 * one)


def graph_of(nodes: dict, edges: str):
    """Neurons a behind a linear layer, more nodes, and edges as "a-b"; a's spikes are the output."""
    ends = {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([C])})}
    nodes = {**ends, "fc": nir.Affine(FC, np.full(C, 0.125)), "a": neurons(C), **nodes}
    pairs = [tuple(edge.split("-")) for edge in f"input-fc fc-a {edges}".split()]
    return nir.NIRGraph({name: copy.deepcopy(node) for name, node in nodes.items()}, pairs)


class Population:
    """Neurons in float64, and all spikes that they fired."""

    def __init__(self, n: int, threshold: float = 1.0):
        self.v, self.threshold, self.fired = torch.zeros(N, n, dtype=torch.float64), threshold, []

    def step(self, current: torch.Tensor) -> torch.Tensor:
        self.v = self.v + 0.5 * (0 - self.v) + current
        s = (self.v >= self.threshold).double()
        self.v = self.v * (1 - s)
        self.fired.append(s)
        return s

    def ago(self, steps) -> torch.Tensor:
        """The spikes of some steps ago, by neuron; called before this step's are there."""
        steps = [steps] * self.v.shape[1] if isinstance(steps, int) else steps
        none, t = torch.zeros_like(self.v), len(self.fired)
        return torch.stack([(self.fired[t - k] if t >= k else none)[:, c] for c, k in enumerate(steps)], 1)


def matrix(weight) -> torch.Tensor:
    return torch.as_tensor(weight, dtype=torch.float64).t()


def alone(delay):
    """A loop of one population whose spikes come back after a delay."""

    def run(x):
        a = Population(C)
        for step in x.double():
            a.step(step @ matrix(FC) + 0.125 + a.ago(delay) @ matrix(R))
        return a.fired

    return run


def through_others(delay, *, back: int = 0):
    """Two populations: b takes a's spikes of this step, or after ``back`` steps, and a takes b's after ``delay``."""

    def run(x):
        a, b = Population(C), Population(B, 0.5)
        for step in x.double():
            if back:
                b_takes, a_takes = a.ago(back), b.ago(delay)
                a.step(step @ matrix(FC) + 0.125 + a_takes @ matrix(FROM_B))
                b.step(b_takes @ matrix(TO_B))
                continue
            s = a.step(step @ matrix(FC) + 0.125 + b.ago(delay) @ matrix(FROM_B))
            b.step(s @ matrix(TO_B))
        return a.fired

    return run


LIN, LATE = nir.Linear(R), nir.Delay
TWO = {"to_b": nir.Linear(TO_B), "b": neurons(B, 0.5), "from_b": nir.Linear(FROM_B)}
BY_NEURON = np.array([3.0, 1.0, 4.0, 2.0])
CYCLES = {
    "one step": ({"w": LIN, "d": LATE(np.ones(C))}, "a-d d-w w-a a-output", alone(1)),
    "one step, behind the weights": ({"w": LIN, "d": LATE(np.ones(C))}, "a-w w-d d-a a-output", alone(1)),
    "three steps": ({"w": LIN, "d": LATE(3 * np.ones(C))}, "a-d d-w w-a a-output", alone(3)),
    "three steps, behind the weights": ({"w": LIN, "d": LATE(3 * np.ones(C))}, "a-w w-d d-a a-output", alone(3)),
    "of two delays": (
        {"w": LIN, "d": LATE(2 * np.ones(C)), "e": LATE(3 * np.ones(C))}, "a-d d-w w-e e-a a-output", alone(5),
    ),
    "by neuron": ({"w": LIN, "d": LATE(BY_NEURON)}, "a-d d-w w-a a-output", alone([3, 1, 4, 2])),
    "through others": (
        {**TWO, "d": LATE(2 * np.ones(B))}, "a-to_b to_b-b b-d d-from_b from_b-a a-output", through_others(2),
    ),
    "through others, one step": (
        {**TWO, "d": LATE(np.ones(C))}, "a-to_b to_b-b b-from_b from_b-d d-a a-output", through_others(1),
    ),
    "late both ways": (
        {**TWO, "d": LATE(2 * np.ones(B)), "e": LATE(np.ones(C))},
        "a-e e-to_b to_b-b b-d d-from_b from_b-a a-output", through_others(2, back=1),
    ),
}  # fmt: skip


def both(name: str):
    """The graph, an input and what a loop gives, which is not what it gives without what comes back."""
    nodes, edges, run = CYCLES[name]
    x = spikes(T, N, 3, generator=torch.Generator().manual_seed(0), rate=0.4)
    expected = torch.stack(run(x)).float()
    without = Population(C)
    for step in x.double():
        without.step(step @ matrix(FC) + 0.125)
    assert 0.02 < expected.mean() < 0.95 and not equal(expected, torch.stack(without.fired).float())
    return graph_of(nodes, edges), x, expected


@torch.no_grad()
@pytest.mark.parametrize("name", CYCLES)
def test_cycles_with_delays(name):
    graph, x, expected = both(name)
    before = {key: copy.deepcopy(vars(node)) for key, node in graph.nodes.items()}
    ours = pk.from_nir(graph, reset="v_reset").eval()
    result = pk.simulate(ours, x, T)
    assert equal(result.spikes.dense(), expected) and equal(ours(x), expected)
    assert equal(in_parts(copy.deepcopy(ours), x), expected)
    for key, node in graph.nodes.items():  # which is not changed
        for field, value in before[key].items():
            assert isinstance(value, dict) or np.array_equal(value, getattr(node, field)), (key, field)
    is_plain = name.startswith("one step")  # recurrent neurons, which engines take
    assert is_plain != any(isinstance(module, RecurrentGraph) for module in ours.modules())
    if is_plain:
        assert equal(pk.compile(ours, x)(x, T).spikes.dense(), expected)
    else:
        with pytest.raises(TypeError, match="the engine does not take"):
            pk.compile(ours, x)


@torch.no_grad()
@pytest.mark.parametrize("name", CYCLES)
def test_cycles_are_written_again(name):
    graph, x, expected = both(name)
    ours = pk.from_nir(graph, reset="v_reset").eval()
    written = pk.to_nir(ours, (3,))
    back = pk.from_nir(written, reset="v_reset").eval()
    assert equal(back(x), expected)
    again = pk.to_nir(back, (3,))
    assert {key: type(node) for key, node in again.nodes.items()} == {
        key: type(node) for key, node in written.nodes.items()
    }


@torch.no_grad()
def test_images_in_a_cycle():
    """A convolution over the spikes of two steps before, as a loop of torch computes it."""
    weight = (np.arange(2 * 2 * 9).reshape(2, 2, 3, 3) % 7 - 3) / 16
    shape, one = (2, 5, 5), np.ones((2, 5, 5), np.float32)
    nodes = {
        "input": nir.Input({"input": np.array(shape)}),
        "conv": nir.Conv2d((5, 5), weight + 1 / 16, 1, 1, 1, 1, np.zeros(2)),
        "a": nir.IF(r=one, v_threshold=one, v_reset=0 * one),
        "d": nir.Delay(2 * one),
        "back": nir.Conv2d((5, 5), weight, 1, 1, 1, 1, np.zeros(2)),
        "output": nir.Output({"output": np.array(shape)}),
    }
    edges = [("input", "conv"), ("conv", "a"), ("a", "d"), ("d", "back"), ("back", "a"), ("a", "output")]
    graph = nir.NIRGraph(nodes, edges)
    x = spikes(T, N, *shape, generator=torch.Generator().manual_seed(0), rate=0.4)
    v, fired = torch.zeros(N, *shape), []
    for t, step in enumerate(x):
        current = torch.conv2d(step, torch.as_tensor(weight + 1 / 16).float(), padding=1)
        current += torch.conv2d(
            fired[t - 2] if t > 1 else torch.zeros_like(v), torch.as_tensor(weight).float(), padding=1
        )
        v = v + current
        fired.append((v >= 1).float())
        v = v * (1 - fired[-1])
    ours = pk.from_nir(graph, reset="v_reset").eval()
    assert equal(ours(x), torch.stack(fired)) and 0.02 < torch.stack(fired).mean() < 0.95
    assert equal(pk.from_nir(pk.to_nir(ours, shape), reset="v_reset").eval()(x), torch.stack(fired))


@torch.no_grad()
def test_potentials_in_a_cycle():
    """A filter of the spikes lies in the cycle, and what it gives comes back."""
    one = np.ones(C, np.float32)
    nodes = {"w": LIN, "d": LATE(2 * one), "i": nir.LI(tau=2 * one, r=2 * one, v_leak=0 * one)}
    graph = graph_of(nodes, "a-i i-d d-w w-a a-output")
    x = spikes(T, N, 3, generator=torch.Generator().manual_seed(0), rate=0.4)
    a, i, filtered = Population(C), torch.zeros(N, C, dtype=torch.float64), []
    for t, step in enumerate(x.double()):
        late = filtered[t - 2] if t > 1 else torch.zeros_like(i)
        s = a.step(step @ matrix(FC) + 0.125 + late @ matrix(R))
        i = i + 0.5 * (0 - i) + s
        filtered.append(i)
    expected = torch.stack(a.fired).float()
    ours = pk.from_nir(graph, reset="v_reset").eval()
    assert (ours(x) != expected).float().mean() < 0.01 and 0.02 < expected.mean() < 0.95


def test_a_wrong_delay_would_be_noticed(monkeypatch):
    """The comparison with the equations runs long enough for what comes back to arrive."""
    from proxykernels.conversion.nir import nodes

    graph, *_ = both("three steps")
    plain = nodes.layers.Delay
    monkeypatch.setattr(nodes.layers, "Delay", lambda steps: plain(steps + 1))
    with pytest.raises(ValueError, match="node 'a' is not what was made of it"):
        pk.from_nir(graph, reset="v_reset")


@pytest.mark.parametrize(
    "nodes, edges, message",
    [
        ({**TWO}, "a-to_b to_b-b b-from_b from_b-a a-output", "a cycle, .*; only neurons.* without a Delay"),
        ({"w": LIN, "d": LATE(np.zeros(C))}, "a-d d-w w-a a-output", "a cycle, .*; only neurons.* without a Delay"),
        ({"w": LIN, "d": LATE(BY_NEURON - 1)}, "a-d d-w w-a a-output", "a cycle, .*; only neurons.* without a Delay"),
        ({"w": LIN, "d": LATE(np.full(C, 1.5))}, "a-d d-w w-a a-output", "node 'd': delay must be whole steps"),
    ],
)
def test_what_is_refused(nodes, edges, message):
    with pytest.raises(ValueError, match=message):
        pk.from_nir(graph_of(nodes, edges), reset="v_reset")
