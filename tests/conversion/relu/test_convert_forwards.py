"""Forward passes as people write them: casts, branches on sizes, further arguments, and results of every kind."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk


def images() -> Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head, self.steps = nn.Linear(192, 1), forward

    def forward(self, x):
        return self.steps(self, x)


def results(ann: nn.Module) -> tuple:
    """The converted network's and the model's own."""
    net, x = pk.convert(ann.eval(), images(), method="max"), images()
    with torch.no_grad():
        return net.outputs(pk.simulate(net, x, 400).logits), ann(x)


def close(actual: Tensor, expected: Tensor) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() < 0.02 * expected.abs().max())


def hidden(m, x):
    return m.a(x).relu()


def value(m, x):
    return m.head(hidden(m, x).flatten(1))


CASTS = {
    "float": lambda y: y.float(),
    "to a type": lambda y: y.to(torch.float32),
    "to a device": lambda y: y.to(device="cpu"),
    "cpu": lambda y: y.cpu(),
    "type": lambda y: y.type(torch.float32),
    "type_as": lambda y: y.type_as(y),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_that_change_nothing(name):
    cast = CASTS[name]
    ann = Model(lambda m, x: m.b(cast(m.a(cast(x))).relu()))
    assert close(*results(ann)) and len(pk.convert(ann, images()).layers()) == 2


def test_casts_that_change_something():
    with pytest.raises(TypeError, match=r"Model: half\(\) makes torch.float16 on cpu of torch.float32 on cpu; convert"):
        pk.convert(Model(lambda m, x: m.b(hidden(m, x).half().float())), images())


def asserted(m, x):
    assert x.shape[1] == 2 and len(x.shape) == 4
    return m.b(hidden(m, x))


def for_one_image(m, x):
    x = x.unsqueeze(0) if x.dim() == 3 else x
    return m.b(hidden(m, x))


def reduced(m, x):
    y = hidden(m, x)
    while y.shape[-1] > 4:
        y = F.avg_pool2d(y, 2)
    return m.b(y)


def of_channels(m, x):
    y = hidden(m, x)
    return m.b(torch.stack([y[:, k] for k in reversed(range(y.size(1)))], 1))


def of_parts(m, x):
    return m.b(torch.cat([part for part in hidden(m, x).chunk(3, 1)][::-1], 1))


@pytest.mark.parametrize("forward", [asserted, for_one_image, reduced, of_channels, of_parts])
def test_a_forward_pass_may_depend_on_sizes(forward):
    assert close(*results(Model(forward)))


@pytest.mark.parametrize("forward", [
    lambda m, x: m.b(x) if x.sum() > 0 else x, lambda m, x: m.a(x)[:, : int(x.max())], lambda m, x: m.a(x[len(x):]),
])  # fmt: skip
def test_a_forward_pass_may_not_depend_on_values(forward):
    with pytest.raises(TypeError, match="torch.fx cannot follow the forward pass of Model, which may not depend on va"):
        pk.convert(Model(forward), images())


def test_samples_may_be_elsewhere_for_a_while():
    assert close(*results(Model(lambda m, x: m.b(hidden(m, x).transpose(0, 1).transpose(0, 1)))))


@pytest.mark.parametrize("name", ["class", "in", "None", "two words"])
def test_names_of_modules_that_python_has_other_uses_for(name):
    ann = Model(lambda m, x: m.b(m.heads[name](x).relu()))
    ann.heads = nn.ModuleDict({name: ann.a})
    assert close(*results(ann))
    for taken in ("graph", "code"):
        named = nn.Sequential(OrderedDict({taken: ann.a}))
        with pytest.raises(TypeError, match=f"cannot follow Sequential, of which '{taken}' has .*; rename it"):
            pk.convert(named, images())


class Optional(Model):
    def forward(self, x, labels=None, *others, scale=1.0, **options):
        y = value(self, x) * scale
        return y if labels is None else (y - labels).square().mean()


def test_arguments_that_need_not_be_given():
    ann = Optional(None)
    assert close(*results(ann)) and type(ann) is Optional
    several = type("Several", (Model,), {"forward": lambda self, *xs: value(self, xs[0])})(None)
    assert close(*results(several))
    snntorch = pytest.importorskip("snntorch")

    class Spiking(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(8, 4), snntorch.Leaky(beta=0.9, init_hidden=True)

        def forward(self, x, return_all=False):
            y = self.lif(self.fc(x))
            return (y, x) if return_all else y

    assert len(pk.from_snntorch(Spiking()).layers()) == 1


@pytest.mark.parametrize("flatten", [nn.Flatten(2), nn.Flatten(1, 2), nn.Flatten(-2, -1)], ids=repr)
def test_modules_that_flatten_some_axes(flatten):
    ann = Model(lambda m, x: m.head(m.flatten(hidden(m, x)).flatten(1)))
    ann.flatten = flatten
    assert close(*results(ann))


def test_a_module_that_flattens_samples_of_one_value():
    ann = Model(lambda m, x: m.flatten(value(m, x)))
    ann.flatten = nn.Flatten(0)
    actual, expected = results(ann)
    assert close(actual, expected) and expected.shape == (4,)


@pytest.mark.parametrize("forward, layers", [
    (lambda m, x: value(m, x).squeeze(1), 2), (lambda m, x: value(m, x)[:, 0], 2), (lambda m, x: m.b(x)[:, 0, 0, 0], 3),
])  # fmt: skip
def test_one_value_for_each_sample(forward, layers):
    ann = Model(lambda m, x: forward(m, x))
    ann.b = nn.Conv2d(2, 3, 3)
    actual, expected = results(ann)
    assert close(actual, expected) and expected.shape == (4,)


Pair = namedtuple("Pair", "one other")


@dataclass
class Named:
    one: Tensor
    other: Tensor


SEVERAL = {
    "named tuple": (lambda *both: Pair(*both), lambda y: y),
    "dataclass": (lambda *both: Named(*both), lambda y: (y["one"], y["other"])),
    "list of a dict": (lambda one, other: [{"one": one}, other], lambda y: (y[0]["one"], y[1])),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_results(name):
    given, read = SEVERAL[name]
    actual, expected = results(Model(lambda m, x: given(value(m, x)[:, 0], m.b(hidden(m, x)))))
    expected = (expected.one, expected.other) if hasattr(expected, "one") else read(expected)
    assert all(map(close, read(actual), expected))


def test_results_that_are_no_tensors_are_none():
    actual, expected = results(Model(lambda m, x: (m.b(hidden(m, x)), x.shape[0], None)))
    assert close(actual[0], expected[0]) and actual[1:] == (None, None)


def test_means_by_another_name_and_synchronised_normalisation():
    assert close(*results(Model(lambda m, x: hidden(m, x).mean(axis=(2, 3)))))
    ann = Model(None)
    norm = nn.SyncBatchNorm(3)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    net = nn.Sequential(ann.a, norm, nn.ReLU(), ann.b)
    assert close(*results(net))


REMEDIES = {
    "mean of all": (
        lambda m, y: y * y.mean(),
        r"mean\(\) takes the mean over samples; only a sample's own axes may be",
    ),
    "comparison": (lambda m, y: y * (y > 0), r"gt\(\) has no counterpart in spikes; it compares values: write relu"),
    "where": (lambda m, y: torch.where(y > 0, y, 0), r"gt\(\) has no counterpart in spikes; it compares values"),
    "maximum": (lambda m, y: torch.maximum(y, y - y), r"maximum\(\) has no counterpart in spikes; write relu\(x\) for"),
    "unknown": (lambda m, y: y.erf(), r"erf\(\) has no counterpart in spikes. Supported: Conv2d, "),
    "nothing": (lambda m, y: y.clamp(0, 0), r"clamp\(\) is called in a way .*; write clamp\(0, limit\) with a limit"),
    "clip of spikes": (
        lambda m, y: y.clamp(0, 0.1),
        r"limited \(ReLU6\) at 0.1, and takes the spikes of neurons whose",
    ),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_every_refusal_has_a_remedy(name):
    forward, message = REMEDIES[name]
    with pytest.raises(TypeError, match=message):
        pk.convert(Model(lambda m, x: m.b(forward(m, hidden(m, x)))), images())


@pytest.mark.parametrize("forward", [
    lambda m, x: m.pool(m.a(x)) + m.pool(torch.relu(m.a(x))), lambda m, x: m.pool(torch.relu(m.a(x))) + m.pool(m.a(x)),
    lambda m, x: m.pool(m.a(x) + m.a(torch.relu(m.a(x)))), lambda m, x: torch.relu(m.a(x)) + m.a(m.a(x)),
])  # fmt: skip
def test_a_convolution_with_and_without_a_relu(forward):
    """Each call gives a layer of its own, whatever of it waits for its neurons."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.pool, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.MaxPool2d(2), nn.LazyLinear(5)

        def forward(self, x):
            return self.b(torch.relu(forward(self, x)).flatten(1))

    net, x = Net(), torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net.eval()(x)
    logits = pk.simulate(pk.convert(net, x, neuron="sigma-delta"), x, 24).logits
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=5e-3)
