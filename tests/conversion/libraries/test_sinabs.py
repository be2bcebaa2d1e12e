"""Networks of sinabs, by their graphs; and what no neuron here does: several spikes in a step, a lower bound."""

import warnings

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk

T, N = 20, 3


@pytest.fixture
def network():
    """A network of sinabs, [N, T, ...] -> [N, T, ...], and its graph."""
    layers, activation = pytest.importorskip("sinabs.layers"), pytest.importorskip("sinabs.activation")
    nir_of = pytest.importorskip("sinabs.nir", reason="sinabs' exchange needs nir and nirtorch")

    def make(spike_fn: str = "SingleSpike", min_v_mem: float | None = None):
        neurons = (layers.IAF(spike_fn=getattr(activation, spike_fn), min_v_mem=min_v_mem) for _ in range(2))
        net = nn.Sequential(nn.Linear(6, 12), next(neurons), nn.Linear(12, 5), next(neurons))
        make_dyadic(net, torch.Generator().manual_seed(0), 1 / 8)
        with torch.no_grad():
            return net, nir_of.to_nir(net, given().transpose(0, 1))

    return make


def given() -> torch.Tensor:
    return dyadic(T, N, 6, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def fires(net: nn.Module) -> torch.Tensor:
    for module in net.modules():
        if hasattr(module, "reset_states"):
            module.reset_states()
    return net(given().transpose(0, 1)).transpose(0, 1)


def test_single_spikes_without_a_bound(network):
    net, graph = network()
    expected = fires(net)
    assert 0.05 < expected.mean() < 0.95 and expected.max() == 1
    assert equal(pk.simulate(pk.from_nir(graph, reset="subtract"), given(), T).spikes.dense(), expected)


@pytest.mark.parametrize("options", [{"spike_fn": "MultiSpike"}, {"min_v_mem": -0.25}], ids=["several", "bounded"])
def test_what_a_graph_does_not_tell_is_warned_of(network, options):
    net, graph = network(**options)
    assert not torch.equal(pk.simulate(pk.from_nir(graph, reset="subtract"), given(), T).spikes.dense(), fires(net))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pk.from_nir(graph)
    (message,) = (str(one.message) for one in caught)
    assert "SingleSpike, not MultiSpike" in message and "min_v_mem=None" in message


@pytest.mark.parametrize("take", [lambda net: pk.convert(net, given()[0]), pk.from_spikingjelly], ids=["ann", "other"])
def test_other_ways_name_this_one(network, take):
    pytest.importorskip("spikingjelly")
    with pytest.raises(TypeError, match=r"module '1' is a IAF; .*SingleSpike and min_v_mem=None.*sinabs\.nir\.to_nir"):
        take(network()[0])
