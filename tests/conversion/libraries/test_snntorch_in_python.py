"""Neurons of snnTorch that no kernel has: the same spikes, by steps in Python."""

import pytest
import torch
from exchange import images, make_dyadic, snntorch_fires
from torch import nn

import proxykernels as pk

snntorch = pytest.importorskip("snntorch")
pytestmark = [
    pytest.mark.usefixtures("short_proof"),
    pytest.mark.filterwarnings("ignore:.*written in Python|.*learnable|Inhibition is an unstable"),
]

FEW = 9  # steps of leaky neurons: each adds a bit to what float32 must hold
RESETS = "zero", "subtract", "none"
LEAKY, SYNAPTIC = {"beta": 0.5}, {"alpha": 0.75, "beta": 0.5}
AT_ONCE, INHIBITED = {"reset_delay": False}, {"inhibition": True}
ONE_BETA = {"alpha": 0.5, "beta": torch.linspace(0.25, 0.75, 3)[[0, 1, 2, 0, 1, 2, 0, 1]]}
CASES = {
    "Leaky, at once": ("Leaky", "subtract", LEAKY | AT_ONCE),
    "Leaky, beta 0": ("Leaky", "subtract", {"beta": 0.0}),
    "Synaptic, at once": ("Synaptic", "subtract", SYNAPTIC | AT_ONCE),
    "Synaptic, zero": ("Synaptic", "zero", SYNAPTIC),
    "Synaptic, none": ("Synaptic", "none", SYNAPTIC),
    "Synaptic, by channel": ("Synaptic", "subtract", ONE_BETA),
    "RLeaky, at once": ("RLeaky", "subtract", LEAKY | AT_ONCE | {"linear_features": 8}),
    "RLeaky, one, at once": ("RLeaky", "subtract", LEAKY | AT_ONCE | {"all_to_all": False, "V": 0.25}),
    "RSynaptic, zero": ("RSynaptic", "zero", SYNAPTIC | {"linear_features": 8}),
    "RSynaptic, none": ("RSynaptic", "none", SYNAPTIC | {"linear_features": 8}),
    **{f"Alpha, {reset}": ("Alpha", reset, {"alpha": 0.75, "beta": 0.5}) for reset in RESETS},
    **{f"Leaky, {reset}, inhibited": ("Leaky", reset, LEAKY | INHIBITED) for reset in RESETS},
    **{f"Leaky, {reset}, inhibited, at once": ("Leaky", reset, LEAKY | INHIBITED | AT_ONCE) for reset in RESETS[:2]},
    **{f"Synaptic, {reset}, inhibited": ("Synaptic", reset, SYNAPTIC | INHIBITED) for reset in RESETS},
    "Alpha, inhibited": ("Alpha", "zero", {"alpha": 0.75, "beta": 0.5} | INHIBITED),
    "RLeaky, inhibited": ("RLeaky", "zero", LEAKY | INHIBITED | {"linear_features": 8}),
}


def network(kind: str, reset: str, options: dict, generator: torch.Generator) -> nn.Module:
    """Weights, and so what comes back, on a grid: potentials often equal the threshold, where nothing fires."""
    neuron = getattr(snntorch, kind)(**options, reset_mechanism=reset, init_hidden=True)
    last = snntorch.Leaky(0.5, threshold=0.25, init_hidden=True, reset_mechanism="zero")
    return make_dyadic(nn.Sequential(nn.Linear(128, 8), neuron, nn.Linear(8, 5), last), generator, 1 / 16)


@pytest.mark.parametrize("steps, batch", [(FEW, 3), (6, 1)])
@pytest.mark.parametrize("name", CASES)
def test_the_same_spikes(generator, name, steps, batch):
    net, x = network(*CASES[name], generator), images(generator)[:batch].flatten(1)
    ours, fired = pk.from_snntorch(net), []
    net[1].register_forward_hook(lambda module, inputs, given: fired.append(given))
    expected = snntorch_fires(net, x, steps)
    actual = pk.simulate(ours, x, steps, record=["0"])
    assert torch.equal(actual.records["0"].dense(), torch.stack(fired)) and torch.stack(fired).mean() > 0.05
    assert torch.equal(actual.spikes.dense(), expected) and expected.mean() > 0.02


