"""Time loops of all kinds, and neurons that are bounded: each is refused, or imported and then equal, step by step."""

import warnings

import pytest
import torch
from cases import dyadic, many
from foreign_loops import HELD, OTHERS, RIGHT
from torch import nn

import proxykernels as pk

OF_HELD = ("held", "zeros for a held input")  # begin the names of loops that take one step's input
ENDS = {
    "all": lambda y: y, "sum": lambda y: y.sum(0), "mean": lambda y: y.mean(0), "last": lambda y: y[-1],
}  # fmt: skip


def network(forward) -> nn.Module:
    snn = pytest.importorskip("snntorch")
    generator = torch.Generator().manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(12, 16), snn.Leaky(beta=0.5, reset_mechanism="zero")
            self.fc2, self.lif2 = nn.Linear(16, 8), snn.Leaky(beta=0.75, reset_mechanism="zero")
            self.other = nn.Linear(12, 16)

        def forward(self, x):
            return forward(self, x)

    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.copy_(dyadic(*parameter.shape, generator=generator, span=12, unit=1 / 16))
    return net


def is_right(net, ours, name: str) -> bool:
    """Whether both give the same, on samples of several lengths: all steps, or one value for all in one way."""
    generator, ends = torch.Generator().manual_seed(1), set(ENDS)
    steps = [HELD] if name.startswith((*OF_HELD, "its own number")) else [HELD, 40, 112]
    for T in steps:
        x = dyadic(T, 3, 12, generator=generator).abs()
        held = name.startswith(OF_HELD)
        taken = x[0] if held else x.transpose(0, 1) if name == "samples first" else x
        with torch.no_grad():
            given = net(taken)
        given = given[0] if isinstance(given, tuple) else given
        given = given.transpose(0, 1) if name == "samples first" else given
        spikes = pk.simulate(ours, x[0] if held else x, T).spikes.dense()
        assert 0.02 < spikes.mean() < 0.98
        ends = {
            end for end in ends if ENDS[end](spikes).shape == given.shape and torch.allclose(ENDS[end](spikes), given)
        }
    return bool(ends)


@pytest.mark.parametrize("name", many(RIGHT, 2))
def test_loops_that_are_right(name):
    net = network(RIGHT[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = pk.from_snntorch(net)
    assert is_right(net, ours, name)


@pytest.mark.parametrize("name", many(OTHERS, 4))
def test_no_loop_is_frozen(name):
    net = network(OTHERS[name])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = pk.from_snntorch(net)
    except (TypeError, ValueError) as error:
        assert "Net" in str(error) and "\n" not in str(error)
        return
    assert is_right(net, ours, name)
