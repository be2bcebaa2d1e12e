"""Networks as NIR graphs, recurrent ones too: there and back bit by bit, and what NIR cannot say."""

import numpy as np
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from exchange import images, louder, make_dyadic, make_normal, plain, residual, sequence, sequential
from torch import nn

import proxykernels as pk
from proxykernels.neurons import ALIFNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, RefractoryLIFNeuron

T = 24
RESETS = {"hard": 0.0, "below": -0.5, "soft": None}


@pytest.fixture
def nir():
    return pytest.importorskip("nir", minversion="1.0.6")


def neurons(v_reset) -> list[IFNeuron]:
    """Of every model that NIR has; their decays are awkward numbers."""
    return [
        IFNeuron(v_threshold=1.25, v_reset=v_reset),
        LIFNeuron(v_threshold=1.25, v_reset=v_reset, decay=0.9, v_rest=0.125),
        LIFNeuron.from_tau(3.3, v_threshold=0.5, v_reset=v_reset),
        LIFNeuron(v_threshold=0.5, v_reset=v_reset, decay=0.0),
        CubaLIFNeuron(v_threshold=1.25, v_reset=v_reset, decay=0.7, v_rest=-0.25, current_decay=0.6),
    ]


def as_float32(neuron: IFNeuron) -> IFNeuron:
    values = {name: getattr(neuron, name) for name in neuron.names()}
    return type(neuron)(**{name: None if v is None else torch.tensor(v).item() for name, v in values.items()})


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS.values(), ids=RESETS)
@pytest.mark.parametrize("build", [sequential, residual])
def test_there_and_back(nir, generator, tmp_path, build, v_reset):
    """Bit-equal in whatever unit of time; some through a file."""
    for neuron, dt in zip(neurons(v_reset), (1.0, 1e-4, 1.0, 1e-3, 0.3), strict=True):
        net = make_dyadic(build(neuron), generator, 1 / 8)
        x = images(generator)
        expected = pk.simulate(net, x, T)
        graph = pk.to_nir(net, (2, 8, 8), dt=dt)
        if dt != 1.0:
            nir.write(tmp_path / "net.nir", graph)
            graph = tmp_path / "net.nir"
        back = pk.from_nir(graph, dt=dt)
        assert equal(pk.simulate(back, x, T).spikes.dense(), expected.spikes.dense())
        assert all(layer.neuron == as_float32(neuron) for layer in back.children() if hasattr(layer, "neuron"))
        assert 0.02 < expected.spikes.rate() < 0.98, neuron


@pytest.mark.parametrize("v_reset", RESETS.values(), ids=RESETS)
def test_decays_of_every_size_come_back(nir, v_reset):
    """As float32 has them, with the potentials that are divided by them."""
    decay = torch.cat([torch.linspace(0, 0.999, 500), torch.tensor([1e-3, 2**-24, 1 - 2**-24, 1 / 3])])
    theta = torch.linspace(0.1, 3, len(decay))
    for neuron in (
        LIFNeuron(v_threshold=theta, v_reset=v_reset, decay=decay, v_rest=-0.3),
        CubaLIFNeuron(v_threshold=theta, v_reset=v_reset, decay=decay, v_rest=-0.3, current_decay=decay.flip(0)),
    ):
        net = nn.Sequential(pk.FusedLinear(3, len(decay), neuron=neuron))
        for dt in (1.0, 1e-4):
            back = pk.from_nir(pk.to_nir(net, (3,), dt=dt), dt=dt).get_submodule("0").neuron
            for name in neuron.names():
                was, now = getattr(neuron, name), getattr(back, name)
                assert (was is now is None) or torch.equal(torch.as_tensor(now), torch.as_tensor(was).float()), name


def test_neurons_that_differ_by_channel(nir, generator):
    neuron = LIFNeuron(v_threshold=torch.tensor([0.5, 1, 2, 4]), v_reset=0.0, decay=torch.tensor([0.5, 0.9, 0.0, 0.75]))
    net = make_dyadic(nn.Sequential(pk.FusedConv2d(2, 4, 3, neuron=neuron)), generator)
    back = pk.from_nir(pk.to_nir(net, (2, 8, 8)))
    assert equal(back.get_submodule("0").decay, neuron.decay)
    x = images(generator)
    actual = pk.simulate(back, x, T).spikes
    assert equal(actual.dense(), pk.simulate(net, x, T).spikes.dense()) and 0.02 < actual.rate() < 0.98


@pytest.mark.parametrize(
    "decay, v_rest, kind", [(1.0, 0.0, "I"), (0.9, -0.3, "LI"), (torch.linspace(0, 0.99, 9), 0.25, "LI")]
)
def test_readouts_there_and_back(nir, generator, decay, v_rest, kind):
    readout = pk.FusedLILinear(24, 9, decay=decay, v_rest=v_rest)
    net = make_normal(nn.Sequential(*plain(LIFNeuron(v_threshold=0.5))[:3], readout), generator, 2.0)
    x = images(generator)
    expected = pk.simulate(net, x, T).potentials
    for dt in (1.0, 1e-4):
        graph = pk.to_nir(net, (2, 8, 8), dt=dt)
        assert type(graph.nodes[f"3_{kind.lower()}"]).__name__ == kind
        assert equal(pk.simulate(pk.from_nir(graph, dt=dt), x, T).potentials, expected)
    assert len(expected.unique()) > 100


