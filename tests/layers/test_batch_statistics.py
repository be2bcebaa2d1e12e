"""Batch normalisation: statistics that a kernel sums, and folded values that follow every change."""

import copy

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from oracle import normalises_as_torch
from torch import nn

import proxykernels as pk
from proxykernels.calls.currents import batch_moments
from proxykernels.kernels import backends, reference, weight_cache


@pytest.mark.parametrize("channels, groups", [((4, 6), 1), ((8, 70), 2), ((33, 33), 33), ((40, 100), 1)])
@pytest.mark.parametrize("T, stride, dilation", [(1, 1, 1), (33, 2, 1), (5, 1, 2)])
def test_moments(channels, groups, T, stride, dilation, backend, generator):
    (c_in, c_out), window = channels, ((stride, stride), (1, 1), (dilation, dilation), groups)
    x = spikes(T, 3, c_in, 7, 6, generator=generator)
    weight, bias = dyadic(c_out, c_in // groups, 3, 3, generator=generator), dyadic(c_out, generator=generator)
    mean, variance, count = batch_moments(pk.pack(x), weight, bias, *window)
    currents = nn.functional.conv2d(x.flatten(0, 1).double(), weight.double(), bias.double(), *window)
    assert count == currents[:, 0].numel() and currents.std() > 0.1
    assert equal(mean, currents.mean((0, 2, 3)))
    assert torch.allclose(variance, currents.var((0, 2, 3), correction=0), rtol=1e-6)


def test_the_variance_keeps_its_digits_far_from_zero(generator):
    """The mean is a hundred times the deviation; a bias near its negative takes it off before the squares are added."""
    x = spikes(16, 8, 64, 1, 1, generator=generator, rate=0.5)
    weight = 1 + 0.01 * torch.randn(32, 64, 1, 1, generator=generator)
    currents = nn.functional.conv2d(x.flatten(0, 1).double(), weight.double())
    near = -currents.mean((0, 2, 3)).float()
    _, variance, _ = batch_moments(pk.pack(x), weight, near, (1, 1), (0, 0), (1, 1), 1)
    assert torch.allclose(variance, currents.var((0, 2, 3), correction=0), rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["convolution", "1-d convolution", "product"])
@pytest.mark.parametrize("periodic", [False, True])
def test_layer(kind, bias, momentum, periodic, generator):
    """Spikes, potentials and running statistics are those of torch normalising all currents, but for rounding."""
    size = {"convolution": (4, 5, 4), "1-d convolution": (4, 20), "product": (40,)}[kind]
    x = pk.pack(spikes(9, 3, *size, generator=generator))
    if periodic:
        x, _ = pk.if_hold(torch.rand(3, *size, generator=generator), 9)
    if kind == "convolution":
        layer, norm = pk.FusedIFConv2d(4, 6, 3, padding=1, bias=bias, batch_norm=True), nn.BatchNorm2d(6)
    elif kind == "1-d convolution":
        layer, norm = pk.FusedIFConv1d(4, 6, 3, padding="same", bias=bias, batch_norm=True), nn.BatchNorm1d(6)
    else:
        layer, norm = pk.FusedIFLinear(40, 6, bias=bias, batch_norm=True), nn.BatchNorm1d(6)
    layer.train().bn.momentum = norm.momentum = momentum
    layer.bn.running_mean[:] = 0.25
    layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    normalises_as_torch(layer, norm, x)


def test_no_currents_are_kept_in_training(monkeypatch, generator):
    """ProxyNet's spiking network unpacks no spikes after its first layer, and scans no currents but of that one."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 3, 3, batch_norm=True), pk.FusedIFConv2d(3, 4, 3, batch_norm=True), pk.Flatten(),
        pk.FusedIFLinear(16, 2, batch_norm=True),
    )  # fmt: skip
    kernels = backends.cpu_backend()
    monkeypatch.setattr(type(kernels), "unpack", lambda *_: pytest.fail("spikes were unpacked"))
    monkeypatch.setattr(type(kernels), "if_scan", lambda *_: pytest.fail("currents of each step were scanned"))
    pk.ProxyNet(net, T=5).train()(torch.rand(4, 2, 6, 6, generator=generator))[:, 0].square().sum().backward()
    assert net[1].bn.num_batches_tracked == net[3].bn.num_batches_tracked == 1 and net[0].weight.grad.any()


class Halved(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) / 2


@pytest.mark.parametrize(
    "norm", [Halved(6), nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6, track_running_stats=False)]
)
def test_other_normalisation(norm, generator):
    x = spikes(9, 3, 4, 5, 4, generator=generator)
    layer = pk.FusedIFConv2d(4, 6, 3, padding=1, batch_norm=True)
    layer.bn = norm
    with torch.no_grad():
        expected, _ = reference.if_scan(norm(layer.affine(x.flatten(0, 1))).unflatten(0, (9, 3)))
        y, _ = layer.spike(pk.pack(x), batch_statistics=True)
    assert 0.01 < expected.mean() < 0.9 and (y.dense() != expected).float().mean() < 1e-3


def test_a_normalisation_without_gain_is_folded(generator):
    layer = pk.FusedIFConv2d(4, 6, 3, batch_norm=True).eval()
    layer.bn = nn.BatchNorm2d(6, affine=False).eval()
    layer.bn.running_mean[:], layer.bn.running_var[:] = 0.1, 0.02
    x = spikes(9, 3, 4, 5, 4, generator=generator)
    expected, _ = reference.if_scan(layer.bn(layer.affine(x.flatten(0, 1))).unflatten(0, (9, 3)).detach())
    y, _ = layer.spike(pk.pack(x))
    assert expected.any() and (y.dense() != expected).float().mean() < 1e-2


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("N", [1, 4])
@pytest.mark.parametrize("learns", [True, False])
def test_a_constant_input_counts_at_every_step(N, momentum, learns, generator):
    """Its running variance is that of the values of all steps."""
    T, x = 10, torch.randn(N, 8, generator=generator)
    layer, norm = pk.FusedIFLinear(8, 3, batch_norm=True).train(), nn.BatchNorm1d(3)
    layer.bn.momentum = norm.momentum = momentum
    layer.surrogate = pk.ATan() if learns else None
    for _ in range(2):
        with torch.set_grad_enabled(learns):
            y = layer(x.expand(T, N, 8))
        norm(layer.affine(x.repeat(T, 1)))
    assert torch.allclose(layer.bn.running_var, norm.running_var) and torch.allclose(
        layer.bn.running_mean, norm.running_mean
    )
    assert layer.bn.num_batches_tracked == 2
    if learns:
        y.sum().backward()
        assert layer.bn.bias.grad.any()


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("weights, given", [(torch.float32, torch.float64), (torch.float64, torch.uint8)], ids=str)
def test_inputs_of_another_type(weights, given, constant, generator):
    x = torch.randint(0, 4, (5, 3, 4, 5, 4), generator=generator)
    x = x[:1].expand_as(x) if constant else x
    layer = pk.FusedIFConv2d(4, 6, 3, batch_norm=True).to(weights).train()
    y, expected = layer(x.to(given)), layer(x.to(weights))
    assert y.dtype == given and 0.05 < expected.mean() < 0.9 and equal(y.to(weights), expected)


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (pk.FusedIFConv2d(4, 6, 3, batch_norm=True), (3, 2, 5, 4, 4), "x must have C_in = 4.*got 5 channels"),
        (pk.FusedIFConv2d(4, 6, 3, batch_norm=True), (3, 2, 4, 2, 2), "kernel_size"),
        (
            pk.FusedIFConv2d(4, 6, 3, batch_norm=True),
            (1, 1, 4, 3, 3),
            "x must have at least two values.*got 1: 1 steps",
        ),
        (pk.FusedIFConv2d(4, 6, 3, batch_norm=True), (3, 0, 4, 4, 4), "x must have at least two values.*got 0"),
        (pk.FusedIFLinear(40, 6, batch_norm=True), (3, 2, 41), "x must have 40 features.*got 41"),
        (pk.FusedIFLinear(40, 6, batch_norm=True), (1, 1, 40), "x must have at least two values.*got 1"),
    ],
)
def test_bad_input(layer, shape, message, generator):
    x = pk.pack(spikes(*shape, generator=generator))
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        layer.spike(x, batch_statistics=True)
    assert layer.bn.num_batches_tracked == 0


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (pk.FusedIFConv2d(4, 6, 3, batch_norm=True), (3, 2, 5, 4, 4), "x must have C_in = 4.*got 5 channels"),
        (pk.FusedIFConv1d(4, 6, 3, batch_norm=True), (3, 2, 5, 4), "x must have C_in = 4.*got 5 channels"),
        (pk.FusedIFLinear(40, 6, batch_norm=True), (3, 2, 41), "x must have 40 features.*got 41"),
        (pk.FusedIFLinear(40, 6, batch_norm=True), (5, 1, 40), "x must have at least two values .*got 1: 1 samples"),
    ],
)
def test_statistics_of_means_of_bad_input(layer, shape, message, generator):
    x = pk.pack(spikes(*shape, generator=generator))
    with pytest.raises(ValueError, match=message):
        layer.spike(x, batch_statistics="means")
    assert layer.bn.num_batches_tracked == 0


@pytest.mark.parametrize("given", ["spikes", "spikes behind dropout", "values", "constant"])
@pytest.mark.parametrize("kind", ["convolution", "1-d convolution", "product"])
def test_statistics_of_means(kind, given, generator):
    """Currents are normalised by the statistics of their means over the steps, which a mean input gives as well."""
    size = {"convolution": (4, 5, 4), "1-d convolution": (4, 20), "product": (40,)}[kind]
    if kind == "convolution":
        layer, norm = pk.FusedIFConv2d(4, 6, 3, padding=1, batch_norm=True), nn.BatchNorm2d(6)
    elif kind == "1-d convolution":
        layer, norm = pk.FusedIFConv1d(4, 6, 3, padding="same", batch_norm=True), nn.BatchNorm1d(6)
    else:
        layer, norm = pk.FusedIFLinear(40, 6, batch_norm=True), nn.BatchNorm1d(6)
    x = pk.pack(spikes(9, 8, *size, generator=generator, rate=0.3))
    if given == "spikes behind dropout":
        x = pk.Dropout(0.5).train()(x)
    dense = x.dense() if given.startswith("spikes") else torch.rand(x.shape, generator=generator)
    if given == "constant":
        dense = dense[:1].expand(9, *dense.shape[1:])
    with torch.no_grad():
        currents = torch.stack([layer.affine(step) for step in dense])
        norm.train()(currents.mean(0))
        axes = [0, *range(2, currents.ndim - 1)]
        variance, mean = torch.var_mean(currents.mean(0), axes, correction=0, keepdim=True)
        expected, _ = reference.if_scan((currents - mean) / (variance + norm.eps).sqrt())
        y, _ = layer.train().spike(x if given.startswith("spikes") else dense, batch_statistics="means")
    y = y.dense()
    assert 0.05 < expected.mean() < 0.9 and (y != expected).float().mean() < 2e-3
    assert torch.allclose(layer.bn.running_var, norm.running_var, rtol=1e-4) and layer.bn.num_batches_tracked == 1
    assert torch.allclose(layer.bn.running_mean, norm.running_mean, atol=1e-5)


def make_net(generator) -> nn.Sequential:
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 6, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(6 * 16, 5, batch_norm=True)
    )
    for layer in (net[0], net[2]):
        layer.weight.data.normal_(0, 0.3, generator=generator)
        layer.bias.data.normal_(0, 0.3, generator=generator)
        layer.bn.running_mean.normal_(0, 0.3, generator=generator)
        layer.bn.running_var.uniform_(0.3, 2, generator=generator)
        layer.bn.weight.data.uniform_(0.5, 2, generator=generator)
        layer.bn.bias.data.normal_(0, 0.3, generator=generator)
    return net.eval()


def outcome(net, x, precision):
    result = pk.simulate(net, x, 12, precision=precision)
    return result.spikes.dense(), *(v for states in result.state.values() for v in states)


@pytest.mark.parametrize("precision", [None, "int16", "int8"])
@pytest.mark.parametrize(
    "name", ["weight", "bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.eps"]
)
@pytest.mark.parametrize("layer", [0, 2])
def test_a_change_is_seen(generator, layer, name, precision):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    before = outcome(net, x, precision)
    assert before[0].any() and all(map(torch.equal, before, outcome(net, x, precision)))
    if name == "bn.eps":
        net[layer].bn.eps = 0.4
    else:
        tensor = net[layer].get_submodule(name.rpartition(".")[0]) if "." in name else net[layer]
        values = getattr(tensor, name.rpartition(".")[2]).detach().numpy()  # past every version counter
        values += 0.3
    after, anew = outcome(net, x, precision), outcome(copy.deepcopy(net), x, precision)
    assert all(map(torch.equal, after, anew)) and not all(map(torch.equal, after, before))


def test_two_layers_with_one_weight_and_two_normalisations(generator):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    other = copy.deepcopy(net)
    other[0].bn.running_mean += 0.5
    apart = [outcome(copy.deepcopy(one), x, "int16") for one in (net, other)]
    other[0].weight, other[2].weight = net[0].weight, net[2].weight
    for one, expected in [*zip((net, other), apart, strict=True)] * 2:
        assert all(map(torch.equal, outcome(one, x, "int16"), expected))
    assert not torch.equal(apart[0][0], apart[1][0])


def test_folded_once(generator, monkeypatch):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    calls = []
    fold = pk.layers.normalisation.fold_values
    monkeypatch.setattr(pk.layers.normalisation, "fold_values", lambda *values: (calls.append(1), fold(*values))[1])
    for _ in range(3):
        pk.simulate(net, x, 5)
    assert len(calls) == 2
    net[0](torch.rand(4, 3, 2, 6, 6))  # by itself, not by the plan
    net[0](torch.rand(4, 3, 2, 6, 6))
    assert len(calls) == 3
    net[0].surrogate = pk.ATan()  # a gradient goes to what is folded: nothing is kept
    net[0](torch.rand(4, 3, 2, 6, 6))
    net[0](torch.rand(4, 3, 2, 6, 6))
    assert len(calls) == 5


def test_other_types_and_values_that_are_not_finite(generator):
    net, x = make_net(generator), torch.rand(3, 2, 6, 6, generator=generator)
    spikes, *_ = outcome(net, x, None)
    doubles = copy.deepcopy(net).double()  # not kept, and the same weights but for the last bit
    assert spikes.any() and (outcome(doubles, x.double(), None)[0] != spikes).float().mean() < 0.01
    doubles[0].bn.running_mean += 5
    assert (outcome(doubles, x.double(), None)[0] != spikes).float().mean() > 0.05
    net[0].bn.running_var[1] = float("nan")
    with pytest.raises(ValueError, match="finite|NaN"):
        pk.simulate(net, x, 4)


def test_a_call_looks_at_folded_weights_once(generator, monkeypatch):
    layer = make_net(generator)[2]
    x, looks = torch.rand(2, 3, 96, generator=generator), []
    look = weight_cache.require_finite
    monkeypatch.setattr(weight_cache, "require_finite", lambda *values: (looks.append(1), look(*values))[1])
    with torch.no_grad():
        expected = layer(x) + 0
        looks.clear()
        assert expected.any() and equal(layer(x), expected) and not looks
        layer.bn.weight.data[1] = float("inf")  # every value that is folded in is finite or not at each call
        for _ in range(2):
            with pytest.raises(ValueError, match="weight must be finite"):
                layer(x)
        layer.bn.weight.data[1] = 1e-3
        assert layer(x).any() and looks
