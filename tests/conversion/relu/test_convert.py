"""Conversion of trained ReLU networks, also with a normalisation behind a ReLU."""

import copy
import math
import warnings

import layerwise
import pytest
import torch
import torch.nn.functional as F
from common import resnet20
from equality import equal
from oracle import make_dyadic, step_loop
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet, vgg

import proxykernels as pk
from proxykernels.conversion.relu.scales import ROOM


def real_images(size: int, N: int, channels: int = 3) -> torch.Tensor:
    """Fashion-MNIST at another size, on a grid of 1/16: [N, channels, size, size]."""
    images = F.interpolate(pk.samples.fashion_mnist()[0][:N], size)
    return ((images * 16).round() / 16).expand(-1, channels, -1, -1).contiguous()


def small_vgg(make):
    """torchvision's VGG with its 100 million fully connected weights cut down."""
    model = make(num_classes=10)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, 10))
    return model


class LeNet(nn.Module):
    """Functional calls, pooling before the ReLU, a view by computed numbers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8 * 25, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2, padding=0)
        x = x.view(x.size(0), -1)
        return self.fc2(F.dropout(F.relu6(self.fc1(x)), training=self.training))


class Mlp(nn.Module):
    """A residual network of fully connected layers with normalisation; averages of the image go in."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(49, 30), nn.BatchNorm1d(30)
        self.second, self.last = nn.Linear(30, 30), nn.Linear(30, 10)

    def forward(self, x):
        x = F.avg_pool2d(x, 4).flatten(1)
        x = self.norm(self.first(x)).relu()
        return self.last(F.relu(x + self.second(x)))


class MeanPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, stride=4, bias=False), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.conv(x).clamp(0, 3).mean([2, 3]))


# A network, and images for it.
ANNS = {
    "resnet18": (lambda: resnet.resnet18(num_classes=10), (64, 16)),
    "resnet34": (lambda: resnet.resnet34(num_classes=10), (32, 8)),
    "resnet50": (lambda: resnet.resnet50(num_classes=10), (32, 8)),
    "vgg11_bn": (lambda: small_vgg(vgg.vgg11_bn), (32, 16)),
    "vgg16_bn": (lambda: small_vgg(vgg.vgg16_bn), (32, 8)),
    "resnet20": (resnet20.ResNet20, (32, 4)),
    "lenet": (LeNet, (28, 64, 1)),
    "mlp": (Mlp, (28, 64, 1)),
    "mean": (MeanPool, (28, 64, 1)),
}


BIG = {"resnet18", "resnet20", "resnet34", "resnet50", "vgg11_bn", "vgg16_bn"}


