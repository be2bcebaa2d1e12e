"""What the engine does not take is refused before anything is compiled or run, with the place and the reason."""

import copy

import pytest
import torch
from test_engine import image, network
from torch import nn

import proxykernels as pk


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(pk.IF(), (3, 0, 4)), (pk.LI(), (3, 0, 4)), (pk.IF(), (0, 2, 2)), (pk.AdaptiveAvgPool2d((0, 2)), (2, 4, 4))],
    ids=str,
)
def test_samples_without_values_are_refused(layer, shape):
    with pytest.raises(TypeError, match="the engine does not take (samples of the shape|module 0: it gives)"):
        pk.compile(nn.Sequential(layer, pk.IF()), torch.rand(2, *shape))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match=r"layer 0: weight must have no size of 0, got \[0, 2\]"):
        pk.compile(nn.Sequential(pk.FusedIFLinear(2, 0)), torch.rand(3, 2))


class Own(nn.Module):
    def forward(self, x):
        return x * x


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (Own(), r"module 1.0 \(Own\): its forward pass multiplies values by one another"),
        (pk.Upsample(scale_factor=2, mode="bilinear"), r"module 1.0 \(Upsample\): mode 'bilinear', which interpolates"),
        (pk.Voting(3), r"module 1.0 \(Voting\): its input has the shape \(T, N, 16, 2, 2\)"),
    ],
)
def test_refused_with_its_path(module, path):
    net = nn.Sequential(pk.FusedIFConv2d(1, 16, 1), nn.Sequential(module), pk.Flatten(), pk.FusedIFLinear(64, 2))
    with pytest.raises(TypeError, match=path):
        pk.compile(net, torch.rand(1, 1, 2, 2))


def test_hooks_are_refused():
    net = nn.Sequential(pk.FusedIFLinear(3, 2))
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match=r"module 0 .*hooks"):
        pk.compile(net, torch.rand(1, 3))


def test_bad_input():
    net, x = network(), image()
    engine = pk.compile(net, x)
    for given, error, text in (
        (x[:, :1], ValueError, r"shape \[N, 2, 9, 7\]"),
        (x.expand(3, *x.shape), ValueError, "3 steps, and T is 4"),
        (x.int(), TypeError, "floating point"),
        (x * torch.nan, ValueError, "finite"),
        ("x", TypeError, "torch.Tensor"),
    ):
        with pytest.raises(error, match=text):
            engine(given, 4)
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got tuple"):
        pk.compile(net, (2, 9, 7))
    with pytest.raises(ValueError, match="x must have at least one step"):
        pk.compile(net, x.expand(0, *x.shape))
    with pytest.raises(ValueError, match="precision must be None, 'int16' or 'int8', got 'int4'"):
        pk.compile(net, x, precision="int4")
    with pytest.raises(ValueError, match="T must"):
        engine(x, 0)
    with pytest.raises(ValueError, match="batch"):
        engine.stream(0)
    with pytest.raises(ValueError, match="2 samples"):
        engine.stream(2)(x[:1])
    for name, value in (("weight", torch.inf), ("weight", 2.0**127), ("bias", 2.0**110)):
        broken = copy.deepcopy(net)
        getattr(broken.out, name).data.view(-1)[0] = value
        with pytest.raises(ValueError, match=f"layer out: {name} must be finite"):
            pk.compile(broken, x)
