"""The rivals compute the same spikes, or refuse."""

import sys

import pytest
import torch
from common import nets
from equality import equal
from speed import rivals

import proxykernels as pk

LIBRARIES = {
    "plain": "torch",
    "spikingjelly-s": "spikingjelly",
    "spikingjelly-m": "spikingjelly",
    "snntorch": "snntorch",
    "norse": "norse",
    "sinabs": "sinabs",
}
ON_GRID, OFF_GRID = 1.0, 1.0 + 2.0**-16  # potentials of dyadic_net are at the first often, at the second never
STRICT_ON_GRID = [
    ("snntorch", ON_GRID),
    ("norse", ON_GRID),
]  # not comparable: these fire above the threshold, not at it


def dyadic_net(v_threshold, v_reset, decay=None):
    """The small network with weights that are multiples of 1/64, so that every float32 sum is exact.

    Of leaky neurons not for ever: a potential needs more bits every step, until they do not fit.
    """
    net, _ = nets.load("small", v_reset, decay=decay)
    for layer in net:
        if hasattr(layer, "v_threshold"):
            layer.v_threshold = v_threshold
    for parameter in net.parameters():
        parameter.data = (parameter.data * 64).round() / 64
    return net


def dyadic_images(count):
    return (pk.samples.fashion_mnist()[0][:count] * 16).round() / 16


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "name, v_threshold",
    [(name, theta) for name in LIBRARIES for theta in (ON_GRID, OFF_GRID) if (name, theta) not in STRICT_ON_GRID],
)
def test_rival_counts_the_same_spikes(name, v_threshold, v_reset):
    pytest.importorskip(LIBRARIES[name])
    net, images = dyadic_net(v_threshold, v_reset), dyadic_images(3)
    if name == "norse" and v_reset is None:
        with pytest.raises(rivals.NotOffered, match="soft reset"):
            rivals.build(name, net, images)
        return
    rival = rivals.build(name, net, images)
    for T in (1, 21, 16):  # again from rest each time; 21 is not a multiple of the multi-step modes' 4
        expected = pk.simulate(net, images, T).count()
        assert equal(rival.counts(images, T).to(torch.int32), expected)
    assert expected.any()


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_leaky_rival_counts_the_same_spikes(name, v_reset):
    pytest.importorskip(LIBRARIES[name])
    net, images = dyadic_net(OFF_GRID, v_reset, decay=0.75), dyadic_images(3)
    if name == "snntorch" and v_reset is None:
        with pytest.raises(rivals.NotOffered, match="subtracts after the decay"):
            rivals.build(name, net, images)
        return
    rival = rivals.build(name, net, images)
    for T in (21, 16):  # again from rest each time
        expected = pk.simulate(net, images, T).count()
        assert equal(rival.counts(images, T).to(torch.int32), expected)
    assert expected.sum() > 30


def test_leaky_rivals_leak():
    net, images = dyadic_net(OFF_GRID, 0.0, decay=0.75), dyadic_images(3)
    counts = pk.simulate(net, images, 21).count()
    for layer in net:
        if hasattr(layer, "decay"):
            layer.decay = 0.8125
    assert (rivals.build("plain", net, images).counts(images, 21) - counts).abs().sum() > 10


def test_rivals_refuse_neurons_that_they_have_not():
    net = torch.nn.Sequential(pk.FusedConv2d(1, 2, 3, neuron=pk.neurons.CubaLIFNeuron()))
    with pytest.raises(rivals.NotOffered, match="integrate and fire, or leak to 0, got CubaLIFNeuron"):
        rivals.build("plain", net, dyadic_images(1))


@pytest.mark.slow
@pytest.mark.parametrize("decay", [None, 0.75])
def test_compiled_rival_counts_the_same_spikes(decay):
    net, images = dyadic_net(OFF_GRID if decay else ON_GRID, 0.0, decay), dyadic_images(2)
    try:
        rival = rivals.build("compiled", net, images)
    except rivals.NotOffered as reason:
        pytest.skip(str(reason))
    assert equal(rival.counts(images, 17).to(torch.int32), pk.simulate(net, images, 17).count())


@pytest.mark.long
def test_batch_normalisation_is_folded():
    net, _ = nets.load("paper", 0.0)
    net.conv2.bn.running_mean.fill_(0.25)
    net.conv2.bn.weight.data.fill_(1.5)
    images = pk.samples.fashion_mnist()[0][:2]
    counts = rivals.build("plain", net, images).counts(images, 8)
    difference = (counts - pk.simulate(net, images, 8).count()).abs()
    assert difference.sum() <= 1  # sums in another order may move a spike


def test_absent_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sinabs", None)
    monkeypatch.setitem(sys.modules, "sinabs.activation", None)
    with pytest.raises(rivals.NotOffered, match="absent .*pip install sinabs"):
        rivals.build("sinabs", dyadic_net(ON_GRID, 0.0), dyadic_images(1))


def test_rivals_refuse_other_resets():
    net = torch.nn.Sequential(pk.FusedIFConv2d(1, 2, 3, v_reset=-0.5))
    with pytest.raises(rivals.NotOffered, match="v_reset=-0.5"):
        rivals.build("plain", net, dyadic_images(1))
