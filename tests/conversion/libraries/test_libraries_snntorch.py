"""Networks of snnTorch and sinabs, and recurrent neurons of all libraries: the same spikes, or refused."""

import warnings

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import images, louder, make_dyadic, sequence, snntorch_fires
from torch import nn

import proxykernels as pk

pytestmark = pytest.mark.usefixtures("short_proof")

T = 24
FEW = 8  # steps of leaky neurons: each adds a bit to what float32 must hold


def snntorch_net(kind: str, **options):
    """On the grid potentials often equal the threshold, where snnTorch does not fire."""
    neuron = getattr(pytest.importorskip("snntorch"), kind)
    options = {"init_hidden": True, **options}
    second = {**options, "threshold": 1.5 * options.get("threshold", 1.0)}
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), neuron(**options), nn.MaxPool2d(2),
        nn.Conv2d(8, 9, 3), neuron(**second), nn.Flatten(), nn.Linear(36, 10), neuron(**options),
    )  # fmt: skip


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_from_snntorch(generator, reset):
    """Equal on the grid for "zero"; for "subtract" off it by a fraction of a unit: no potential equals a threshold."""
    net = make_dyadic(
        snntorch_net("Leaky", beta=1.0, reset_mechanism=reset, threshold=1.0 if reset == "zero" else 1 + 2**-16),
        generator,
    )
    x = images(generator)
    expected = snntorch_fires(net, x, T)
    actual = pk.simulate(pk.from_snntorch(net), x, T)
    assert equal(actual.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98


LEAKY = {
    "Leaky": ("Leaky", {"beta": 0.5}),
    "Leaky, reset at once": ("Leaky", {"beta": 0.5, "reset_delay": False}),
    "Lapicque": ("Lapicque", {"R": 2.0, "C": 2.0}),
    "Synaptic": ("Synaptic", {"alpha": 0.5, "beta": 0.5}),
    "Synaptic, reset at once": ("Synaptic", {"alpha": 0.5, "beta": 0.5, "reset_delay": False}),
}


@pytest.mark.parametrize(
    "kind, reset",
    [
        *[(kind, "zero") for kind in LEAKY if kind != "Synaptic"],
        *[(kind, "subtract") for kind in LEAKY if "at once" not in kind],
        *[(kind, "none") for kind in LEAKY if "Synaptic" not in kind],
    ],
)
@pytest.mark.costly
def test_leaky_neurons_of_snntorch(generator, kind, reset):
    """Its reset acts a step later, which other potentials of the same neurons make up for; thresholds as above."""
    name, options = LEAKY[kind]
    threshold = 1 + 2**-11 if reset == "subtract" else 1.0
    net = make_dyadic(snntorch_net(name, reset_mechanism=reset, threshold=threshold, **options), generator, 1 / 16)
    x = images(generator)
    expected = snntorch_fires(net, x, FEW)
    actual = pk.simulate(pk.from_snntorch(net), x, FEW).spikes.dense()
    assert equal(actual, expected) and 0.02 < expected.mean() < 0.98


def test_the_last_neurons_of_snntorch_may_give_their_potentials(generator):
    snn = pytest.importorskip("snntorch")
    options = {"beta": 0.5, "init_hidden": True, "reset_mechanism": "zero"}
    net = make_dyadic(nn.Sequential(nn.Flatten(), nn.Linear(128, 9), snn.Leaky(**options, output=True)), generator)
    x = images(generator)
    steps = [net(x)[0] for _ in range(FEW)]
    actual = pk.simulate(pk.from_snntorch(net), x, FEW).spikes.dense()
    assert equal(actual, torch.stack(steps)) and 0.02 < actual.mean() < 0.98


def test_layers_of_a_module_that_loops_over_time(generator):
    """As many write theirs, with the potentials in their hands: its layers in an nn.Sequential are taken over."""
    snn = pytest.importorskip("snntorch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(128, 32), snn.Leaky(beta=0.5, reset_mechanism="zero")
            self.fc2, self.lif2 = nn.Linear(32, 10), snn.Leaky(beta=0.5, reset_mechanism="zero")

        def forward(self, x):
            mem1, mem2, steps = self.lif1.init_leaky(), self.lif2.init_leaky(), []
            for _ in range(FEW):
                spk1, mem1 = self.lif1(self.fc1(x), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                steps.append(spk2)
            return torch.stack(steps)

    net, x = make_dyadic(Net(), generator), images(generator).flatten(1)
    ours = pk.from_snntorch(nn.Sequential(net.fc1, net.lif1, net.fc2, net.lif2))
    expected = net(x)
    assert equal(pk.simulate(ours, x, FEW).spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert equal(pk.simulate(pk.from_snntorch(net), x, FEW).spikes.dense(), expected)


@pytest.mark.parametrize("steps, batch", [(40, 3), (128, 1)])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_graded_spikes_of_snntorch(generator, factor, steps, batch):
    """The next weights have the factor; behind the last neurons a layer gives the original's values."""
    options = {"beta": 1.0, "reset_mechanism": "zero", "graded_spikes_factor": factor}
    net = make_dyadic(snntorch_net("Leaky", **options), generator)
    x = images(generator)[:batch]
    expected = snntorch_fires(net, x, steps)
    ours = pk.from_snntorch(net)
    actual = pk.simulate(ours, x, steps)
    assert (
        equal(actual.potentials, expected) and expected.max() == factor and 0.02 < (expected > 0).float().mean() < 0.98
    )
    assert all(0.02 < rate < 0.98 for rate in actual.rates.values()) and len(actual.rates) == 3
    assert torch.equal(ours.get_submodule("4").weight, factor * net[4].weight)


@pytest.mark.parametrize("steps, batch", [(40, 3), (128, 1)])
@pytest.mark.parametrize("connection", [{"all_to_all": False, "V": 0.25}, {"linear_features": 8}], ids=["one", "all"])
def test_graded_spikes_come_back(generator, connection, steps, batch):
    snn = pytest.importorskip("snntorch")
    options = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}
    neuron = snn.RLeaky(beta=1.0, **options, **connection)
    neuron.graded_spikes_factor = torch.tensor(2.0)
    net = make_dyadic(nn.Sequential(nn.Linear(128, 8), neuron), generator)
    x = images(generator).flatten(1)[:batch]
    neuron.reset_mem()
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(steps)])
    actual = pk.simulate(pk.from_snntorch(net), x, steps).potentials
    assert equal(actual, expected) and expected.max() == 2 and 0.02 < (expected > 0).float().mean() < 0.98


def test_channels_of_snntorch_with_values_of_their_own(generator):
    snn = pytest.importorskip("snntorch")
    beta, threshold = torch.tensor([0.5, 1.0, 0.0, 0.25]), torch.tensor([1.0, 2.0, 1.0, 0.5])
    options = {"init_hidden": True, "reset_mechanism": "zero"}
    net = make_dyadic(
        nn.Sequential(
            nn.Conv2d(2, 4, 3), snn.Leaky(beta.view(-1, 1, 1), threshold.view(1, -1, 1, 1), **options),
            nn.Flatten(), nn.Linear(144, 4), snn.Leaky(beta, threshold, **options),
        ),
        generator,
    )  # fmt: skip
    x = images(generator)
    expected = snntorch_fires(net, x, FEW)
    assert equal(pk.simulate(pk.from_snntorch(net), x, FEW).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("Leaky", {"beta": torch.full((8, 8), 0.5)}, r"beta must be one number.* shape \['C', 1, 1\]; got \[8, 8\]"),
        ("Leaky", {"beta": 0.5, "graded_spikes_factor": -2.0}, "must be one positive number, got -2.0; scale"),
        ("Leaky", {"beta": 0.5, "graded_spikes_factor": torch.ones(8, 1, 1)}, "factor must be one positive number"),
        ("Leaky", {"beta": 0.5, "inhibition": True}, "inhibition=True must stand behind an nn.Linear"),
        ("Lapicque", {"beta": 0.2, "reset_mechanism": "zero"}, "decay must be from 0 to 1, got -0.6"),
    ],
)  # fmt: skip
def test_what_snntorch_nets_may_not_hold(kind, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pk.from_snntorch(snntorch_net(kind, **options))


SINABS_T, N = 20, 3


@pytest.fixture
def network():
    """A network of sinabs, [N, T, ...] -> [N, T, ...], and its graph."""
    layers, activation = pytest.importorskip("sinabs.layers"), pytest.importorskip("sinabs.activation")
    nir_of = pytest.importorskip("sinabs.nir", reason="sinabs' exchange needs nir and nirtorch")

    def make(spike_fn: str = "SingleSpike", min_v_mem: float | None = None):
        fires = activation.MaxSpike(3) if spike_fn == "MaxSpike" else getattr(activation, spike_fn)
        neurons = (layers.IAF(spike_fn=fires, min_v_mem=min_v_mem) for _ in range(2))
        net = nn.Sequential(nn.Linear(6, 12), next(neurons), nn.Linear(12, 5), next(neurons))
        make_dyadic(net, torch.Generator().manual_seed(0), 1 / 8)
        with torch.no_grad():
            return net, nir_of.to_nir(net, given().transpose(0, 1))

    return make


def given(T: int = SINABS_T, N: int = N) -> torch.Tensor:
    return dyadic(T, N, 6, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def fires(net: nn.Module, x: torch.Tensor | None = None) -> torch.Tensor:
    for module in net.modules():
        if hasattr(module, "reset_states"):
            module.reset_states()
    return net((given() if x is None else x).transpose(0, 1)).transpose(0, 1)


def test_single_spikes_without_a_bound(network):
    net, graph = network()
    expected = fires(net)
    assert 0.05 < expected.mean() < 0.95 and expected.max() == 1
    assert equal(pk.simulate(pk.from_nir(graph, reset="subtract"), given(), SINABS_T).spikes.dense(), expected)


@pytest.mark.parametrize("steps, batch", [(40, 3), (128, 1)])
@pytest.mark.parametrize("spike_fn, most", [("MultiSpike", 255), ("MaxSpike", 3)])
def test_several_spikes(network, spike_fn, most, steps, batch):
    net, graph = network(spike_fn)
    x = 4 * given(steps, batch)
    expected = fires(net, x)
    assert 3 <= expected.max() <= most and 0.05 < (expected > 0).float().mean() < 0.95
    ours = pk.from_nir(graph, reset="subtract", max_spike_count=most)
    assert equal(pk.simulate(ours, x, steps).output, expected)
    assert not equal(pk.simulate(pk.from_nir(graph, reset="subtract"), x, steps).spikes.dense(), expected)


@pytest.mark.parametrize("options", [{"spike_fn": "MultiSpike"}, {"min_v_mem": -0.25}], ids=["several", "bounded"])
def test_what_a_graph_does_not_tell_is_warned_of(network, options):
    net, graph = network(**options)
    assert not torch.equal(
        pk.simulate(pk.from_nir(graph, reset="subtract"), given(), SINABS_T).spikes.dense(), fires(net)
    )
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


RECURRENT_T = 20


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
    theirs, x = sj_net(kind, SJ_NEURONS[make], mode), sequence(RECURRENT_T)
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
        (layer.LinearRecurrentContainer(inner, 8, 8), "must hold only neurons"),
        (layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x * y), "must add the spikes to the input"),
        (layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x + 2 * y), "must add the spikes"),
    ):
        with pytest.raises(TypeError, match=message):
            pk.from_spikingjelly(nn.Sequential(nn.Linear(6, 8), back, nn.Linear(8, 3), neuron.IFNode()))


