"""event_speed.py and engine_speed.py: rows of which every spike is compared, their accuracy and rate."""

import csv

import event_speed
import pytest
import torch
from common import subjects
from common.accuracy import strict_accuracy
from rich.console import Console
from speed import engine_table, event_nets, event_table, layer_table, moving_edges, read_add, relu_passes, turns
from speed.event_nets import Steps
from speed.step_loops import PlainNeurons
from torch import nn

import proxykernels as pk


@pytest.mark.parametrize("share", [0.001, 0.01, 0.03])
@pytest.mark.parametrize("size", event_table.SIZES.values(), ids=str)
def test_as_many_events_as_asked_for_along_lines(size, share):
    x = moving_edges.along_edges(size, share, 3).dense().bool()[:, 0]
    count = int(share * size[0] * size[1])
    assert x.sum((1, 2, 3)).tolist() == [count] * 3 and not (x[:, 0] & x[:, 1]).any()
    near = torch.nn.functional.max_pool2d(x.any(1, keepdim=True).float(), 3, 1, 1)
    anywhere = moving_edges.anywhere(size, share, 3).dense()[:, 0].amax(1, keepdim=True)
    near_anywhere = torch.nn.functional.max_pool2d(anywhere, 3, 1, 1)
    assert near.sum() < 0.55 * near_anywhere.sum()  # neighbours of an event are those of others
    assert (x[0] != x[1]).any() and (0.3 * count < x[:, 0].sum((1, 2))).all()


def test_no_events_and_events_anywhere():
    assert moving_edges.along_edges((128, 128), 0.0, 2).rate() == 0
    x = moving_edges.anywhere((128, 128), 0.2, 5).dense()
    assert not (x[:, :, 0] * x[:, :, 1]).any() and abs(x.sum() / (5 * 128 * 128) - 0.2) < 0.01


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(event_table, "SIZES", {"128x128": (60, 66)})
    monkeypatch.setattr(turns, "BLOCK_S", 1e-9)
    monkeypatch.setattr(turns, "SETTLE_S", 0.0)


@pytest.mark.slow
def test_the_command(small, tmp_path, capsys):
    before = torch.get_num_threads()
    event_speed.main(["--sizes", "128x128", "--seconds", "0.001", "--out", str(tmp_path)])
    assert torch.get_num_threads() == before
    rows = list(csv.DictReader((tmp_path / "event_speed.csv").open()))
    of = [(row["bias"], row["threads"], row["events"], row["percent"]) for row in rows]
    assert len(of) == len(set(of)) == 20
    for bias in ("without", "with"):
        for threads in "12":
            assert {(bias, threads, "none", "0"), (bias, threads, "edges", "0.1"), (bias, threads, "edges", "1"),
                    (bias, threads, "anywhere", "20")} <= set(of)  # fmt: skip
    for row in rows:
        assert float(row["engine_ms"]) > 0 < float(row["torch_ms"]) and row["commit"]
        assert float(row["spikes"]) > 0 or row["events"] == "none"
    assert (tmp_path / "event_speed.png").stat().st_size > 10_000
    assert "a step of a stream" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["spikes of the engine", "spikes of torch", "potentials of the engine", "no neuron"])
def test_rows_that_do_not_agree_are_errors(wrong):
    sample = moving_edges.along_edges((48, 56), 0.02, 16, seed=1)
    x = moving_edges.along_edges((48, 56), 0.02, event_table.STEPS)
    net, other = (event_nets.network(sample, (2, 2, 2), (8, 16, 16)) for _ in range(2))
    if "spikes" in wrong:
        other[1].weight.data += event_nets.UNIT
    else:  # nothing fires
        for layer in (*net, *other):
            layer.v_threshold = 1e6
    stream = pk.compile(other if wrong == "spikes of the engine" else net, x).stream()
    if "potentials" in wrong:
        stream(x[:1])
        stream.state = {name: torch.ones_like(v) for name, v in stream.state.items()}
    steps = Steps(other if wrong == "spikes of torch" else net, PlainNeurons, True)
    with pytest.raises(RuntimeError, match=wrong):
        event_table.checked(net, stream, steps, x, list(x.dense()))


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
        assert float(row["giga_a_second"]) == pytest.approx(
            float(row["additions"]) / float(row["us"]) / 1e3, rel=0.02, abs=0.06
        )
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
