"""What convert leaves of a model as it is and shares with it; each translation is compared with the original."""

import threading

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

import proxykernels as pk
from proxykernels.conversion.graph import functions
from proxykernels.conversion.relu import convert as conversion


def vectors() -> torch.Tensor:
    return torch.rand(6, 8, generator=torch.Generator().manual_seed(0))


def images() -> torch.Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def perceptron(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3)).eval()


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.n = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(2)
        self.n.running_mean.normal_(0, 0.3), self.n.running_var.uniform_(0.5, 2)
        self.register_buffer("w", torch.randn(2, 2, 3, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.steps, self.last = forward, None

    def forward(self, x):
        return self.steps(self, x)


def distance(ann: nn.Module, net: pk.Network, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected = ann(x)
    return ((pk.simulate(net, x, 500).logits - expected).abs().max() / expected.abs().max()).item()


SHARED = {
    "called twice": lambda m, x: m.b(m.a(m.a(x).relu()).relu()),
    "its weight, normalised": lambda m, x: m.b(m.n(F.conv2d(x, m.a.weight)).relu()),
    "normalised by a function": lambda m, x: m.b(
        F.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias).relu()
    ),
    "computed weights": lambda m, x: m.b(F.conv2d(x, m.a.weight - m.a.weight.mean()).relu()),
    "weights in a buffer": lambda m, x: m.b(F.conv2d(x, m.w).relu()),
}


@pytest.mark.parametrize("name", SHARED)
def test_weights_that_cannot_be_shared_are_refused_before_any_is_changed(name):
    ann, x = Model(SHARED[name]).eval(), images()
    before = {key: value.clone() for key, value in ann.state_dict().items()}
    with pytest.raises(ValueError, match=r"share=True rescales Model, whose .* is called twice, or computes with weig"):
        pk.convert(ann, x, share=True)
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    assert distance(ann, pk.convert(ann, x, method="max"), x) < 0.02


@pytest.mark.parametrize("forward", [
    lambda m, x: m.b(m.n(m.a(x)).relu()), lambda m, x: m.b(F.conv2d(x, m.a.weight, m.a.bias).relu()),
])  # fmt: skip
def test_shared_weights_are_the_models_own(forward):
    ann, x = Model(forward).eval(), images()
    with torch.no_grad():
        expected = ann(x)
    net = pk.convert(ann, x, method="max", share=True)
    own = {id(parameter) for parameter in ann.parameters()}
    assert all(id(parameter) in own for parameter in net.parameters())
    with torch.no_grad():
        torch.testing.assert_close(ann(x) * net.layers()[-1][1].scale, expected, rtol=1e-4, atol=1e-5)


def test_side_effects_of_a_forward_pass_are_undone():
    def counted(m, x):
        m.calls.add_(1)
        m.last = m.a(x).relu()
        return m.b(m.last)

    def cannot_be_followed(m, x):
        m.last = m.a(x)
        return m.last.relu() if x.sum() > 0 else x

    for share in (False, True):
        ann = Model(counted).eval()
        pk.convert(ann, images(), share=share)
        assert ann.calls == 0 and ann.last is None
    ann = Model(cannot_be_followed).eval()
    with pytest.raises(TypeError, match="may not depend on values"):
        pk.convert(ann, images())
    assert ann.last is None


def test_what_torch_does_not_copy():
    ann = Model(lambda m, x: m.b(m.a(x).relu())).eval()
    ann.b.kept, ann.lock, ann.features = ann(images()), threading.Lock(), [ann.a(images())]
    assert distance(ann, pk.convert(ann, images(), method="max"), images()) < 0.02
    assert ann.b.kept.grad_fn is not None


def test_batches_of_unknown_number():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(vectors())

    expected = pk.convert(perceptron(), vectors(), method="max").get_submodule("0").weight
    for batches in (DataLoader(Stream(), batch_size=2), iter(DataLoader(Stream(), batch_size=2))):
        torch.testing.assert_close(pk.convert(perceptron(), batches, method="max").get_submodule("0").weight, expected)


def test_autocast_changes_nothing():
    expected = pk.convert(perceptron(64), vectors())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net = pk.convert(perceptron(64), vectors())
        report = pk.conversion_report(net, vectors(), 4)
        pytest.importorskip("nir")
        pk.from_nir(pk.to_nir(pk.convert(perceptron(64), vectors(), v_init=0.0), (8,)))
        assert torch.is_autocast_enabled("cpu")
    for name, value in expected.state_dict().items():
        assert equal(net.state_dict()[name], value), name
    assert report == pk.conversion_report(net, vectors(), 4)


WRAPPED = {
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(8)),
        "ann's module '0' is a LazyLinear without weights; run the network once",
    ),
    "averaged": (lambda: AveragedModel(perceptron()), "ann is a AveragedModel; take its .module"),
    "parallel": (lambda: nn.DataParallel(perceptron()), "ann is a DataParallel; take its .module"),
    "scripted": (
        lambda: nn.Sequential(torch.jit.script(perceptron()), nn.ReLU()),
        "torch.fx cannot follow a scripted module, ann's module '0' is one; take what it was made of",
    ),
}


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", WRAPPED)
def test_modules_that_are_refused_with_a_remedy(name):
    ann, message = WRAPPED[name]
    with pytest.raises(TypeError, match=message):
        pk.convert(ann(), vectors())


