"""event_lag.py: recordings cut into packets and played by the clock, contenders that agree, files that are none."""

import csv
import sys

import event_lag
import layerwise
import numpy as np
import pytest
import torch
from common import recordings
from equality import equal
from rich.console import Console
from speed import event_contenders, event_lag_table, event_nets
from speed.event_contenders import Packet

import proxykernels as pk

SIZE = 40, 60


def moving(ms: int, seed: int = 0) -> recordings.Recording:
    """A bar that moves to the right, 40 events a millisecond, and nothing in each fifth millisecond."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 1000 * ms, 40 * ms))
    t = np.concatenate([[0], t[t // 1000 % 5 < 4], [1000 * ms - 1]])
    x, y = (t // 500 + rng.integers(0, 3, len(t))) % SIZE[1], rng.integers(0, SIZE[0], len(t))
    return recordings.Recording(t, x.astype(np.uint16), y.astype(np.uint16), rng.integers(0, 2, len(t)) > 0, SIZE)


def write(path, recording: recordings.Recording) -> None:
    lines = [f"{t},{x},{y},{int(p)}" for t, x, y, p in zip(*recording[:4], strict=True)]
    path.write_text("\n".join(["t,x,y,on", *lines, ""]))


class FakeClock:
    """Time that passes by sleeping, by looking, and by answers."""

    def __init__(self):
        self.now = 7.0

    def perf_counter(self) -> float:
        self.now += 1e-7
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_packets_have_all_events_once():
    recording = moving(23)
    packets = list(event_lag_table.cut(recording, 2.5))
    assert len(packets) == 10 and [packet.start for packet in packets] == list(range(0, 25_000, 2_500))
    for number in range(4):
        assert np.array_equal(np.concatenate([packet[number] for packet in packets]), recording[number])
    for packet in packets:
        assert ((packet.t >= packet.start) & (packet.t < packet.start + packet.length)).all()
    assert any(not len(packet.t) for packet in event_lag_table.cut(recording, 0.5))


def test_lags_by_the_clock():
    """Answers take 0.3 ms, and that to the third packet 2.5: it keeps up no more, and neither does the fourth."""
    costs, clock, answered = [0.3e-3, 0.3e-3, 2.5e-3, 0.3e-3, 0.3e-3, 0.3e-3], FakeClock(), []
    empty = np.array([], np.int64)
    packets = [
        Packet(np.array([400, 800]), empty, empty, empty, 0, 1000),
        Packet(empty, empty, empty, empty, 1000, 1000),
    ]

    def answer(packet: Packet) -> None:
        clock.now += costs[len(answered)]
        answered.append(packet)

    played = event_lag_table.play(packets, 1e-3, 6e-3, answer, clock)
    assert [len(packet.t) for packet in answered] == [2, 0, 2, 0, 2, 0]
    #  ends at 1.3; 2.3; 5.5; 5.8 where 4 is due; 6.1 where 5 is; 6.4
    expected = [0.5, 0.3, 2.7, 1.8, 1.3, 0.4]
    assert played.lag == pytest.approx(1e-3 * np.array(expected), abs=2e-5)
    assert played.taken == pytest.approx(costs, abs=2e-5)
    assert played.kept_up.tolist() == [True, True, False, False, False, True]
    assert event_lag_table.figures_of(played)["kept_up"] == "50.00"


def test_who_is_behind_ends_in_time_and_memory_is_looked_at():
    clock, packets = FakeClock(), list(event_lag_table.cut(moving(5), 1))

    def answer(packet: Packet) -> None:
        clock.now += 0.1

    played = event_lag_table.play(packets, 1e-3, 3.5, answer, clock)
    assert len(played.lag) == len(played.kept_up) == 35 and not played.kept_up.any()
    assert [round(second, 1) for second, _ in played.memory] == [1.0, 2.0, 3.0]
    assert all(size > 10**7 for _, size in played.memory) and np.isfinite(played.lag).all()


def test_the_network_fires_in_all_layers_and_its_sums_are_exact():
    recording = moving(16)
    sample = pk.events(*recording[:4], size=SIZE, dt=1000)
    for bias in (False, True):
        net = event_nets.network(sample, (2, 2, 2), (4, 6, 8), bias, answers=True)
        rates = pk.simulate(net, sample, 16).rates
        assert len(rates) == 4 and all(0 < rate < 0.2 for rate in rates.values())
        for parameter in net.parameters():
            units = parameter / event_nets.BIAS_UNIT
            assert equal(units, units.round()) and parameter.any()


def test_contenders_answer_alike():
    recording = moving(60)
    packets = list(event_lag_table.cut(recording, 1))
    net = event_lag_table.network(SIZE, packets, "stride-2")
    names = [
        name for name, _ in event_lag_table.line_up(Console(), net, SIZE, packets, list(event_contenders.CONTENDERS))
    ]
    assert names[:2] == ["proxykernels", "plain"]
    answer = event_contenders.engine(net, SIZE)
    for packet in packets:
        counts = answer(packet)
    sample = pk.events(*recording[:4], size=SIZE, dt=1000, T=60)
    assert equal(counts, layerwise.simulate(net, sample, 60, chunk=7).count()) and counts.any()


def test_contenders_that_do_not_are_an_error(monkeypatch):
    packets = list(event_lag_table.cut(moving(60), 1))
    net = event_lag_table.network(SIZE, packets, "stride-4")
    other = {"plain": lambda net, size: lambda packet: torch.ones(1, 10)}
    monkeypatch.setattr(event_lag_table, "CONTENDERS", event_contenders.CONTENDERS | other)
    with pytest.raises(RuntimeError, match=r"plain counts \[\[1, 1, .*, and proxykernels \[\["):
        list(event_lag_table.line_up(Console(), net, SIZE, packets, ["proxykernels", "plain"]))
    with pytest.raises(ValueError, match="1 packets hold too few events for an answer; take a longer --ms"):
        list(event_lag_table.line_up(Console(), net, SIZE, packets[4:5], ["proxykernels"]))


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    pytest.importorskip("faery")
    write(tmp_path / "a.csv", moving(50))
    options = [str(tmp_path / "a.csv"), "--contenders", "proxykernels,plain", "--out", str(tmp_path)]
    event_lag.main([*options, "--minutes", "0.02"])
    event_lag.main([*options, "--minutes", "0.004", "--net", "stride-2", "--speed", "2", "--ms", "2.5"])
    event_lag.main([*options, "--minutes", "0.004", "--net", "stride-2", "--speed", "2", "--ms", "2.5"])
    rows = list(csv.DictReader((tmp_path / "event_lag.csv").open()))
    assert [(row["net"], row["contender"], row["speed"]) for row in rows] == [
        ("stride-4", "proxykernels", "1"), ("stride-4", "plain", "1"),
        ("stride-2", "proxykernels", "2"), ("stride-2", "plain", "2"),
    ]  # fmt: skip
    for row in rows:
        assert 0 < float(row["lag_p50_ms"]) <= float(row["lag_p99_ms"]) <= float(row["lag_max_ms"])
        assert 0 < float(row["packet_p50_ms"]) and (row["height"], row["width"]) == ("40", "60") and row["commit"]
    assert int(rows[0]["packets"]) <= 1200 and float(rows[0]["mb_first"]) > 50
    assert float(rows[2]["million_events_s"]) == pytest.approx(2 * float(rows[0]["million_events_s"]), rel=0.05)
    shown = list(csv.DictReader((tmp_path / "event_lag_packets.csv").open()))
    assert {row["contender"] for row in shown} == {"proxykernels", "plain"}
    assert (tmp_path / "event_lag.png").stat().st_size > 10_000
    assert "lag from a packet's last event" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.raw", None, "absent.raw is no file; give a recording of an event camera"),
        ("a.txt", "t", "a.txt is none of .aedat4, .csv, .dat, .es, .raw, which faery reads"),
        ("a.es", "hello", "a.es is no recording that faery reads"),
        ("b.csv", "t,x,y,on\n", "b.csv has no events"),
    ],
)
def test_files_that_are_no_recordings(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    if name in ("a.es", "b.csv"):
        pytest.importorskip("faery")
    with pytest.raises(SystemExit, match=f"event_lag.py: .*{message}"):
        event_lag.main([str(tmp_path / name), "--out", str(tmp_path)])
    assert not list(tmp_path.glob("event_lag*"))


def test_without_faery(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faery", None)
    write(tmp_path / "a.csv", moving(2))
    with pytest.raises(SystemExit, match=r'is read by faery: pip install "proxykernels\[events\]"'):
        event_lag.main([str(tmp_path / "a.csv"), "--out", str(tmp_path)])
