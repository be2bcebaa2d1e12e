"""Neurons of SpikingJelly that are rare: the same spikes, by steps in Python where no kernel has them."""

import pickle

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
pytestmark = [
    pytest.mark.usefixtures("short_proof"),
    pytest.mark.filterwarnings("ignore:.*written in Python|.*learnable"),
]

NODES = {
    "KLIF": lambda: neuron.KLIFNode(),
    "KLIF, scaled": lambda: neuron.KLIFNode(scale_reset=True, decay_input=False, v_reset=0.25),
    "KLIF, soft, scaled": lambda: neuron.KLIFNode(scale_reset=True, v_reset=None),
    "QIF": lambda: neuron.QIFNode(),
    "QIF, soft": lambda: neuron.QIFNode(v_reset=None),
    "EIF": lambda: neuron.EIFNode(tau=3.0, delta_T=0.5),
    "EIF, soft": lambda: neuron.EIFNode(v_reset=None),
    "Izhikevich": lambda: neuron.IzhikevichNode(a=0.2, b=0.3),
    "Complementary": lambda: neuron.ComplementaryLIFNode(tau=3.0, v_threshold=0.75),
    "Resonate": lambda: neuron.RAFNode(v_threshold=0.25),
    "Resonate, soft": lambda: neuron.RAFNode(b=-0.5, omega=0.5, v_threshold=0.5, v_reset=None),
    "MPBN": lambda: seen(neuron.MPBNLIFNode(out_features=16, v_threshold=0.75)),
    "MPBN, soft": lambda: seen(neuron.MPBNLIFNode(out_features=16, v_reset=None, decay_input=True, learnable_vth=True)),
    "MPBN, off": lambda: seen(neuron.MPBNLIFNode(out_features=16, mpbn=False, v_reset=0.25)),
    "Sliding": lambda: neuron.SlidingPSN(4),
    "Sliding, of one step": lambda: neuron.SlidingPSN(1),
    "half": lambda: neuron.HalfThresholdIFNode(v_threshold=1.5),
    "aware": lambda: neuron.ActivationAwareIFNode(0.75, v_offset=0.25),
    "aware, hard": lambda: neuron.ActivationAwareIFNode(1.25, v_offset=-0.25, v_reset=0.125),
    "aware, by channel": lambda: neuron.ActivationAwareIFNode(
        torch.linspace(0.5, 1.5, 16), torch.linspace(-0.5, 0.25, 16)
    ),
}


def seen(node):
    """Statistics and a threshold that differ by channel."""
    if isinstance(node.vbn, nn.BatchNorm1d):
        node.vbn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
        node.vbn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
        node.vbn.weight.data.copy_(torch.linspace(0.75, 1.25, 16))
        node.vbn.bias.data.copy_(torch.linspace(0.5, -0.25, 16))
    if node.learnable_vth:
        node.a.data.copy_(torch.linspace(-1, 0.5, 16))
    return node


def fires_in_silence(node):
    node.bias.data.zero_()
    return node


def network(node) -> nn.Module:
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    if isinstance(node, neuron.KLIFNode):
        node.k.data.fill_(1.3)
    net = nn.Sequential(layer.Linear(8, 16), node, layer.Linear(16, 4), neuron.IFNode())
    torch.manual_seed(0)
    nn.init.uniform_(net[0].weight, -0.6, 0.8)
    nn.init.uniform_(net[2].weight, -0.3, 0.3)
    for module in net:
        module.step_mode = "m"
    return net.eval()


@pytest.mark.parametrize("name", NODES)
def test_the_same_spikes(name):
    net = network(NODES[name]())
    x = torch.rand(50, 3, 8)
    ours = pk.from_spikingjelly(net, x[0])
    fired = []
    net[1].register_forward_hook(lambda module, inputs, given: fired.append(given))
    with torch.no_grad():
        expected = net(x)
    result = pk.simulate(ours, x, 50)
    assert 0.01 < fired[0].mean() < 0.98 and 0.01 < expected.mean() < 0.98
    assert next(iter(result.rates.values())) == pytest.approx(fired[0].mean().item(), abs=0.005)
    assert (result.spikes.dense() != expected).float().mean() < 0.01