def by_name(*cases):
    """Parameters that begin with a network's name; the big ones take seconds."""
    return [pytest.param(*case, marks=pytest.mark.slow if case[0] in BIG else ()) for case in cases]


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode with random weights, whose normalisations have seen images; and images."""
    torch.manual_seed(0)
    build, images = ANNS[name]
    ann, x = build(), real_images(*images)
    with torch.no_grad():
        ann.train()(x)
    return ann.eval(), x


@pytest.mark.costly
@pytest.mark.parametrize("name", by_name(*((name,) for name in ANNS)))
def test_twin_of_the_converted_network_is_the_ann(name):
    """Scaling and folding change nothing but the outputs' unit; the ReLU twin of ProxyNet shows that."""
    ann, x = make(name)
    before = copy.deepcopy(ann.state_dict())
    net = pk.convert(ann, x, method="max")
    with torch.no_grad():
        expected, actual = ann(x), pk.ProxyNet(net, 1).ann(x)
    torch.testing.assert_close(actual * expected.max(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert all(torch.equal(tensor, before[key]) for key, tensor in ann.state_dict().items())
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in ann.parameters()}


STEP_LOOPS = by_name(
    ("resnet18", None), ("resnet18", 0.0), ("resnet20", None), ("lenet", None), ("lenet", 0.0), ("vgg11_bn", 0.0),
    ("vgg16_bn", None),
)  # fmt: skip


@pytest.mark.parametrize("name, v_reset", STEP_LOOPS)
def test_spikes_are_those_of_the_step_loop(name, v_reset):
    ann, x = make(name)
    net = pk.convert(ann, x, v_reset=v_reset)
    make_dyadic(net)
    T = 16
    expected = step_loop(net, x[:2], T)
    result = layerwise.simulate(net, x[:2], T, chunk=7)
    assert equal(result.spikes.dense(), expected[net.layers()[-1][0]])
    for layer, rate in result.rates.items():
        assert rate == pytest.approx(expected[layer].mean().item(), abs=1e-6) and rate > 0.001


def test_rates_approach_the_relu_network():
    ann, x = make("lenet")
    net = pk.convert(ann, x, method="max")
    with torch.no_grad():
        y = ann(x)
    rates = y.relu() / y.max()
    errors = []
    result = pk.simulate(net, x, 1024)
    for T in (16, 128, 1024):
        errors.append((result.count(until=T) / T - rates).abs().mean().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2] and errors[2] < 2e-3


def test_percentiles(generator):
    x = torch.rand(64, 50, generator=generator) ** 3
    ann = nn.Sequential(nn.Linear(50, 50, bias=False), nn.ReLU(), nn.Linear(50, 3))
    ann[0].weight.data = torch.eye(50)
    for percentile in (50.0, 99.0, 99.9, 100.0):
        net = pk.convert(ann, x, percentile=percentile)
        scales = 1 / net.get_submodule("0").weight.diagonal()
        expected = x.flatten().sort().values[math.ceil(x.numel() * percentile / 100) - 1].item()
        assert scales.max().item() == pytest.approx(expected, rel=1 / 2048)
        torch.testing.assert_close(scales, (ROOM * x.amax(0)).clamp(max=scales.max().item()), rtol=1e-5, atol=0)
    scales = 1 / pk.convert(ann, x, method="max").get_submodule("0").weight.diagonal()
    torch.testing.assert_close(scales, (ROOM * x.amax(0)).clamp(max=x.max()))


@pytest.mark.long
@pytest.mark.parametrize("labels", [True, False])
def test_calibration_by_a_loader(labels, capsys):
    ann, x = make("mlp")
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))) if labels else x, batch_size=10)
    net, expected = pk.convert(ann, loader), pk.convert(ann, x)
    for a, b in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert "calibration" not in capsys.readouterr().err  # a bar only where one has to wait


def test_potential_to_start_from_and_reset():
    ann, x = make("lenet")
    for options in ({"v_init": 0.5}, {"v_init": 0.0}, {"v_reset": 0.0}, {"v_reset": -0.5, "v_init": 0.25}):
        net = pk.convert(ann, x, **options)
        for layer in (net.conv1, net.conv2, net.fc1, net.fc2):
            assert layer.v_init == options.get("v_init", 0.5) and layer.v_reset == options.get("v_reset")
    half, none = (pk.simulate(pk.convert(ann, x, v_init=v), x, 16).count().sum() for v in (0.5, 0.0))
    assert half > none


