"""Layers with a surrogate derivative against autograd through the oracle in plain torch, layer by layer."""

import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, spikes
from equality import equal
from gradient_cases import EXACT, close
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference_gradients

T, N = 4, 2
NEURONS = {
    "hard": pk.neurons.IFNeuron(),
    "soft": pk.neurons.IFNeuron(v_reset=None),
    "leaky": pk.neurons.LIFNeuron(decay=0.5),
    "leaky-soft": pk.neurons.LIFNeuron(v_reset=None, decay=torch.tensor([0.5, 0.75, 0.25, 1.0, 0.0])),
    "current-based": pk.neurons.CubaLIFNeuron(decay=0.5, current_decay=0.5),
}
GIVEN = ["spikes", "zeros and ones", "real", "held"]


def oracle(currents, v, neuron, surrogate=EXACT):
    """Spikes and states of currents [T, N, C, ...], differentiable."""
    return reference_gradients.surrogate_scan(currents, v, neuron.on(currents.shape[2], v.device), surrogate.kernel)


def given_as(kind, generator, shape):
    """The input of a layer, what it has a gradient in (None: packed spikes have none), and the dense leaf."""
    dense = dyadic(*shape, generator=generator) if kind in ("real", "held") else spikes(*shape, generator=generator)
    if kind == "held":
        leaf = dense[0].clone().requires_grad_()
        return leaf.expand(shape), leaf
    leaf = dense.clone().requires_grad_()
    return (pk.pack(dense) if kind == "spikes" else leaf), leaf


def state_like(currents, neuron, generator):
    shape = currents.shape[1:] if neuron.states == 1 else (currents.shape[1], neuron.states, *currents.shape[2:])
    return dyadic(*shape, generator=generator)


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("layer", ["conv2d", "strided", "linear"])
def test_gradients_are_the_oracles(generator, layer, neuron, kind):
    neuron = NEURONS[neuron]
    if layer == "linear":
        made = pk.FusedLinear(6, 5, neuron=neuron)
        shape, plain = (T, N, 6), lambda x: F.linear(x, made.weight, made.bias)
    else:
        stride = 2 if layer == "strided" else 1
        made = pk.FusedConv2d(3, 5, 3, stride, 1, neuron=neuron)
        shape = (T, N, 3, 5, 4)
        plain = lambda x: F.conv2d(x.flatten(0, 1), made.weight, made.bias, stride, 1).unflatten(0, x.shape[:2])  # noqa: E731
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator, span=8, unit=1 / 8))
    x, leaf = given_as(kind, generator, shape)
    dense = leaf.expand(shape) if kind == "held" else leaf
    expected_currents = plain(dense)
    v = state_like(expected_currents, neuron, generator).requires_grad_()
    expected, expected_after = oracle(expected_currents, v, neuron)
    weights = dyadic(*expected.shape, generator=generator), dyadic(*v.shape, generator=generator)
    leaves = [leaf, v, made.weight, made.bias]
    theirs = torch.autograd.grad([expected, expected_after], leaves, weights)

    made.surrogate = EXACT
    y, after = made(x, v)
    assert isinstance(y, pk.Spikes) == (kind == "spikes") and y.requires_grad
    y = y.dense() if isinstance(y, pk.Spikes) else y
    wanted = leaves[1:] if kind == "spikes" else leaves
    ours = torch.autograd.grad([y, after], wanted, weights)
    assert equal(y, expected) and y.any() and equal(after, expected_after)
    for actual, its in zip(ours, theirs[-len(wanted) :], strict=True):
        assert close(actual, its)


@pytest.mark.parametrize("kind", ["spikes", "zeros and ones"])
def test_a_network(generator, kind):
    """Everything that takes spikes on: pooling of both kinds, flattening, sums, dropout, neurons alone."""
    torch.manual_seed(0)
    conv, second = pk.FusedIFConv2d(2, 8, 3, padding=1), pk.FusedLIFConv2d(8, 8, 3, padding=1)
    join = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), v_reset=None)
    wide = pk.FusedIFSum(nn.Conv2d(8, 6, 2, groups=2), nn.Conv2d(8, 6, 2))  # a chunk of steps at a time
    alone, linear = pk.IF(v_threshold=0.25), pk.FusedLIFLinear(24, 5, decay=0.75)
    layers = nn.ModuleList([conv, second, join, wide, alone, linear])
    pk.use_surrogate(layers, pk.ATan())
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.mul_(2.5)

    def ours(x):
        a = pk.MaxPool2d(2)(conv(x))
        b = second(a)
        c = wide((join((b, a)), b))
        d = alone(pk.AvgPool2d(1)(c))
        return linear(pk.Flatten()(d))

    def fire(layer, currents):
        v = torch.zeros_like(currents[0])
        return oracle(currents, v, layer.neuron, pk.ATan())[0]

    def at_each(function, x):
        return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def theirs(x):
        a = at_each(lambda s: F.max_pool2d(s, 2), fire(conv, at_each(conv.affine, x)))
        b = fire(second, at_each(second.affine, a))
        j = fire(join, at_each(join.synapses[0], b) + a)
        c = fire(wide, at_each(wide.synapses[0], j) + at_each(wide.synapses[1], b))
        d = fire(alone, c)
        return fire(linear, at_each(linear.affine, d.flatten(2)))

    dense = spikes(6, 2, 2, 6, 6, generator=generator, rate=0.5)
    x = pk.pack(dense) if kind == "spikes" else dense.clone().requires_grad_()
    y = ours(x)
    leaf = dense.clone().requires_grad_()
    expected = theirs(leaf)
    y = y.dense() if isinstance(y, pk.Spikes) else y
    assert equal(y, expected) and 0 < y.mean() < 1
    grad = torch.randn(y.shape, generator=generator)
    inputs = list(layers.parameters())
    expected = torch.autograd.grad(expected, [leaf, *inputs], grad)
    actual = torch.autograd.grad(y, inputs if kind == "spikes" else [x, *inputs], grad)
    for ours_, theirs_ in zip(actual, expected[-len(actual) :], strict=True):
        assert close(ours_, theirs_)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["spikes", "values", "mixed"])
