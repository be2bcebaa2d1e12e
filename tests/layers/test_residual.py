"""Layers that join several inputs or move values, and poolings of rates, against plain torch."""

import copy

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import RESETS, dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference

# The synapses, and the inputs' shapes [C, H, W] or [features].
SUMS = {
    "identity": ([nn.Conv2d(6, 16, 3, padding=1), nn.Identity()], [(6, 7, 5), (16, 7, 5)]),
    "whole-bytes": ([nn.Conv2d(16, 8, 3, padding="same", bias=False), nn.Identity()], [(16, 6, 6), (8, 6, 6)]),
    "pointwise-stride": ([nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(5, 9, 1, stride=2)], [(8, 4, 3), (5, 8, 5)]),
    "same-stride": ([nn.Conv2d(8, 9, 3, 2, 1), nn.Conv2d(8, 9, 1, stride=2, bias=False)], [(8, 7, 7), (8, 7, 7)]),
    "pointwise-main": ([nn.Conv2d(8, 9, 1), nn.Conv2d(3, 9, 1), nn.Identity()], [(8, 4, 4), (3, 4, 4), (9, 4, 4)]),
    "dilation": ([nn.Conv2d(8, 9, 3, 1, 2, 2), nn.Identity()], [(8, 6, 6), (9, 6, 6)]),
    "same-even": ([nn.Conv2d(6, 9, (2, 4), padding="same"), nn.Identity()], [(6, 6, 5), (9, 6, 5)]),
    "same-odd-total": ([nn.Conv2d(4, 9, 2, 1, "same", (3, 1)), nn.Conv2d(3, 9, 1)], [(4, 6, 5), (3, 6, 5)]),
    "same-even-second": ([nn.Identity(), nn.Conv2d(4, 6, 2, padding="same")], [(6, 4, 5), (4, 4, 5)]),
    "two-windows": ([nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)], [(4, 6, 5), (5, 6, 5)]),
    "groups": ([nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Identity()], [(4, 6, 5), (6, 6, 5)]),
    "no-center": ([nn.Conv2d(4, 6, 2, 1), nn.Conv2d(5, 6, 2, 1)], [(4, 6, 5), (5, 6, 5)]),
    "unpadded": ([nn.Conv2d(4, 6, (3, 2)), nn.Identity()], [(4, 6, 5), (6, 4, 4)]),
    "unpadded-pointwise": ([nn.Conv2d(4, 6, 5, padding=1), nn.Conv2d(5, 6, 1)], [(4, 8, 7), (5, 6, 5)]),
    "unpadded-stride": ([nn.Conv2d(4, 6, 3, 2), nn.Conv2d(5, 6, 1, 2)], [(4, 9, 9), (5, 8, 8)]),
    "upsampled": ([nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(5, 6, 1)], [(4, 7, 7), (5, 4, 4)]),
    "identity-first": ([nn.Identity(), nn.Conv2d(5, 6, 3, padding=1)], [(6, 4, 4), (5, 4, 4)]),
    "linear": ([nn.Linear(7, 9), nn.Linear(5, 9, bias=False), nn.Identity()], [(7,), (5,), (9,)]),
    "linear-second": ([nn.Identity(), nn.Linear(7, 9)], [(9,), (7,)]),
}


