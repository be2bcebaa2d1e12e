"""Every translation is compared with its original: what convert does not know of a module is an error that names it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import proxykernels as pk
from proxykernels.conversion.graph import functions
from proxykernels.conversion.relu import convert as conversion


def images() -> torch.Tensor:
    return torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def chain(*inner: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), *inner, nn.Flatten(), nn.LazyLinear(5))


def odd(base: type[nn.Module], change) -> type[nn.Module]:
    """A class that torch.fx takes for one of torch's own, and does not look into."""
    kind = type(f"Odd{base.__name__}", (base,), {"forward": lambda self, x: change(base.forward(self, x))})
    kind.__module__ = "torch.nn.odd"
    return kind


ODD = {
    "convolution": (odd(nn.Conv2d, lambda y: 1.01 * y)(4, 4, 3), "module '2' to module '6'"),
    "normalisation": (odd(nn.BatchNorm2d, lambda y: y + 0.01)(4), "module '2' to module '6'"),
    "pooling": (odd(nn.MaxPool2d, lambda y: y.flip(2))(2), "module '2'"),
    "average": (odd(nn.AvgPool2d, lambda y: y.roll(1, 2))(2), "module '2'"),
    "size": (odd(nn.AvgPool2d, lambda y: y[:, :, 1:])(2), "module '2'"),
    "nothing": (odd(nn.Dropout, lambda y: y.clamp(max=0.5))(), "module '2'"),
    "not a number": (odd(nn.AvgPool2d, lambda y: y.sqrt())(2), "module '2'"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_convert_does_not_know_is_named(name):
    module, where = ODD[name]
    ann = chain(module)
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
        ann.insert(3, nn.ReLU()), ann.insert(3, nn.Identity())
        where = where.replace("'6'", "'4'")
    ann(images())
    with pytest.raises(
        TypeError, match=f"Sequential: what {where} computes is not what convert makes of it, (off|.4, 4)"
    ):
        pk.convert(ann.eval(), images())


@pytest.mark.parametrize("share", [False, True])
def test_mistakes_of_convert_itself_are_found(monkeypatch, share):
    """Planted: a bias that is not scaled, a padding that is passed over, a normalisation without its epsilon."""
    ann = chain(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    ann(images())
    rescale = conversion.rescale

    def without_bias(population, scales, name, like):
        bias = population.modules[0].bias.clone()
        rescale(population, scales, name, like)
        population.modules[0].bias.data.copy_(bias)

    monkeypatch.setattr(conversion, "rescale", without_bias)
    with pytest.raises(TypeError, match="what module '0' to module '1' computes is not what convert makes of it"):
        pk.convert(ann.eval(), images(), share=share)


def test_a_padding_that_is_passed_over(monkeypatch):
    monkeypatch.setitem(functions._MODULES, "pad", lambda pad, mode="constant", value=None: nn.ZeroPad2d(pad[0]))

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            return self.a(F.pad(x, (1, 1, 1, 0)))

    with pytest.raises(TypeError, match=r"Padded: what pad\(\) computes is not .*in place of"):
        pk.convert(Padded(), images())


def test_rounding_is_no_difference():
    """Terms that cancel each other, weights of all sizes, and a deep network, whose errors grow."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 6)).eval()
    x = 1e3 + images()
    with torch.no_grad():
        y = ann[0](x)
        ann[1].running_mean.copy_(y.mean((0, 2, 3))), ann[1].running_var.copy_(y.var((0, 2, 3)))
    assert y.mean().abs() > 100 * y.std((0, 2, 3)).max()
    pk.convert(ann, x)
    layers = [part for k in range(14) for part in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    deep = nn.Sequential(nn.Conv2d(2, 4, 1), *layers, nn.Conv2d(4, 2, 8))
    with torch.no_grad():
        for k, layer in enumerate(layers[::3]):
            layer.weight.mul_(10.0 ** (k % 7 - 3))
        for norm in layers[1::3]:
            norm.momentum = None
        deep(images())
    net = pk.convert(deep.eval(), images())
    assert len(net.layers()) == 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_that_convert_adds_are_of_the_networks_type(dtype):
    """Constants, a normalisation without a convolution, a leak and a shortcut become layers of weights of their own."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.a(x - 0.5).relu()
            return F.leaky_relu(self.b(self.norm(F.max_pool2d(x, 2)) + 0.5)).flatten(1)

    ann, x = Mixed().to(dtype).eval(), images().to(dtype)
    net = pk.convert(ann, x, method="max")
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}
    result, expected = pk.simulate(net, x, 512), ann(x)
    assert result.count().any()
    assert (result.logits - expected).abs().max() < 0.03 * expected.abs().max()


def test_calibration_data_of_several_sizes():
    ann = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    small, large = images(), 3 * torch.rand(4, 2, 12, 12, generator=torch.Generator().manual_seed(1))
    net = pk.convert(ann, [small, large], method="max")
    for x in small, large:
        logits, expected = pk.simulate(net, x, 512).logits, ann(x)
        assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_sample_alone():
    ann = chain()
    ann(images())
    assert pk.simulate(pk.convert(ann.eval(), images()[:1]), images()[:1], 50).count().any()


class Gray(nn.Module):
    """Images, then a convolution along one axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 3, 3), nn.Conv1d(3, 5, 36)

    def forward(self, x):
        return self.b(self.a(x).relu().flatten(2)).flatten(1)


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_first_layer_tells_images_from_sequences(by_hand):
    """8 gray images, T = 8: once taken for 8 steps of one sample."""
    ann, x = Gray().eval(), torch.rand(8, 1, 8, 8)
    net = pk.convert(ann, x)
    if by_hand:
        net.input_dims = None
    result = pk.simulate(net, x, 8)
    assert result.count().shape == (8, 5) and result.count().any()
    sequence = pk.simulate(net, x.expand(9, *x.shape), 9)
    assert sequence.count().shape == (8, 5) and sequence.count().any()
    rows = nn.Sequential(pk.FusedIFConv1d(2, 3, 3, v_init=0.9), pk.Unflatten((3, 2, 3)), pk.FusedIFConv2d(3, 2, 1))
    assert pk.simulate(rows[:1], torch.rand(4, 2, 8), 5).count().shape == (4, 3, 6)


def test_as_many_samples_as_steps():
    net = nn.Sequential(pk.FusedIFLinear(3, 4))
    frames = torch.rand(6, 6, 3)
    with pytest.warns(UserWarning, match=r"x \[6, 6, 3\] has as many steps as samples, 6, and is taken for \[T, N"):
        pk.simulate(net, frames, 6)
    for told in (pk.time_first(frames), pk.pack((frames > 0.5).float()), frames[:, :5], torch.rand(3).expand(6, 6, 3)):
        with pytest.WarningsRecorder(_ispytest=True) as seen:
            pk.simulate(net, told, 6)
        assert not seen.list