def test_training_goes_on_as_in_spikingjelly():
    """The same gradients of the recurrent weights, which are a part of the container's."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron, surrogate

    generator, x = torch.Generator().manual_seed(0), sequence(RECURRENT_T)
    node = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), v_threshold=0.5)
    theirs = nn.Sequential(layer.LinearRecurrentContainer(node, 6, 6, step_mode="m"))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator, span=8, unit=1 / 8))
    ours, outer = pk.from_spikingjelly(theirs), torch.randn(RECURRENT_T, 4, 6, generator=generator)
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
        for t in range(RECURRENT_T):
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
    theirs, x = louder(Looped(kind, **options, **BACK[back])), sequence(RECURRENT_T)
    if kind == "RSynaptic" and reset == "zero at once":
        with pytest.raises(ValueError, match="asks for spikes .* use reset_delay=True"):
            pk.from_snntorch(theirs)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*written in Python")
        ours = pk.from_snntorch(theirs)
    with torch.no_grad():
        expected = theirs(x)
    assert any(isinstance(module, pk.FusedRecurrentLinear) for module in ours.modules())
    assert expected.any() and equal(ours(x), expected)


def test_recurrent_neurons_that_differ_by_channel():
    """Their subtraction of a step later is a constant current besides, in front of what comes back."""
    pytest.importorskip("snntorch")
    theirs, x = louder(Looped("RLeaky", linear_features=8)), sequence(RECURRENT_T)
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
    ours, x = pk.from_snntorch(theirs), sequence(RECURRENT_T)
    with torch.no_grad():
        expected = torch.stack([theirs(step) for step in x])
    assert expected.any() and equal(ours(x), expected)


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
