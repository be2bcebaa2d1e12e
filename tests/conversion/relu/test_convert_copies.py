"""What convert leaves of a model as it is, and what it shares with it."""

import threading

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

import proxykernels as pk


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
