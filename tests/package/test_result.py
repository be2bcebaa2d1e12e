"""print(result): what a simulation was, at a glance."""

import re

import torch
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
