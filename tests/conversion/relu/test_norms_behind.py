"""A normalisation behind a ReLU is made part of the next weights where that is exact; else a warning says its cost."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import proxykernels as pk


def images() -> torch.Tensor:
    return torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def seen(norm: nn.Module, *, sign: float = 1.0, shift: float = 0.5) -> nn.Module:
    """``sign``: of every second factor."""
    generator = torch.Generator().manual_seed(1)
    channels = len(norm.weight)
    factors, signs = torch.rand(channels, generator=generator) + 0.5, torch.tensor([1.0, sign]).repeat(channels // 2)
    norm.weight.data, norm.bias.data = factors * signs, torch.rand(channels, generator=generator) * shift
    norm.running_mean, norm.running_var = norm.bias.data / 2, factors.flip(0)
    return norm.eval()


class Model(nn.Module):
    """Conv2d, ReLU, a normalisation, and what the forward pass does then with modules a, b, ..."""

    def __init__(self, forward, *modules, norm=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.steps = nn.Conv2d(2, 4, 3, padding=1), norm or seen(nn.BatchNorm2d(4)), forward
        for name, module in zip("abcd", modules, strict=False):
            self.add_module(name, module)

    def forward(self, x):
        return self.steps(self, self.norm(self.first(x).relu()))


def linear(features=256):
    return nn.Linear(features, 5)


FOLDED = {
    "flattened": lambda: Model(lambda m, y: m.b(m.a(y)), nn.Flatten(), linear()),
    "viewed": lambda: Model(lambda m, y: m.a(y.view(y.shape[0], -1)), linear()),
    "flattened by a function": lambda: Model(lambda m, y: m.a(torch.flatten(y, 1)), linear()),
    "convolved": lambda: Model(lambda m, y: m.a(y).relu().flatten(1), nn.Conv2d(4, 6, 3, bias=False)),
    "in groups": lambda: Model(lambda m, y: m.a(y).relu().flatten(1), nn.Conv2d(4, 6, 3, groups=2)),
    "normalised again": lambda: Model(
        lambda m, y: m.b(m.a(y)).relu().flatten(1), nn.Conv2d(4, 6, 3), seen(nn.BatchNorm2d(6))
    ),
    "maximum": lambda: Model(lambda m, y: m.b(m.a(y)).relu().flatten(1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 6, 3)),
    "average": lambda: Model(lambda m, y: m.b(m.a(y)).relu().flatten(1), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3)),
    "mean": lambda: Model(lambda m, y: m.a(y.mean((2, 3))), linear(4)),
    "maximum, flattened": lambda: Model(lambda m, y: m.b(m.a(y).flatten(1)), nn.MaxPool2d(2), linear(64)),
    "dropout": lambda: Model(lambda m, y: m.b(m.a(y).flatten(1)), nn.Dropout2d(), linear()),
    "negative factors": lambda: Model(
        lambda m, y: m.a(y.flatten(1)), linear(), norm=seen(nn.BatchNorm2d(4), sign=-1.0)
    ),
    "padding without a shift": lambda: Model(
        lambda m, y: m.a(y).relu().flatten(1), nn.Conv2d(4, 6, 3, padding=1), norm=seen(nn.BatchNorm2d(4), shift=0.0)
    ),
    "constants": lambda: Model(lambda m, y: m.a(2 * y.flatten(1)), linear(), norm=nn.Identity()),
    "twice": lambda: Model(lambda m, y: m.b(m.norm(m.a(y).relu()).flatten(1)), nn.Conv2d(4, 4, 3), linear(144)),
}  # fmt: skip
CARRIED = {
    "padding": lambda: Model(lambda m, y: m.a(y).relu().flatten(1), nn.Conv2d(4, 6, 3, padding=1)),
    "padding by name": lambda: Model(lambda m, y: m.a(y).relu().flatten(1), nn.Conv2d(4, 6, 3, padding="same")),
    "maximum of negative factors": lambda: Model(
        lambda m, y: m.b(m.a(y)).relu().flatten(1), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3),
        norm=seen(nn.BatchNorm2d(4), sign=-1.0),
    ),
    "average with padding": lambda: Model(
        lambda m, y: m.b(m.a(y)).relu().flatten(1), nn.AvgPool2d(2, 2, 1), nn.Conv2d(4, 6, 3)
    ),
    "taken twice": lambda: Model(lambda m, y: (m.a(y) + y).relu().flatten(1), nn.Conv2d(4, 4, 1)),
    "transposed": lambda: Model(lambda m, y: m.a(y).relu().flatten(1), nn.ConvTranspose2d(4, 3, 2, 2)),
    "maximum of averages": lambda: Model(
        lambda m, y: m.c(m.b(m.a(y))).relu().flatten(1), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2)
    ),
}  # fmt: skip


def off(net: pk.Network, ann: nn.Module, T: int) -> float:
    """The largest difference of the logits from the outputs, as a share of the largest output."""
    with torch.no_grad():
        wanted = ann(images())
    return ((pk.simulate(net, images(), T).logits - wanted).abs().max() / wanted.abs().max()).item()


def multiplying(net: pk.Network) -> dict[str, bool]:
    """Whether each layer multiplies: those behind averages do too, and of sigma-delta neurons those behind maxima."""
    result = pk.simulate(net, images(), 8)
    assert result.rates["first"] > 0
    return {name: result.synops.multiply_accumulates[name] > 0 for name in result.places}


@pytest.mark.parametrize("neuron", ["if", "sigma-delta"])
@pytest.mark.parametrize("name", FOLDED)
def test_spikes_go_on(name, neuron):
    ann = FOLDED[name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = pk.convert(ann, images(), neuron=neuron)
    assert off(net, ann, 512 if neuron == "if" else 16) < 0.06
    found = multiplying(net)
    if name == "constants":
        assert list(found.values()) == [True, False]
        return
    ann.norm = nn.Identity()
    assert found == multiplying(pk.convert(ann, images(), neuron=neuron))


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_not_exact_is_said(name):
    ann = CARRIED[name]().eval()
    with pytest.warns(UserWarning, match=r"'norm' behind a ReLU .* (\d+)% of all operations are products") as said:
        net = pk.convert(ann, images())
    synops = pk.simulate(net, images()[:4], 8).synops
    share = sum(synops.multiply_accumulates.values()) / synops.total
    assert f" {share:.0%} of all" in str(said[0].message) and share > 0.3
    assert [warning.filename for warning in said] == [__file__] and off(net, ann, 512) < 0.04


def test_an_average_and_a_relu_keep_their_order():
    """Of a shift below 0 the mean of positive parts is not the positive part of the mean."""
    norm = seen(nn.BatchNorm2d(4))
    norm.bias.data.fill_(-0.2)
    ann = Model(lambda m, y: m.a(F.avg_pool2d(y, 2).relu().flatten(1)), linear(64), norm=norm).eval()
    assert off(pk.convert(ann, images()), ann, 512) < 0.04


def test_no_warning_of_other_real_values():
    """Of the input's own normalisation, and of bottlenecks, whose cost docs/convert.md tells."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        seen(nn.BatchNorm2d(2)), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), linear(),
    ).eval()  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = pk.convert(ann, images())
    assert off(net, ann, 512) < 0.04


def test_own_weights_cannot_take_it():
    ann = FOLDED["flattened"]().eval()
    with pytest.raises(ValueError, match="share=True rescales Model, whose module 'b' .*; use share=False"):
        pk.convert(ann, images(), share=True)
    assert isinstance(ann.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    ann = FOLDED["flattened"]().eval().to(dtype)
    net = pk.convert(ann, images().to(dtype))
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}