def test_a_sum_of_weights_of_any_type(generator, dtype, kind):
    """Its currents are computed in float32, with and without a gradient."""
    join = pk.FusedIFSum(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1), nn.Identity())
    pk.use_surrogate(join, pk.ATan()).to(dtype)
    shapes = [(T, N, C, 5, 4) for C in (3, 3, 5)]
    x = [spikes(*shape, generator=generator).to(dtype) for shape in shapes]
    x = [pk.pack(part) if kind == "spikes" or (kind == "mixed" and k == 0) else part for k, part in enumerate(x)]
    y = join(x)
    with torch.no_grad():
        expected = join(x)
    y, expected = (part.dense(dtype) if isinstance(part, pk.Spikes) else part for part in (y, expected))
    assert equal(y, expected) and 0.05 < y.float().mean() < 0.95
    y.sum().backward()
    assert all(p.grad.any() and p.grad.dtype == dtype for p in join.parameters())


@pytest.mark.parametrize("name", ["sum", "batch_norm"])
def test_autocast_changes_no_spike(generator, name):
    x = torch.randn(16, 4, 8, 8, 8, generator=generator)
    if name == "sum":
        convolutions = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        layer, x = pk.FusedIFSum(*convolutions), (pk.pack(spikes(16, 4, 8, 8, 8, generator=generator)), x)
    else:
        layer = pk.FusedIFConv2d(8, 8, 3, batch_norm=True).train()
    pk.use_surrogate(layer, pk.ATan())
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.requires_grad and equal(y, expected) and 0.05 < y.mean() < 0.95


@pytest.mark.parametrize("training", [True, False])
def test_normalisation(generator, training):
    layer = pk.FusedIFConv2d(2, 5, 3, padding=1, batch_norm=True).train(training)
    layer.surrogate = pk.Sigmoid()
    with torch.no_grad():
        layer.bn.running_mean.uniform_(-0.2, 0.2)
        layer.bn.weight.uniform_(1.5, 2.5)
    dense = spikes(5, 3, 2, 6, 6, generator=generator, rate=0.5)
    bn, currents = layer.bn, layer.affine(dense.flatten(0, 1))
    y = F.batch_norm(
        currents, bn.running_mean.clone(), bn.running_var.clone(), bn.weight, bn.bias, training,
        bn.momentum, bn.eps,
    ).unflatten(0, (5, 3))  # fmt: skip
    expected, _ = oracle(y, torch.zeros_like(y[0]), layer.neuron, pk.Sigmoid())
    parameters = list(layer.parameters())
    grad = torch.randn(y.shape, generator=generator)
    expected = torch.autograd.grad(expected, parameters, grad)
    spikes_ = layer(pk.pack(dense)).dense()
    assert 0 < spikes_.mean() < 1
    actual = torch.autograd.grad(spikes_, parameters, grad)
    # In training the currents' mean is taken off, and with it the bias: its gradient is 0 but for rounding.
    for parameter, ours, theirs in zip(parameters, actual, expected, strict=True):
        if not (training and parameter is layer.bias):
            assert close(ours, theirs, 1e-4)