@pytest.mark.parametrize("kind", ["spikes", "real", "held", "mixed"])
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("name", SUMS)
def test_sum_against_the_oracle(generator, name, v_reset, kind):
    T, N = 33, 2
    synapses, shapes = SUMS[name]
    layer = pk.FusedIFSum(*synapses, v_threshold=1.25, v_reset=v_reset, v_init=0.5)
    for parameter in layer.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    dense = {
        "spikes": [spikes(T, N, *shape, generator=generator) for shape in shapes],
        "real": [dyadic(T, N, *shape, generator=generator) for shape in shapes],
        "held": [dyadic(N, *shape, generator=generator).expand(T, N, *shape) for shape in shapes],
    }
    dense["mixed"] = [dense["spikes"][0], *dense["real"][1:]]
    x = dense[kind]
    given = [pk.pack(part) if kind == "spikes" or (kind == "mixed" and k == 0) else part for k, part in enumerate(x)]
    with torch.no_grad():
        current = sum(s(part.flatten(0, 1)) for s, part in zip(synapses, x, strict=True)).unflatten(0, (T, N))
    v = torch.full_like(current[0], 0.5)
    expected, v_expected = reference.if_scan(current, v, v_threshold=1.25, v_reset=v_reset)
    y, v = layer.spike(tuple(given))
    assert equal(y.dense(), expected) and equal(v, v_expected) and 0 < expected.mean() < 1
    first, v = layer(tuple(part[:20] for part in given), torch.full_like(v, 0.5))
    second, v = layer(tuple(part[20:] for part in given), v)
    parts = [p if isinstance(p, torch.Tensor) else p.dense() for p in (first, second)]
    assert equal(torch.cat(parts), expected) and equal(v, v_expected)


def test_sum_without_shortcuts_runs_in_one_pass(generator, monkeypatch):
    """Identity and 1x1 shortcuts must not take the slow way: full currents."""
    monkeypatch.setattr(pk.FusedIFSum, "_fire_stepwise", None)
    one_pass = "identity", "pointwise-stride", "same-stride", "pointwise-main", "dilation", "same-even", "linear"
    for name in (*one_pass, "identity-first", "linear-second", "same-even-second"):
        synapses, shapes = SUMS[name]
        y = pk.FusedIFSum(*synapses)(tuple(pk.pack(spikes(3, 1, *shape, generator=generator)) for shape in shapes))
        assert isinstance(y, pk.Spikes) and y.shape[:2] == (3, 1), name


@pytest.mark.parametrize("name", ["identity", "linear", "upsampled"])
@pytest.mark.parametrize("v_reset", RESETS)
def test_shortcut_by_every_kernel(backend, generator, name, v_reset):
    """An identity's spikes go past the weights, whatever kernel adds these up."""
    T, N, C = 70, 3, 50
    synapse, shape, out = {
        "identity": (nn.Conv2d(24, C, 3, padding=1), (24, 6, 5), (C, 6, 5)),
        "linear": (nn.Linear(40, C), (40,), (C,)),
        "upsampled": (nn.Conv2d(24, C, 2, 2), (24, 6, 6), (C, 3, 3)),  # whose stride an identity has not
    }[name]
    for parameter in synapse.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    x, added = spikes(T, N, *shape, generator=generator), spikes(T, N, *out, generator=generator, rate=0.3)
    with torch.no_grad():
        current = synapse(x.flatten(0, 1)).unflatten(0, (T, N)) + added
    expected, v_expected = reference.if_scan(current, v_threshold=1.5, v_reset=v_reset)
    silent, _ = reference.if_scan(current - added, v_threshold=1.5, v_reset=v_reset)
    for order in (slice(None), slice(None, None, -1)):
        synapses, given = [synapse, nn.Identity()][order], (pk.pack(x), pk.pack(added))[order]
        actual, v = pk.FusedIFSum(*synapses, v_threshold=1.5, v_reset=v_reset).eval().spike(given)
        assert equal(actual.dense(), expected) and equal(v, v_expected)
    assert 0 < expected.mean() < 1 and not torch.equal(expected, silent)


@pytest.mark.parametrize("name", ["linear", "pointwise-main"])
def test_an_identity_beside_spikes_of_other_scales(generator, name):
    """A Dropout in training in one of the branches."""
    T, N = 20, 3
    synapses, shapes = SUMS[name]
    for parameter in nn.ModuleList(synapses).parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    x = [pk.pack(spikes(T, N, *shape, generator=generator)) for shape in shapes]
    x[0] = pk.Dropout(0.5).train()(x[0])
    with torch.no_grad():
        current = sum(s(part.dense().flatten(0, 1)) for s, part in zip(synapses, x, strict=True)).unflatten(0, (T, N))
    expected, v_expected = reference.if_scan(current, v_threshold=1.5)
    y, v = pk.FusedIFSum(*synapses, v_threshold=1.5).eval().spike(tuple(x))
    assert equal(y.dense(), expected) and equal(v, v_expected) and 0 < expected.mean() < 1


