"""Recurrent neurons of other libraries: the same spikes, and what does not fit is refused."""

import warnings

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import louder, sequence
from torch import nn

import proxykernels as pk

T = 20


# SpikingJelly


def sj_net(kind: str, make, mode: str) -> nn.Module:
    from spikingjelly.activation_based import layer, neuron

    if kind == "linear":
        back = layer.LinearRecurrentContainer(make(neuron), 8, 8, step_mode=mode)
    else:
        back = layer.ElementWiseRecurrentContainer(make(neuron), lambda x, y: 0.5 * x + y, step_mode=mode)
    first, last = layer.Linear(6, 8, step_mode=mode), layer.Linear(8, 3, step_mode=mode)
    return louder(nn.Sequential(first, back, last, neuron.IFNode(step_mode=mode)))


SJ_NEURONS = {
    "IFNode": lambda neuron: neuron.IFNode(),
    "soft": lambda neuron: neuron.LIFNode(tau=2.0, v_reset=None, v_threshold=0.5),
    "below zero": lambda neuron: neuron.LIFNode(tau=2.0, v_threshold=0.5, v_reset=-0.25),
    "learnt": lambda neuron: neuron.ParametricLIFNode(v_threshold=0.25),
    "currents": lambda neuron: neuron.CUBALIFNode(c_decay=0.5, v_decay=0.5),
}


@pytest.mark.costly
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", ["linear", "elementwise"])
@pytest.mark.parametrize("make", SJ_NEURONS)
def test_containers_of_spikingjelly(make, kind, mode):
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    theirs, x = sj_net(kind, SJ_NEURONS[make], mode), sequence(T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = pk.from_spikingjelly(theirs)
    functional.reset_net(theirs)
    with torch.no_grad():
        expected = theirs(x) if mode == "m" else torch.stack([theirs(step) for step in x])
    assert any(isinstance(module, pk.FusedRecurrentLinear) for module in ours.modules())
    assert expected.any() and equal(ours(x), expected)


def test_what_a_container_must_hold():
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import neuron

    inner = nn.Sequential(nn.Linear(8, 8), neuron.IFNode())
    for back, message in (
        (layer.LinearRecurrentContainer(inner, 8, 8), "must hold neurons alone"),
        (layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x * y), "must add the spikes to the input"),
        (layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x + 2 * y), "must add the spikes"),
    ):
        with pytest.raises(TypeError, match=message):
            pk.from_spikingjelly(nn.Sequential(nn.Linear(6, 8), back, nn.Linear(8, 3), neuron.IFNode()))


def test_training_goes_on_as_in_spikingjelly():
    """The same gradients of the recurrent weights, which are a part of the container's."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron, surrogate

    generator, x = torch.Generator().manual_seed(0), sequence(T)
    node = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), v_threshold=0.5)
    theirs = nn.Sequential(layer.LinearRecurrentContainer(node, 6, 6, step_mode="m"))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator, span=8, unit=1 / 8))
    ours, outer = pk.from_spikingjelly(theirs), torch.randn(T, 4, 6, generator=generator)
    functional.reset_net(theirs)
    given = theirs(x)
    (given * outer).sum().backward()
    y = ours(x)
    (y * outer).sum().backward()
    (made,) = (module for module in ours.modules() if isinstance(module, pk.FusedRecurrentLinear))
    expected = theirs[0].rc.weight.grad
    assert equal(y, given) and y.any()
    assert torch.allclose(made.weight.grad, expected[:, :6], rtol=1e-4, atol=1e-5)
    assert torch.allclose(made.recurrent_weight.grad, expected[:, 6:], rtol=1e-4, atol=1e-5)


# snnTorch


class Looped(nn.Module):
    """As in snnTorch's tutorials: all potentials by hand, of ``kind`` RLeaky or RSynaptic."""

    def __init__(self, kind: str, **options):
        super().__init__()
        import snntorch

        states = {"alpha": 0.7} if kind == "RSynaptic" else {}
        self.states = 2 + len(states)
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.lif1 = getattr(snntorch, kind)(beta=0.9, **states, **options)
        self.lif2 = snntorch.Leaky(beta=0.8)

    def forward(self, x):
        states, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for t in range(T):
            states = self.lif1(self.fc1(x[t]), *[states[k] for k in range(self.states)])
            spk2, mem2 = self.lif2(self.fc2(states[0]), mem2)
            out.append(spk2)
        return torch.stack(out)


