"""SpikingJelly's neurons with parameters for each of T steps: the same spikes, in whole runs and in parts."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import dyadic
from equality import equal, in_parts
from exchange import make_dyadic
from torch import nn

import proxykernels as pk

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
layer = pytest.importorskip("spikingjelly.activation_based.layer")
functional = pytest.importorskip("spikingjelly.activation_based.functional")
pytestmark = [
    pytest.mark.usefixtures("short_proof"),
    pytest.mark.filterwarnings("ignore:.*written in Python|.*learnable"),
]

N = 5


def network(node, generator):
    """Images; SpikingJelly's GatedLIFNode takes no others."""
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3), node, layer.Flatten(), layer.Linear(144, 5), neuron.IFNode(v_threshold=2.0)
    )
    make_dyadic(net, generator, 1 / 16)
    functional.set_step_mode(net, "m")
    return net


def gated(T, channels, generator):
    np.random.seed(0)
    node = neuron.GatedLIFNode(T, channels, init_v_subreset=0.25)
    for name in ("alpha", "beta", "gamma", "conduct"):
        values = getattr(node, name)
        values.data.copy_(dyadic(*values.shape, generator=generator, span=8, unit=1 / 4))
    return node


def masked(T, k, generator):
    node = neuron.MaskedPSN(k, T, lambda_init=1.0)
    node.weight.data.copy_(dyadic(T, T, generator=generator, span=8, unit=1 / 8))
    node.weight.data.fill_diagonal_(1.0)
    node.bias.data.copy_(-torch.arange(1, T + 1).view(-1, 1) / 8)
    return node


def causal(T, generator):
    node = neuron.PSN(T)
    node.weight.data.copy_(dyadic(T, T, generator=generator, span=8, unit=1 / 8).tril() + torch.eye(T))
    node.bias.data.fill_(-0.25)
    return node


NODES = {
    "gated": lambda T, generator: gated(T, None, generator),
    "gated, by channel": lambda T, generator: gated(T, 4, generator),
    "masked": lambda T, generator: masked(T, 3, generator),
    "masked, of all steps": lambda T, generator: masked(T, T, generator),
    "causal": causal,
}


def check(ours, x, expected, hidden):
    """The same spikes in a whole run, in parts and after a copy by pickle, none of them silent."""
    T = len(x)
    result = pk.simulate(ours, x, T)
    assert equal(result.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert next(iter(result.rates.values())) == pytest.approx(hidden.mean().item()) and 0.02 < hidden.mean() < 0.98
    assert equal(in_parts(pickle.loads(pickle.dumps(copy.deepcopy(ours))), x), expected)


@torch.no_grad()
@pytest.mark.parametrize("T", [1, 3, 8])
@pytest.mark.parametrize("name", NODES)
def test_the_same_spikes(generator, name, T):
    net = network(NODES[name](T, generator), generator)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    hidden = []
    hook = net[1].register_forward_hook(lambda module, taken, given: hidden.append(given))
    expected = net(x)
    hook.remove()
    functional.reset_net(net)
    ours = pk.from_spikingjelly(net, x[0])
    check(ours, x, expected, hidden[0])
    with pytest.raises(ValueError, match=f"x goes on to step {T}, counted from 0, .* run it for {T} at most"):
        pk.simulate(ours, torch.cat([x, x[:1]]), T + 1)
    with pytest.raises(TypeError, match="the engine does not take|written in Python"):
        pk.compile(ours, x)


@torch.no_grad()
def test_masked_neurons_by_single_steps(generator):
    net = network(masked(6, 3, generator), generator)
    x = dyadic(6, N, 2, 8, 8, generator=generator)
    for module in net:
        module.step_mode = "s"
    expected, hidden = [], []
    for step in x:
        hidden.append(net[1](net[0](step)))
        expected.append(net[2:](hidden[-1]))
    functional.reset_net(net)
    check(pk.from_spikingjelly(net, x[0]), x, torch.stack(expected), torch.stack(hidden))


def parallel(T, generator, masked=False):
    node = neuron.MaskedPSN(2, T, lambda_init=0.5) if masked else neuron.PSN(T)
    node.weight.data.copy_(dyadic(T, T, generator=generator, span=8, unit=1 / 8))
    node.bias.data.copy_(-torch.arange(1, T + 1).view(-1, 1) / 8)
    return node


@torch.no_grad()
@pytest.mark.parametrize("T", [2, 3, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_neurons_that_see_later_steps(generator, masked, T):
    net = network(parallel(T, generator, masked), generator)
    x = dyadic(T, N, 2, 8, 8, generator=generator)
    expected = net(x)
    ours = pk.from_spikingjelly(net, x[0])
    result = pk.simulate(ours, x, T)
    assert equal(result.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert all(0.02 < rate < 0.98 for rate in result.rates.values())
    assert equal(pk.simulate(pickle.loads(pickle.dumps(ours)), x, T).spikes.dense(), expected)
    with pytest.raises(ValueError, match=f"x has 1 steps, and each of {T} steps takes all of them: run {T} steps in"):
        pk.simulate(ours, x, T, chunk=1)
    with pytest.raises(ValueError, match=f"x has {T} steps behind {T} others"):
        pk.simulate(ours, x, T, state=result.state)


def test_gradients_of_neurons_that_see_later_steps(generator):
    net = network(parallel(4, generator), generator)
    x = dyadic(4, N, 2, 8, 8, generator=generator)
    ours = pk.from_spikingjelly(net, x[0]).train()
    ours.get_submodule("0").surrogate = pk.ATan()  # it passes values on, and its gradient is theirs
    net(x).sum().backward()
    ours(x).sum().backward()
    (mixed,) = (part for part in ours.modules() if isinstance(part, pk.layers.StepMixture))
    torch.testing.assert_close(mixed.weight.grad, net[1].weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.get_submodule("0").weight.grad, net[0].weight.grad, rtol=1e-4, atol=1e-4)
    assert mixed.weight.grad.any()


@torch.no_grad()
def test_random_parameters(generator):
    """Floats: potentials near the threshold may be rounded to either side, and hardly any spike differs."""
    np.random.seed(0)
    net = network(neuron.GatedLIFNode(16, 4), generator)
    nn.init.normal_(net[0].weight, 0.1, 0.3)
    x = torch.rand(16, N, 2, 8, 8, generator=generator)
    expected, ours = net(x), pk.from_spikingjelly(net, x[0])
    assert (pk.simulate(ours, x, 16).spikes.dense() != expected).float().mean() < 0.005 < expected.mean()


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: neuron.MaskedPSN(2, 4, lambda_init=1.0).requires_grad_(False),
            "MaskedPSN with a bias of 0.5 fires",
        ),
    ],
)
def test_what_is_refused(generator, make, message):
    node = make()
    if "bias" in message:
        node.bias[2] = 0.5
    with pytest.raises(ValueError, match=f"module '1': {message}"):
        pk.from_spikingjelly(network(node, generator), torch.rand(3, 2, 8, 8))