def test_a_shortcut_meets_packed_spikes(generator):
    """No kernel adds it to the currents of real values."""
    weight, added = torch.eye(4), pk.pack(spikes(5, 2, 4, generator=generator))
    with pytest.raises(TypeError, match="x must be Spikes beside a shortcut"):
        neuron_ops.linear(torch.rand(5, 2, 4), weight, None, None, pk.neurons.IFNeuron(), shortcut=added)


def test_bad_sums():
    x = torch.zeros(2, 1, 4, 6, 6)
    layer = pk.FusedIFSum(nn.Conv2d(4, 4, 3), nn.Identity())
    with pytest.raises(TypeError, match="x must be a tuple of 2 inputs, one for each synapse; got Tensor"):
        layer(x)
    with pytest.raises(TypeError, match="got 3 inputs"):
        layer((x, x, x))
    with pytest.raises(ValueError, match=r"same shape .* got \[\(2, 1, 4, 4, 4\), \(2, 1, 4, 6, 6\)\]"):
        layer((x, x))
    for empty in (x[:0], torch.tensor(1.0)):
        with pytest.raises(ValueError, match="x must have at least one step"):
            pk.FusedIFSum(nn.Identity(), nn.Identity())((empty, empty))
    with pytest.raises(TypeError, match="a synapse must be nn.Conv2d, nn.Conv1d, nn.Linear or nn.Identity, got ReLU"):
        pk.FusedIFSum(nn.ReLU())
    with pytest.raises(ValueError, match="at least one module"):
        pk.FusedIFSum()
    with pytest.raises(ValueError, match="padding_mode must be 'zeros'"):
        pk.FusedIFSum(nn.Conv2d(4, 4, 3, padding_mode="reflect"))


def given(shapes, kind):
    x = [spikes(3, 2, *shape, generator=torch.Generator().manual_seed(0), rate=0.5) for shape in shapes]
    packed = {"spikes": len(x), "real": 0, "mixed": 1}[kind]
    return tuple(pk.pack(part) if k < packed else part * 0.5 for k, part in enumerate(x))


@pytest.mark.parametrize("kind", ["spikes", "real", "mixed"])
@pytest.mark.parametrize("name", [name for name in SUMS if not name.startswith("identity")])
def test_inputs_that_the_weights_of_a_sum_do_not_fit(name, kind):
    """Kernels would read weights that there are not, or take those of another input."""
    synapses, shapes = SUMS[name]
    layer = pk.FusedIFSum(*synapses)
    for k, synapse in enumerate(synapses):
        if isinstance(synapse, nn.Identity):
            continue
        wrong = [*shapes[:k], (shapes[k][0] * 2, *shapes[k][1:]), *shapes[k + 1 :]]
        with pytest.raises(ValueError, match=r"x must have (C_in = )?\d+.*, as weights .* take (it|them), got"):
            layer(given(wrong, kind))


@pytest.mark.parametrize("kind", ["spikes", "real", "mixed"])
def test_images_that_are_too_small_for_a_sum(kind):
    layer = pk.FusedIFSum(nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3))
    with pytest.raises(ValueError, match=r"kernel_size \(3, 3\) .* is larger than the input \(1, 1\)"):
        layer(given([(4, 1, 1)] * 2, kind))
    with pytest.raises(ValueError, match=r"a matrix product must have the shape .*, got \(3, 2, 4, 1, 1\)"):
        pk.FusedIFSum(nn.Linear(4, 6))(given([(4, 1, 1)], kind))