def test_a_readout_keeps_its_units(nir, generator):
    """h = v + dt / tau (v_leak - v + r I), and an integrator's v + r dt I: its weights are multiplied."""
    import numpy as np

    def graph(node, weight):
        nodes = {
            "input": nir.Input({"input": np.array((9,))}),
            "n": node,
            "output": nir.Output({"output": np.array((9,))}),
        }
        nodes |= {} if weight is None else {"w": nir.Affine(weight.numpy(), np.ones(9))}
        names = ["input", *(["w"] if weight is not None else []), "n", "output"]
        return nir.NIRGraph(nodes, list(zip(names, names[1:], strict=False)))

    tau, r, v_leak, dt = 0.02, torch.linspace(1, 3, 9).double(), 0.1, 1e-3
    weight, x = torch.randn(9, 9, generator=generator), dyadic(40, 3, 9, generator=generator)
    leaky, plain = nir.LI(np.full(9, tau), r.numpy(), np.full(9, v_leak)), nir.I(r.numpy())
    for node, rate, rest in ((leaky, 1 / tau, v_leak), (plain, 0.0, 0.0)):
        v, expected = torch.full((3, 9), rest, dtype=torch.float64), []
        for step in x.double():
            current = step @ weight.double().T + 1
            v = v + dt * (rate * (rest - v) + r * current * (rate or 1.0))
            expected.append(v)
        actual = pk.simulate(pk.from_nir(graph(node, weight), dt=dt), x, 40).potentials
        torch.testing.assert_close(actual, torch.stack(expected).float())
        scaled = pk.from_nir(graph(node, None), dt=dt)  # by a layer of its own
        assert [type(layer).__name__ for layer in scaled.children()] == ["FusedLinear", "Population"]


def test_a_leaky_neuron_that_keeps_all_is_an_if_neuron(nir):
    graph = pk.to_nir(nn.Sequential(pk.FusedLIFLinear(3, 4, decay=1.0)), (3,))
    assert isinstance(graph.nodes["0_if"], nir.IF)


# What cannot be said


def test_what_nir_cannot_say(nir):
    for layers, message in (
        ([pk.FusedIFConv2d(2, 4, 3), pk.MaxPool2d(2)], "layer 1: NIR has no node for MaxPool2d"),
        ([pk.FusedIFConv2d(2, 4, 3, v_init=0.5)], "layer 0: NIR cannot say a potential to start from, v_init=0.5"),
        ([pk.FusedLIFConv2d(2, 4, 3, v_rest=0.5, v_init=0.0)], "start from, v_init=0; set it to 0.5"),
        ([pk.FusedConv2d(2, 4, 3, neuron=ALIFNeuron())], "layer 0: NIR has no node for ALIFNeuron; IF, LIF, Cuba"),
        ([pk.FusedConv2d(2, 4, 3, neuron=RefractoryLIFNeuron())], "layer 0: NIR has no node for RefractoryLIFNeuron"),
        ([pk.FusedLIFConv2d(2, 2, 3, decay=torch.tensor([0.5, 1.0]))], "layer 0: NIR cannot say decay = 1, whose time"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.LI(decay=1.0, v_rest=0.5)], "layer 1: NIR cannot say decay = 1"),
        ([pk.FusedConv2d(2, 4, 3, neuron=CubaLIFNeuron(current_decay=1.0))], "NIR cannot say current_decay = 1"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.AvgPool2d(2, ceil_mode=True)], "no ceil_mode"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.AdaptiveAvgPool2d(4)], r"no average pooling of \(6, 6\) to \(4, 4\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.to_nir(nn.Sequential(*layers), (2, 8, 8))
    with pytest.raises(TypeError, match="net must be a proxykernels.Network or an nn.Sequential, got FusedIFLinear"):
        pk.to_nir(pk.FusedIFLinear(3, 4), (3,))
    for dt in (0.0, True, torch.tensor([1.0])):
        with pytest.raises(ValueError, match="dt must be a positive number in float32, got"):
            pk.to_nir(nn.Sequential(pk.FusedIFLinear(3, 4)), (3,), dt=dt)
    with pytest.raises(ValueError, match=r"shape \(2, 1000000, 1000000\) has 2e\+12 values; at most"):
        pk.to_nir(nn.Sequential(pk.IF()), (2, 10**6, 10**6))


