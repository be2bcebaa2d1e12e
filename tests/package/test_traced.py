"""Networks in traced graphs: exported and compiled for any number of steps and samples, and for any kind of input."""

import pytest
import torch
from cases import dyadic
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
    assert torch.equal(traced(x), expected) and 0.02 < expected.mean() < 0.98


@pytest.mark.parametrize("strict", STRICT)
@pytest.mark.parametrize("example", ["held", "moving"])
def test_export_is_right_for_every_kind_of_input(net, generator, example, strict):
    """Whether the example was held is no part of what is exported."""
    examples = inputs(generator)
    exported = torch.export.export(net, (examples[example],), strict=strict).module()
    for x in examples.values():
        assert_same(exported, net, x)


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
