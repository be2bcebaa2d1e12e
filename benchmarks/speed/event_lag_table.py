"""How long after a packet's last event the answer is there: what event_lag.py does."""

import argparse
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from common.checkout import commit
from common.command import refusing
from common.machine import device_name, heading
from common.memory import resident_bytes
from common.printed import print_table
from common.recordings import Recording, read
from common.tables import check_out, read_csv, write_csv
from rich.console import Console

import proxykernels as pk
from speed import event_lag_picture, event_nets
from speed.event_contenders import CONTENDERS, Answer, Packet
from speed.rivals import NotOffered

STRIDES = {"stride-4": (4, 4, 4), "stride-2": (2, 2, 2)}
WIDTHS = 16, 32, 64
CHECKED = 200  # packets that all contenders answer before the clock starts, at most a second's
RIVAL_S = 10.0
AWAKE_S = 2e-4  # before a packet comes; the source sleeps until then
MEMORY_S = 1.0  # between looks at the memory
TABLE, PACKETS, MEMORY = "event_lag.csv", "event_lag_packets.csv", "event_lag_memory.csv"
KEY = ("file", "net", "packet_ms", "speed")
COLUMNS = [
    *KEY, "height", "width", "million_events_s", "contender", "packets", "lag_p50_ms", "lag_p99_ms", "lag_max_ms",
    "packet_p50_ms", "packet_p99_ms", "kept_up", "seconds", "mb_first", "mb_most", "mb_last", "device", "threads",
    "torch", "proxykernels", "commit",
]  # fmt: skip
PACKET_COLUMNS = [*KEY, "contender", "ms", "events", "lag_ms"]
MEMORY_COLUMNS = [*KEY, "contender", "seconds", "mb"]
HEADINGS = [
    "", "packets", "lag, ms\np50", "p99", "most", "ms a\npacket", "p99", "kept\nup, %", "MB after\na second", "most",
]  # fmt: skip


