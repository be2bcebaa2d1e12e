"""The picture of against_relu.py: accuracy against time, a panel for each number of images a call."""

import math
from pathlib import Path

import numpy as np
from common import figures
from common.tables import read_csv, save_figure

from speed import levels

MARKS = (0, 20, 40, 50, 60, 70, 75, 80, 85, 90, 92, 94, 96, 98, 99, 100)  # % of accuracy
POINTS = "osD^v"
COLUMNS = ("contender", "precision", "T", "by", "right", "batch", "ms", "net", "device", "threads", "images")


def draw(folder: Path, table: str) -> None:
    """against_relu_TABLE.png, of the table of that name."""
    rows = read_csv(folder / f"against_relu_{table}.csv", COLUMNS)
    batches = levels.batches(rows)
    figure, panels = figures.new_figure(5.2, len(batches), sharey=True)
    for batch, panel in zip(batches, panels, strict=True):
        _panel(panel, levels.of_batch(rows, batch))
        panel.set(title="one image" if batch == "1" else f"{batch} images a call", xlabel="ms an image")
    shown = [float(row["right"]) for row in rows if row["batch"]]
    _errors_logarithmic(panels[0], min(shown), max(shown))
    panels[0].set_ylabel("accuracy, %")
    figures.legend(figure, panels[0])
    first = rows[0]
    where = f"{first['images']} test images; {first['device']}, {first['threads']} threads"
    figures.title(
        figure,
        f"{first['net']}: spiking networks after T steps, and the ReLU network",
        f"{where}; ringed: the fewest steps that are level",
    )
    save_figure(folder / f"against_relu_{table}.png", figure)


def _panel(panel, rows: levels.Rows) -> None:
    passes = [row for row in rows if row["contender"] == levels.RELU]
    for marker, row in zip(POINTS, passes, strict=False):
        look = figures.look(f"ReLU network, {row['by']} {row['precision']}")
        panel.plot(
            float(row["ms"]), float(row["right"]), marker, color=look.color, label=look.label, zorder=3, markersize=7
        )
    for contender, precision in levels.lines(rows):
        line = levels.line(rows, contender, precision)
        times, right = ([float(row[key]) for row in line] for key in ("ms", "right"))
        panel.plot(times, right, marker=".", **figures.line(f"{contender}, {precision}"))
        for row, x, y in zip(line, times, right, strict=True):
            panel.annotate(row["T"], (x, y), (0, -4), textcoords="offset points", fontsize=7, ha="center", va="top")
        level = levels.first_level(rows, contender, precision)
        if level:
            panel.plot(float(level["ms"]), float(level["right"]), "o", mfc="none", mec="black", markersize=11)
    panel.set_xscale("log")
    times = [float(row["ms"]) for row in rows if row["ms"]]
    figures.plain_numbers(panel.xaxis, min(times) / 1.5, max(times) * 1.5)


def _errors_logarithmic(panel, low: float, high: float) -> None:
    """An axis of accuracies on which halving the errors is as far everywhere; a point below 100 % it has an end."""
    panel.set_yscale("function", functions=(lambda y: -np.log(101 - np.minimum(y, 100.5)), lambda z: 101 - np.exp(-z)))
    marks = [mark for mark in MARKS if math.floor(low) <= mark <= math.ceil(high)]
    figures.ticks(panel.yaxis, marks if len(marks) > 2 else sorted({math.floor(low), *marks, math.ceil(high)}))
