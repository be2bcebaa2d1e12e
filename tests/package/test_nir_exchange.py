"""Networks as NIR graphs: there and back bit by bit, and what other libraries make of them."""

import contextlib
import io

import pytest
import torch
from cases import dyadic
from exchange import images, make_dyadic, make_normal, stateful_fires
from torch import nn

import proxykernels as pk
from proxykernels.neurons import ALIFNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, RefractoryLIFNeuron

T = 24
RESETS = {"hard": 0.0, "below": -0.5, "soft": None}


def sequential(neuron: IFNeuron) -> nn.Sequential:
    return nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, batch_norm=True, neuron=neuron), pk.AvgPool2d(2),
        nn.Sequential(pk.FusedConv2d(8, 6, 3, stride=2, padding=1, bias=False, neuron=neuron)), pk.Flatten(),
        pk.FusedLinear(24, 10, neuron=neuron), pk.FusedLinear(10, 10, bias=False, neuron=neuron),
    )  # fmt: skip


def residual(neuron: IFNeuron) -> pk.Network:
    net = pk.Network()
    net.append("stem", pk.FusedConv2d(2, 6, 3, padding=1, neuron=neuron), ("",))
    block = pk.FusedSum(nn.Conv2d(6, 6, 3, padding=1), nn.Identity(), neuron=neuron)
    net.append("block", block, ("stem", "stem"))
    down = pk.FusedSum(nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 8, 1, 2), neuron=neuron)
    net.append("down", down, ("block", "stem"))
    net.append("pool", pk.AdaptiveAvgPool2d(2), ("down",))
    net.append("again", pk.Population(neuron), ("pool",))
    net.append("flatten", pk.Flatten(), ("again",))
    net.append("fc", pk.FusedLinear(32, 10, neuron=neuron), ("flatten",))
    return net


def plain(neuron: IFNeuron) -> nn.Sequential:
    """Without pooling, of which neither Norse nor snnTorch knows much."""
    return nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, neuron=neuron), pk.FusedConv2d(8, 6, 3, 4, 1, neuron=neuron), pk.Flatten(),
        pk.FusedLinear(24, 10, neuron=neuron), pk.FusedLinear(10, 10, bias=False, neuron=neuron),
    )  # fmt: skip


@pytest.fixture
def nir():
    return pytest.importorskip("nir", minversion="1.0.6")


def neurons(v_reset) -> list[IFNeuron]:
    """Of every model that NIR has; their decays are awkward numbers."""
    return [
        IFNeuron(1.25, v_reset),
        LIFNeuron(1.25, v_reset, 0.9, 0.125),
        LIFNeuron.from_tau(3.3, v_threshold=0.5, v_reset=v_reset),
        LIFNeuron(0.5, v_reset, 0.0),
        CubaLIFNeuron(1.25, v_reset, 0.7, -0.25, 0.6),
    ]


def as_float32(neuron: IFNeuron) -> IFNeuron:
    values = {name: getattr(neuron, name) for name in neuron.names()}
    return type(neuron)(**{name: None if v is None else torch.tensor(v).item() for name, v in values.items()})


@pytest.mark.parametrize("v_reset", RESETS.values(), ids=RESETS)
@pytest.mark.parametrize("build", [sequential, residual])
def test_there_and_back(nir, generator, tmp_path, build, v_reset):
    """Bit-equal in whatever unit of time, also through a file."""
    for neuron, dt in zip(neurons(v_reset), (1.0, 1e-4, 1.0, 1e-3, 0.3), strict=True):
        net = make_dyadic(build(neuron), generator, 1 / 8)
        x = images(generator)
        expected = pk.simulate(net, x, T)
        graph = pk.to_nir(net, (2, 8, 8), dt=dt)
        nir.write(tmp_path / "net.nir", graph)
        for source in (graph, tmp_path / "net.nir"):
            back = pk.from_nir(source, dt=dt)
            assert torch.equal(pk.simulate(back, x, T).spikes.dense(), expected.spikes.dense())
            assert all(layer.neuron == as_float32(neuron) for layer in back.children() if hasattr(layer, "neuron"))
        assert 0.02 < expected.spikes.rate() < 0.98, neuron