class Clock(Protocol):
    """As the module time is one."""

    def perf_counter(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class Played(NamedTuple):
    """Seconds, of each packet that was answered: from its last event to the answer, and from when it was handed over
    and taken. ``kept_up``: whether the answer was there before the next packet. ``memory``: seconds and bytes."""

    lag: np.ndarray
    taken: np.ndarray
    kept_up: np.ndarray
    memory: list[tuple[float, int]]


def run(options: argparse.Namespace) -> None:
    console = Console(width=130)
    with refusing("event_lag.py"):
        check_out(options.out, {TABLE: COLUMNS})
        recording = read(options.file).at(options.speed)
        packets = list(cut(recording, options.ms))
        net = network(recording.size, packets, options.net)
    height, width = recording.size
    rate = len(recording.t) / (len(packets) * options.ms * 1e-3) / 1e6
    what = f"{width} x {height}, {len(packets)} packets of {options.ms:g} ms, {rate:.3g} million events/s"
    console.print(heading(f"{options.net} network", f"{options.file.name}, {what}", options.out))
    key = dict(zip(KEY, (options.file.name, options.net, f"{options.ms:g}", f"{options.speed:g}"), strict=True))
    about = key | {
        "height": height, "width": width, "million_events_s": f"{rate:.3f}", "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "proxykernels": pk.__version__,
        "commit": commit(),
    }  # fmt: skip
    rows, shown, memory = [], [], []
    with refusing("event_lag.py"):
        contenders = list(line_up(console, net, recording.size, packets, options.contenders))
        if not contenders:
            raise ValueError("none of --contenders runs here")
    for number, (name, answer) in enumerate(contenders):
        seconds = 60 * options.minutes if not number else min(60 * options.minutes, RIVAL_S)
        played = play(packets, options.ms * 1e-3, seconds, answer)
        rows.append(about | {"contender": name} | figures_of(played))
        shown += [key | {"contender": name} | row for row in first_second(packets, options.ms, played)]
        if not number:
            memory = [{"seconds": f"{s:.1f}", "mb": f"{b / 1e6:.2f}"} for s, b in played.memory]
            memory = [key | {"contender": name} | row for row in memory]
    print_rows(console, rows)
    table = options.out / TABLE
    others = [row for row in read_csv(table) if any(row[name] != key[name] for name in KEY)]
    write_csv(table, COLUMNS, others + rows)
    write_csv(options.out / PACKETS, PACKET_COLUMNS, shown)
    write_csv(options.out / MEMORY, MEMORY_COLUMNS, memory)
    event_lag_picture.draw(options.out)


def cut(recording: Recording, ms: float) -> Iterator[Packet]:
    """The packets of a recording, also those without events; the last one is filled up by silence.

    Raises:
        ValueError: a packet is no whole number of microseconds.
    """
    length = round(1000 * ms)
    if length < 1 or abs(length - 1000 * ms) > 1e-6:
        raise ValueError(f"--ms must be a whole number of microseconds, got {ms:g} ms")
    count = int(recording.t[-1]) // length + 1
    ends = np.searchsorted(recording.t, np.arange(count + 1) * length)
    for k in range(count):
        part = slice(ends[k], ends[k + 1])
        yield Packet(*(field[part] for field in recording[:4]), start=k * length, length=length)


def network(size: tuple[int, int], packets: list[Packet], name: str) -> torch.nn.Sequential:
    """Whose thresholds are found on the packets around that of the most events."""
    busiest = max(range(len(packets)), key=lambda k: len(packets[k].t))
    first = max(min(busiest - event_nets.SAMPLE // 2, len(packets) - event_nets.SAMPLE), 0)
    some = packets[first : first + event_nets.SAMPLE]
    t, x, y, p = (np.concatenate([packet[field] for packet in some]) for field in range(4))
    sample = pk.events(t - some[0].start, x, y, p, size=size, dt=some[0].length, T=len(some))
    return event_nets.network(sample, STRIDES[name], WIDTHS, answers=True)


def line_up(
    console: Console, net: torch.nn.Sequential, size: tuple[int, int], packets: list[Packet], names: list[str]
) -> Iterator[tuple[str, Answer]]:
    """The contenders; of those that do not run here the reason is printed.

    Raises:
        RuntimeError: they do not give the same counts after CHECKED packets. ValueError: nothing fires.
    """
    expected = None
    for name in names:
        try:
            answer = CONTENDERS[name](net, size)
        except NotOffered as reason:
            console.print(f"{name}: {reason}")
            continue
        for packet in packets[:CHECKED]:
            counts = answer(packet).int()
        if expected is not None and not torch.equal(counts, expected):
            raise RuntimeError(f"{name} counts {counts.tolist()}, and {names[0]} {expected.tolist()}")
        if not counts.any():
            raise ValueError(f"{len(packets[:CHECKED])} packets hold too few events for an answer; take a longer --ms")
        expected = counts
        yield name, answer


def play(packets: list[Packet], packet_s: float, seconds: float, answer: Answer, clock: Clock = time) -> Played:
    """Hand packets over by the clock, the first again behind the last; whoever is behind takes the next one at once."""
    most = max(round(seconds / packet_s), 1)
    lag, taken, kept_up = np.full(most, np.nan), np.full(most, np.nan), np.full(most, False)
    memory: list[tuple[float, int]] = []
    begin = clock.perf_counter()
    for k in range(most):
        packet = packets[k % len(packets)]
        here = begin + k * packet_s
        last = here + 1e-6 * int(packet.t[-1] - packet.start) if len(packet.t) else here + packet_s
        _wait(here + packet_s, clock)
        start = clock.perf_counter()
        answer(packet)
        end = clock.perf_counter()
        lag[k], taken[k], kept_up[k] = end - last, end - start, end <= here + 2 * packet_s
        if end - begin >= MEMORY_S * (len(memory) + 1):
            memory.append((end - begin, resident_bytes()))
        if end - begin > seconds + packet_s:
            break
    return Played(lag[: k + 1], taken[: k + 1], kept_up[: k + 1], memory)


def _wait(until: float, clock: Clock) -> None:
    left = until - clock.perf_counter()
    if left > AWAKE_S:
        clock.sleep(left - AWAKE_S)
    while clock.perf_counter() < until:
        pass


def figures_of(played: Played) -> dict[str, object]:
    """The columns of a contender."""
    found: dict[str, object] = {"packets": len(played.lag), "kept_up": f"{100 * played.kept_up.mean():.2f}"}
    for name, seconds in (("lag", played.lag), ("packet", played.taken)):
        found |= {f"{name}_p{q}_ms": f"{1e3 * np.percentile(seconds, q):.4f}" for q in (50, 99)}
    found |= {"lag_max_ms": f"{1e3 * played.lag.max():.4f}", "seconds": f"{(played.memory or [(0, 0)])[-1][0]:.1f}"}
    sizes = [f"{size / 1e6:.1f}" for _, size in played.memory] or [""]
    return found | {
        "mb_first": sizes[0],
        "mb_most": max(sizes, key=lambda size: float(size or 0)),
        "mb_last": sizes[-1],
    }


def first_second(packets: list[Packet], ms: float, played: Played) -> Iterator[dict[str, str | int]]:
    for k, lag in enumerate(played.lag[: max(round(1000 / ms), 1)]):
        yield {"ms": f"{k * ms:g}", "events": len(packets[k % len(packets)].t), "lag_ms": f"{1e3 * lag:.4f}"}


def print_rows(console: Console, rows: list[dict]) -> None:
    cells = []
    for row in rows:
        times = ("lag_p50_ms", "lag_p99_ms", "lag_max_ms", "packet_p50_ms", "packet_p99_ms")
        figures = [f"{float(row[name]):.3f}" for name in times]
        cells.append([row["contender"], str(row["packets"]), *figures, row["kept_up"], row["mb_first"], row["mb_most"]])
    print_table(console, "lag from a packet's last event to the answer", HEADINGS, cells)
