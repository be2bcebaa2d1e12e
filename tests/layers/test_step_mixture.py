"""StepMixture against its definition, and calls that do not have all of its steps."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.layers import StepMixture


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
