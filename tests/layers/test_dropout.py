"""Dropout: one mask for all steps, chunks and both twins; what is kept counts 1 / (1 - p), in packed spikes too."""

import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, spikes, words_over_time
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.running.simulate import samples
from proxykernels.spikes import storage

T, N = 40, 6


@pytest.fixture
def dropped(generator):
    """Spikes behind a Dropout, which the next layer counts twice."""
    torch.manual_seed(0)
    y = pk.Dropout(0.5)(pk.pack(spikes(T, N, 10, 4, 6, generator=generator, rate=0.4)))
    assert y.scale == 2 and 0.1 < y.rate() < 0.3
    return y


def held_spikes(generator):
    """Spikes that are kept as periods."""
    return pk.if_hold(torch.rand(N, 10, 4, 6, generator=generator) / 2, T)[0]


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["words", "periods", "features"])
def test_same_units_at_every_step(generator, kind, p):
    dense = spikes(T, N, 10, 4, 6, generator=generator, rate=0.9)
    x = held_spikes(generator) if kind == "periods" else pk.pack(dense.flatten(2) if kind == "features" else dense)
    torch.manual_seed(1)
    y = pk.Dropout(p)(x)
    assert isinstance(y, pk.Spikes) and y.shape == x.shape and y.scale == 1 / (1 - p)
    fires, silent = y.count() > 0, (y.count() == 0) & (x.count() > 0)
    assert equal(y.count(), x.count() * fires)
    assert abs(silent.sum() / (x.count() > 0).sum() - p) < 0.1
    per_sample = (y.count() > 0).flatten(1).float()
    assert not torch.equal(per_sample[0], per_sample[1])
    torch.manual_seed(1)
    assert equal(pk.Dropout(p)(x.dense()), y.dense()) and y.dense().max() == torch.tensor(1 / (1 - p))


@pytest.mark.parametrize("steps", [1, 32, 45])
def test_words_over_time(generator, steps):
    dense = spikes(steps, 2, 5, 6, generator=generator, rate=0.7).bool()
    chosen = spikes(2, 5, 6, generator=generator, rate=0.5).bool()
    assert equal(storage.of_neurons(words_over_time(dense), chosen), words_over_time(dense & chosen)) and dense.any()


OPERATIONS = {
    "max-pool": (pk.MaxPool2d(2), pk.MaxPool2d(2)),
    "average-pool": (pk.AvgPool2d(2), pk.AvgPool2d(2)),
    "adaptive-pool": (pk.AdaptiveAvgPool2d((4, 6)), nn.Identity()),
    "flatten": (pk.Flatten(), pk.Flatten()),
    "steps": (lambda x: x[5:31], lambda x: x[5:31]),
    "device": (lambda x: x.to("cpu"), nn.Identity()),
    "samples": (lambda x: samples(x, torch.tensor([4, 1])), lambda x: x[:, [4, 1]]),
    "dropout": (pk.Dropout().eval(), nn.Identity()),
    "joined": (lambda x: pk.spikes.spikes.cat_steps([x[:32], x[32:]]), nn.Identity()),
    "channels": (lambda x: pk.spikes.spikes.cat_channels([x, x]), lambda x: torch.cat([x, x], 2)),
    "padding": (pk.ZeroPad2d(1), pk.ZeroPad2d(1)),
    "upsampling": (pk.Upsample(scale_factor=2), pk.Upsample(scale_factor=2)),
    "concatenation": (
        lambda x: pk.Concatenate()((x, pk.pack(x.dense(torch.bool)))),
        lambda x: torch.cat([x, x / 2], 2),
    ),
    "as-array": (lambda x: torch.as_tensor(x.__array__()), nn.Identity()),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_scale_goes_along(dropped, name):
    """What is done to the spikes is done to what they count."""
    packed_way, dense_way = OPERATIONS[name]
    y = packed_way(dropped)
    y = y.dense() if isinstance(y, pk.Spikes) else y
    assert equal(y, dense_way(dropped.dense())) and y.max() == 2


def test_max_rate_pooling_keeps_the_scale(dropped):
    y = pk.MaxRatePool2d(2)(dropped)
    bits = pk.pack(dropped.dense(torch.bool))
    assert equal(y.dense(), 2 * pk.MaxRatePool2d(2)(bits).dense()) and y.rate() > 0


@pytest.mark.parametrize("T", [4, 200], ids=["dense", "packed"])
def test_max_rate_pooling_of_tensors_behind_dropout(generator, T):
    """Whether they are small, and dense, or not."""
    y = pk.Dropout(0.5).train()(pk.IF()(torch.rand(T, 1, 4, 4, 4, generator=generator)))
    for pool, x in ((pk.MaxRatePool2d(2), y), (pk.layers.MaxRatePool1d(2), y[:, :, 0])):
        z = pool(x)
        assert z.any() and equal(z, 2 * pool((x != 0).float()))
    y[-1, 0, 0, 0, 0] = 1.5
    with pytest.raises(ValueError, match="0 and one value, and holds others"):
        pk.MaxRatePool2d(2)(y)


def test_pixels_keep_the_scale(dropped):
    assert dropped._at(torch.tensor([2, 3])).scale == dropped._sized(1, 24).scale == 2


class Pair(nn.Module):
    """A sum's inputs, one of them as it was before the Dropout."""

    def __init__(self, *synapses):
        super().__init__()
        self.join = pk.FusedIFSum(*synapses, v_threshold=2.0)

    def forward(self, x):
        before = pk.pack(x.dense(torch.bool)) if isinstance(x, pk.Spikes) else x.bool().float()
        return self.join((x, before))


LAYERS = {
    "convolution": (lambda: pk.FusedIFConv2d(10, 7, 3, padding=1), 5),
    "groups": (lambda: pk.FusedIFConv2d(10, 10, 3, groups=10), 5),
    "normalised": (lambda: pk.FusedIFConv2d(10, 7, 3, batch_norm=True), 5),
    "one-axis": (lambda: pk.FusedIFConv1d(10, 7, 3), 4),
    "linear": (lambda: pk.FusedIFLinear(240, 7), 3),
    "neurons": (lambda: pk.IF(v_threshold=3.0), 5),
    "leaky": (lambda: pk.FusedLIFConv2d(10, 7, 3, decay=0.5, v_threshold=0.5), 5),
    "leaky-linear": (lambda: pk.FusedLIFLinear(240, 7, decay=0.5), 3),
    "readout": (lambda: pk.FusedLILinear(240, 7, decay=0.5), 3),
    "sum": (lambda: Pair(nn.Conv2d(10, 10, 3, padding=1), nn.Identity()), 5),
    "sum-of-products": (lambda: Pair(nn.Linear(240, 240), nn.Identity()), 3),
}


@pytest.mark.parametrize("kind", ["words", "periods"])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_scaled_and_biases_are_not(generator, name, kind):
    """The layer on packed spikes gives what it gives on real values of 0 and 2."""
    make, dims = LAYERS[name]
    net = make().eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, unit=1 / 32)
    x = held_spikes(generator) if kind == "periods" else pk.pack(spikes(T, N, 10, 4, 6, generator=generator))
    x = pk.Flatten()(x) if dims == 3 else x._sized(24) if dims == 4 else x
    torch.manual_seed(0)
    y = pk.Dropout(0.5)(x)
    expected = net(y.dense())
    given, undropped = (z if isinstance(z, torch.Tensor) else z.dense() for z in (net(y), net(x)))
    assert equal(given, expected) and 0.01 < expected.ne(0).float().mean()
    assert (undropped != expected).any()


