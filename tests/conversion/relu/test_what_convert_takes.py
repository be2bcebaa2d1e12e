"""Models and calibration data of every kind: each is converted rightly, or refused in one sentence that says where."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from torch import nn

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


def in_place_by_position_and_ignored(m, x):
    y = m.a(x)
    F.relu(y, True)
    return y


def in_place_and_read_again(m, x):
    y = m.a(x).relu()
    return (m.b(y.add_(m.c(y)).relu()) + y).relu()


def read_again_after_a_sum(m, x):
    y = z = m.a(x).relu()
    z += m.c(y)
    return (m.b(z.relu()) + y).relu()


IN_PLACE = [
    in_place_and_ignored, in_place_by_position_and_ignored, in_place_and_read_again, read_again_after_a_sum,
]  # fmt: skip


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
    """A hook may change what a layer gives; those that compute weights are followed (test_parametrized.py)."""
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    handle = getattr(ann.get_submodule(place), kind)(lambda module, inputs, *output: None)
    with pytest.raises(TypeError, match="^ann('s module '0')? has a forward hook, which .* register it on the network"):
        pk.convert(ann, torch.rand(4, 1, 6, 6))
    handle.remove()
    nn.init.constant_(ann[3].bias, 1.0)
    assert pk.simulate(pk.convert(ann, torch.rand(4, 1, 6, 6)), torch.rand(2, 1, 6, 6), 20).spikes.rate() > 0
