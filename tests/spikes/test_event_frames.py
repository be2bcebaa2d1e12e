"""Event frames: bool, integers and floats give the same, in batches of loaders, without a needless copy."""

import layerwise
import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn
from torch.utils.data import DataLoader

import proxykernels as pk

T, N = 40, 3
TYPES = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64]


def frames(generator, most: int = 1) -> torch.Tensor:
    """Events a pixel and step, float32 [T, N, 2, 8, 8], up to ``most``."""
    events = torch.randint(0, most + 1, (T, N, 2, 8, 8), generator=generator)
    return (events * (torch.rand(events.shape, generator=generator) < 0.3)).float()


def layers(generator) -> dict[str, nn.Module]:
    """Networks by their first layer, with weights whose sums are exact."""
    convolution, one_axis = pk.FusedIFConv2d(2, 5, 3, padding=1), pk.FusedIFConv1d(2, 5, 3)
    normalised, linear = pk.FusedIFConv2d(2, 5, 3, batch_norm=True), pk.FusedIFLinear(128, 6)
    join = pk.FusedIFSum(nn.Conv2d(2, 2, 3, padding=1), nn.Identity())
    for layer in (convolution, one_axis, normalised, linear, join.synapses[0]):
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
        layer.bias.data = dyadic(*layer.bias.shape, generator=generator, unit=1 / 64)
    normalised.bn.weight.data.fill_(2.0)
    return {
        "convolution": convolution,
        "normalised": normalised.eval(),
        "linear": nn.Sequential(pk.Flatten(), linear),
        "neurons": pk.IF(v_threshold=2.0),
        "max-pooling": nn.Sequential(pk.MaxPool2d(2), pk.IF(v_threshold=1.5)),
        "average": nn.Sequential(pk.AvgPool2d(2), pk.IF(v_threshold=0.5)),
        "adaptive": nn.Sequential(pk.AdaptiveAvgPool2d(2), pk.IF(v_threshold=0.5)),
        "sum": _Join(join),
    }


class _Join(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.join = join

    def forward(self, x):
        return self.join((x, x))


NAMES = ["convolution", "normalised", "linear", "neurons", "max-pooling", "average", "adaptive", "sum"]


@pytest.mark.alike
@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_every_type_gives_the_same(generator, name, most):
    net, x = layers(generator)[name], frames(generator, most)
    expected = pk.simulate(net, x, T)
    assert 0.01 < expected.spikes.rate() < 0.9
    for dtype in TYPES if most == 1 else TYPES[1:]:
        for chunk in (None, 7):
            result = layerwise.simulate(net, x.to(dtype), T, chunk=chunk)
            assert equal(result.spikes.dense(), expected.spikes.dense()), dtype
        direct = net.eval()(x.to(dtype))  # without simulate
        assert equal(direct.dense() if isinstance(direct, pk.Spikes) else direct.float(), expected.spikes.dense())


def test_counts_are_currents(generator):
    """n events of a pixel count n times its weight, and integers may be negative."""
    layer = layers(generator)["convolution"]
    x = frames(generator, 5).to(torch.int16)
    signed = x * (1 - 2 * torch.randint(0, 2, x.shape, generator=generator, dtype=torch.int16))
    for counts in (x, signed):
        current = nn.functional.conv2d(counts.float().flatten(0, 1), layer.weight, layer.bias, padding=1)
        expected, _ = pk.if_scan(current.unflatten(0, (T, N)))
        assert equal(pk.simulate(layer, counts, T).spikes.dense(), expected.dense()) and expected.rate() > 0.01


@pytest.mark.parametrize("dtype", TYPES[:4])
def test_in_training_normalisation_takes_counts(generator, dtype):
    layer = layers(generator)["normalised"].train()
    x = frames(generator, 1 if dtype == torch.bool else 5)
    with torch.no_grad():
        expected = layer(x)
        assert equal(layer(x.to(dtype)).float(), expected) and expected.mean() > 0.01


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.int64])
def test_rounded_weights_take_counts(generator, dtype):
    x = frames(generator, 1 if dtype == torch.bool else 5)
    net = nn.Sequential(pk.FusedIFConv2d(2, 5, 3), pk.Flatten(), pk.FusedIFLinear(180, 4, v_threshold=0.1))
    expected = pk.simulate(net, x, T, precision="int16").spikes
    assert expected.rate() > 0
    assert equal(pk.simulate(net, x.to(dtype), T, precision="int16").spikes.dense(), expected.dense())


def test_frames_of_a_loader(generator):
    """[N, T, ...] becomes [T, N, ...] as a view, and gives what the copy gives."""
    x = frames(generator, 4).to(torch.int16)
    net = layers(generator)["convolution"]
    model = pk.ProxyNet(nn.Sequential(net, pk.Flatten(), pk.FusedIFLinear(320, 4)), T)
    (batch,) = DataLoader(list(x.transpose(0, 1)), batch_size=N)
    assert batch.shape == (N, T, 2, 8, 8)
    view = pk.time_first(batch)
    assert view.shape == x.shape and view.data_ptr() == batch.data_ptr()
    assert equal(pk.simulate(net, view, T).spikes.dense(), pk.simulate(net, x, T).spikes.dense())
    assert equal(model(view), model(x)) and pk.simulate(net, x, T).spikes.rate() > 0.01
    torch.testing.assert_close(model.ann(view), model.ann(x))
    spikes = pk.pack(pk.time_first(batch.clamp(max=1).bool()))
    assert equal(spikes.dense(torch.int16), x.clamp(max=1))


def test_frames_are_not_copied_as_a_whole(generator, monkeypatch):
    """A chunk of steps is converted at a time, and the twin's mean takes a step at a time."""
    x = frames(generator, 4).to(torch.int16)
    taken = []
    to_float = torch.Tensor.float

    def watched(self):
        taken.extend([] if self.is_floating_point() else [self.numel()])
        return to_float(self)

    monkeypatch.setattr(torch.Tensor, "float", watched)
    net = layers(generator)["convolution"]
    layerwise.simulate(net, x, T, chunk=8)
    pk.ProxyNet(net, T).ann(x)
    assert 0 < max(taken) <= 8 * x[0].numel()


def test_pooling_of_bool(generator):
    x = frames(generator).bool()
    pooled = pk.MaxPool2d(2)(x)
    assert pooled.dtype == torch.bool and pooled.any()
    assert equal(pooled.float(), pk.MaxPool2d(2)(x.float()))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_counts_are_rearranged(generator, dtype):
    """Which few functions of torch take: in the order of numpy's, up to the largest."""
    bits = torch.iinfo(dtype).bits
    x = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, (T, 2, 3, 6, 5), generator=generator)
    x = x.to({16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]).view(dtype)
    numbers = x.numpy()
    blocks = numbers[..., :4].reshape(T, 2, 3, 3, 2, 2, 2)
    pooled = pk.MaxPool2d(2)(x)
    assert pooled.dtype == dtype and (pooled.numpy() == blocks.max((4, 6))).all()
    assert (pk.layers.MaxPool1d(2)(x[..., 0, :]).numpy() == numbers[..., 0, :4].reshape(T, 2, 3, 2, 2).max(-1)).all()
    constant = pk.MaxPool2d(2)(x[:1].expand(T, 2, 3, 6, 5))
    assert constant.stride(0) == 0 and equal(constant[3], pooled[0])
    moved = pk.Channels(torch.tensor([2, -1]))(x)
    assert moved.dtype == dtype and (moved[:, :, 0].numpy() == numbers[:, :, 2]).all()
    assert not moved[:, :, 1].numpy().any()
