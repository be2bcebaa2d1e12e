"""The picture of event_lag.py: lag against time, the rate of events under it, and memory."""

from pathlib import Path

from common import figures
from common.tables import read_csv, save_figure


def draw(folder: Path) -> None:
    """event_lag.png, of the tables of the last run."""
    rows = read_csv(folder / "event_lag_packets.csv", ("contender", "ms", "events", "lag_ms", "packet_ms"))
    memory = read_csv(folder / "event_lag_memory.csv", ("seconds", "mb"))
    figure, (lags, rate, resident) = figures.new_figure(7.0, 1, 3, height_ratios=(3, 1.5, 1.5))
    lines: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        lines.setdefault(row["contender"], []).append(row)
    for name, line in lines.items():
        lags.plot([float(row["ms"]) for row in line], [float(row["lag_ms"]) for row in line], **figures.line(name))
    every = [float(row["lag_ms"]) for row in rows]
    packet_ms, first = float(rows[0]["packet_ms"]), next(iter(lines.values()))
    lags.axhline(packet_ms, color=figures.GRAY, linewidth=0.8, linestyle=":", label="length of a packet")
    lags.set_yscale("log")
    figures.plain_numbers(lags.yaxis, min(*every, packet_ms) / 1.5, max(*every, packet_ms) * 1.5)
    lags.set_ylabel("lag, ms")
    events = [int(row["events"]) / packet_ms / 1e3 for row in first]
    rate.fill_between([float(row["ms"]) for row in first], events, color=figures.SKY, step="post")
    rate.set(ylabel="million\nevents/s", xlabel="ms", xlim=lags.get_xlim(), ylim=(0, None))
    resident.plot(
        [float(row["seconds"]) / 60 for row in memory], [float(row["mb"]) for row in memory], color=figures.BLACK
    )
    resident.set(ylabel="resident, MB", xlabel="minutes", ylim=(0, None))
    figures.legend(figure, lags)
    where = ", ".join(f"{name} {rows[0][name]}" for name in ("file", "net", "speed"))
    figures.title(figure, "From the last event of a packet to the answer", where)
    save_figure(folder / "event_lag.png", figure)