@pytest.mark.parametrize("kind", ["spikes", "real", "mixed"])
@pytest.mark.parametrize("name", ["two-windows", "pointwise-main", "groups", "linear"])
@pytest.mark.parametrize(
    ("parameter", "change", "error"),
    [
        ("bias", lambda bias: bias[:3], r"bias must have the shape \[\d\], .* got \[3\]"),
        ("weight", lambda weight: weight[:0], r"weight must have the shape .*, got \[0, "),
        ("weight", lambda weight: weight.to("meta"), "weight is on meta and the input on cpu"),
    ],
    ids=["bias", "no weights", "device"],
)
def test_bad_parameters_of_a_sum(name, kind, parameter, change, error):
    synapses, shapes = SUMS[name]
    layer = copy.deepcopy(pk.FusedIFSum(*synapses))
    setattr(layer.synapses[0], parameter, nn.Parameter(change(getattr(layer.synapses[0], parameter).detach())))
    with pytest.raises(ValueError, match=error):
        layer(given(shapes, kind))


@pytest.mark.parametrize("constant", [True, False])
def test_concatenation_keeps_types_as_torch_does(generator, constant):
    x = torch.rand(3, 2, 4, generator=generator, dtype=torch.float64) * 9
    x = x[:1].expand_as(x) if constant else x
    for types in ((torch.float64,) * 2, (torch.float16,) * 2, (torch.uint8,) * 2, (torch.float64, torch.float32)):
        parts = [x[:1].to(dtype).expand_as(x) if constant else x.to(dtype) for dtype in types]
        y, expected = pk.Concatenate()(parts), torch.cat(parts, 2)
        assert y.dtype == expected.dtype and y.any() and equal(y, expected)
        assert (y.stride(0) == 0) == constant
    bits = pk.pack(spikes(3, 2, 4, generator=generator))
    assert equal(pk.Concatenate()((bits, x)), torch.cat([bits.dense().double(), x], 2))


def test_potential_to_start_from(generator):
    current = dyadic(9, 2, 3, 4, 4, generator=generator)
    expected, v = reference.if_scan(current, torch.full((2, 3, 4, 4), 0.5), v_reset=None)
    layer = pk.IF(v_reset=None, v_init=0.5)
    assert equal(layer(current), expected) and "v_init=0.5" in repr(layer)
    assert equal(pk.if_scan(current, 0.5, v_reset=None)[1], v)
    with pytest.raises(ValueError, match="v_init must be finite"):
        pk.IF(v_init=float("nan"))
    with pytest.raises(TypeError, match="v_init must be a number"):
        pk.FusedIFLinear(2, 3, v_init="half")
    with pytest.raises(ValueError, match="v must be finite"):
        pk.if_scan(current, float("inf"))


def test_joined_weights_are_kept_and_never_stale(generator):
    """Weights beside each other are made once; a write that no version counter sees is noticed."""
    layer = pk.FusedIFSum(nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(5, 9, 1), v_reset=None).eval()
    for parameter in layer.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    x = tuple(pk.pack(spikes(20, 2, C, 5, 5, generator=generator)) for C in (8, 5))
    first = layer(x).dense()
    weight, _ = layer._joined((1, 1), layer.synapses)
    assert layer._joined((1, 1), layer.synapses)[0] is weight
    layer.synapses[1].weight.data.numpy()[:] += 1
    second = layer(x).dense()
    assert layer._joined((1, 1), layer.synapses)[0] is not weight and first.any() and second.sum() > first.sum()
    layer.synapses[1].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="weight must be finite"):
        layer(x)