BACK = {
    "full": {"linear_features": 8},
    "one value": {"all_to_all": False, "V": 0.4},
    "one a neuron": {"all_to_all": False, "V": torch.linspace(-0.5, 0.5, 8)},
}


@pytest.mark.costly
@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize("reset", ["subtract", "zero", "zero at once", "none"])
@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_recurrent_neurons_of_snntorch(kind, reset, back):
    pytest.importorskip("snntorch")
    options = {"reset_mechanism": reset.split()[0], "reset_delay": reset != "zero at once"}
    theirs, x = louder(Looped(kind, **options, **BACK[back])), sequence(T)
    if kind == "RSynaptic" and reset != "subtract":
        with pytest.raises(ValueError, match="has no counterpart here; use"):
            pk.from_snntorch(theirs)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = pk.from_snntorch(theirs)
    with torch.no_grad():
        expected = theirs(x)
    assert any(isinstance(module, pk.FusedRecurrentLinear) for module in ours.modules())
    assert expected.any() and equal(ours(x), expected)


def test_recurrent_neurons_that_differ_by_channel():
    """Their subtraction of a step later is a constant current besides, in front of what comes back."""
    pytest.importorskip("snntorch")
    theirs, x = louder(Looped("RLeaky", linear_features=8)), sequence(T)
    theirs.lif1.beta = torch.linspace(0.5, 0.9, 8)
    theirs.lif1.threshold = torch.linspace(1.0, 0.5, 8)
    ours = pk.from_snntorch(theirs)
    with torch.no_grad():
        expected = theirs(x)
    assert expected.any() and equal(ours(x), expected)


def test_hidden_states_of_snntorch():
    snntorch = pytest.importorskip("snntorch")
    neurons = snntorch.RLeaky(0.9, linear_features=8, init_hidden=True), snntorch.Leaky(0.8, init_hidden=True)
    theirs = louder(nn.Sequential(nn.Linear(6, 8), neurons[0], nn.Linear(8, 3), neurons[1]))
    ours, x = pk.from_snntorch(theirs), sequence(T)
    with torch.no_grad():
        expected = torch.stack([theirs(step) for step in x])
    assert expected.any() and equal(ours(x), expected)


def test_recurrent_convolutions_are_refused():
    snntorch = pytest.importorskip("snntorch")
    back = snntorch.RLeaky(0.9, conv2d_channels=4, kernel_size=3, init_hidden=True)
    with pytest.raises(TypeError, match="a recurrent Conv2d has no counterpart here"):
        pk.from_snntorch(nn.Sequential(nn.Conv2d(1, 4, 3), back))


@pytest.mark.parametrize("what", ["weight", "time"])
def test_a_layer_that_is_wrong_is_found(monkeypatch, what):
    """The comparison can fail: other recurrent weights, or spikes that come back at once."""
    pytest.importorskip("snntorch")
    from proxykernels.conversion.libraries import from_libraries, port_proof

    theirs = louder(Looped("RLeaky", linear_features=8))
    if what == "weight":
        plain = from_libraries.build_recurrent
        monkeypatch.setattr(
            from_libraries, "build_recurrent", lambda module, neuron, weight, *o: plain(module, neuron, -weight, *o)
        )
    else:
        monkeypatch.setattr(port_proof, "shifted", lambda fired: fired)
    with pytest.raises(ValueError, match="is not what was made of it: .* of its spikes differ"):
        pk.from_snntorch(theirs)
