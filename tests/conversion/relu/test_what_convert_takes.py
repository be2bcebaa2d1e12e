"""Models, forward passes and calibration data of every kind: converted rightly, or refused in one sentence."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from torch import Tensor, nn

import proxykernels as pk


def images(N: int = 6) -> torch.Tensor:
    return torch.rand(N, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def convolution(inputs: int = 2) -> nn.Conv2d:
    return nn.Conv2d(inputs, 3, 3, padding=1)


def head() -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(192, 5)]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(convolution(), nn.ReLU(), *head())


class Model(nn.Module):
    """Three convolutions, and whatever its forward pass does with them."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.inplace = convolution(), convolution(3), convolution(3), nn.ReLU(inplace=True)
        self.norm, self.steps = nn.BatchNorm2d(3), forward

    def forward(self, x):
        return self.steps(self, x)


def distance(ann: nn.Module, x: torch.Tensor, T: int = 1000) -> float:
    """Of the converted network's rates to the ReLU network's outputs, which must not be silent."""
    expected = copy.deepcopy(ann).eval()(x).detach()
    rates = pk.simulate(pk.convert(ann, x, method="max"), x, T).count() / T
    assert rates.mean() > 0.01
    return (rates - expected.relu() / expected.max()).abs().max().item()


def tied() -> nn.Sequential:
    torch.manual_seed(1)
    first, second = convolution(3), convolution(3)
    second.weight = first.weight
    return nn.Sequential(convolution(), nn.ReLU(), first, nn.ReLU(), second, nn.ReLU(), *head())


def test_layers_that_share_their_weights_are_scaled_each_in_its_own_way():
    assert distance(tied(), images()) < 0.01
    with pytest.raises(
        ValueError, match="share=True rescales Sequential, whose module '4' has another layer's weights"
    ):
        pk.convert(tied(), images(), share=True)


def test_layers_that_nobody_reads_are_left_out():
    def early(m, x):
        y = m.a(x).relu()
        m.b(y).relu()
        return y

    ann = Model(early)
    assert [name for name, *_ in pk.convert(ann, images()).layers()] == ["a"]
    assert distance(ann, images()) < 0.01


def in_place_and_ignored(m, x):
    y = m.a(x)
    m.inplace(y)
    return m.b(y)


def in_place_and_read_again(m, x):
    y = m.a(x).relu()
    return (m.b(y.add_(m.c(y)).relu()) + y).relu()


def a_view_that_is_read_again(m, x):
    y = m.a(x)
    F.relu(y.flatten(1), True)
    return m.b(y)


def read_again_as_a_view(m, x):
    y = m.a(x)
    z = y.flatten(2)
    F.relu(y, True)
    return m.b(z.view_as(y))


IN_PLACE = [a_view_that_is_read_again, read_again_as_a_view]


@pytest.mark.parametrize("forward", [in_place_and_ignored, in_place_and_read_again])
def test_changes_in_place(forward):
    assert distance(Model(forward).eval(), images()) < 0.01


@pytest.mark.parametrize("forward", IN_PLACE)
def test_changes_in_place_that_torch_fx_does_not_see(forward):
    with pytest.raises(TypeError, match="in place that is used again; use what it returns|write x = x . y for x .= y"):
        pk.convert(Model(forward), images())


def test_networks_without_relu_and_layers_of_the_ends():
    assert len(pk.convert(convolution(), images()).layers()) == 1
    for net in (nn.Sequential(), nn.Identity(), nn.ReLU(), nn.Sequential(nn.MaxPool2d(2)), nn.Sequential(nn.Flatten())):
        with pytest.raises(TypeError, match="must have at least one Conv2d or Linear layer"):
            pk.convert(net, images())