def passing(*layers) -> nn.Sequential:
    """Layers between neurons that fire at every step, and a readout that fires at each of their spikes."""
    last = pk.FusedIFLinear(200, 200, bias=False)
    last.weight.data = torch.eye(200)
    return nn.Sequential(pk.IF(), *layers, last)


@pytest.mark.parametrize("steps", [7, 300])
def test_twins_drop_the_same_units_through_all_chunks(steps):
    torch.manual_seed(0)
    model = pk.ProxyNet(passing(pk.Dropout(0.5)), steps)
    x = torch.ones(4, 200)
    first = model(x)
    assert set(first.unique().tolist()) == {0.0, float(steps)}
    assert equal(first > 0, model.ann_output > 0) and set(model.ann_output.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (first > 0).float().mean() < 0.6
    assert not torch.equal(model(x), first)  # drawn anew


def test_a_chunk_of_simulate_does_not_draw_anew(monkeypatch):
    from proxykernels.running.simulate import Chunks

    monkeypatch.setattr(Chunks, "steps", lambda *_: 10)
    torch.manual_seed(0)
    counts = pk.ProxyNet(passing(pk.Dropout(0.5)), 45)(torch.ones(4, 200))
    assert set(counts.unique().tolist()) == {0.0, 45.0}


class Twice(nn.Module):
    """One Dropout at two places."""

    def __init__(self):
        super().__init__()
        self.neurons, self.more, self.dropout = pk.IF(), pk.IF(v_threshold=0.5), pk.Dropout(0.5)
        self.last = pk.IF()

    def forward(self, x):
        return self.last(self.dropout(self.more(self.dropout(self.neurons(x)))))


def test_a_dropout_that_is_called_twice_has_two_masks():
    torch.manual_seed(0)
    model = pk.ProxyNet(Twice(), 100)
    counts = model(torch.ones(3, 400))
    assert equal(counts > 0, model.ann_output > 0)
    assert abs((counts > 0).float().mean() - 0.25) < 0.05 and set(counts.unique().tolist()) == {0.0, 100.0}


def test_the_twin_is_a_network_with_dropout(generator):
    """Its output and gradients are those of nn.Dropout in the same place, which draws the same units from the seed."""
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFLinear(12, 40), pk.Dropout(0.3), pk.FusedIFLinear(40, 5))
    relu = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Dropout(0.3), nn.Linear(40, 5))
    relu[0].load_state_dict({"weight": net[0].weight, "bias": net[0].bias})
    relu[3].load_state_dict({"weight": net[2].weight, "bias": net[2].bias})
    x, gradient = torch.rand(8, 12, generator=generator), torch.randn(8, 5, generator=generator)
    model = pk.ProxyNet(net, 30, clip=False)
    torch.manual_seed(1)
    model(x).backward(gradient)
    torch.manual_seed(1)
    expected = relu(x)
    expected.backward(gradient)
    torch.testing.assert_close(model.ann_output, expected)
    for ours, theirs in zip(net.parameters(), relu.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert not torch.allclose(model.ann_output, model.eval().ann(x))


def test_the_spiking_network_has_the_twins_mean_current(generator):
    """Behind the Dropout the mean current of all steps is the twin's, of rates for activations."""
    net = nn.Sequential(pk.IF(v_reset=None), pk.Dropout(0.5), pk.FusedIFLinear(30, 8))
    net[2].weight.data.uniform_(0, 0.1)
    model = pk.ProxyNet(net, 400, readout="potential")
    torch.manual_seed(0)
    x = torch.rand(5, 30, generator=generator)
    potential = model(x) / 400
    torch.testing.assert_close(potential, model.ann_output, atol=0.01, rtol=0.01)
    assert (potential - model.eval()(x) / 400).abs().max() > 0.2


@pytest.mark.parametrize("way", ["evaluation", "simulate", "p", "one-layer-in-evaluation"])
def test_nothing_is_dropped(way):
    net = passing(pk.Dropout(0.0 if way == "p" else 0.5)).train(way != "evaluation")
    if way == "one-layer-in-evaluation":
        net[1].eval()
    x = torch.ones(2, 200)
    if way == "simulate":
        assert (pk.simulate(net, x, 20).count() == 20).all()
    else:
        model = pk.ProxyNet(net, 20)
        model.training = way != "evaluation"
        assert (model(x) == 20).all() and (model.ann(x) == 1).all()
        with torch.no_grad():
            assert (net(torch.ones(20, 2, 200)) == 1).all()


def test_statistics_are_measured_without_it(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.Dropout(0.9), pk.FusedIFConv2d(2, 4, 3, batch_norm=True))
    x = torch.rand(8, 2, 6, 6, generator=generator)
    pk.ProxyNet(net, 4).measure_batch_norm(x, batch=8)
    torch.testing.assert_close(net[1].bn.running_mean, F.conv2d(x, net[1].weight, net[1].bias).mean((0, 2, 3)))


def test_batch_normalisation_sees_what_is_kept(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.IF(), pk.Dropout(0.5), pk.FusedIFConv2d(2, 4, 3, batch_norm=True))
    model = pk.ProxyNet(net, 12)
    counts = model(torch.rand(8, 2, 6, 6, generator=generator))
    assert counts.sum() > 0 and net[2].bn.num_batches_tracked == 1


def test_tensors(generator):
    """Real values are scaled themselves, an input that is held stays held, and gradients go through."""
    x = torch.rand(3, 50, generator=generator, requires_grad=True)
    y = pk.Dropout(0.2)(x.expand(9, 3, 50))
    assert y.stride(0) == 0 and torch.allclose((y[0] != 0) * x / 0.8, y[0]) and (y[0] == 0).any()
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y[0] != 0) * 9 / 0.8)
    counts = torch.randint(1, 4, (9, 3, 50), generator=generator, dtype=torch.int16)
    z = pk.Dropout(0.5)(counts)
    kept = (z != 0)[0]
    assert equal(z, 2.0 * counts * kept) and 0.3 < kept.float().mean() < 0.7


