"""Forward passes that add up the neurons of each class: the same counts."""

import pytest
import torch
from cases import spikes
from exchange import make_dyadic
from torch import nn

import proxykernels as pk

snntorch = pytest.importorskip("snntorch")
pytestmark = pytest.mark.usefixtures("short_proof")

WAYS = {
    "view": lambda s, x: s.view(x.size(1), 5, 4).sum(-1),
    "features unknown": lambda s, x: s.view(s.size(0), -1, 4).sum(dim=2),
    "size unknown": lambda s, x: s.reshape(-1, 5, 4).sum(2),
    "unflatten": lambda s, x: s.unflatten(1, (5, 4)).mean(-1),
}


class Net(nn.Module):
    def __init__(self, group, adds_up: bool = False):
        super().__init__()
        options = {"beta": 0.5, "reset_mechanism": "zero"}
        self.fc1, self.lif1 = nn.Linear(8, 16), snntorch.Leaky(**options)
        self.fc2, self.lif2 = nn.Linear(16, 20), snntorch.Leaky(**options)
        self.group, self.adds_up = group, adds_up

    def forward(self, x):
        mem1, mem2, steps = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            steps.append(spk2 if self.adds_up else self.group(spk2, x))
        return self.group(torch.stack(steps).sum(0), x) if self.adds_up else torch.stack(steps)


@torch.no_grad()
@pytest.mark.parametrize("steps, batch", [(10, 4), (6, 1)])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_counts(generator, way, steps, batch):
    net, x = make_dyadic(Net(WAYS[way]), generator, 1 / 16), spikes(steps, batch, 8, generator=generator)
    expected, ours = net(x), pk.from_snntorch(net)
    assert torch.equal(pk.simulate(ours, x, steps).potentials, expected) and expected.mean() > 0.02
    assert torch.equal(pk.compile(ours, x)(x, steps).potentials, expected)


@torch.no_grad()
def test_counts_behind_the_sum_over_time(generator):
    net, x = make_dyadic(Net(WAYS["size unknown"], True), generator, 1 / 16), spikes(10, 4, 8, generator=generator)
    expected = net(x)
    actual = pk.simulate(pk.from_snntorch(net), x, 10).potentials.sum(0)
    assert torch.equal(actual, expected) and expected.mean() > 0.5


@pytest.mark.parametrize(
    "group",
    [
        lambda s, x: s.view(-1, 4, 4).sum(-1),  # samples are mixed
        lambda s, x: s.view(-1, 4, 5).sum(1),  # neurons that are not side by side
        lambda s, x: s.view(-1, 5, 4).sum((1, 2)),
    ],
)
def test_other_sums_are_refused(generator, group):
    with pytest.raises((TypeError, ValueError), match="view"):
        pk.from_snntorch(make_dyadic(Net(group), generator, 1 / 16))
