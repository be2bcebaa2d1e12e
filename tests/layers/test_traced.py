"""Networks in traced graphs: exported and compiled for any number of steps and samples, and for any kind of input."""

import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

import proxykernels as pk

STRICT = [pytest.param(False, id=""), pytest.param(True, id="strict", marks=pytest.mark.slow)]
STEPS, SAMPLES = torch.export.Dim("T"), torch.export.Dim("N")


class EveryLayer(nn.Module):
    """Every kind of layer, a shortcut, and one that no single convolution computes."""

    def __init__(self):
        super().__init__()
        self.stem = pk.FusedIFConv2d(2, 8, 3, padding=1, batch_norm=True, v_init=0.5, v_reset=None)
        self.pool = pk.MaxPool2d(2)
        self.conv = pk.FusedIFConv2d(8, 8, 3, padding="same", bias=False)
        self.join = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), v_reset=None)
        self.odd = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.average = pk.AvgPool2d(2)
        self.again = pk.IF()
        self.flatten = pk.Flatten()
        self.last = pk.FusedIFLinear(8 * 9, 5, v_reset=None)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.odd((x, self.join((self.conv(x), x))))
        return self.last(self.flatten(self.again(self.average(x))))


@pytest.fixture
def net(generator):
    net = EveryLayer().eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    net.stem.bn.weight.data.fill_(1.0)
    net.stem.bn.eps = 0.5
    net.stem.bn.running_var.fill_(0.5)  # 1 with eps: its folding is exact then
    return net


def inputs(generator, T: int = 20, N: int = 2) -> dict[str, torch.Tensor]:
    """A held input, a sequence, and spikes."""
    image = dyadic(N, 2, 12, 12, generator=generator).abs()
    moving = dyadic(T, N, 2, 12, 12, generator=generator).abs()
    return {"held": image.expand(T, *image.shape), "moving": moving, "spikes": (moving > 0.25).float()}


def assert_same(traced, net, x):
    expected = net(x)
    assert equal(traced(x), expected) and 0.02 < expected.mean() < 0.98


@pytest.mark.parametrize("strict", STRICT)
@pytest.mark.parametrize("example", ["held", "moving"])
def test_export_is_right_for_every_kind_of_input(net, generator, example, strict):
    """Whether the example was held is no part of what is exported."""
    examples = inputs(generator)
    exported = torch.export.export(net, (examples[example],), strict=strict).module()
    for x in examples.values():
        assert_same(exported, net, x)


@pytest.mark.long
@pytest.mark.parametrize("strict", STRICT)
def test_export_with_any_number_of_steps_and_samples(net, generator, strict):
    examples = inputs(generator)
    shapes = ({0: STEPS, 1: SAMPLES},)
    exported = torch.export.export(net, (examples["held"],), dynamic_shapes=shapes, strict=strict).module()
    for T, N in ((20, 2), (33, 5), (70, 1), (2, 3)):
        for x in inputs(generator, T, N).values():
            assert_same(exported, net, x)


@pytest.mark.slow
def test_compiled_for_every_kind_of_input_and_size(net, generator):
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for T, N in ((20, 2), (33, 5), (40, 3)):
        for x in inputs(generator, T, N).values():
            assert_same(compiled, net, x)


@pytest.mark.slow
def test_compiled_for_any_size_at_once(generator):
    """Fewer layers: one is compiled four times, for a second or two each."""
    torch._dynamo.reset()
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding="same"), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(288, 5)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for T, N in ((20, 2), (33, 5), (40, 3)):
        for x in inputs(generator, T, N).values():
            assert_same(compiled, net, x)


def test_a_held_input_is_convolved_once_in_an_exported_graph(generator, monkeypatch):
    from proxykernels.kernels import unfused

    net = pk.FusedIFConv2d(2, 8, 3).eval()
    examples = inputs(generator)
    exported = torch.export.export(net, (examples["moving"],)).module()
    seen, conv2d = [], unfused.conv2d
    monkeypatch.setattr(unfused, "conv2d", lambda x, *rest: seen.append(len(x)) or conv2d(x, *rest))
    exported(examples["held"])
    assert seen == [1]


def converted(generator) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    ann = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(8 * 9, 5),
    )  # fmt: skip
    images = torch.rand(8, 2, 12, 12, generator=generator)
    return pk.convert(ann, images), images


@pytest.mark.long
@pytest.mark.parametrize("strict", STRICT)
def test_converted_networks_are_exported(generator, strict):
    """Their maxima are of counts: MaxRatePool2d packs what the layer before gives as a tensor."""
    net, images = converted(generator)
    shapes = ({0: STEPS, 1: SAMPLES},)
    x = images[:2].expand(20, *images[:2].shape)
    exported = torch.export.export(net, (x,), dynamic_shapes=shapes, strict=strict).module()
    for T, N in ((20, 2), (33, 5), (2, 3)):
        assert_same(exported, net, torch.rand(T, N, 2, 12, 12, generator=generator))
        assert_same(exported, net, images[:N].expand(T, *images[:N].shape))


@pytest.mark.slow
def test_converted_networks_are_compiled(generator):
    torch._dynamo.reset()
    net, images = converted(generator)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for T, N in ((20, 2), (33, 5)):
        assert_same(compiled, net, images[:N].expand(T, *images[:N].shape))


def test_a_graph_refuses_what_pack_refuses(generator):
    torch._dynamo.reset()
    pool, x = pk.MaxRatePool2d(2), (torch.rand(5, 2, 3, 4, 4, generator=generator) < 0.5).float()
    exported = torch.export.export(pool, (x,)).module()
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for traced in (exported, compiled):
        assert equal(traced(x), pool(x)) and x.any()
        with pytest.raises(RuntimeError, match="dense must hold spikes"):
            traced(x / 2)


class Trained(nn.Module):
    """Layers with a surrogate derivative: in front of values, of spikes, of a sum, and alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = pk.FusedIFConv2d(2, 8, 3, padding=1, v_reset=None), pk.MaxPool2d(2)
        self.join = pk.FusedIFSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), v_reset=None)
        self.average, self.again, self.flatten = (
            pk.AvgPool2d(2),
            pk.LIF(decay=0.5, v_threshold=0.25, v_reset=None),
            pk.Flatten(),
        )
        self.last = pk.FusedIFLinear(8 * 9, 5, v_reset=None)

    def forward(self, x):
        x = self.pool(self.stem(x))
        return self.last(self.flatten(self.again(self.average(self.join((x, x))))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["held", "moving", "spikes"])
def test_training_is_compiled_without_graph_breaks(generator, kind):
    torch._dynamo.reset()
    net = pk.use_surrogate(Trained(), pk.Triangle(1.0))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=12)
    x = inputs(generator)[kind]
    grad = dyadic(*x.shape[:2], 5, generator=generator)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    y, z = net(x), compiled(x)
    assert equal(y, z) and 0.02 < y.mean() < 0.98
    expected, found = (torch.autograd.grad(out, list(net.parameters()), grad) for out in (y, z))
    assert all(e.any() for e in expected)
    for e, f in zip(expected, found, strict=True):
        assert torch.allclose(e, f, rtol=1e-5, atol=1e-5 * e.abs().max().item())
