"""Recurrent neurons as cycles of NIR's graphs: the same spikes, and what does not fit is refused."""

import numpy as np
import pytest
import torch
from cases import spikes
from equality import equal
from exchange import louder, sequence
from torch import nn

import proxykernels as pk
from proxykernels.neurons import CubaLIFNeuron, IFNeuron, LIFNeuron


@pytest.mark.parametrize("recurrence", ["full", "elementwise"])
@pytest.mark.parametrize(
    "neuron",
    [IFNeuron(), LIFNeuron(v_reset=None, decay=0.75), CubaLIFNeuron(decay=0.5)],
    ids=lambda n: type(n).__name__,
)
def test_there_and_back_by_nir(tmp_path, neuron, recurrence):
    nir = pytest.importorskip("nir")
    net = louder(
        nn.Sequential(pk.FusedRecurrentLinear(6, 8, neuron=neuron, recurrence=recurrence), pk.FusedIFLinear(8, 3))
    )
    graph, x = pk.to_nir(net, (6,)), sequence(20)
    nir.write(tmp_path / "net.nir", graph)
    for given in (graph, tmp_path / "net.nir"):
        back = pk.from_nir(given, reset="v_reset")
        assert net(x).any() and equal(back.eval()(x), net(x))


def graph_of(nir, back: dict, edges: list, C: int = 4):
    """Input -> fc -> lif -> output, with nodes ``back`` and edges besides."""
    generator = np.random.default_rng(0)
    one = np.ones(C, np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "fc": nir.Affine(generator.integers(-2, 8, (C, 3)) / 8, np.full(C, 0.125)),
        "lif": nir.LIF(tau=2 * one, r=2 * one, v_leak=0 * one, v_threshold=one, v_reset=0 * one),
        "output": nir.Output({"output": np.array([C])}),
        **back,
    }
    return nir.NIRGraph(nodes, [("input", "fc"), ("fc", "lif"), ("lif", "output"), *edges])


def by_hand(graph, R: torch.Tensor, b: float, x: torch.Tensor) -> torch.Tensor:
    """A loop that shares no code with the package: decay 1/2, currents as they are."""
    weight = torch.as_tensor(graph.nodes["fc"].weight)
    v = s = torch.zeros(x.shape[1], len(weight), dtype=torch.float64)
    found = []
    for step in x.double():
        v = 0.5 * v + step @ weight.t() + 0.125 + s @ R.double().t() + b
        s = (v >= 1).double()
        v = v * (1 - s)
        found.append(s)
    return torch.stack(found).float()


def cycles(nir) -> dict:
    """Nodes, edges, and the matrix and bias that they are."""
    R = (np.arange(16).reshape(4, 4) % 5 - 2) / 8
    around = [("lif", "w"), ("w", "lif")]
    scale = np.array([0.5, -0.25, 0.125, 0.75])
    return {
        "Linear": ({"w": nir.Linear(R)}, around, torch.tensor(R), 0.0),
        "Affine": ({"w": nir.Affine(R, np.full(4, 0.25))}, around, torch.tensor(R), 0.25),
        "Scale": ({"w": nir.Scale(scale)}, around, torch.diag(torch.tensor(scale)), 0.0),
        "an edge": ({}, [("lif", "lif")], torch.eye(4), 0.0),
        "two": (
            {"w": nir.Linear(R), "z": nir.Scale(scale)}, [*around, ("lif", "z"), ("z", "lif")],
            torch.tensor(R) + torch.diag(torch.tensor(scale)), 0.0,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("cycle", ["Linear", "Affine", "Scale", "an edge", "two"])
def test_cycles_of_nir(cycle):
    nir = pytest.importorskip("nir")
    nodes, edges, R, b = cycles(nir)[cycle]
    graph = graph_of(nir, nodes, edges)
    x = spikes(50, 3, 3, generator=torch.Generator().manual_seed(0), rate=0.4)
    expected = by_hand(graph, R, b, x)
    assert 0.02 < expected.mean() < 0.95
    assert equal(pk.from_nir(graph, reset="v_reset").eval()(x), expected)


@pytest.mark.parametrize("cycle", ["Linear", "Affine", "Scale", "two"])
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "none"])
def test_cycles_of_neurons_that_rest_apart(cycle, weights):
    """Potentials are shifted by neuron, and what comes back is as it was: a loop, and a delay in front."""
    nir = pytest.importorskip("nir")
    nodes, edges, R, b = cycles(nir)[cycle]
    graph, rest, v_reset = graph_of(nir, nodes, edges), torch.tensor([0.25, 0, -0.5, 0.5]), torch.arange(4) / -8
    graph.nodes["lif"].v_leak, graph.nodes["lif"].v_reset = rest.numpy(), v_reset.numpy()
    graph.nodes["late"] = nir.Delay(np.array([2.0, 0.0, 1.0, 3.0]) if not weights else np.array([2.0, 0.0, 1.0]))
    graph.edges.remove(("input", "fc") if weights else ("fc", "lif"))
    graph.edges += [("input", "late"), ("late", "fc")] if weights else [("fc", "late"), ("late", "lif")]
    x = spikes(50, 3, 3, generator=torch.Generator().manual_seed(0), rate=0.4)
    inputs = x if not weights else late(x, (2, 0, 1))
    currents = inputs.double() @ torch.as_tensor(graph.nodes["fc"].weight).t() + 0.125
    currents = currents if weights else late(currents, (2, 0, 1, 3))
    v, s, expected = rest.double().expand(3, 4), torch.zeros(3, 4, dtype=torch.float64), []
    for current in currents:
        v = v + 0.5 * (rest - v) + current + s @ R.double().t() + b
        s = (v >= 1).double()
        v = torch.where(s == 1, v_reset.double(), v)
        expected.append(s)
    expected = torch.stack(expected).float()
    assert 0.02 < expected.mean() < 0.95
    assert equal(pk.from_nir(graph, reset="v_reset").eval()(x), expected)