@pytest.mark.parametrize("v_reset", RESETS.values(), ids=RESETS)
def test_decays_of_every_size_come_back(nir, v_reset):
    """As float32 has them, with the potentials that are divided by them."""
    decay = torch.cat([torch.linspace(0, 0.999, 500), torch.tensor([1e-3, 2**-24, 1 - 2**-24, 1 / 3])])
    theta = torch.linspace(0.1, 3, len(decay))
    for neuron in (LIFNeuron(theta, v_reset, decay, -0.3), CubaLIFNeuron(theta, v_reset, decay, -0.3, decay.flip(0))):
        net = nn.Sequential(pk.FusedLinear(3, len(decay), neuron=neuron))
        for dt in (1.0, 1e-4):
            back = pk.from_nir(pk.to_nir(net, (3,), dt=dt), dt=dt).get_submodule("0").neuron
            for name in neuron.names():
                was, now = getattr(neuron, name), getattr(back, name)
                assert (was is now is None) or torch.equal(torch.as_tensor(now), torch.as_tensor(was).float()), name


def test_neurons_that_differ_by_channel(nir, generator):
    neuron = LIFNeuron(torch.tensor([0.5, 1, 2, 4]), 0.0, torch.tensor([0.5, 0.9, 0.0, 0.75]))
    net = make_dyadic(nn.Sequential(pk.FusedConv2d(2, 4, 3, neuron=neuron)), generator)
    back = pk.from_nir(pk.to_nir(net, (2, 8, 8)))
    assert torch.equal(back.get_submodule("0").decay, neuron.decay)
    x = images(generator)
    actual = pk.simulate(back, x, T).spikes
    assert torch.equal(actual.dense(), pk.simulate(net, x, T).spikes.dense()) and 0.02 < actual.rate() < 0.98


def test_a_leaky_neuron_that_keeps_all_is_an_if_neuron(nir):
    graph = pk.to_nir(nn.Sequential(pk.FusedLIFLinear(3, 4, decay=1.0)), (3,))
    assert isinstance(graph.nodes["0_if"], nir.IF)


# In other libraries. With a soft reset, which NIR has no word for, they reset to 0.


@pytest.mark.parametrize("v_reset", [0.0, -0.5])
def test_spikingjelly_runs_the_graph(nir, generator, v_reset):
    """Bit-equal on the grid: it fires at v >= v_threshold too. Its LIF must rest where they reset to, CUBALIF at 0."""
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    leaky = LIFNeuron(1.0, v_reset, 0.5, v_reset)
    current_based = [CubaLIFNeuron(1.0, 0.0, 0.5, current_decay=0.75)] if v_reset == 0 else []
    for neuron, steps in [(leaky, 8), *((n, 8) for n in current_based), *([(IFNeuron(), T)] if v_reset == 0 else [])]:
        net = make_dyadic(sequential(neuron), generator, 1 / 8)
        x = images(generator)
        theirs = exchange.import_from_nir(pk.to_nir(net, (2, 8, 8), dt=1e-4))
        expected = pk.simulate(net, x, steps).spikes
        assert torch.equal(stateful_fires(theirs, x, steps), expected.dense()) and 0.02 < expected.rate() < 0.98


def grid(v_threshold: float) -> list[tuple[IFNeuron, int]]:
    """Neurons, and for how many steps float32 holds their sums exactly."""
    return [
        (IFNeuron(v_threshold), T),
        (LIFNeuron(v_threshold, decay=0.5), 6),
        (CubaLIFNeuron(v_threshold, decay=0.5, current_decay=0.5), 6),
    ]


@pytest.mark.parametrize("v_threshold", [1.0, 1.0 + 2**-11], ids=["on-the-grid", "off-the-grid"])
def test_norse_runs_the_graph(nir, generator, v_threshold):
    """It fires at v > v_threshold: bit-equal where no potential equals the threshold, and elsewhere not.

    One image, because it flattens the batch as well.
    """
    norse = pytest.importorskip("norse.torch")
    for neuron, steps in grid(v_threshold):
        net = make_dyadic(plain(neuron), generator, 1 / 8)
        x = images(generator, 1)
        theirs = stateful_fires(norse.from_nir(pk.to_nir(net, (2, 8, 8), dt=1e-3)), x, steps)
        expected = pk.simulate(net, x, steps).spikes
        assert torch.equal(theirs.view(steps, 1, 10), expected.dense()) == (v_threshold != 1.0), neuron
        assert 0.02 < expected.rate() < 0.98


def test_snntorch_runs_the_graph(nir, generator):
    """It fires at v > v_threshold, knows dt = 1e-4 alone, and takes an IF for a leaky neuron; one image, as above."""
    snntorch = pytest.importorskip("snntorch.import_nir")
    for neuron, steps in grid(1.0 + 2**-11)[1:]:
        net = make_dyadic(plain(neuron), generator, 1 / 8)
        x = images(generator, 1)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how it scales
            theirs = snntorch.import_from_nir(pk.to_nir(net, (2, 8, 8), dt=1e-4))
        expected = pk.simulate(net, x, steps).spikes
        assert torch.equal(stateful_fires(theirs, x, steps).view(steps, 1, 10), expected.dense()), neuron
        assert 0.02 < expected.rate() < 0.98