@pytest.mark.parametrize("inside", [False, True])
def test_compiled_modules(inside):
    ann = perceptron()
    plain = nn.Sequential(ann[:2], ann[2])
    compiled = nn.Sequential(torch.compile(ann[:2], backend="eager"), ann[2]) if inside else torch.compile(plain)
    assert distance(plain, pk.convert(compiled, vectors(), method="max"), vectors()) < 0.02
    plain.compile(backend="eager")
    assert [name for name, *_ in pk.convert(plain, vectors()).layers()] == ["0_0", "1"]


class Mixed(nn.Module):
    """Layers that convert makes others of, and constants: some of the model's parameters, some of its buffers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.up, self.last = nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(3, 2, 2, 2), nn.Linear(12, 3)
        self.norm, self.slopes = nn.BatchNorm2d(2), nn.PReLU(3)
        self.gain = nn.Parameter(torch.rand(3))
        self.register_buffer("mean", torch.rand(2, 1, 1))

    def forward(self, x):
        y = self.slopes(self.first(self.norm(x - self.mean)))
        return self.last(F.leaky_relu(self.up(y))) * self.gain.exp()


def test_frozen_parameters_stay_frozen_and_constants_are_not_trained():
    ann = Mixed().eval()
    net = pk.convert(ann, images())
    trained = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    learnt = ("first", "up", "last", "last_scaled", "slopes_leak.synapses.0", "slopes_leak.synapses.1")
    assert all(trained[f"{name}.weight"] for name in learnt)
    others = {name for name, is_learnt in trained.items() if not is_learnt}
    assert others >= {"x_scaled.weight", "leaky_relu_leak.synapses.0.weight", "leaky_relu_leak.synapses.1.weight"}
    assert not any(
        parameter.requires_grad for parameter in pk.convert(ann.requires_grad_(False), images()).parameters()
    )


def test_functions_that_know_the_model():
    """A copy of the model would hold functions that still use the model's own modules."""
    ann = perceptron()
    ann.own = lambda x: ann[1](ann[0](x))
    ann[0].forward = lambda x, forward=ann[0].forward: forward(2 * x)
    kind = type("Called", (nn.Sequential,), {"forward": lambda self, x: self[2](self.own(x))})
    ann.__class__ = kind
    before = dict(vars(ann.train()[0]))
    assert distance(ann, pk.convert(ann, vectors(), method="max"), vectors()) < 0.02
    assert ann.training and dict(vars(ann[0])) == before


def two_images() -> torch.Tensor:
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
    ann(two_images())
    with pytest.raises(
        TypeError, match=f"Sequential: what {where} computes is not what convert makes of it, (off|.4, 4)"
    ):
        pk.convert(ann.eval(), two_images())


@pytest.mark.parametrize("share", [False, True])
def test_mistakes_of_convert_itself_are_found(monkeypatch, share):
    """Planted: a bias that is not scaled, a padding that is passed over, a normalisation without its epsilon."""
    ann = chain(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    ann(two_images())
    rescale = conversion.rescale

    def without_bias(population, scales, name, like):
        bias = population.modules[0].bias.clone()
        rescale(population, scales, name, like)
        population.modules[0].bias.data.copy_(bias)

    monkeypatch.setattr(conversion, "rescale", without_bias)
    with pytest.raises(TypeError, match="what module '0' to module '1' computes is not what convert makes of it"):
        pk.convert(ann.eval(), two_images(), share=share)


def test_a_padding_that_is_passed_over(monkeypatch):
    monkeypatch.setitem(functions._MODULES, "pad", lambda pad, mode="constant", value=None: nn.ZeroPad2d(pad[0]))

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            return self.a(F.pad(x, (1, 1, 1, 0)))

    with pytest.raises(TypeError, match=r"Padded: what pad\(\) computes is not .*in place of"):
        pk.convert(Padded(), two_images())


def test_rounding_is_no_difference():
    """Terms that cancel each other, weights of all sizes, and a deep network, whose errors grow."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 6)).eval()
    x = 1e3 + two_images()
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
        deep(two_images())
    net = pk.convert(deep.eval(), two_images())
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

    ann, x = Mixed().to(dtype).eval(), two_images().to(dtype)
    net = pk.convert(ann, x, method="max")
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}
    result, expected = pk.simulate(net, x, 512), ann(x)
    assert result.count().any()
    assert (result.logits - expected).abs().max() < 0.03 * expected.abs().max()


def test_calibration_data_of_several_sizes():
    ann = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    small, large = two_images(), 3 * torch.rand(4, 2, 12, 12, generator=torch.Generator().manual_seed(1))
    net = pk.convert(ann, [small, large], method="max")
    for x in small, large:
        logits, expected = pk.simulate(net, x, 512).logits, ann(x)
        assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_sample_alone():
    ann = chain()
    ann(two_images())
    assert pk.simulate(pk.convert(ann.eval(), two_images()[:1]), two_images()[:1], 50).count().any()


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
