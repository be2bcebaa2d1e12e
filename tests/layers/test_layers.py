"""The layers: torch modules that stand in for convolution + neuron, whatever goes in."""

import copy
import pickle

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference


def test_state_dicts_of_conv2d_and_linear_load():
    for ours, torchs in (
        (pk.FusedIFConv2d(4, 6, 3, padding=1, groups=2), nn.Conv2d(4, 6, 3, padding=1, groups=2)),
        (pk.FusedIFConv2d(4, 6, 3, bias=False, v_threshold=torch.ones(6)), nn.Conv2d(4, 6, 3, bias=False)),
        (pk.FusedIFLinear(5, 3, v_threshold=2.5), nn.Linear(5, 3)),
    ):
        assert isinstance(ours, type(torchs))
        assert {*ours.state_dict()} == {*torchs.state_dict(), "v_threshold", "v_reset", "v_init"}
        before = ours.v_threshold
        ours.load_state_dict(torchs.state_dict())  # strict, and it keeps its threshold
        assert equal(ours.weight, torchs.weight) and ours.v_threshold is before
        torchs.load_state_dict(ours.state_dict(), strict=False)
        with pytest.raises(RuntimeError, match="Unexpected key.*v_threshold"):
            torchs.load_state_dict(ours.state_dict())
    batch_norm = pk.FusedIFConv2d(4, 6, 3, batch_norm=True).state_dict()
    names = {"weight", "bias", "v_threshold", "v_reset", "v_init"}
    assert {key for key in batch_norm if not key.startswith("bn.")} == names


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("kind", ["spikes", "real", "held"])
@pytest.mark.parametrize("padding", [1, "same", "valid"])
def test_fused_conv2d_against_the_oracle(generator, kind, padding, v_reset):
    layer = pk.FusedIFConv2d(3, 6, 3, padding=padding, v_threshold=0.75, v_reset=v_reset)
    layer.weight.data = dyadic(6, 3, 3, 3, generator=generator)
    layer.bias.data = dyadic(6, generator=generator, span=4)
    x = {
        "spikes": spikes(20, 2, 3, 7, 5, generator=generator),
        "real": dyadic(20, 2, 3, 7, 5, generator=generator),
        "held": dyadic(2, 3, 7, 5, generator=generator).expand(20, 2, 3, 7, 5),
    }[kind]
    v0 = dyadic(*layer(x)[0].shape, generator=generator)
    options = {"padding": padding, "v_threshold": 0.75, "v_reset": v_reset}
    expected, v_expected = reference.if_conv2d(x, layer.weight.data, layer.bias.data, v0, **options)
    y, v = layer(x, v0)
    assert equal(y, expected) and equal(v, v_expected)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = layer(x.to(dtype), v0)[0]
        assert y.dtype == dtype and equal(y.float(), expected)
    if kind == "spikes":
        packed, v = layer(pk.pack(x), v0)
        assert isinstance(packed, pk.Spikes) and equal(packed.dense(), expected) and equal(v, v_expected)


def test_autocast_changes_no_spike(generator):
    layer = pk.FusedIFConv2d(3, 6, 3)
    for x in (torch.rand(9, 2, 3, 8, 8, generator=generator), spikes(9, 2, 3, 8, 8, generator=generator)):
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert equal(layer(x), expected)


def test_every_call_starts_at_rest(generator):
    layer = pk.FusedIFLinear(6, 4)
    x = torch.rand(5, 3, 6, generator=generator)
    assert equal(layer(x), layer(x))
    first, v = layer(x[:2], torch.zeros(3, 4))
    second, _ = layer(x[2:], v)
    assert equal(torch.cat([first, second]), layer(x))


def test_in_place_of_spikingjelly(generator):
    """Conv2d + IFNode in multi-step mode, on random floats: fewer than 1 spike in 10,000 differs."""
    convolution = sj_layer.Conv2d(16, 32, 3, padding=1, step_mode="m")
    neuron = sj_neuron.IFNode(v_threshold=1.0, v_reset=0.0, step_mode="m")
    fused = pk.FusedIFConv2d(16, 32, 3, padding=1)
    fused.load_state_dict(convolution.state_dict())
    for x in (
        spikes(32, 4, 16, 28, 28, generator=generator, rate=0.3) * 1.0,
        torch.rand(32, 4, 16, 28, 28, generator=generator),
    ):
        with torch.no_grad():
            expected = neuron(convolution(x))
        sj_functional.reset_net(neuron)
        actual = fused(x)
        assert 0.01 < expected.mean() < 0.9
        assert (actual != expected).float().mean() < 1e-4