def test_counts_cuts_and_dropout(generator):
    layer = pk.FusedIFLinear(12, 6)
    layer.surrogate = EXACT
    x = pk.pack(spikes(6, 2, 12, generator=generator, rate=0.5))
    with torch.no_grad():
        layer.weight.copy_(dyadic(6, 12, generator=generator))
        layer.bias.copy_(dyadic(6, generator=generator))
    y = layer(x)
    dense = y.dense()
    assert dense.any() and dense.requires_grad and not y.dense(torch.bool).requires_grad

    def gradient(output, factor=1.0):
        return torch.autograd.grad((output * factor).sum(), layer.weight, retain_graph=True)[0]

    assert gradient(dense[:4]).any()
    assert equal(gradient(y.count(4)), gradient(dense[:4]))
    assert y.count().dtype == torch.float32 and layer.eval()(x).count().dtype == torch.float32
    assert equal(gradient(y[1:3].dense()), gradient(dense[1:3]))
    kept = torch.rand(2, 6, generator=generator) < 0.5
    dropped = pk.Dropout(0.5).drop(y, kept)
    assert dropped.scale == 2 and equal(gradient(dropped.dense()), gradient(dense, 2 * kept))
    following = pk.FusedIFLinear(6, 3)
    following.surrogate = pk.ATan()
    z = following(dropped)
    plain = following((2 * dense * kept).detach())
    assert equal(z.dense(), plain) and torch.autograd.grad(z.count().sum(), layer.weight)[0].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_frames_of_every_type_train_all_layers(generator, dtype):
    join = pk.FusedIFSum(nn.Linear(6, 6), nn.Identity())
    net = pk.use_surrogate(nn.ModuleList([pk.FusedIFLinear(12, 6), join, pk.LI()]), pk.ATan())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator))

    def gradients(x):
        first = net[0](x)
        assert first.any() and first.dtype == (x.dtype if x.is_floating_point() else torch.float32)
        return torch.autograd.grad(net[2](join((first, first))).sum(), list(net.parameters()))

    x = spikes(6, 2, 12, generator=generator, rate=0.5)
    for actual, expected in zip(gradients(x.to(dtype)), gradients(x), strict=True):
        assert expected.any() and equal(actual, expected)


def test_only_where_it_is_asked_for(generator):
    layer = pk.FusedIFLinear(12, 6)
    x = pk.pack(spikes(3, 2, 12, generator=generator))
    assert not layer.eval()(x).requires_grad
    assert pk.use_surrogate(layer, pk.ATan()) is layer and layer(x).requires_grad
    with torch.no_grad():
        assert not layer(x).requires_grad
    assert not pk.simulate(layer, x, 3).spikes.requires_grad
    assert not pk.use_surrogate(layer, None)(x).requires_grad


def test_bad_input_is_named(generator):
    layer = pk.FusedIFLinear(12, 6)
    for wrong in (pk.ATan, "atan"):
        with pytest.raises(TypeError, match=r"must be ATan, FastSigmoid, Sigmoid or Triangle, such as ATan\(2.0\), or"):
            layer.surrogate = wrong
    with pytest.raises(TypeError, match=r"got torch.nn.modules.activation.Sigmoid"):  # SpikingJelly's are modules
        layer.surrogate = nn.Sigmoid()
    assert layer.surrogate is None and not list(layer.children())
    for surrogate, name in (
        (pk.ATan, "alpha"),
        (pk.FastSigmoid, "slope"),
        (pk.Sigmoid, "alpha"),
        (pk.Triangle, "width"),
    ):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name} must be above 0"):
                surrogate(value)
        for value in (torch.tensor([2.0, 3.0]), "2", True):
            with pytest.raises(TypeError, match=f"{name} must be a number above 0, got"):
                surrogate(value)
        with pytest.raises(TypeError, match="detach_reset must be True or False, got 'no'"):
            surrogate(detach_reset="no")
    with pytest.raises(ValueError, match="at least one layer"):
        pk.use_surrogate(nn.ReLU(), pk.ATan())
    layer.surrogate = pk.ATan()
    y = layer(pk.pack(spikes(3, 2, 12, generator=generator)))
    with pytest.raises(ValueError, match="spikes that carry a gradient stay on cpu"):
        y.to("meta")
    images = pk.FusedIFConv2d(1, 1, 1)
    images.surrogate = pk.ATan()
    with pytest.raises(ValueError, match="MaxRatePool2d has no gradient"):
        pk.MaxRatePool2d(2)(images(pk.pack(spikes(3, 2, 1, 4, 4, generator=generator))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", [pk.MaxRatePool2d(2), pk.layers.MaxRatePool1d(2)], ids=["2d", "1d"])
def test_pooling_of_rates_cuts_no_gradient_off(generator, recwarn, pool, training):
    """It is an error, of tensors as of Spikes, and no warning."""
    x = spikes(3, 2, *((1, 4, 4) if isinstance(pool, pk.MaxRatePool2d) else (1, 4)), generator=generator)
    for given in (x.clone().requires_grad_(), pk.use_surrogate(pk.IF(), pk.ATan())(x.clone().requires_grad_())):
        with pytest.raises(ValueError, match="MaxRatePool2d has no gradient; train with MaxPool2d"):
            pool.train(training)(given)
        with torch.no_grad():
            assert pool(given).any()
    assert not recwarn
