"""engine_speed.py: its rows of a converted network, and their accuracy and rate."""

import pytest
import torch
from common import subjects
from common.accuracy import strict_accuracy
from rich.console import Console
from speed import engine_table, layer_table, read_add, relu_passes, turns
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


def test_rows_of_layers(monkeypatch):
    """Additions are those of the run, and shares are of the limit of the level that the weights fit."""
    monkeypatch.setattr(layer_table, "ROUNDS", 2)
    monkeypatch.setattr(read_add, "SECONDS", 1e-5)
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 5)
    )
    images = torch.rand(6, 1, 8, 8)
    engine = pk.compile(pk.convert(ann.eval(), images), images, precision="int8")
    *rows, rest = layer_table.rows_of(engine, images, 2, 4)
    done, named = engine(images, 4).synops, {row["layer"]: row for row in rows}
    assert list(named) == [op.name for op in engine.plan.operations] and rest["layer"] == layer_table.REST
    first, second, *_, last = named.values()
    assert (first["additions"], first["products"]) == ("0", str(24 * 36 * 9)) and first["kilobytes"] == "0.9"
    assert second["kilobytes"] == f"{24 * 32 * 9 / 1e3:.1f}" and second["level"] == "first"
    assert last["kilobytes"] == f"{4 * 5 * 512 / 1e3:.1f}"  # narrow: floats
    for row in (second, last):
        assert row["additions"] == f"{done.accumulates[row['layer']] / 6:.0f}" and float(row["additions"]) > 50
        assert float(row["giga_a_second"]) == pytest.approx(float(row["additions"]) / float(row["us"]) / 1e3, abs=0.06)
        limit = read_add.additions("first", 1 if row is second else 4) / 1e9
        assert float(row["limit"]) == pytest.approx(limit, abs=0.06)
        assert float(row["share"]) == pytest.approx(float(row["giga_a_second"]) / limit, abs=0.05)
    assert float(first["limit"]) == pytest.approx(read_add.products() / 1e9, abs=0.06)


def test_levels_of_caches(monkeypatch, tmp_path):
    for k, (level, kind, size) in enumerate([(1, "Data", 48), (1, "Instruction", 64), (2, "Unified", 2048)]):
        folder = tmp_path / f"index{k}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", f"{size}K")):
            (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(read_add, "CACHES", tmp_path)
    read_add._rooms.cache_clear()
    with pytest.raises(ValueError, match="does not tell the sizes of three levels"):
        read_add.check()
    (tmp_path / "index1" / "level").write_text("3")
    (tmp_path / "index1" / "type").write_text("Unified")
    (tmp_path / "index1" / "size").write_text("30720K")
    sizes = 48 << 10, (48 << 10) + 1, 2 << 20, 30 << 20, (30 << 20) + 1
    assert [read_add.level_of(size) for size in sizes] == ["first", "second", "second", "third", read_add.MEMORY]
    read_add._rooms.cache_clear()