# From other libraries


def spikingjelly_chain(**neurons) -> nn.Sequential:
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    first, second = neurons.values()
    return nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1), first, layer.AvgPool2d(2), layer.Flatten(),
        layer.Linear(96, 10, bias=False), second,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["IFNode", "LIFNode", "LIFNode, currents whole", "CUBALIFNode"])
def test_graph_from_spikingjelly(nir, generator, kind):
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    from spikingjelly.activation_based import functional, neuron

    def make(**others):
        options = {"LIFNode": {"tau": 2.0}, "CUBALIFNode": {"c_decay": 0.5, "v_decay": 0.75}}.get(
            kind.split(",")[0], {}
        )
        options |= {"decay_input": False} if "whole" in kind else {}
        return getattr(neuron, kind.split(",")[0])(**options, **others)

    net = make_dyadic(spikingjelly_chain(first=make(), second=make(v_threshold=0.5)), generator, 1 / 8)
    x = images(generator)
    graph = exchange.export_to_nir(net, x)
    functional.reset_net(net)
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(8)])
    assert torch.equal(pk.simulate(pk.from_nir(graph, dt=1e-4), x, 8).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98
    with pytest.raises(
        ValueError, match=r"r \* dt must be 1" if kind == "IFNode" else "must be at least a step, dt = 1"
    ):
        pk.from_nir(graph)


def test_graph_from_snntorch(nir, generator):
    """It does not say how they reset, which is read as a reset to 0."""
    snn = pytest.importorskip("snntorch")
    from snntorch import export_nir, utils

    def values(n: int) -> dict:
        theta = torch.full((n,), 1 + 2**-11)
        options = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False, "threshold": theta}
        return {"beta": torch.full((n,), 0.5), **options}

    net = make_dyadic(
        nn.Sequential(
            nn.Linear(128, 16), snn.Leaky(**values(16)), nn.Linear(16, 9),
            snn.Synaptic(alpha=torch.full((9,), 0.5), **values(9)),
        ),
        generator, 1 / 8,
    )  # fmt: skip
    x = images(generator).flatten(1)
    graph = export_nir.export_to_nir(net, x, ignore_dims=[0])
    utils.reset(net)
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(6)])
    assert torch.equal(pk.simulate(pk.from_nir(graph, dt=1e-4), x, 6).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98


def test_graph_from_norse(nir, generator):
    """It writes tau = dt / tau_mem_inv where it computes with dt * tau_mem_inv: the step is its dt squared."""
    norse = pytest.importorskip("norse.torch")
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(1 + 2**-11))
    net = make_dyadic(
        norse.SequentialState(
            nn.Linear(128, 16), norse.LIFBoxCell(p, dt=1e-3), nn.Linear(16, 9), norse.LIFBoxCell(p, dt=1e-3)
        ),
        generator, 1 / 8,
    )  # fmt: skip
    x = images(generator).flatten(1)
    graph = norse.to_nir(net, x)
    expected = stateful_fires(net, x, 6)
    assert torch.equal(pk.simulate(pk.from_nir(graph, dt=1e-6), x, 6).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98


# What cannot be said


def test_what_nir_cannot_say(nir):
    for layers, message in (
        ([pk.FusedIFConv2d(2, 4, 3), pk.MaxPool2d(2)], "layer 1: NIR has no node for MaxPool2d"),
        ([pk.FusedIFConv2d(2, 4, 3, v_init=0.5)], "layer 0: NIR cannot say a potential to start from, v_init=0.5"),
        ([pk.FusedLIFConv2d(2, 4, 3, v_rest=0.5, v_init=0.0)], "start from, v_init=0; set it to 0.5"),
        ([pk.FusedConv2d(2, 4, 3, neuron=ALIFNeuron())], "layer 0: NIR has no node for ALIFNeuron; IF, LIF and Cuba"),
        ([pk.FusedConv2d(2, 4, 3, neuron=RefractoryLIFNeuron())], "layer 0: NIR has no node for RefractoryLIFNeuron"),
        ([pk.FusedLIFConv2d(2, 2, 3, decay=torch.tensor([0.5, 1.0]))], "layer 0: NIR cannot say decay = 1, whose time"),
        ([pk.FusedConv2d(2, 4, 3, neuron=CubaLIFNeuron(current_decay=1.0))], "NIR cannot say current_decay = 1"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.AvgPool2d(2, ceil_mode=True)], "no ceil_mode"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.AdaptiveAvgPool2d(4)], r"no average pooling of \(6, 6\) to \(4, 4\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.to_nir(nn.Sequential(*layers), (2, 8, 8))
    with pytest.raises(TypeError, match="net must be a proxykernels.Network or an nn.Sequential, got FusedIFLinear"):
        pk.to_nir(pk.FusedIFLinear(3, 4), (3,))
    with pytest.raises(ValueError, match="dt must be above 0"):
        pk.to_nir(nn.Sequential(pk.FusedIFLinear(3, 4)), (3,), dt=0.0)


def test_graphs_that_are_not_supported(nir):
    import numpy as np

    one, none = np.ones(4, np.float32), np.zeros(4, np.float32)
    several = one * np.arange(1, 5)
    neuron, matrix = nir.IF(one, one), nir.Linear(np.eye(4, dtype=np.float32))
    ends = {"input": nir.Input({"input": np.array([4])}), "output": nir.Output({"output": np.array([4])})}
    for nodes, edges, message in (
        ({"a": matrix, "n": neuron}, "input-a a-n n-a n-output", "the graph has a cycle"),
        ({"a": nir.Threshold(one)}, "input-a a-output", "'a': a nir.Threshold in this place is not supported"),
        ({"a": matrix, "b": matrix, "n": neuron}, "input-a a-b b-n n-output", "'a' must send to neurons"),
        ({"a": matrix, "n": nir.IF(one, several, several - 9)}, "input-a a-n n-output", "v_reset must be the same"),
        ({"n": nir.LIF(one / 2, one, none, one)}, "input-n n-output",
         "'n': tau must be at least a step, dt = 1, got 0.5; from_nir"),
        ({"n": nir.LIF(-one, one, none, one)}, "input-n n-output", "'n': tau must be above 0 and finite"),
        ({"n": nir.LIF(one, none, none, one)}, "input-n n-output", "'n': r must be above 0 and finite"),
        ({"n": nir.LIF(one, one, one, one)}, "input-n n-output", "'n': v_rest must be below v_threshold = 1"),
        ({"n": nir.LIF(several, one, one / 2, one)}, "input-n n-output", "'n': v_leak must be the same for all"),
        ({"n": nir.CubaLIF(one, one, one, none, one, w_in=-one)}, "input-n n-output", "'n': w_in must be above 0"),
        ({"n": nir.CubaLIF(one / 2, one, one, none, one)}, "input-n n-output", "'n': tau_syn must be at least a step"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            pk.from_nir(nir.NIRGraph({**ends, **nodes}, [tuple(edge.split("-")) for edge in edges.split()]))


def test_neurons_that_differ_within_a_channel(nir, generator):
    import numpy as np

    shape = (2, 4, 4)
    for name in ("tau", "r", "v_threshold", "v_leak"):
        values = {key: np.ones(shape) for key in ("tau", "r", "v_threshold")} | {"v_leak": np.zeros(shape)}
        values[name][1, 2, 3] += 0.5
        nodes = {
            "input": nir.Input({"input": np.array(shape)}),
            "n": nir.LIF(**values),
            "output": nir.Output({"output": np.array(shape)}),
        }
        with pytest.raises(ValueError, match=f"'n': {name} must be the same for all neurons of a channel"):
            pk.from_nir(nir.NIRGraph(nodes, [("input", "n"), ("n", "output")]))


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
    assert torch.equal(actual, torch.stack(expected)) and 0.02 < actual.mean() < 0.98


# Random normal weights: rounding alone


@pytest.mark.slow
def test_float_networks_in_other_libraries(nir, generator):
    """Fewer than 1 in 10,000 spikes differ over 64 steps."""
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    norse = pytest.importorskip("norse.torch")
    for neuron in (LIFNeuron.from_tau(16.0, v_threshold=0.2), CubaLIFNeuron(4.0, 0.0, 0.9, current_decay=0.8)):
        net = make_normal(plain(neuron), generator, 2.0)
        x = images(generator, 1)
        graph = pk.to_nir(net, (2, 8, 8), dt=1e-4)
        expected = pk.simulate(net, x, 64).spikes.dense()
        assert 0.02 < expected.mean() < 0.98
        for theirs in (exchange.import_from_nir(graph), norse.from_nir(graph, dt=1e-4)):
            actual = stateful_fires(theirs, x, 64).view(expected.shape)
            assert (actual != expected).float().mean() < 1e-4
