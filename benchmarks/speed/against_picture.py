"""The picture of against_relu.py: accuracy against time, a panel for each number of images a call, and against
operations, additions and products together."""

import math
from pathlib import Path

import numpy as np
from common import figures
from common.tables import read_csv, save_figure

from speed import levels

MARKS = (0, 20, 40, 50, 60, 70, 75, 80, 85, 90, 92, 94, 96, 98, 99, 100)  # % of accuracy
POINTS = "osD^v<>"
OTHERS = "PX*dp"  # points of smaller networks, and of what has no time
COLUMNS = (
    "contender", "precision", "T", "by", "right", "batch", "ms", "net", "device", "threads", "images",
    "million_additions", "million_products",
)  # fmt: skip


def draw(folder: Path, table: str) -> None:
    """against_relu_TABLE.png, of the table of that name."""
    rows = read_csv(folder / f"against_relu_{table}.csv", COLUMNS)
    batches = levels.batches(rows)
    count = len(batches) + 1
    lines = math.ceil(count / 2)
    figure, panels = figures.new_figure(2.4 + 3.0 * lines, min(count, 2), lines, sharey=True)
    for empty in panels[count:]:
        empty.axis("off")
    panels = panels[:count]
    for batch, panel in zip(batches, panels, strict=False):
        _panel(panel, [row | {"x": row["ms"]} for row in levels.of_batch(rows, batch) if row["ms"]])
        panel.set(title="one image" if batch == "1" else f"{batch} images a call", xlabel="ms an image")
    _panel(panels[-1], [row | {"x": _operations(row)} for row in levels.of_batch(rows, batches[0])])
    panels[-1].set(title="operations", xlabel="million an image")
    shown = [float(row["right"]) for row in rows]
    _errors_logarithmic(panels[0], min(shown), max(shown))
    panels[0].set_ylabel("accuracy, %")
    figures.legend(figure, panels[-1])
    first = rows[0]
    where = f"{first['images']} test images; {first['device']}, {first['threads']} threads"
    figures.title(
        figure,
        f"{first['net']}: spiking networks after T steps, and the ReLU network",
        f"{where}; ringed: the fewest steps that are level; operations: additions and products",
    )
    save_figure(folder / f"against_relu_{table}.png", figure)


def _panel(panel, rows: levels.Rows) -> None:
    passes = [row for row in rows if row["contender"] == levels.RELU]
    names = [f"{levels.RELU}, {row['by']} {row['precision']}" for row in passes]
    others = [row for row in rows if row["contender"] in levels.SMALLER and row["precision"] == "int8"]
    others += [row for row in rows if row["contender"] in levels.UNTIMED]
    names += [row["contender"] + " int8" * (row["contender"] in levels.SMALLER) for row in others]
    markers = [*POINTS[: len(passes)], *OTHERS[: len(others)]]
    for marker, name, row in zip(markers, names, passes + others, strict=False):
        look = figures.look(name)
        panel.plot(
            float(row["x"]), float(row["right"]), marker, color=look.color, label=look.label, zorder=3, markersize=7
        )
    for contender, precision in levels.lines(rows):
        line = levels.line(rows, contender, precision)
        times, right = ([float(row[key]) for row in line] for key in ("x", "right"))
        panel.plot(times, right, marker=".", **figures.line(f"{contender}, {precision}"))
        for row, x, y in zip(line, times, right, strict=True):
            panel.annotate(row["T"], (x, y), (0, -4), textcoords="offset points", fontsize=7, ha="center", va="top")
        level = levels.first_level(rows, contender, precision)
        if level:
            panel.plot(float(level["x"]), float(level["right"]), "o", mfc="none", mec="black", markersize=11)
    panel.set_xscale("log")
    found = [float(row["x"]) for row in rows]
    figures.plain_numbers(panel.xaxis, min(found) / 1.5, max(found) * 1.5)


def _operations(row: dict[str, str]) -> str:
    return str(float(row["million_additions"]) + float(row["million_products"]))


def _errors_logarithmic(panel, low: float, high: float) -> None:
    """An axis of accuracies on which halving the errors is as far everywhere; a point below 100 % it has an end."""
    panel.set_yscale("function", functions=(lambda y: -np.log(101 - np.minimum(y, 100.5)), lambda z: 101 - np.exp(-z)))
    marks = [mark for mark in MARKS if math.floor(low) <= mark <= math.ceil(high)]
    figures.ticks(panel.yaxis, marks if len(marks) > 2 else sorted({math.floor(low), *marks, math.ceil(high)}))
