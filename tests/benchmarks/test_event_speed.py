"""event_speed.py: events along edges, rows of which every spike is compared, and contenders that would not agree."""

import csv

import event_speed
import pytest
import torch
from speed import event_nets, event_table, moving_edges, turns
from speed.event_nets import Steps
from speed.step_loops import PlainNeurons

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