@pytest.mark.slow
@pytest.mark.parametrize("name", by_name(("resnet20",), ("vgg11_bn",)))
def test_shared_weights(name):
    ann, x = make(name)
    with torch.no_grad():
        before = ann(x)
    expected = pk.convert(ann, x, method="max")
    net = pk.convert(ann.train(), x, method="max", share=True)
    assert ann.training and all(module.training for module in ann.modules())
    assert {id(p) for p in net.parameters()} == {id(p) for p in ann.parameters()}
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(ann.eval()(x) * before.max(), before, rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", by_name(("resnet18",), ("vgg11_bn",), ("resnet20",)))
def test_converted_network_trains_by_proxy(name):
    ann, x = make(name)
    x = x[:8]
    net = pk.convert(ann, x, share=True)
    model = pk.ProxyNet(net, 8, clip=True).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = [p.clone() for p in ann.parameters()]
    F.mse_loss(model(x) / 8, torch.eye(10)[torch.arange(len(x)) % 10]).backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, ann.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


class Broken(nn.Module):
    """A convolution, and then something that cannot be converted."""

    def __init__(self, rest, *modules):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(1, 4, 3), nn.Sequential(*modules)
        self.rest = rest

    def forward(self, x):
        return self.rest(self, x)


def after_relu(module):
    return Broken(lambda m, x: m.inner(m.conv(x).relu()), module)


UNSUPPORTED = {
    "module": (after_relu(nn.Tanh()), r"Broken: module 'inner.0' is a Tanh"),
    "sum": (Broken(lambda m, x: m.conv(x).relu().sum()), "must return tensors .*gives one value of all samples"),
    "function": (Broken(lambda m, x: torch.tanh(m.conv(x))), r"Broken: tanh\(\) is a Tanh, which has no counterpart"),
    "dilated-max": (after_relu(nn.MaxPool2d(2, dilation=2)), r"'inner.0': max pooling with dilation or return_indices"),
    "pad-value": (Broken(lambda m, x: m.conv(F.pad(x, [1] * 4, value=1.0))), r"pad\(\) is called in a way .* zeros"),
    "softmax-inside": (after_relu(nn.Sequential(nn.Softmax(1), nn.Conv2d(4, 4, 1))), r"'inner.0.0' is a Softmax"),
    "product": (Broken(lambda m, x: (lambda y: y * y)(m.conv(x).relu())), r"mul\(\) has .*: remove it and continue"),
    "values": (Broken(lambda m, x: m.conv(x) if x.sum() > 0 else x), "may not depend on values"),
    "samples": (
        Broken(lambda m, x: m.conv(x).relu()[0]),
        r"getitem\(\) gives \[4, .* of 2 samples, mixing or dropping",
    ),
    "too many axes": (
        Broken(lambda m, x: m.inner(m.conv(x).relu().unflatten(1, (2, 2))), nn.ReLU()),
        r"unflatten\(\) gives \[N, 2, 2, 26, 26\] where another module takes it",
    ),
    "parts": (Broken(lambda m, x: torch.cat(m.conv(x).relu().chunk(2, 1), 1)), "takes all parts of a split"),
    "smooth": (after_relu(nn.GELU()), r"'inner.0' is a GELU.*replace it by nn.ReLU and continue training"),
    "sample's values": (after_relu(nn.GroupNorm(2, 4)), r"'inner.0' is a GroupNorm.*replace it by BatchNorm"),
    "uneven windows": (after_relu(nn.AdaptiveMaxPool2d(4)), r"'inner.0' takes windows of several sizes"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_parts_are_named(name):
    ann, message = UNSUPPORTED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        pk.convert(ann, real_images(28, 2, 1))


def test_bad_arguments():
    ann, x = make("lenet")
    for options, error, message in (
        ({"method": "mean"}, ValueError, "method must be one of max, percentile, got 'mean'"),
        ({"percentile": 0}, ValueError, "percentile must be above 0 and at most 100, got 0"),
        ({"v_reset": 1.0}, ValueError, "below v_threshold"),
        ({"v_init": "half"}, TypeError, "v_init must be a number"),
        (
            {"v_init": torch.ones(3)},
            TypeError,
            r"v_init must be a number, for the neurons of all layers, got a tensor \[3\]",
        ),
        ({"share": True}, ValueError, "module 'fc1' is limited"),
    ):
        with pytest.raises(error, match=message):
            pk.convert(ann, x, **options)
    for calibration, error, message in (
        (x[:0], ValueError, "at least one sample"),
        ([], ValueError, "at least one sample"),
        (3, TypeError, "a tensor .* or a DataLoader, got int"),
        (x.long(), TypeError, "calibration must be floating point"),
    ):
        with pytest.raises(error, match=message):
            pk.convert(ann, calibration)
    silent = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 26 * 26, 3))
    silent[0].bias.data.fill_(-100)
    with pytest.raises(ValueError, match="module '0' is silent on the calibration data; it needs more samples"):
        pk.convert(silent, x)
    with pytest.raises(TypeError, match="ann must be a torch.nn.Module, got function"):
        pk.convert(make, x)


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


@pytest.mark.alike
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