T = 37
ORDERS = {
    "shuffle": [4, 0, 5, 1, 2, 3],
    "part": [5, 2],
    "repeated": [1, 1, 0] * 30,
    "zeros": [-1, 3, -1, 0],
    "same": list(range(6)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [(3, 5), (7,), ()], ids=["image", "row", "features"])
def test_channels(generator, order, size):
    x, index = spikes(T, 2, 6, *size, generator=generator), torch.tensor(ORDERS[order])
    expected = x[:, :, index] * (index >= 0).view(-1, *[1] * len(size))
    layer = pk.Channels(index)
    assert expected.any() and equal(layer(x), expected) and equal(layer(pk.pack(x)).dense(), expected)
    assert not layer.state_dict()


@pytest.mark.parametrize("size", [(2, 3, 5), (6, 5)], ids=["image", "row"])
def test_features_become_images_and_back(generator, size):
    x = spikes(T, 2, 30, generator=generator)
    layer = pk.Unflatten(size)
    packed = layer(pk.pack(x))
    assert x.any() and equal(packed.dense(), x.view(T, 2, *size)) and equal(layer(x), packed.dense())
    assert equal(pk.Flatten()(packed).dense(), x)


def test_a_held_input_stays_held(generator):
    x = torch.rand(2, 6, 4, generator=generator).expand(T, 2, 6, 4)
    assert pk.Channels(torch.tensor([3, 1]))(x).stride(0) == 0


def test_spikes_that_repeat_themselves_and_that_count_more(generator):
    """Of neurons on a held input, kept as periods; behind Dropout, which scales them."""
    current = torch.rand(2, 6, 3, 5, generator=generator)
    periodic, _ = pk.if_hold(current, T)
    expected = periodic.dense()[:, :, [2, 0]]
    assert expected.any() and equal(pk.Channels(torch.tensor([2, 0]))(periodic).dense(), expected)
    torch.manual_seed(0)
    dropped = pk.Dropout(0.5).train()(periodic)
    moved = pk.Channels(torch.tensor([2, 0]))(dropped)
    assert moved.scale == 2 and equal(moved.dense(), dropped.dense()[:, :, [2, 0]])


def test_gradients_go_where_the_values_came_from(generator):
    torch.manual_seed(0)
    conv = pk.use_surrogate(pk.FusedIFConv2d(2, 6, 3, padding=1, v_threshold=0.5), pk.ATan(2.0)).train()
    x, weights = spikes(5, 2, 2, 4, 4, generator=generator), torch.randn(5, 2, 3, 4, 4, generator=generator)
    gradients = []
    for given in (x, pk.pack(x)):
        conv.zero_grad()
        y = pk.Unflatten((3, 4, 4))(pk.Flatten()(pk.Channels(torch.tensor([5, 5, 1]))(conv(given))))
        y = y.dense() if isinstance(y, pk.Spikes) else y
        assert y.any()
        (y * weights).sum().backward()
        gradients.append(conv.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0][5].any() and gradients[0][1].any() and not gradients[0][[0, 2, 3, 4]].any()


def test_networks_with_them_compile_and_copy(generator):
    import copy

    net = nn.Sequential(pk.FusedIFLinear(4, 12), pk.Unflatten((3, 2, 2)), pk.Channels(torch.tensor([2, 0]))).eval()
    nn.init.uniform_(net[0].weight)
    x = spikes(T, 2, 4, generator=generator)
    expected = copy.deepcopy(net)(x)
    assert expected.any() and equal(torch.compile(net, fullgraph=True, backend="eager")(x), expected)


BAD = {
    "index": (lambda: pk.Channels([1, 2]), TypeError, "index must be a tensor of int64, got list"),
    "index type": (lambda: pk.Channels(torch.ones(2)), TypeError, "index must be a tensor of int64, got torch.float32"),
    "negative": (lambda: pk.Channels(torch.tensor([-2])), ValueError, "numbers of at least 0, or -1 for zeros"),
    "missing": (
        lambda: pk.Channels(torch.tensor([4]))(torch.zeros(2, 1, 3, 2)),
        ValueError,
        r"x must have at least 5 channels, which index names; got \[2, 1, 3, 2\]",
    ),
    "size": (lambda: pk.Unflatten(3), TypeError, r"size must be \(C, H, W\) or \(C, L\), got 3"),
    "features": (
        lambda: pk.Unflatten((2, 2))(torch.zeros(2, 1, 5)),
        ValueError,
        r"x must have 4 features to become \(2, 2\), got \[2, 1, 5\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


MAX_T = 9
LAYERS = {
    "images": (lambda **o: pk.RunningMaxPool2d(2, **o), (3, 6, 5), F.max_pool2d),
    "rows": (lambda **o: pk.layers.RunningMaxPool1d(2, **o), (3, 7), F.max_pool1d),
}
WINDOWS = {"plain": {}, "overlapping": {"stride": 1, "padding": 1}, "ceil": {"ceil_mode": True}}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", LAYERS)
def test_against_the_definition(generator, kind, window):
    make, size, pool = LAYERS[kind]
    layer, options = make(**WINDOWS[window]), WINDOWS[window]
    moving = dyadic(MAX_T, 2, *size, generator=generator)
    held = dyadic(2, *size, generator=generator).expand(MAX_T, 2, *size)
    for x in (moving, held, spikes(MAX_T, 2, *size, generator=generator)):
        maxima = torch.stack([pool(sums, 2, **options) for sums in x.cumsum(0)])
        expected = maxima.diff(dim=0, prepend=pool(torch.zeros_like(x[:1])[0], 2, **options).unsqueeze(0))
        y, v = layer.spike(x)
        assert expected.any() and equal(y, expected) and equal(v, x.sum(0))
        first, between = layer.spike(x[:4])
        rest, after = layer.spike(x[4:], between)
        assert equal(torch.cat([first, rest]), expected) and equal(after, v)
        assert equal(layer(x), expected)
    assert equal(layer(pk.pack(x)), expected)
    assert layer(held).stride(0) == 0


def test_the_mean_is_the_maximum_of_the_means(generator):
    """Which the maximum of each step is not."""
    x = dyadic(200, 1, 1, 4, 4, generator=generator)
    maximum = F.max_pool2d(x.mean(0), 2)
    torch.testing.assert_close(pk.RunningMaxPool2d(2)(x).mean(0), maximum)
    assert (pk.MaxPool2d(2)(x).mean(0) > maximum + 0.5).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_without_steps_nothing_changes(kind):
    make, size, pool = LAYERS[kind]
    x, sums = torch.zeros(0, 2, *size), torch.ones(2, *size)
    assert make()(x).shape == (0, *pool(sums, 2).shape)
    y, v = make()(x, sums)
    assert y.shape == (0, *pool(sums, 2).shape) and equal(v, sums)


def test_in_networks(generator):
    """Chunks, states, samples that are stopped; gradients, exported graphs."""
    torch.manual_seed(0)
    net = nn.Sequential(pk.RunningMaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(8, 3)).eval()
    net[2].weight.data.abs_()
    x = dyadic(MAX_T, 2, 2, 4, 4, generator=generator)
    whole = pk.simulate(net, x, MAX_T)
    chunked = layerwise.simulate(net, x, MAX_T, chunk=2)
    first = pk.simulate(net, x[:5], 5)
    rest = pk.simulate(net, x[5:], 4, state=first.state)
    assert whole.count().any() and equal(chunked.count(), whole.count())
    assert equal(first.count() + rest.count(), whole.count())
    stopped = layerwise.simulate(net, x, MAX_T, chunk=1, stop=lambda counts, t: torch.arange(len(counts)) < (t >= 4))
    assert stopped.steps.min() == 4
    expected = net(x)
    assert equal(torch.export.export(net, (x,)).module()(x), expected)
    given = x.clone().requires_grad_()
    net[0].train()(given).sum().backward()
    assert given.grad.any()


def test_bad_maximum():
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C, H, W\), got \[2, 1, 4\]"):
        pk.RunningMaxPool2d(2)(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C, L\)"):
        pk.layers.RunningMaxPool1d(2)(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        pk.RunningMaxPool2d(0)
