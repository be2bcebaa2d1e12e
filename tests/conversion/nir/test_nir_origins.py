"""NIR graphs as other libraries write them, whose neurons do something else there: a warning says what to pass.

The nodes are written here as sinabs 3.1, Norse 1.1 and snnTorch 1.0 write them.
"""

import warnings

import numpy as np
import pytest
import torch

import proxykernels as pk
from proxykernels.neurons import IFNeuron, LIFNeuron

T, N, FEATURES = 100, 4, 6


@pytest.fixture
def nir():
    nir = pytest.importorskip("nir")
    if "v_reset" not in nir.IF.__dataclass_fields__:
        pytest.skip("snnTorch writes v_reset, which nir 1.0.6 brings")
    return nir


def ones(value: float = 1.0, kind=np.float32) -> np.ndarray:
    return np.full(FEATURES, value, kind)


def chain(nir, node):
    weight = np.random.default_rng(0).normal(0.2, 1.0, (FEATURES, FEATURES)).astype(np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([FEATURES])}), "fc": nir.Affine(weight, ones(0.1)), "sn": node,
        "output": nir.Output({"output": np.array([FEATURES])}),
    }  # fmt: skip
    return nir.NIRGraph(nodes, [("input", "fc"), ("fc", "sn"), ("sn", "output")])


def currents(graph) -> torch.Tensor:
    """Of a held input, [N, features], and that input."""
    x = torch.rand(N, FEATURES, generator=torch.Generator().manual_seed(0))
    node = graph.nodes["fc"]
    return x @ torch.tensor(node.weight).T + torch.tensor(node.bias), x


def sinabs(current: torch.Tensor, left: float, share: float, fires: bool = True) -> torch.Tensor:
    """Its neurons with SingleSpike: potentials decay by ``left``, and take a ``share`` of their currents."""
    v, given = torch.zeros_like(current), []
    for _ in range(T):
        v = left * v + share * current
        spikes = (v >= 1).float()
        given.append(spikes if fires else v)
        v = v - spikes if fires else v
    return torch.stack(given)


def warned(take) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        take()
    return [str(one.message) for one in caught]


def test_integrators_of_sinabs(nir):
    graph = chain(nir, nir.IF(r=ones(), v_threshold=ones()))
    current, x = currents(graph)
    expected = sinabs(current, 1.0, 1.0)
    (message,) = warned(lambda: pk.from_nir(graph))
    assert "needs from_nir(graph, reset='subtract'), and spikes that are single there" in message
    assert "node 'sn'" in message
    assert not torch.equal(pk.simulate(pk.from_nir(graph, reset="v_reset"), x, T).spikes.dense(), expected)
    assert not warned(lambda: pk.from_nir(graph, reset="subtract"))
    found = pk.simulate(pk.from_nir(graph, reset="subtract"), x, T).spikes.dense()
    assert 0.1 < expected.mean() < 0.9 and (found != expected).float().mean() < 0.01


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("kind", ["LIF", "LI"])
def test_leaky_neurons_of_sinabs(nir, kind, normalised):
    """They integrate exactly, and a graph does not tell whether currents are normalised."""
    tau, v_threshold = 8.0, {"v_threshold": ones()} if kind == "LIF" else {}
    graph = chain(nir, getattr(nir, kind)(tau=ones(tau), r=ones(), v_leak=ones(0.0), **v_threshold))
    graph.nodes["fc"].weight *= 4 if normalised else 1
    current, x = currents(graph)
    left = float(np.exp(-1 / tau))
    expected = sinabs(current, left, 1 - left if normalised else 1.0, kind == "LIF")
    assert "needs tau = 1 / (1 - np.exp(-1 / tau))" in warned(lambda: pk.from_nir(graph, reset="subtract"))[0]
    node = graph.nodes["sn"]
    node.tau = 1 / (1 - np.exp(-1 / node.tau))
    if not normalised:
        node.r = node.tau
    result = pk.simulate(pk.from_nir(graph, reset="subtract"), x, T)
    if kind == "LI":
        torch.testing.assert_close(result.potentials, expected, rtol=1e-4, atol=1e-4)
    else:
        assert 0.05 < expected.mean() < 0.95 and (result.spikes.dense() != expected).float().mean() < 0.01