REFUSED = {
    "two inputs": (
        type("Two", (nn.Module,), {"forward": lambda self, x, y: x + y})(),
        "one input, its forward takes x, y",
    ),
    "no input": (type("No", (nn.Module,), {"forward": lambda self: 3})(), "one input, its forward takes none"),
    "no forward": (nn.ModuleList([convolution()]), "ModuleList has no forward pass"),
    "meta": (nn.Sequential(nn.Conv2d(2, 3, 3, device="meta")), "ann's module '0' is on the meta device"),
    "spiking": (nn.Sequential(pk.FusedIFConv2d(2, 3, 3)), "its module '0' is a FusedIFConv2d already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_refused(name):
    ann, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        pk.convert(ann, images())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_that_are_not_finite(name, value):
    ann = small()
    getattr(ann[3], name).data[0] = value
    with pytest.raises(ValueError, match=f"module '3': {name} must be finite"):
        pk.convert(ann, images())


def test_names_that_a_network_cannot_have():
    parts = OrderedDict(
        a=nn.Sequential(OrderedDict(b=convolution())), r=nn.ReLU(), a_b=convolution(3), _sources=nn.ReLU()
    )
    net = pk.convert(
        nn.Sequential(OrderedDict(parts, f=nn.Flatten(), layers=nn.Linear(192, 3))), images(), method="max"
    )
    assert [name for name, *_ in net.layers()] == ["a_b", "a_b_1", "f", "layers_1"]


CALIBRATIONS = {
    "channels": (torch.rand(4, 3, 8, 8), r"calibration of shape \[2, 3, 8, 8\] and torch.float32 does not go through"),
    "one image": (torch.rand(2, 8, 8), r"calibration of shape \[2, 8, 8\]"),
    "number": (torch.tensor(1.0), r"must have the shape \[N, ...\], got \[\]"),
    "double": (images().double(), "torch.float64 does not go through Sequential"),
    "later": ([images(), torch.rand(4, 3, 8, 8)], r"calibration of shape \[4, 3, 8, 8\]"),
    "nan": ([images() * torch.nan], "calibration must be finite"),
    "later nan": ([images(), images() * torch.nan], "calibration must be finite"),
    "integers": ([images().long()], "calibration must be floating point, got torch.int64"),
    "nothing": ([images(0), images(0)], "calibration must hold at least one sample, got none"),
    "empty tuple": ([()], "calibration must be a torch.Tensor, got tuple"),
    "text": ("images", "calibration must be a torch.Tensor, got str"),
    "meta": (images().to("meta"), "calibration must be dense tensors with values"),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibrations_that_are_refused(name):
    calibration, message = CALIBRATIONS[name]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        pk.convert(small(), calibration)
    assert "\n" not in str(caught.value)


def test_calibrations_that_can_be_gone_through_once():
    batches = [images() * 100, images(0), images()]
    expected = pk.convert(small(), batches, method="max").get_submodule("0").weight
    for once in (iter(batches), (batch for batch in batches), [images(0), *batches]):
        assert equal(pk.convert(small(), once, method="max").get_submodule("0").weight, expected)


@pytest.mark.parametrize("percentile", ["x", None, torch.nan, 0, 101])
def test_percentiles(percentile):
    with pytest.raises(ValueError, match="percentile must be above 0 and at most 100, got"):
        pk.convert(small(), images(), percentile=percentile)


def test_the_model_stays_as_it_was():
    ann = nn.Sequential(convolution(), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), *head()).train()
    ann[1].eval()
    ann[0].requires_grad_(False)
    before = copy.deepcopy(ann.state_dict())
    net = pk.convert(ann, images())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    assert ann.training and not ann[1].training and not net.get_submodule("0").weight.requires_grad


# The same of other libraries


def test_spikingjelly_nets_that_have_run():
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based.neuron import IFNode

    net = nn.Sequential(layer.SeqToANNContainer(nn.Sequential(convolution(), nn.BatchNorm2d(3))), IFNode(), IFNode())
    net[1].step_mode = net[2].step_mode = "m"
    net(images()[None])  # neurons now hold potentials with a gradient
    ours = pk.from_spikingjelly(net.eval())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    assert bool((net[0][0][0].weight != 0).all())
    net[2] = net[1]
    with pytest.raises(TypeError, match="module '1' is called twice"):
        pk.from_spikingjelly(net)


def test_snntorch_nets_that_have_run():
    snntorch = pytest.importorskip("snntorch")
    net = nn.Sequential(convolution(), snntorch.Leaky(beta=1.0, init_hidden=True, reset_mechanism="zero"))
    net(images())
    ours = pk.from_snntorch(net)
    ours.get_submodule("0").weight.data.zero_()
    assert bool((net[0].weight != 0).all())
    net[0].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="module '0': weight must be finite"):
        pk.from_snntorch(net)


def test_exported_models_are_refused():
    """torch.export gives such a module, whose hook checks the input."""
    exported = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2)))
    exported.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.raises(TypeError, match="^ann has a forward hook, .* take the module that was exported"):
        pk.convert(exported, torch.rand(4, 3))


