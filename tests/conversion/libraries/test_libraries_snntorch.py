"""Networks of snnTorch, imported: the same spikes in every step."""

import pytest
import torch
from equality import equal
from exchange import images, make_dyadic, snntorch_fires
from torch import nn

import proxykernels as pk

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
        (
            "RLeaky",
            {"beta": 0.9, "conv2d_channels": 8, "kernel_size": 3},
            "module '2': RLeaky with a recurrent Conv2d has no counterpart here; use linear_features",
        ),
        ("Alpha", {"alpha": 0.9, "beta": 0.8}, "module '2': Alpha has no counterpart here; replace it by Leaky"),
        ("Leaky", {"beta": 0.5, "reset_delay": False}, "needs two thresholds .* use reset_delay=True, or 'zero'"),
        ("Leaky", {"beta": 0.0}, "has no counterpart here where beta is 0; use 'zero'"),
        ("Leaky", {"beta": torch.full((8, 8), 0.5)}, r"beta must be one number.* shape \['C', 1, 1\]; got \[8, 8\]"),
        (
            "Synaptic",
            {"alpha": 0.5, "beta": torch.rand(8, 1, 1)},
            "needs one beta and one threshold for all neurons of a layer",
        ),
        ("Leaky", {"beta": 0.5, "graded_spikes_factor": 2.0}, "graded_spikes_factor is not supported"),
        ("Lapicque", {"beta": 0.2, "reset_mechanism": "zero"}, "decay must be from 0 to 1, got -0.6"),
        ("Synaptic", {"alpha": 0.5, "beta": 0.5, "reset_mechanism": "zero"}, "drops the current of the step after"),
        ("Synaptic", {"alpha": 0.5, "beta": 0.5, "reset_mechanism": "none"}, "use 'zero' or 'subtract'"),
    ],
)  # fmt: skip
def test_what_snntorch_nets_may_not_hold(kind, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pk.from_snntorch(snntorch_net(kind, **options))
