"""print(result): what a simulation was, at a glance."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import proxykernels as pk


def simulated(**options):
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, v_threshold=0.5), pk.Flatten(), pk.FusedIFLinear(64, 3, v_threshold=0.1)
    )
    net[2].weight.data.abs_()
    return pk.simulate(net, torch.rand(2, 1, 6, 6), 20, **options)


def test_a_row_for_each_layer():
    result = simulated(record=["0", "0.v"])
    lines = str(result).splitlines()
    assert lines[0] == "Result of T = 20 steps, N = 2 samples: spikes (20, 2, 3) on cpu"
    assert lines[1].split() == ["layer", "rate", "accumulates", "multiply-accumulates"]
    rows = [line.split() for line in lines[2:4]]
    assert [row[:2] for row in rows] == [[name, f"{rate:.4f}"] for name, rate in result.rates.items()]
    counts = [int(cell.replace(",", "")) for row in rows for cell in row[2:]]
    assert counts == [0, 2 * 64 * 9, result.synops.accumulates["2"], 0] and counts[2] > 0
    assert f"{result.synops.total:,} synaptic operations" in lines[4] and lines[5] == "records of 0, 0.v"
    assert len(lines) == 6 and len({len(line) for line in lines[1:4]}) == 1 and repr(result) == str(result)


def test_samples_that_stopped_early():
    result = simulated(stop=lambda counts, t: counts.sum(1) >= counts.sum(1).max(), chunk=4)
    steps = result.steps
    assert steps.min() < 20
    expected = f"stopped after {steps.min()} to {steps.max()} steps, {steps.float().mean():.1f} on average"
    assert expected in str(result).splitlines()


def test_no_samples():
    net = nn.Sequential(pk.FusedIFLinear(4, 3))
    shown = repr(pk.simulate(net, torch.zeros(0, 4), 5))
    assert "N = 0 samples" in shown and re.search(r"^0 +nan", shown, re.MULTILINE)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.short = nn.Conv2d(4, 4, 1, stride=2)
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((self.grouped(x) + self.short(x)).relu().flatten(1))


@pytest.mark.parametrize("neuron", [None, "sigma-delta"])
@torch.no_grad()
def test_the_energy_of_the_relu_network(generator, neuron):
    """Its multiply-accumulates are those of ones by ones: padding adds nothing."""
    ann, x = Residual().eval(), torch.rand(6, 2, 8, 8, generator=generator)
    net = pk.convert(ann, x, **({} if neuron is None else {"neuron": neuron}))
    products, taken = 0, []
    hooks = [
        module.register_forward_hook(lambda module, given, _: taken.append((module, given[0])))
        for module in ann.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    ann(x)
    for hook in hooks:
        hook.remove()
    for module, given in taken:
        ones, weight = torch.ones_like(given), torch.ones_like(module.weight)
        if isinstance(module, nn.Linear):
            products += F.linear(ones, weight).sum().item()
        else:
            products += F.conv2d(ones, weight, None, module.stride, module.padding, 1, module.groups).sum().item()
    stop = pk.stop.settled() if neuron else pk.stop.margin(1)
    options: list[dict] = [{}, {"chunk": 2}, {"chunk": 2, "stop": stop}]
    results = [pk.simulate(net, x, 9, **each) for each in options]
    assert results[2].steps.min() < 9
    results.append(pk.simulate(net, x, 9, state=results[0].state))
    for result in results:
        assert result.relu_joules == pytest.approx(4.6e-12 * products)
        expected = f"one pass of the ReLU network, zeros not skipped: about {4.6e-12 * products:.2g} J"
        assert expected in str(result).splitlines()


def test_where_the_relu_network_is_not_known():
    result = simulated()
    assert result.relu_joules is None and "ReLU" not in str(result)
    net = pk.convert(nn.Sequential(nn.Linear(4, 3)), torch.rand(8, 4))
    assert pk.simulate(net, torch.rand(2, 4), 5).relu_joules > 0
    moving = pk.simulate(net, torch.rand(5, 2, 4), 5)
    assert moving.relu_joules is None and "ReLU" not in str(moving)


def test_silent_layers_and_real_values_are_marked():
    """Also in an engine's result; without samples nothing is said."""
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFLinear(4, 8, v_threshold=0.5), pk.FusedLILinear(8, 6, decay=0.0),
        pk.FusedIFLinear(6, 5, v_threshold=9.0), pk.FusedIFLinear(5, 3, bias=False),
    )  # fmt: skip
    x = torch.rand(3, 4)
    for result in (pk.simulate(net, x, 12), pk.compile(net, x)(x, 12)):
        rows = str(result).splitlines()[2:6]
        ends = [row.split(maxsplit=4)[4:] for row in rows]
        assert [*result.rates] == ["0", "2", "3"] and list(result.places) == ["0", "1", "2", "3"]
        assert result.rates["0"] > 0 and ends == [[], ["real values, no spikes"], ["silent"], ["silent"]]
    assert "silent" not in str(pk.simulate(net, x[:0], 12))
