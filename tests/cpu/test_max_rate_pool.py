"""Max pooling of spike counts on each instruction set, against its definition: the maximum of the sums so far grows."""

import pytest
import torch
import torch.nn.functional as F
from cases import STEPS, spikes
from equality import equal
from torch import Tensor

import proxykernels as pk

WINDOWS = [  # kernel, stride, padding; of 4, 9 and other numbers of inputs, fewer at the edges
    pytest.param((2, 2, 0), id="four"),
    pytest.param((3, 1, 1), id="nine"),
    pytest.param((2, 1, 1), id="padded"),
    pytest.param(((3, 2), (2, 1), (1, 0)), id="uneven"),
    pytest.param(((1, 4), (2, 3), (0, 2)), id="flat"),
    pytest.param(((7, 5), 1, 0), id="the-image"),
]


def definition(x: Tensor, before: Tensor, window) -> tuple[Tensor, Tensor]:
    """Spikes [T, N, C, H_out, W_out] of spikes [T, N, C, H, W], and the counts after all steps."""
    counts = torch.cat([before[None], before + x.cumsum(0)])
    highest = F.max_pool2d(counts.flatten(0, 1), *window).unflatten(0, counts.shape[:2])
    return highest[1:] - highest[:-1], counts[-1]


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("window", WINDOWS)
def test_each_step_and_the_counts_after_all(generator, instruction_set, window, T):
    x = spikes(T, 2, 11, 7, 5, generator=generator, rate=0.4)
    before = torch.randint(0, 3, x.shape[1:], generator=generator).float()
    y, counts = pk.MaxRatePool2d(*window)(pk.pack(x), before)
    expected, after = definition(x, before, window)
    assert expected.any() and equal(y.dense(), expected) and equal(counts, after)


@pytest.mark.parametrize("C", [1, 7, 8, 31, 32, 33, 64, 70])
@pytest.mark.parametrize("window", WINDOWS[:3])
def test_channels_off_a_block(generator, instruction_set, window, C):
    x = spikes(35, 1, C, 7, 5, generator=generator, rate=0.4)
    x[-1] = 1  # what is lost of the last step shows
    y, counts = pk.MaxRatePool2d(*window)(pk.pack(x), torch.zeros(x.shape[1:]))
    expected, after = definition(x, torch.zeros(x.shape[1:]), window)
    assert expected.any() and equal(y.dense(), expected) and equal(counts, after)


@pytest.mark.parametrize("step", [0, 31, 32, 33, 63, 64, 69])
def test_a_single_spike_at_any_step(instruction_set, step):
    """It fires once, and is counted; a second one of another pixel of the window changes nothing."""
    x = torch.zeros(70, 1, 33, 4, 4)
    x[step, 0, 32, 1, 1] = 1
    x[min(step + 1, 69), 0, 32, 0, 1] = 1
    y, counts = pk.MaxRatePool2d(2)(pk.pack(x), torch.zeros(1, 33, 4, 4))
    fired = y.dense()
    assert fired.nonzero().tolist() == [[step, 0, 32, 0, 0]] and equal(counts, x.sum(0))


def test_many_images_and_steps_in_parts(generator, instruction_set):
    """The counts of a call go into the next one, whose steps are not those of a word."""
    x = spikes(70, 5, 9, 7, 5, generator=generator, rate=0.5)
    counts, parts = torch.zeros(x.shape[1:]), []
    for part in x.split([1, 32, 33, 4]):
        y, counts = pk.MaxRatePool2d(3, 2, 1)(pk.pack(part), counts)
        parts.append(y.dense())
    expected, after = definition(x, torch.zeros(x.shape[1:]), (3, 2, 1))
    assert expected.any() and equal(torch.cat(parts), expected) and equal(counts, after)


def test_counts_end_where_float32_does(generator, instruction_set):
    """From 2**24 on nothing is added to one, and the pooling is silent."""
    x = spikes(40, 1, 9, 4, 4, generator=generator, rate=0.4)
    before = torch.full(x.shape[1:], 2.0**24 - 2)
    first = x * (x.cumsum(0) <= 2)  # the spikes that are counted
    expected, after = definition(first, before, (2,))
    y, counts = pk.MaxRatePool2d(2)(pk.pack(x), before)
    assert equal(expected.sum(0), torch.full((1, 9, 2, 2), 2.0)) and equal(y.dense(), expected) and equal(counts, after)
    net = torch.nn.Sequential(pk.IF(), pk.MaxRatePool2d(2)).eval()
    state = {"0": [torch.zeros_like(before)], "1": [before]}
    assert equal(pk.simulate(net, x, 40, state=state).spikes.dense(), expected)


@pytest.mark.parametrize("window", [(2,), (3, 2, 1), ((2, 3), 1), (2, 1, (0, 1))], ids=str)
def test_the_layer(generator, window):
    x = spikes(40, 2, 11, 8, 6, generator=generator)
    layer = pk.MaxRatePool2d(*window)
    expected, after = definition(x, torch.zeros(x.shape[1:]), window)
    assert expected.any() and equal(layer(pk.pack(x)).dense(), expected) and equal(layer(x), expected)
    y, counts = layer(pk.pack(x), torch.zeros(x.shape[1:]))
    assert equal(y.dense(), expected) and equal(counts, after)
    with pytest.raises(ValueError, match="0 and 1"):
        layer(x * 0.5)
