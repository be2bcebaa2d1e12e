"""The picture of event_speed.py: what a step costs against its events, a panel for each size."""

from pathlib import Path

from common import figures
from common.tables import read_csv, save_figure

COLUMNS = ("size", "strides", "bias", "events", "percent", "threads", "engine_ms", "torch_ms", "device")
LINES = (("without", "torch_ms", "plain"), ("without", "engine_ms", "proxykernels"), ("with", "engine_ms", "with bias"))


def draw(folder: Path) -> None:
    """event_speed.png, of the rows of each size's first strides and the first number of threads."""
    rows = [row for row in read_csv(folder / "event_speed.csv", COLUMNS) if row["events"] != "anywhere"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure, panels = figures.new_figure(3.8, len(sizes))
    for size, panel in zip(sizes, panels, strict=True):
        first = next(row for row in rows if row["size"] == size)
        strides, threads = first["strides"], first["threads"]
        part = [row for row in rows if (row["size"], row["strides"], row["threads"]) == (size, strides, threads)]
        height, width = map(int, size.split("x"))
        for bias, column, name in LINES:
            line = [row for row in part if row["bias"] == bias]
            events = [float(row["percent"]) / 100 * height * width for row in line]
            panel.plot(events, [float(row[column]) for row in line], marker=".", **figures.line(name))
        panel.set(
            title=f"{height} x {width}, strides {strides}", xlabel="events a step", xlim=(0, None), ylim=(0, None)
        )
    panels[0].set_ylabel("ms a step")
    figures.legend(figure, panels[0])
    figures.title(
        figure, "A step of a stream costs what its events cost",
        f"three convolutions of random weights; {rows[0]['device']}, {rows[0]['threads']} thread",
    )  # fmt: skip
    save_figure(folder / "event_speed.png", figure)