@pytest.mark.parametrize("steps, batch", [(40, 4), (128, 1)])
@pytest.mark.parametrize("rest", [0.0, 0.5, 2.0])
def test_several_spikes_of_leaky_neurons(nir, rest, steps, batch):
    """Neurons of a graph may rest at another potential than 0, also above their threshold."""
    graph = chain(nir, nir.LIF(tau=ones(8.0), r=ones(8.0), v_leak=ones(rest), v_threshold=ones()))
    current, x = currents(graph)
    v, expected = torch.full_like(current[:batch], rest if rest < 1 else 0.0), []
    for _ in range(steps):
        v = 7 / 8 * v + rest / 8 + 2 * current[:batch]
        expected.append(v.floor().clamp(0, 3))
        v = v - expected[-1]
    graph.nodes["fc"].weight *= 2
    graph.nodes["fc"].bias *= 2
    net = pk.from_nir(graph, reset="subtract", max_spike_count=3)
    found, expected = pk.simulate(net, x[:batch], steps).output, torch.stack(expected)
    assert len(expected.unique()) == 4 and (found != expected).float().mean() < 0.01


@pytest.mark.parametrize("options", [{"max_spike_count": 2}, {"max_spike_count": 0, "reset": "subtract"}])
def test_how_often_neurons_fire_is_checked(nir, options):
    graph = chain(nir, nir.IF(r=ones(), v_threshold=ones()))
    with pytest.raises(ValueError, match="max_spike_count needs reset='subtract'|max_spike_count must be"):
        pk.from_nir(graph, **options)


def test_filtered_neurons_fire_once(nir):
    graph = chain(nir, nir.Threshold(ones()))
    with pytest.raises(TypeError, match="node 'sn': max_spike_count is for IF and LIF, and this is a Threshold"):
        pk.from_nir(graph, reset="subtract", max_spike_count=2)


def test_currents_of_norse(nir):
    """``dt``: its own, squared; a node without w_in has one of 1."""
    dt = 1e-6
    node = nir.CubaLIF(tau_mem=ones(1e-5), tau_syn=ones(5e-6), r=ones(), v_leak=ones(0.0), v_threshold=ones())
    graph = chain(nir, node)
    (message,) = warned(lambda: pk.from_nir(graph, dt=dt))
    assert "a graph of Norse has no w_in, since Norse adds whole currents: set it to tau_syn / dt" in message
    node.w_in = node.tau_syn / dt
    assert not warned(lambda: pk.from_nir(graph, dt=dt))


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF"])
def test_resets_of_snntorch(nir, kind):
    dt, tau = 1e-4, ones(1e-3)
    more = {"tau": tau} if kind == "LIF" else {"tau_mem": tau, "tau_syn": tau, "w_in": tau / np.float32(dt)}
    values = {"r": tau / np.float32(dt), "v_leak": ones(0.0), "v_threshold": ones(), "v_reset": ones(0.0)}
    graph = chain(nir, getattr(nir, kind)(**more, **values))
    (message,) = warned(lambda: pk.from_nir(graph, dt=dt))
    assert "reset_mechanism='subtract' needs reset='subtract'" in message and "from_snntorch(net)" in message
    for reset in ("subtract", "v_reset"):
        assert not warned(lambda reset=reset: pk.from_nir(graph, dt=dt, reset=reset))


@pytest.mark.parametrize("neuron", [IFNeuron(), IFNeuron(1.0, None), LIFNeuron(1.0, 0.0, 0.5)])
def test_graphs_that_say_what_they_mean(nir, neuron):
    """Ours, and SpikingJelly's."""
    net = torch.nn.Sequential(pk.FusedLinear(6, 4, neuron=neuron))
    for dt in (1.0, 1e-4):
        assert not warned(lambda dt=dt: pk.from_nir(pk.to_nir(net, (6,), dt=dt), dt=dt))
    graph = chain(
        nir, nir.LIF(tau=ones(2e-4, float), r=ones(2.0, float), v_leak=ones(0.0, float), v_threshold=ones(1, float))
    )
    assert not warned(lambda: pk.from_nir(graph, dt=1e-4))


@pytest.mark.parametrize("dt", [1e-2, 1e-3, 1e-4, 100.0])
def test_steps_of_another_unit(nir, dt):
    """Neurons that would be silent, or fire at every step."""
    with pytest.raises(ValueError, match=r"node 'sn': r \* dt must be 1, or near it"):
        pk.from_nir(chain(nir, nir.IF(r=ones(), v_threshold=ones())), dt=dt)