@pytest.mark.parametrize(
    "layer, synapse, norm, shape",
    [
        (pk.FusedIFConv2d(3, 8, 3, batch_norm=True), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), (6, 4, 3, 8, 8)),
        (pk.FusedIFLinear(30, 8, batch_norm=True), nn.Linear(30, 8), nn.BatchNorm1d(8), (6, 40, 30)),
    ],
)
def test_batch_norm_is_folded_in_evaluation(layer, synapse, norm, shape, generator):
    twin = nn.Sequential(synapse, norm)
    twin[0].load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(shape, generator=generator)
    layer.bn.weight.data.uniform_(0.5, 2, generator=generator)
    layer.bn.bias.data.uniform_(-1, 1, generator=generator)
    twin[1].load_state_dict(layer.bn.state_dict())
    with torch.no_grad():
        current = twin(x.flatten(0, 1)).unflatten(0, (6, -1))
        y = layer(x)
    assert equal(y, reference.if_scan(current)[0])  # in training: normalised by the N * T steps
    torch.testing.assert_close(layer.bn.running_mean, twin[1].running_mean)
    torch.testing.assert_close(layer.bn.running_var, twin[1].running_var)
    layer.eval(), twin.eval()
    with torch.no_grad():
        current = twin(x.flatten(0, 1)).unflatten(0, (6, -1))
    assert (layer(x) != reference.if_scan(current)[0]).float().mean() < 1e-3


def test_pooling_and_flattening(generator):
    dense = spikes(9, 2, 5, 8, 6, generator=generator)
    packed = pk.pack(dense)
    flat = pk.Flatten()(packed)
    assert flat.shape == (9, 2, 240) and equal(flat.dense(), dense.flatten(2))
    assert equal(pk.Flatten()(dense), dense.flatten(2))
    assert equal(pk.MaxPool2d(2)(packed).dense(), reference.max_pool2d(dense, 2))
    assert equal(pk.MaxPool2d(3, 2, 1)(dense), reference.max_pool2d(dense, 3, 2, 1))
    for x in (packed, dense):
        assert equal(pk.AvgPool2d(2)(x), reference.avg_pool2d(dense, 2))
    image = torch.rand(2, 5, 8, 6, generator=generator).expand(9, 2, 5, 8, 6)
    for layer in (pk.MaxPool2d(2), pk.AvgPool2d(2), pk.Flatten()):
        assert layer(image).stride(0) == 0  # a held input stays held: no copy for each step


def test_average_pooling_in_a_net_is_exact(generator):
    """Its output has many values; the next layer takes them as they are, however long the run, in any chunk."""
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, padding=1), pk.AvgPool2d(2), pk.FusedIFConv2d(4, 5, 3), pk.Flatten())
    for layer in (net[0], net[2]):
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
        layer.bias.data.zero_()
    x = dyadic(2, 1, 8, 8, generator=generator).abs()
    s, _ = reference.if_conv2d(x.expand(100, *x.shape), net[0].weight.data, padding=1)
    expected, _ = reference.if_conv2d(reference.avg_pool2d(s, 2), net[2].weight.data)
    for chunk in (None, 33):
        assert equal(layerwise.simulate(net, x, 100, chunk=chunk).spikes.dense(), expected.flatten(2))


def test_neurons_alone(generator):
    current = dyadic(7, 2, 3, 4, 4, generator=generator)
    layer = pk.IF(v_threshold=torch.tensor([0.5, 1.0, 2.0]), v_reset=None)
    expected, v = reference.if_scan(current, v_threshold=layer.v_threshold, v_reset=None)
    assert equal(layer(current), expected)
    assert equal(layer(current, torch.zeros_like(current[0]))[1], v)
    held = current[0].expand(7, *current[0].shape)
    assert equal(layer(held), reference.if_scan(held, v_threshold=layer.v_threshold, v_reset=None)[0])


def test_copies_and_text(generator):
    layer = pk.FusedIFConv2d(2, 3, 3, v_threshold=torch.tensor([0.5, 1.0, 2.0]), v_reset=None, batch_norm=True).eval()
    x = torch.rand(4, 1, 2, 5, 5, generator=generator)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert equal(other(x), layer(x))
    assert "v_threshold=[3], v_reset=None" in repr(layer)
    assert repr(pk.IF()) == "IF(v_threshold=1, v_reset=0.0)"
