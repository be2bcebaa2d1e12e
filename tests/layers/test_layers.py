"""The layers: torch modules that stand in for convolution and neuron, among modules of torch, and what they warn of."""

import copy
import pickle
import warnings

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
from proxykernels.kernels import backends, reference
from proxykernels.layers import base


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


REFUSED = [
    (nn.Flatten(), "proxykernels.Flatten"),
    (nn.MaxPool2d(2), "proxykernels.MaxPool2d"),
    (nn.AvgPool2d(2), "proxykernels.AvgPool2d"),
    (nn.AdaptiveAvgPool2d(1), "proxykernels.AdaptiveAvgPool2d"),
    (nn.Linear(4, 2), "FusedIFLinear"),
    (nn.Conv2d(4, 2, 1), "FusedIFConv2d"),
    (nn.BatchNorm2d(4), "FusedIFConv2d.*batch_norm=True"),
    (nn.ReLU(), "no ReLU at all"),
    (nn.Dropout(), "proxykernels.Dropout"),
]


class Net(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.features = nn.Sequential(pk.FusedIFConv2d(1, 4, 3), module)
        self.last = pk.IF()

    def forward(self, x):
        return self.last(self.features(x))


def kind(value):
    return type(value).__name__ if isinstance(value, nn.Module) else ""


@pytest.mark.parametrize("way", ["simulate", "proxy-training", "proxy-evaluation"])
@pytest.mark.parametrize("module, remedy", REFUSED, ids=kind)
def test_refused_by_its_path(module, remedy, way):
    net, x = Net(module), torch.rand(2, 1, 6, 6)
    message = rf"^layer features.1 is an nn.{kind(module)}, .* (one step|two networks); use .*{remedy}"
    with pytest.raises(TypeError, match=message):
        if way == "simulate":
            pk.simulate(net, x, 5)
        else:
            pk.ProxyNet(net, 5).train(way == "proxy-training")(x)


@pytest.mark.parametrize("module, remedy", REFUSED, ids=kind)
def test_called_with_spikes_it_is_a_type_error(module, remedy, generator):
    x = pk.pack(spikes(5, 2, 4, 4, 4, generator=generator))
    with pytest.raises(TypeError, match=f"got Spikes; use .*{remedy}"):
        module(x)
    assert not hasattr(x, "relu")


def test_what_is_right_with_steps_still_runs():
    """On real-valued inputs: nn.Flatten from dimension 2 on, nn.Linear and nn.Dropout; nn.Identity anywhere."""
    torch.manual_seed(0)
    ahead = nn.Flatten(2), nn.Dropout(), nn.Linear(36, 8), pk.IF(v_threshold=0.1)
    net = nn.Sequential(*ahead, nn.Identity(), nn.Sequential(), pk.FusedIFLinear(8, 3, v_threshold=0.05)).eval()
    net[-1].weight.data.abs_()
    x = torch.rand(2, 1, 6, 6)
    expected = net(x.expand(9, *x.shape))
    assert equal(pk.simulate(net, x, 9).spikes.dense(), expected) and expected.any()
    assert equal(pk.ProxyNet(net, 9).eval()(x), expected.sum(0))


def test_one_step_of_a_network_may_go_through_modules_of_torch():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.neurons = nn.Conv2d(1, 4, 3), pk.IF(v_threshold=0.1)

        def forward(self, x):
            return self.neurons(self.convolution(x[0]).expand(x.shape[0], -1, -1, -1, -1))

    torch.manual_seed(0)
    assert pk.simulate(First(), torch.rand(2, 1, 6, 6), 9).spikes.rate() > 0


def test_errors_of_layers_without_neurons_say_where():
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3), pk.MaxPool2d(9))
    with pytest.raises(ValueError, match=r"layer 1: a pooling window of 9 is larger than its input of 4 padded by 0"):
        pk.simulate(net, torch.rand(2, 1, 6, 6), 5, chunk=5)