def late(x: torch.Tensor, steps: tuple[int, ...]) -> torch.Tensor:
    """[T, N, C], of which each channel comes so many steps later."""
    return torch.stack(
        [torch.cat([torch.zeros_like(x[:k, :, c]), x[: len(x) - k, :, c]]) for c, k in enumerate(steps)], 2
    )


def test_filtered_recurrent_neurons_must_rest_together():
    """A filter in front of them would not have what comes back."""
    nir = pytest.importorskip("nir")
    nodes, edges, *_ = cycles(nir)["Linear"]
    graph, one = graph_of(nir, nodes, edges), np.ones(4, np.float32)
    rest = np.arange(4, dtype=np.float32) / 8
    graph.nodes["lif"] = nir.CubaLIF(
        tau_mem=2 * one, tau_syn=2 * one, r=2 * one, w_in=2 * one, v_leak=rest, v_threshold=one
    )
    with pytest.raises(ValueError, match="node 'lif': recurrent CubaLIF neurons must all rest at one v_leak"):
        pk.from_nir(graph)


def test_a_cycle_within_a_graph():
    """As snnTorch writes it: the neurons and what comes back are a graph of their own."""
    nir = pytest.importorskip("nir")
    nodes, edges, R, b = cycles(nir)["Affine"]
    flat, C = graph_of(nir, nodes, edges), 4
    inner = nir.NIRGraph(
        {"input": nir.Input({"input": np.array([C])}), "lif": flat.nodes["lif"], "w": nodes["w"],
         "output": nir.Output({"output": np.array([C])})},
        [("input", "lif"), *edges, ("lif", "output")],
    )  # fmt: skip
    outer = {"input": flat.nodes["input"], "fc": flat.nodes["fc"], "rnn": inner, "output": flat.nodes["output"]}
    graph = nir.NIRGraph(outer, [("input", "fc"), ("fc", "rnn"), ("rnn", "output")])
    x = spikes(50, 3, 3, generator=torch.Generator().manual_seed(0), rate=0.4)
    assert equal(pk.from_nir(graph, reset="v_reset").eval()(x), by_hand(flat, R, b, x))


def test_other_cycles_are_refused():
    nir = pytest.importorskip("nir")
    R, one = np.eye(4) / 2, np.ones(4, np.float32)
    other = nir.IF(r=one, v_threshold=one, v_reset=0 * one)
    larger = {"w": nir.Linear(R), "if": other, "z": nir.Linear(R)}
    edges = [("lif", "w"), ("w", "if"), ("if", "z"), ("z", "lif")]
    with pytest.raises(ValueError, match="has a cycle, .*; only neurons -> weights -> the same neurons"):
        pk.from_nir(graph_of(nir, larger, edges))
    graph = graph_of(nir, {"w": nir.Linear(R)}, [("lif", "w"), ("w", "lif")])
    for back, message in (
        (nir.Scale(np.ones((4, 1))), "scale must have one value for each neuron, got"),
        (nir.Linear(np.ones((4, 3))), "weight must be square, for spikes come back to the neurons, got"),
        (nir.Linear(np.ones((3, 3))), "4 neurons cannot take what comes back through weights"),
    ):
        graph.nodes["w"] = back
        with pytest.raises(ValueError, match=message):
            pk.from_nir(graph)


def test_recurrent_neurons_of_two_inputs_are_refused():
    nir = pytest.importorskip("nir")
    R = np.eye(4) / 2
    edges = [("lif", "w"), ("w", "lif"), ("input", "other"), ("other", "lif")]
    graph = graph_of(nir, {"w": nir.Linear(R), "other": nir.Linear(np.ones((4, 3)))}, edges)
    with pytest.raises(TypeError, match="node 'lif': recurrent neurons take one input"):
        pk.from_nir(graph)
