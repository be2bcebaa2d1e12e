"""Sum pooling: of spikes, of real values, in networks and in training."""

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import spikes
from equality import equal
from torch import nn

import proxykernels as pk

T = 9


@pytest.mark.parametrize("kernel, stride, padding", [(2, None, 0), ((3, 2), (2, 1), (1, 0)), (4, 2, 2), (1, 3, 0)])
def test_sums_are_the_spikes_of_a_window(generator, kernel, stride, padding):
    """Of spikes, packed or not, and of values, whose convolution with ones it is."""
    x = spikes(T, 3, 5, 9, 8, generator=generator, rate=0.4)
    pool = pk.SumPool2d(kernel, stride, padding)
    ones = torch.ones(5, 1, *nn.modules.utils._pair(kernel))
    for values in (x, x * 0.25 - 2.0):
        expected = F.conv2d(values.flatten(0, 1), ones, None, stride or kernel, padding, groups=5)
        assert expected.abs().sum() > 10 and equal(pool(values), expected.unflatten(0, (T, 3)))
    assert equal(pool(pk.pack(x)), pool(x))


def test_sum_pooling_in_a_network(generator):
    """In chunks of steps, and with a gradient."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 4, 3), pk.SumPool2d(2), pk.FusedIFConv2d(4, 3, 3), pk.Flatten(), pk.FusedIFLinear(3, 6)
    )
    for parameter in net.parameters():
        parameter.data = torch.randint(-4, 7, parameter.shape, generator=generator) / 8.0
    x = torch.rand(3, 2, 8, 8, generator=generator)
    whole, parts = pk.simulate(net, x, 40), layerwise.simulate(net, x, 40, chunk=7)
    assert equal(whole.spikes.dense(), parts.spikes.dense()) and 0.02 < whole.spikes.rate() < 0.98
    trained = pk.use_surrogate(net, pk.ATan()).train()
    trained(x.expand(8, *x.shape)).sum().backward()
    assert net[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("steps", [2, 40], ids=["dense", "packed"])
def test_adaptive_averages_keep_a_size(generator, steps):
    """None stands for the input's size, of tensors small and large and of Spikes."""
    x, pool = pk.IF()(torch.rand(steps, 1, 5, 9, 8, generator=generator)), nn.AdaptiveAvgPool2d((None, 3))
    expected = pool(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    assert x.any() and equal(pk.AdaptiveAvgPool2d((None, 3))(pk.pack(x)), expected)
    assert equal(pk.AdaptiveAvgPool2d((None, 3))(pk.IF()(x)), expected)
    assert isinstance(pk.AdaptiveAvgPool2d((None, 8))(pk.pack(x)), pk.Spikes)


def test_what_sum_pooling_refuses():
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        pk.SumPool2d(0)
    with pytest.raises(ValueError, match=r"x must have the shape \(T, N, C, H, W\), got \[4, 2, 7\]"):
        pk.SumPool2d(2)(torch.zeros(4, 2, 7))