@pytest.mark.parametrize("call", [lambda net, x: pk.simulate(net, x, 5), lambda net, x: pk.ProxyNet(net, 5)])
def test_a_relu_network_is_sent_to_convert(call):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="must have at least one layer of neurons, .*convert makes .* ReLU network"):
        call(net, torch.rand(2, 1, 6, 6))


def test_a_library_that_does_not_load_is_no_error_of_a_layer(monkeypatch):
    """A stale C++ library says so itself; a layer's name before it would send the reader to the wrong place."""

    def load():
        raise RuntimeError("the C++ library is stale")

    monkeypatch.setattr(backends, "cpu_backend", load)
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3), pk.MaxPool2d(2))
    with pytest.raises(RuntimeError, match=r"^the C\+\+ library is stale"):
        pk.simulate(net, torch.rand(2, 1, 6, 6), 5, chunk=5)
    spikes = pk.Spikes(torch.zeros(2, 5, 16, 1, dtype=torch.uint8), (5, 2, 4, 4, 4))
    with pytest.raises(RuntimeError, match=r"^the C\+\+ library is stale"):
        pk.simulate(nn.Sequential(pk.MaxPool2d(2), pk.IF()), spikes, 5, chunk=5)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_another_librarys_pooling_is_told_what_takes_its_place(mode):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), layer.MaxPool2d(2, step_mode=mode), pk.FusedIFConv2d(4, 4, 3)).eval()
    with pytest.raises(TypeError, match="layer 1.* takes? .*; use proxykernels.MaxPool2d"):
        pk.simulate(net, torch.rand(2, 2, 8, 8), 4)


def test_what_is_derived_of_torch_may_take_spikes():
    class Pool(nn.MaxPool2d):
        def forward(self, x):
            return pk.max_pool2d(x, self.kernel_size)

    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), Pool(2), pk.FusedIFConv2d(4, 4, 3)).eval()
    assert pk.simulate(net, torch.rand(2, 2, 8, 8), 4).spikes.shape == (4, 2, 4, 1, 1)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(base, "_warned", set())


LAYERS = {
    "conv": (lambda: pk.FusedIFConv2d(2, 3, 3), lambda: torch.rand(4, 1, 2, 5, 5)),
    "linear": (lambda: pk.FusedIFLinear(3, 2), lambda: torch.rand(4, 1, 3)),
    "neurons": (pk.IF, lambda: torch.rand(4, 1, 3, requires_grad=True)),
    "sum": (lambda: pk.FusedIFSum(nn.Linear(3, 3), nn.Identity()), lambda: (torch.rand(4, 1, 3), torch.rand(4, 1, 3))),
    "spikes": (lambda: pk.FusedIFLinear(3, 2), lambda: pk.pack(torch.ones(4, 1, 3))),
}


@pytest.mark.parametrize("layer, x", LAYERS.values(), ids=LAYERS)
def test_said_once(layer, x):
    layer, x = layer(), x()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer(x), layer(x)
    (said,) = caught
    assert said.category is UserWarning
    assert all(word in str(said.message) for word in (type(layer).__name__, "ProxyNet", "eval()", "no_grad()"))


@pytest.mark.parametrize("layer, x", LAYERS.values(), ids=LAYERS)
def test_nothing_is_said_where_no_gradient_is_wanted(layer, x):
    layer, x = layer(), x()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.eval()(x)
        layer.train()
        with torch.no_grad():
            layer(x)
        if not isinstance(x, tuple):
            pk.simulate(layer, x.detach() if isinstance(x, torch.Tensor) else x, 4)
        layer.requires_grad_(False)
        layer(x.detach() if isinstance(x, torch.Tensor) else x)
        if isinstance(layer, pk.FusedIFLinear):
            pk.ProxyNet(layer.requires_grad_(), 4).train()(torch.rand(1, 3)).sum().backward()