@pytest.mark.parametrize("reset", RESETS)
def test_each_place_of_an_image(generator, reset):
    """Alpha behind a convolution, and a second time that leaves potentials above the threshold for several steps."""
    options = {"init_hidden": True, "reset_mechanism": reset}
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), snntorch.Alpha(0.75, 0.5, **options), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
        snntorch.Leaky(1.0, threshold=0.25, reset_delay=False, **options),
    )  # fmt: skip
    net, x = make_dyadic(net, generator, 1 / 16), images(generator)
    expected = snntorch_fires(net, x, FEW)
    assert torch.equal(pk.simulate(pk.from_snntorch(net), x, FEW).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98


def test_only_one_of_a_layer_fires(generator):
    net, x = network(*CASES["Leaky, subtract, inhibited"], generator), images(generator).flatten(1)
    actual = pk.simulate(pk.from_snntorch(net), x, FEW, record=["0"]).records["0"].dense()
    assert actual.sum(2).max() == 1 and len(actual.sum((0, 1)).nonzero()) > 1


class ByHand(nn.Module):
    """Passes all states on itself."""

    def __init__(self, kind: str, **options):
        super().__init__()
        self.fc, self.lif = nn.Linear(128, 8), getattr(snntorch, kind)(**options)


class OfAlpha(ByHand):
    def forward(self, x):
        exc, inh, mem = self.lif.reset_mem()
        steps = []
        for _ in range(FEW):
            spikes, exc, inh, mem = self.lif(self.fc(x), exc, inh, mem)
            steps.append(spikes)
        return torch.stack(steps)


class OfLeaky(ByHand):
    def forward(self, x):
        mem, steps = self.lif.reset_mem(), []
        for _ in range(FEW):
            spikes, mem = self.lif(self.fc(x), mem)
            steps.append(spikes)
        return torch.stack(steps)


class OfRSynaptic(ByHand):
    def forward(self, x):
        spikes, syn, mem = self.lif.reset_mem()
        steps = []
        for _ in range(FEW):
            spikes, syn, mem = self.lif(self.fc(x), spikes, syn, mem)
            steps.append(spikes)
        return torch.stack(steps)


BY_HAND = {
    "Alpha": lambda: OfAlpha("Alpha", alpha=0.75, beta=0.5),
    "Leaky": lambda: OfLeaky("Leaky", **LEAKY, **AT_ONCE),
    "Leaky, inhibited": lambda: OfLeaky("Leaky", **LEAKY, **INHIBITED),
    "RSynaptic": lambda: OfRSynaptic("RSynaptic", **SYNAPTIC, linear_features=8, reset_mechanism="zero"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_states_go_from_step_to_step_by_hand(generator, name):
    net, x = make_dyadic(BY_HAND[name](), generator, 1 / 16), images(generator).flatten(1)
    with torch.no_grad():
        expected = net(x)
    assert torch.equal(pk.simulate(pk.from_snntorch(net), x, FEW).spikes.dense(), expected)
    assert 0.02 < expected.mean() < 0.98


@pytest.mark.parametrize("name", ["Leaky, at once", "Synaptic, zero", "Alpha, subtract"])
def test_the_same_gradients(generator, name):
    net, x = network(*CASES[name], generator), images(generator).flatten(1)
    ours, outer = pk.from_snntorch(net).train(), torch.randn(5, 3, 5, generator=generator)
    snntorch.utils.reset(net)
    given = torch.stack([net(x) for _ in range(5)])
    (given * outer).sum().backward()
    y = ours(x.expand(5, *x.shape))
    (y * outer).sum().backward()
    assert torch.equal(y, given) and y.any() and net[0].weight.grad.abs().max() > 0
    assert torch.allclose(ours.get_submodule("0").weight.grad, net[0].weight.grad, rtol=1e-4, atol=1e-5)


def test_engines_refuse_them(generator):
    net, x = network(*CASES["Synaptic, none"], generator), images(generator).flatten(1)
    with pytest.raises(TypeError, match="SnnTorchNeuron"):
        pk.compile(pk.from_snntorch(net), x)


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("Leaky", LEAKY | INHIBITED | {"graded_spikes_factor": 2.0}, "graded_spikes_factor=2 is not supported"),
        ("Lapicque", LEAKY | INHIBITED, "Lapicque with inhibition=True has no counterpart here; use Leaky"),
        ("Leaky", LEAKY | {"state_quant": torch.round}, "state_quant is not supported"),
        ("Alpha", {"alpha": 0.75, "beta": 0.5, "threshold": -1.0}, "v_threshold must not be negative"),
        (
            "RSynaptic",
            SYNAPTIC | AT_ONCE | {"linear_features": 8},
            "raises an error in snnTorch itself, .* use reset_delay=True",
        ),
    ],
)
def test_what_is_still_refused(generator, kind, options, message):
    with pytest.raises(ValueError, match=message):
        pk.from_snntorch(network(kind, "subtract", options, generator))


def test_inhibition_of_images_is_refused():
    with pytest.raises(ValueError, match="must stand behind an nn.Linear"):
        pk.from_snntorch(nn.Sequential(nn.Conv2d(2, 4, 3), snntorch.Leaky(0.5, init_hidden=True, inhibition=True)))
