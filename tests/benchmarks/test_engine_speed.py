"""engine_speed.py: its rows of a converted network, and their accuracy and rate."""

import pytest
import torch
from common import subjects
from common.accuracy import strict_accuracy
from rich.console import Console
from speed import engine_table, relu_passes, turns
from torch import nn

import proxykernels as pk


@pytest.mark.slow
def test_rows_of_a_converted_network(monkeypatch):
    monkeypatch.setattr(turns, "MOST_ROUNDS", 1)
    monkeypatch.setattr(turns, "PAUSE_S", 0.0)
    monkeypatch.setattr(turns, "SETTLE_S", 0.0)
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5)).eval()
    images = torch.rand(120, 1, 8, 8)
    with torch.no_grad():
        labels = ann(images).argmax(1)
    subject = subjects.Subject("tiny", ann, images, images, nn.functional.one_hot(labels, 5).bool())
    net = pk.convert(ann, images)
    case = engine_table.Case("tiny", subject, net, converted=True, batch=2, precision=None, fast=True)
    rows = list(engine_table.measured(Console(), case, [1, 8], {}))
    passes = [f"ReLU network, {name}" for name in relu_passes.NAMES]
    names = [row["contender"] for row in rows if row["contender"] != "ReLU network, OpenVINO bfloat16"]
    assert names == 2 * ["engine", "simulate", *(name for name in passes if "bfloat16" not in name)]
    right = {(row["contender"], row["T"]): row["right"] for row in rows}
    assert right[passes[0], ""] == right[passes[1], ""] == "100.00"
    for T in (1, 8):
        result = pk.simulate(net, images, T)
        assert right["engine", T] == f"{100 * strict_accuracy(result.logits, labels):.2f}" == right["simulate", T]
        spikes = sum(result.rates[name] * places for name, places in result.places.items() if places)
        places = sum(result.places.values())
        (rate,) = {row["rate"] for row in rows if row["T"] == T}
        assert rate == f"{100 * spikes / places:.2f}" != "0.00"
    assert all(float(row["changing_ms"]) > 0 and float(row["paused_ms"]) > 0 for row in rows)