@torch.no_grad()
@pytest.mark.parametrize("batch, steps", [(4, 40), (1, 128)])
@pytest.mark.parametrize("name", [name for name in NODES if name.startswith(("half", "aware"))])
def test_exactly_the_same_spikes(generator, name, batch, steps):
    """Neurons that kernels have: on a grid no spike differs."""
    net = make_dyadic(network(NODES[name]()), generator, 1 / 16)
    x = dyadic(steps, batch, 8, generator=generator)
    if name == "aware, by channel":
        net[1].v_threshold.copy_(1 + torch.arange(16) / 16)
        net[1].v_offset.copy_(torch.arange(16) / 16 - 0.5)
    ours, expected = pk.from_spikingjelly(net), net(x)
    neuron_of_ours = ours.get_submodule("0").neuron
    assert type(neuron_of_ours) is pk.neurons.IFNeuron
    assert torch.equal(pk.simulate(ours, x, steps).spikes.dense(), expected) and 0.01 < expected.mean() < 0.98
    pk.compile(ours, x)


@torch.no_grad()
@pytest.mark.parametrize("name", ["Complementary", "Resonate", "Resonate, soft", "MPBN", "MPBN, soft", "Sliding"])
def test_exactly_the_same_spikes_by_steps_in_python(generator, name):
    """Currents on a grid, and a normalisation by powers of two: what follows is computed in the same order."""
    node = NODES[name]()
    if hasattr(node, "vbn"):
        node.learnable_vth, node.vbn.eps = False, 0.5
        node.vbn.running_var.fill_(3.5)
        for values in (node.vbn.running_mean, node.vbn.weight, node.vbn.bias):
            values.copy_(torch.arange(16) / 16 + 0.25)
    net = make_dyadic(network(node), generator, 1 / 16) if not hasattr(node, "vbn") else network(node)
    net[0].weight.copy_(dyadic(16, 8, generator=generator, span=12, unit=1 / 16))
    net[2].weight.copy_(dyadic(4, 16, generator=generator, span=12, unit=1 / 16))
    net[3].v_threshold = 0.25
    x = dyadic(8, 4, 8, generator=generator)
    expected = net(x)
    assert torch.equal(pk.simulate(pk.from_spikingjelly(net), x, 8).spikes.dense(), expected)
    assert 0.01 < expected.mean() < 0.98


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fires_in_silence(neuron.SlidingPSN(2)), "only biases below 0"),
        (lambda: neuron.ActivationAwareIFNode(0.75, torch.zeros(16), channel_dim=0), "use channel_dim=1"),
        (lambda: neuron.ActivationAwareIFNode(0.75, torch.arange(16) / 32, v_reset=0.0), "use v_reset=None"),
    ],
)
def test_what_is_refused_says_why(make, message):
    with pytest.raises((TypeError, ValueError), match=f"module '1': .*{message}"):
        pk.from_spikingjelly(network(make()), torch.rand(3, 8))


def test_izhikevich_neurons_that_start_elsewhere_are_refused():
    with pytest.raises(ValueError, match="w_rest=0.5"):
        pk.from_spikingjelly(network(neuron.IzhikevichNode(w_rest=0.5)), torch.rand(3, 8))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("k", [2, 3, 32])
@pytest.mark.parametrize("T", [1, 7])
def test_sliding_neurons_in_parts(generator, T, k, mode):
    """In both of SpikingJelly's modes, as one run and as several, and after a copy by pickle."""
    net = make_dyadic(network(neuron.SlidingPSN(k)), generator, 1 / 16)
    net[1].weight.copy_(dyadic(k, generator=generator, span=8, unit=1 / 8))
    net[1].weight[-1], net[1].bias = 1.0, nn.Parameter(torch.tensor(-0.25))
    net[3].v_threshold = 0.25
    x = dyadic(T, 6, 8, generator=generator)
    expected = net(x)
    for module in net:
        module.step_mode = mode
    ours = pickle.loads(pickle.dumps(pk.from_spikingjelly(net, x[0])))
    whole = pk.simulate(ours, x, T)
    assert equal(whole.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert 0.02 < next(iter(whole.rates.values())) < 0.98
    parts, state = [], None
    for part in x.split(2):
        result = pk.simulate(ours, part, len(part), state=state)
        state = result.state
        parts.append(result.spikes.dense())
    assert equal(torch.cat(parts), expected)