@pytest.mark.parametrize("place", ["0", ""], ids=["layer", "model"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_that_the_spiking_network_would_lose_are_refused(place, kind):
    """A hook may change what a layer gives; those that compute weights are followed (test_saved_networks.py)."""
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    handle = getattr(ann.get_submodule(place), kind)(lambda module, inputs, *output: None)
    with pytest.raises(TypeError, match="^ann('s module '0')? has a forward hook, which .* register it on the network"):
        pk.convert(ann, torch.rand(4, 1, 6, 6))
    handle.remove()
    nn.init.constant_(ann[3].bias, 1.0)
    assert pk.simulate(pk.convert(ann, torch.rand(4, 1, 6, 6)), torch.rand(2, 1, 6, 6), 20).spikes.rate() > 0


def small_images() -> Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


class Forwarding(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head, self.steps = nn.Linear(192, 1), forward

    def forward(self, x):
        return self.steps(self, x)


def results(ann: nn.Module) -> tuple:
    """The converted network's and the model's own."""
    net, x = pk.convert(ann.eval(), small_images(), method="max"), small_images()
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
    ann = Forwarding(lambda m, x: m.b(cast(m.a(cast(x))).relu()))
    assert close(*results(ann)) and len(pk.convert(ann, small_images()).layers()) == 2


def test_casts_that_change_something():
    with pytest.raises(TypeError, match=r"Forwarding: half\(\) makes torch.float16 on cpu of torch.float32 on cpu"):
        pk.convert(Forwarding(lambda m, x: m.b(hidden(m, x).half().float())), small_images())


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
    assert close(*results(Forwarding(forward)))


@pytest.mark.parametrize("forward", [
    lambda m, x: m.b(x) if x.sum() > 0 else x, lambda m, x: m.a(x)[:, : int(x.max())], lambda m, x: m.a(x[len(x):]),
])  # fmt: skip
def test_a_forward_pass_may_not_depend_on_values(forward):
    with pytest.raises(TypeError, match="torch.fx cannot follow the forward pass of Forwarding, which may not"):
        pk.convert(Forwarding(forward), small_images())


def test_samples_may_be_elsewhere_for_a_while():
    assert close(*results(Forwarding(lambda m, x: m.b(hidden(m, x).transpose(0, 1).transpose(0, 1)))))


@pytest.mark.parametrize("name", ["class", "in", "None", "two words"])
def test_names_of_modules_that_python_has_other_uses_for(name):
    ann = Forwarding(lambda m, x: m.b(m.heads[name](x).relu()))
    ann.heads = nn.ModuleDict({name: ann.a})
    assert close(*results(ann))
    for taken in ("graph", "code"):
        named = nn.Sequential(OrderedDict({taken: ann.a}))
        with pytest.raises(TypeError, match=f"cannot follow Sequential, of which '{taken}' has .*; rename it"):
            pk.convert(named, small_images())


class Optional(Forwarding):
    def forward(self, x, labels=None, *others, scale=1.0, **options):
        y = value(self, x) * scale
        return y if labels is None else (y - labels).square().mean()


def test_arguments_that_need_not_be_given():
    ann = Optional(None)
    assert close(*results(ann)) and type(ann) is Optional
    several = type("Several", (Forwarding,), {"forward": lambda self, *xs: value(self, xs[0])})(None)
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
    ann = Forwarding(lambda m, x: m.head(m.flatten(hidden(m, x)).flatten(1)))
    ann.flatten = flatten
    assert close(*results(ann))


def test_a_module_that_flattens_samples_of_one_value():
    ann = Forwarding(lambda m, x: m.flatten(value(m, x)))
    ann.flatten = nn.Flatten(0)
    actual, expected = results(ann)
    assert close(actual, expected) and expected.shape == (4,)


@pytest.mark.parametrize("forward, layers", [
    (lambda m, x: value(m, x).squeeze(1), 2), (lambda m, x: value(m, x)[:, 0], 2), (lambda m, x: m.b(x)[:, 0, 0, 0], 3),
])  # fmt: skip
def test_one_value_for_each_sample(forward, layers):
    ann = Forwarding(lambda m, x: forward(m, x))
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
    actual, expected = results(Forwarding(lambda m, x: given(value(m, x)[:, 0], m.b(hidden(m, x)))))
    expected = (expected.one, expected.other) if hasattr(expected, "one") else read(expected)
    assert all(map(close, read(actual), expected))


def test_results_that_are_no_tensors_are_none():
    actual, expected = results(Forwarding(lambda m, x: (m.b(hidden(m, x)), x.shape[0], None)))
    assert close(actual[0], expected[0]) and actual[1:] == (None, None)


def test_means_by_another_name_and_synchronised_normalisation():
    assert close(*results(Forwarding(lambda m, x: hidden(m, x).mean(axis=(2, 3)))))
    ann = Forwarding(None)
    norm = nn.SyncBatchNorm(3)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    net = nn.Sequential(ann.a, norm, nn.ReLU(), ann.b)
    assert close(*results(net))


REMEDIES = {
    "mean of all": (
        lambda m, y: y * y.mean(),
        r"mean\(\) takes the mean over samples; only a sample's own axes may be",
    ),
    "comparison": (lambda m, y: y * (y > 1), r"gt\(\) has no counterpart in spikes; it compares values: write relu"),
    "where": (lambda m, y: torch.where(y > 0, y, 1.0), r"gt\(\) has no counterpart in spikes; it compares values"),
    "maximum": (lambda m, y: y - y.max(), r"max\(\) has no counterpart in spikes; write relu\(x\) for"),
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
        pk.convert(Forwarding(lambda m, x: m.b(forward(m, hidden(m, x)))), small_images())


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
