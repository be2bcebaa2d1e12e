"""Convolutions of many pixels and steps: the same spikes as the oracle's, whichever sums inputs go to."""

import pytest
import torch
from oracle import make_dyadic, trace
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.engine.engine import Engine
from proxykernels.engine.follow import follow
from proxykernels.kernels import cpu

TARGETS = [target for target in ("avx512", "avx2", "portable") if cpu.load(target)]


def periodic(T: int, *shape: int) -> Tensor:
    """Few patterns, which many inputs share."""
    period = torch.randint(1, 9, shape)
    return (torch.arange(1, T + 1).view(-1, *[1] * len(shape)) % period == 0).float()


def nearly_steady(T: int, *shape: int) -> Tensor:
    """Some inputs fire at most steps, the others seldom."""
    return (torch.rand(T, *shape) < torch.where(torch.rand(shape) < 0.3, 0.9, 0.05)).float()


def anything(T: int, *shape: int) -> Tensor:
    return (torch.rand(T, *shape) < 0.2).float()


INPUTS = {"periodic": periodic, "nearly steady": nearly_steady, "anything": anything}
# C_in, C_out, kernel, stride, padding, dilation: a slice is the window, a row of it, a pixel, or a part of a pixel.
WINDOWS = [(40, 33, 3, 1, 1, 1), (100, 16, 3, 2, 1, 1), (150, 40, (1, 3), 1, (0, 1), 1), (400, 17, 2, 1, 0, 2)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("T", [12, 33, 64, 70])
def test_the_oracle(given, window, T, target):
    torch.manual_seed(T)
    C_in, C_out, kernel, stride, padding, dilation = window
    conv = pk.FusedIFConv2d(C_in, C_out, kernel, stride, padding, dilation, v_threshold=2.0, v_reset=None)
    net = pk.Network()
    net.append("conv", conv, ("",))
    net.append("pool", pk.MaxPool2d(2), ("conv",))
    make_dyadic(net.eval(), 1 / 64)
    x = INPUTS[given](T, 2, C_in, 7, 9)
    x[..., 4:, :] = 0  # a background
    values, _ = trace(net, x)
    result = Engine(follow(net, x.shape[2:], False), target=target)(pk.pack(x), T)
    assert values["pool"].any() and not values["conv"].all()
    assert torch.equal(result.spikes.dense(), values["pool"])
    assert result.rates["conv"] == pytest.approx(values["conv"].mean().item())


def test_operations_are_counted():
    net = nn.Sequential(pk.FusedIFConv2d(40, 33, 3, 2, 1), pk.FusedIFConv2d(33, 20, 3, dilation=2)).eval()
    x = anything(40, 3, 40, 21, 17)
    result, expected = pk.compile(net, pk.pack(x))(pk.pack(x), 40), pk.simulate(net, pk.pack(x), 40)
    assert result.synops == expected.synops and result.count().any()
