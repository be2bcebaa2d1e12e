"""What a first try meets: defaults that learn, and one warning where a layer cannot, with its name."""

import warnings

import pytest
import torch
from torch import nn

import proxykernels as pk
from proxykernels.training.watch import PASSES

SAID = "gave no spike|diverges"


def deep() -> nn.Sequential:
    return nn.Sequential(
        pk.FusedIFConv2d(1, 16, 3, padding=1), pk.MaxPool2d(2), pk.FusedIFConv2d(16, 32, 3, padding=1),
        pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(32 * 49, 128), pk.FusedIFLinear(128, 10),
    )  # fmt: skip


def leaky(**options) -> nn.Sequential:
    layers = [pk.FusedLIFConv2d(1 if k == 0 else 8, 8, 3, padding=1, **options) for k in range(4)]
    return nn.Sequential(*layers, pk.MaxPool2d(4), pk.Flatten(), pk.FusedLIFLinear(8 * 49, 10, **options))


def fit(model: nn.Module, epochs: int) -> float:
    """Cross-entropy and Adam on the sample images; the share of them that are right, of which no tie is."""
    images, labels = pk.samples.fashion_mnist()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    counts = model.eval()(images)
    first, second = counts.topk(2, 1).values.unbind(1)
    return ((counts.argmax(1) == labels) & (first > second)).float().mean().item()


@pytest.mark.slow
def test_the_defaults_learn():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(pk.ProxyNet(deep(), T=16), 20) > 0.7


@pytest.mark.slow
def test_the_papers_arguments_say_that_they_diverge():
    """With this loss, which is not the paper's."""
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"in layer [25] of the twin are [3-9]\.\d thresholds.*clip=True") as said:
        assert fit(pk.ProxyNet(deep(), T=16, **pk.ProxyNet.PAPER), 20) < 0.4
    assert [warning.filename for warning in said] == [__file__]


def test_the_papers_arguments_have_a_name():
    defaults, papers = pk.ProxyNet(deep(), 4), pk.ProxyNet(deep(), 4, **pk.ProxyNet.PAPER)
    assert (defaults.clip, defaults.readout, defaults.statistics_of) == (True, "count", "means")
    assert (papers.clip, papers.readout, papers.statistics_of) == (False, "count", "steps")


def test_a_dead_layer_is_named_once():
    """Deep leaky networks at the defaults: no current comes to the threshold from the second layer on."""
    torch.manual_seed(0)
    model, images = pk.ProxyNet(leaky(), T=16), pk.samples.fashion_mnist()[0][:8]
    with pytest.warns(UserWarning, match="^layer 1 gave no spike.*batch_norm=True") as said:
        for _ in range(3):
            model(images).sum().backward()
    assert [warning.filename for warning in said] == [__file__]
    assert model.rates["0"] > 0 and not any(model.rates[name] for name in "123")


def test_without_a_twin_it_takes_a_while():
    """A surrogate derivative may wake a layer: it is named if it does not in many passes."""
    torch.manual_seed(0)
    model, x = pk.SurrogateNet(leaky(), T=8), pk.samples.fashion_mnist()[0][:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PASSES - 1):
            model(x)
        model.eval()(x)
    with pytest.warns(UserWarning, match=f"^layer 1 gave no spike in {PASSES} passes in a row") as said:
        model.train()(x)
    assert [warning.filename for warning in said] == [__file__]


@pytest.mark.parametrize("kind", [pk.ProxyNet, pk.SurrogateNet])
def test_no_warning_of_what_learns(kind):
    """Normalised leaky layers; a layer that wakes up; a pass without a gradient; a silent output whose twin is not."""
    torch.manual_seed(0)
    images = pk.samples.fashion_mnist()[0][:8]
    net = leaky(batch_norm=True)
    net[-1] = pk.FusedLIFLinear(8 * 49, 10, v_threshold=50.0)
    model, dead = kind(net, T=8), kind(leaky(), T=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PASSES - 1):
            model(images)
        with torch.no_grad():
            dead(images)
        dead.eval()(images)
    assert model.rates["6"] == 0 < min(model.rates[name] for name in "0123")


def test_a_layer_that_wakes_begins_anew():
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedIFLinear(6, 3))
    model, dark, bright = pk.SurrogateNet(net, T=4), torch.zeros(2, 4), torch.full((2, 4), 9.0)
    net[0].bias.data.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (*[dark] * (PASSES - 1), bright, *[dark] * (PASSES - 1)):
            model(x)
    assert model.rates["0"] == 0


class Doubling(pk.neurons.IFNeuron):
    """Neurons of somebody's own: what they compute is not known here."""


class Slow(pk.neurons.LIFNeuron):
    """The same of leaky ones."""


@pytest.mark.parametrize("neuron", [Doubling(), Slow()])
def test_unknown_neurons_are_refused(neuron):
    net = nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedLinear(6, 5, neuron=neuron), pk.FusedIFLinear(5, 3))
    name = type(neuron).__name__
    with pytest.raises(
        TypeError, match=f"layer 1 has {name}s, whose activation .* not known; .* SurrogateNet. Known: IF"
    ):
        pk.ProxyNet(net, 8)
    assert pk.SurrogateNet(net, 8)(torch.rand(2, 4)).shape == (2, 3)


def test_potentials_that_add_up_have_no_twin():
    """Within the network; what passes currents on has, and so has a readout at the end."""
    adding = nn.Sequential(pk.FusedLILinear(4, 6), pk.FusedIFLinear(6, 3))
    with pytest.raises(ValueError, match="layer 0 passes on potentials that add up .* decay=0"):
        pk.ProxyNet(adding, 8)
    passing = nn.Sequential(pk.FusedLILinear(4, 6, decay=0.0), pk.FusedIFLinear(6, 3))
    x = torch.rand(2, 4)
    torch.testing.assert_close(pk.ProxyNet(passing, 8).ann(x), passing[1].affine(passing[0].affine(x)))
    pk.ProxyNet(nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedLILinear(6, 3)), 8, readout="potential")
