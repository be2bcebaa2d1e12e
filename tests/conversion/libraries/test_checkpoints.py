"""Checkpoints: weights by their names, or in their order, in the imported network."""

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk

pytest.importorskip("spikingjelly.activation_based")
from spikingjelly.activation_based import functional, layer, neuron  # noqa: E402
from spikingjelly.activation_based.model import qkformer, sew_resnet, spikformer  # noqa: E402
from spikingjelly.activation_based.model import spike_driven_transformer as sdt  # noqa: E402

SEW = {"cnf": "ADD", "spiking_neuron": neuron.IFNode}
PUBLIC = {  # published with trained weights, and the side of images in the test
    "SEW-ResNet-18": (lambda: sew_resnet.sew_resnet18(**SEW), 32),
    "SEW-ResNet-34": (lambda: sew_resnet.sew_resnet34(**SEW), 32),
    "SEW-ResNet-50": (lambda: sew_resnet.sew_resnet50(**SEW), 32),
    "Spikformer-8-256": (lambda: spikformer.spikformer_ti(img_size_h=32, img_size_w=32), 32),
    "Spikformer-8-384": (lambda: spikformer.spikformer_s(img_size_h=32, img_size_w=32), 32),
    "Spike-driven Transformer 8-384": (sdt.sdt_8_384, 224),
    "QKFormer 10-384": (qkformer.qkformer_10_384, 224),
}


def small(seed: int, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(
        layer.Conv2d(2, width, 3, padding=1, bias=False), layer.BatchNorm2d(width), neuron.IFNode(), layer.Flatten(),
        layer.Linear(width * 36, 5), neuron.IFNode(),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    net[1].running_mean.uniform_(-0.2, 0.2), net[1].running_var.uniform_(0.01, 0.05)
    net[4].weight.data.mul_(6)
    return net.eval()


def renamed(state: dict) -> dict:
    """As another version's containers name them."""
    return {name.replace(".", ".module.", 1): value for name, value in state.items()}


FORMS = {
    "plain": lambda state: state,
    "in a checkpoint": lambda state: {"model": state, "epoch": 3, "optimizer": {}},
    "of a wrapper": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_the_checkpoints(form):
    trained, x = small(1), torch.rand(12, 3, 2, 6, 6)
    mine = small(2)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    ours = pk.load_spikingjelly(mine, FORMS[form](trained.state_dict()))
    with torch.no_grad():
        expected = trained(x)
    assert expected.mean() > 0.05 and (ours(x) != expected).float().mean() < 0.02
    functional.reset_net(mine)
    with torch.no_grad():
        assert (mine(x) != expected).float().mean() > 0.05
    assert all(equal(value, before[name]) for name, value in mine.state_dict().items())


def test_other_names_in_the_same_order():
    trained = small(1)
    with pytest.warns(UserWarning, match=r"has other names than Sequential, such as '0.module.weight' for '0.weight'"):
        ours = pk.load_spikingjelly(small(2), renamed(trained.state_dict()))
    plain = pk.from_spikingjelly(trained)
    assert all(equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True))


def test_what_does_not_fit():
    trained, net = small(1).state_dict(), small(2)
    other = {name: value for name, value in trained.items() if name != "4.bias"}
    for state, message in (
        (small(1, 16).state_dict(), r"other shapes than the model: 0.weight \[16, 2, 3, 3\] for \[8, 2, 3, 3\], "),
        (other, "of another network than Sequential: missing 4.bias; left over nothing"),
        (other | {"head.bias": torch.zeros(5, 1)}, "missing 4.bias; left over head.bias"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.load_spikingjelly(net, state)
    for state in ({}, {"epoch": 3}, [1]):
        with pytest.raises(TypeError, match="state_dict must have tensors by their names"):
            pk.load_spikingjelly(net, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.filterwarnings("ignore:.*was taken over and not compared")
def test_public_sizes(name):
    make, side = PUBLIC[name]
    torch.manual_seed(0)
    trained, net = make(), make()
    for each in (trained, net):
        functional.set_step_mode(each, "m")
    sample = torch.rand(1, 3, side, side)
    ours = pk.load_spikingjelly(net, {"model": trained.state_dict()}, sample, check=False).state_dict()
    plain = pk.from_spikingjelly(trained.eval(), sample, check=False).state_dict()
    others = pk.from_spikingjelly(net.eval(), sample, check=False).state_dict()
    assert ours.keys() == plain.keys() and all(equal(value, plain[name]) for name, value in ours.items())
    assert not all(torch.equal(value, others[name]) for name, value in ours.items())