def test_graphs_that_are_not_supported(nir):
    import numpy as np

    one, none = np.ones(4, np.float32), np.zeros(4, np.float32)
    several = one * np.arange(1, 5)
    neuron, matrix = nir.IF(one, one), nir.Linear(np.eye(4, dtype=np.float32))
    ends = {"input": nir.Input({"input": np.array([4])}), "output": nir.Output({"output": np.array([4])})}
    for nodes, edges, message in (
        ({"a": matrix, "n": neuron}, "input-a a-n n-a n-output", "the graph has a cycle"),
        ({"a": nir.Threshold(none)}, "input-a a-output", "'a': threshold must be above 0 and finite"),
        ({"a": matrix, "n": nir.IF(one, several, several[::-1] * 1)}, "input-a a-n n-output",
         "'n': v_reset must be below v_threshold"),
        ({"n": nir.LIF(one / 2, one, none, one)}, "input-n n-output",
         "'n': tau must be at least a step, dt = 1, got 0.5; from_nir"),
        ({"n": nir.LIF(-one, one, none, one)}, "input-n n-output", "'n': tau must be above 0 and finite"),
        ({"n": nir.LIF(one, none, none, one)}, "input-n n-output", "'n': r must be above 0 and finite"),
        ({"n": nir.LIF(one, one, none, one, several)}, "input-n n-output", "'n': v_reset must be below v_threshold"),
        ({"n": nir.CubaLIF(one, one, one, none, one, w_in=-one)}, "input-n n-output", "'n': w_in must be above 0"),
        ({"n": nir.CubaLIF(one / 2, one, one, none, one)}, "input-n n-output", "'n': tau_syn must be at least a step"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            pk.from_nir(nir.NIRGraph({**ends, **nodes}, [tuple(edge.split("-")) for edge in edges.split()]))


@pytest.mark.parametrize("name", ["tau", "r", "v_threshold", "v_leak", "v_reset"])
def test_neurons_that_differ_within_a_channel(nir, generator, name):
    """They become features; the comparison with the graph's equations has passed when the network is there."""
    import numpy as np

    shape = (2, 4, 4)
    values = {key: np.ones(shape) for key in ("tau", "r", "v_threshold")} | {"v_leak": np.zeros(shape)}
    values |= {"tau": 4 * values["tau"], "r": 4 * values["r"], "v_reset": np.zeros(shape)}
    values[name][1, 2, 3] += 0.5
    nodes = {
        "input": nir.Input({"input": np.array(shape)}),
        "n": nir.LIF(**values),
        "output": nir.Output({"output": np.array(shape)}),
    }
    net = pk.from_nir(nir.NIRGraph(nodes, [("input", "n"), ("n", "output")]))
    spikes = pk.simulate(net, torch.full((1, *shape), 0.3), 64).spikes.count()[0]
    assert spikes.shape == shape and spikes.sum() > 0 and spikes[1, 2, 3] != spikes[0, 0, 0]


def test_what_multiplies_a_current_divides_the_potentials(nir, generator):
    """h = v + dt / tau (v_leak - v + r I), by Euler's method; float64 is the judge, and it fires at the same steps."""
    import numpy as np

    tau, r, v_leak, v_threshold, v_reset, dt = 0.02, 3.0, 0.1, 0.7, -0.2, 1e-3
    shape, full = (9,), lambda value: np.full(9, value)
    nodes = {
        "input": nir.Input({"input": np.array(shape)}),
        "n": nir.LIF(full(tau), full(r), full(v_leak), full(v_threshold), full(v_reset)),
        "output": nir.Output({"output": np.array(shape)}),
    }
    net = pk.from_nir(nir.NIRGraph(nodes, [("input", "n"), ("n", "output")]), dt=dt)
    x = dyadic(60, 3, 9, generator=generator).abs()
    v, expected = torch.full((3, 9), v_leak, dtype=torch.float64), []
    for current in x.double():
        h = v + dt / tau * (v_leak - v + r * current)
        expected.append((h >= v_threshold).float())
        v = torch.where(h >= v_threshold, v_reset, h)
    actual = net(x)
    assert equal(actual, torch.stack(expected)) and 0.02 < actual.mean() < 0.98


def test_recordings_that_are_no_data(nir):
    from nir import data_ir

    recording = pk.to_nir_data(pk.pack(torch.ones(4, 2, 3)), dt=1e-3).to_event(n_events=20)
    assert pk.from_nir_data(recording, dt=1e-3).shape == (4, 2, 3)
    with pytest.raises(ValueError, match=r"dt = 1e-20 up to t_max = 0.004 take .* GiB.*; give dt in the events' unit"):
        pk.from_nir_data(recording, dt=1e-20)
    for wrong in float("nan"), float("inf"), -1.0:
        with pytest.raises(ValueError, match=f"t_max = {wrong:g} take"):
            pk.from_nir_data(data_ir.EventData(recording.idx, recording.time, recording.n_neurons, wrong), dt=1e-3)
    with pytest.raises(TypeError, match="x must be a tensor that holds its values, got one on meta"):
        pk.to_nir_data(torch.zeros(4, 2, 3, device="meta"))


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