def test_nir_leaves_it_out():
    nir = pytest.importorskip("nir")
    net = nn.Sequential(pk.FusedIFLinear(4, 6), pk.Dropout(), pk.FusedIFLinear(6, 2), pk.Dropout())
    graph = pk.to_nir(net, (4,))
    assert isinstance(graph, nir.NIRGraph)
    assert sum(isinstance(node, nir.IF) for node in graph.nodes.values()) == 2 and len(graph.nodes) == 6
    x = torch.ones(3, 4)
    assert equal(pk.simulate(pk.from_nir(graph), x, 30).count(), pk.simulate(net, x, 30).count())


@pytest.mark.parametrize(
    "p, error", [(1, ValueError), (-0.1, ValueError), ("a", TypeError), (float("nan"), ValueError)]
)
def test_bad_probability(p, error):
    with pytest.raises(error, match="p must be"):
        pk.Dropout(p)


def test_bad_input():
    with pytest.raises(TypeError, match="x must be Spikes or a tensor"):
        pk.Dropout()([1.0])
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, ...\), got \[4, 3\]"):
        pk.Dropout()(torch.zeros(4, 3))
    with pytest.raises(TypeError, match="layer 1: x must be Spikes or a tensor .* got tuple"):
        pk.simulate(nn.Sequential(_Twins(), pk.Dropout(), pk.IF()), torch.zeros(2, 3), 4)


class _Twins(nn.Module):
    def forward(self, x):
        return x, x
