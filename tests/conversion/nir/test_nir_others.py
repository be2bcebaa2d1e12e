"""What other libraries make of our NIR graphs, and we of theirs."""

import contextlib
import io
from importlib.metadata import version

import pytest
import torch
from equality import equal
from exchange import images, make_dyadic, make_normal, plain, sequential, stateful_fires
from packaging.version import Version
from torch import nn

import proxykernels as pk
from proxykernels.neurons import CubaLIFNeuron, IFNeuron, LIFNeuron

T = 24


NIRTORCH = "2.6"  # the oldest that SpikingJelly's exchange takes; sinabs brings 2.0.2


@pytest.fixture
def nir():
    for name in ("nir", "nirtorch"):
        pytest.importorskip(name)
    versions = {name: Version(version(name)) for name in ("nir", "nirtorch")}
    if versions["nir"] < Version("1.0.6") or versions["nirtorch"] < Version(NIRTORCH):
        found = " and ".join(f"{name} {one}" for name, one in versions.items())
        pytest.skip(f"the other libraries need nir 1.0.6 and nirtorch {NIRTORCH} or newer, here are {found}")
    return pytest.importorskip("nir")


# In other libraries. With a soft reset, which NIR has no word for, they reset to 0.


@pytest.mark.parametrize("v_reset", [0.0, -0.5])
def test_spikingjelly_runs_the_graph(nir, generator, v_reset):
    """Bit-equal on the grid: it fires at v >= v_threshold too. Its LIF must rest where they reset to, CUBALIF at 0."""
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    leaky = LIFNeuron(v_threshold=1.0, v_reset=v_reset, decay=0.5, v_rest=v_reset)
    current_based = [CubaLIFNeuron(v_threshold=1.0, v_reset=0.0, decay=0.5, current_decay=0.75)] if v_reset == 0 else []
    for neuron, steps in [(leaky, 8), *((n, 8) for n in current_based), *([(IFNeuron(), T)] if v_reset == 0 else [])]:
        net = make_dyadic(sequential(neuron), generator, 1 / 8)
        x = images(generator)
        theirs = exchange.import_from_nir(pk.to_nir(net, (2, 8, 8), dt=1e-4))
        expected = pk.simulate(net, x, steps).spikes
        assert equal(stateful_fires(theirs, x, steps), expected.dense()) and 0.02 < expected.rate() < 0.98


def grid(v_threshold: float) -> list[tuple[IFNeuron, int]]:
    """Neurons, and for how many steps float32 holds their sums exactly."""
    return [
        (IFNeuron(v_threshold=v_threshold), T),
        (LIFNeuron(v_threshold=v_threshold, decay=0.5), 6),
        (CubaLIFNeuron(v_threshold=v_threshold, decay=0.5, current_decay=0.5), 6),
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
        assert equal(stateful_fires(theirs, x, steps).view(steps, 1, 10), expected.dense()), neuron
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
    assert equal(pk.simulate(pk.from_nir(graph, dt=1e-4), x, 8).spikes.dense(), expected)
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
    assert equal(pk.simulate(pk.from_nir(graph, dt=1e-4), x, 6).spikes.dense(), expected)
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
    assert equal(pk.simulate(pk.from_nir(graph, dt=1e-6), x, 6).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98


# Random normal weights: rounding alone


@pytest.mark.slow
def test_float_networks_in_other_libraries(nir, generator):
    """Fewer than 1 in 10,000 spikes differ over 64 steps."""
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    norse = pytest.importorskip("norse.torch")
    for neuron in (
        LIFNeuron.from_tau(16.0, v_threshold=0.2),
        CubaLIFNeuron(v_threshold=4.0, v_reset=0.0, decay=0.9, current_decay=0.8),
    ):
        net = make_normal(plain(neuron), generator, 6.0)
        x = images(generator, 1)
        graph = pk.to_nir(net, (2, 8, 8), dt=1e-4)
        expected = pk.simulate(net, x, 64).spikes.dense()
        assert 0.02 < expected.mean() < 0.98
        for theirs in (exchange.import_from_nir(graph), norse.from_nir(graph, dt=1e-4)):
            actual = stateful_fires(theirs, x, 64).view(expected.shape)
            assert (actual != expected).float().mean() < 1e-4
