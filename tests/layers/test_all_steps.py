"""Layers that take all steps against their definitions, and calls that do not have all steps."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.layers import StepAttention, StepMixture


def test_definition(generator):
    weight = dyadic(5, 5, generator=generator, unit=1 / 8)
    layer, x = StepMixture(weight), spikes(5, 2, 3, 4, generator=generator, rate=0.5)
    expected = torch.stack([sum(weight[t, u] * x[u] for u in range(5)) for t in range(5)])
    y, state = layer(x, torch.zeros(2))
    assert equal(y, expected) and equal(layer(pk.pack(x)), expected) and equal(state, torch.full((2,), 5.0))
    assert expected.any()


def test_what_is_refused():
    layer = StepMixture(torch.eye(3))
    with pytest.raises(ValueError, match="x has 2 steps, and each of 3 steps takes all of them: run 3 steps in one"):
        layer(torch.rand(2, 4, 5))
    with pytest.raises(ValueError, match="x has 3 steps behind 3 others"):
        layer(torch.rand(3, 4, 5), torch.full((4,), 3.0))
    with pytest.raises(ValueError, match=r"weight must have the shape \[steps, steps\], got \[2, 3\]"):
        StepMixture(torch.zeros(2, 3))


def pair(n, generator):
    return dyadic(2, n, generator=generator), dyadic(n, 2, generator=generator)


@torch.no_grad()
def test_attention_is_its_definition(generator):
    """Each gate by itself, written out for one sample."""
    T, N, C = 5, 2, 4
    of_steps, of_channels, spatial = pair(T, generator), pair(C, generator), torch.rand(1, 2, 3, 3, generator=generator)
    x = dyadic(T, N, C, 6, 7, generator=generator)
    y, state = StepAttention(of_steps, of_channels, spatial, rectifies=True)(x, torch.zeros(N))
    for n in range(N):
        values = x[:, n].clone()
        for axis, (inward, outward) in ((0, of_steps), (1, of_channels)):
            rows = values.movedim(axis, 0).flatten(1)
            sums = [outward @ (inward @ part).relu() for part in (rows.mean(1), rows.amax(1))]
            gates = torch.sigmoid(sums[0] + sums[1])
            values = values * gates.view([-1 if k == axis else 1 for k in range(4)])
        both = torch.stack([values.mean((0, 1)), values.amax((0, 1))])
        values = values * torch.conv2d(both[None], spatial, padding=1).sigmoid()[0, 0]
        torch.testing.assert_close(y[:, n], values.relu())
    assert equal(state, torch.full((N,), float(T))) and 0.1 < (y > 0).float().mean() < 0.9


def test_attention_that_is_refused(generator):
    with pytest.raises(ValueError, match="one of temporal, channel and spatial must be given"):
        StepAttention()
    with pytest.raises(
        ValueError, match=r"channel must have the shapes \[hidden, n\] and \[n, hidden\], got \[2, 4\] and"
    ):
        StepAttention(channel=(torch.zeros(2, 4), torch.zeros(2, 4)))
    with pytest.raises(
        ValueError, match=r"spatial must have the shape \[1, 2, k, k\] with an odd k, got \[1, 2, 2, 2\]"
    ):
        StepAttention(spatial=torch.zeros(1, 2, 2, 2))
    layer = StepAttention(pair(3, generator))
    with pytest.raises(ValueError, match="x has 2 steps, and each of 3 steps takes all of them: run 3 steps in one"):
        layer(torch.rand(2, 4, 5))


@torch.no_grad()
def test_simulate_runs_all_steps_in_one_chunk(generator):
    T = 300  # more than a chunk has
    net = nn.Sequential(StepAttention(pair(T, generator)), pk.FusedIFLinear(6, 4))
    x = torch.rand(T, 3, 6, generator=generator)
    expected = net(x)
    assert equal(pk.simulate(net, x, T).spikes.dense(), expected) and 0.01 < expected.mean() < 0.99
    with pytest.raises(ValueError, match="x has 100 steps, and each of 300 steps"):
        pk.simulate(net, x, T, chunk=100)
    with pytest.raises(ValueError, match="StepAttention, each of whose steps takes all steps.*stop: leave stop out"):
        pk.simulate(net, x, T, stop=pk.stop.margin(2))
    with pytest.raises(ValueError, match="StepAttention, each of whose steps takes all steps.*lengths: run samples"):
        pk.simulate(net, x, T, lengths=[100, 200, 300])
