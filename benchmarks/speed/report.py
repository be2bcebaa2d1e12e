"""What the main job leaves behind: a table on the screen, rows in a CSV file, and a plot drawn from them."""

import csv
import io
from collections import defaultdict
from pathlib import Path

from common import figures, printed
from common.tables import newest, publish, save_figure
from rich.console import Console
from rich.padding import Padding

COLUMNS = [
    "date",
    "commit",
    "net",
    "trained",
    "reset",
    "neuron",
    "batch",
    "T",
    "contender",
    "median_ms_per_image",
    "min_ms_per_image",
    "max_ms_per_image",
    "rounds",
    "counts_different",
    "counts_total",
    "accuracy",
    "peak_mb",
    "device",
    "threads",
    "torch",
    "version",
]
OURS = "proxykernels"
ROUNDED = [f"{OURS} {precision}" for precision in ("int16", "int8")]  # with weights that are not the rivals'
RELU = "relu"  # one pass of the network of the same weights that has no steps
DROP_IN = "net(x)"  # the same layers, called on dense tensors
ASIDE = (*ROUNDED, RELU, DROP_IN)  # contenders that are no rivals
HEADINGS = ["", "ms an\nimage", "half\nrange", "runs", "time\n/ ours", "counts\ndiffer", "right", "peak\nMB"]


def print_line_up(console: Console, settings: dict[str, str], missing: dict[str, str]) -> None:
    """Print how each contender runs, and why the others do not."""
    for name, text in {**settings, **missing}.items():
        key = "" if name in (OURS, *ASIDE) else f" (--rivals {name})"
        console.print(Padding(f"{figures.look(name).label}{key}: {text}", (0, 0, 0, 2)))


def print_table(console: Console, rows: list[dict], missing: dict[str, str], rates: dict[str, float]) -> None:
    """Print the rows of one T, rivals that did not run, the ratios, and the firing rate of each layer."""
    first = rows[0]
    neurons, counts = _neurons(first), first["counts_total"]
    title = f"T = {first['T']}, {neurons}{first['reset']} reset, {first['batch']} images, {counts} output counts"
    ours = next(row for row in rows if row["contender"] == OURS)["median_ms_per_image"]
    lines = [_cells(row, ours) for row in rows]
    lines += [[figures.look(name).label, "not run", *[""] * (len(HEADINGS) - 2)] for name in missing]
    printed.print_table(console, title, HEADINGS, lines)
    console.print(summary(rows))
    layers = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items())
    console.print(f"Firing rates (spikes a neuron and step): {layers}")


def summary(rows: list[dict]) -> str:
    """One sentence: the speed against the plain loop and the fastest rival, whichever way it goes; and of the others of
    ours, and in passes of the ReLU network, what was timed."""
    times = {row["contender"]: row["median_ms_per_image"] for row in rows}
    ours, relu = times.pop(OURS), times.get(RELU)
    mine = {OURS: ours} | {name: times[name] for name in ROUNDED if name in times}
    times = {name: time for name, time in times.items() if name not in ASIDE}
    if not times:
        return f"{OURS}: {ours:.3g} ms an image; no rival ran."
    fastest = min(times, key=times.get)
    parts = []
    if "plain" in times:
        parts.append(f"{times['plain'] / ours:.2f} times as fast as the PyTorch step loop")
    parts.append(f"{times[fastest] / ours:.2f} times as fast as the fastest rival ({figures.look(fastest).label})")
    sentences = [f"{OURS} is {' and '.join(parts)}."]
    sentences += [
        f"{figures.look(name).label}: {times[fastest] / time:.2f} times the fastest rival."
        for name, time in mine.items()
        if name != OURS
    ]
    if relu:
        passes = ", ".join(f"{figures.look(name).label} {time / relu:.2f}" for name, time in mine.items())
        sentences.append(f"In passes of the ReLU network: {passes}.")
    return " ".join(sentences)


def append_csv(path: Path, rows: list[dict]) -> None:
    """Add rows; a reader, or a crash half-way, sees the old file or the new one, never a part."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if newest(path).exists():
        text.write(newest(path).read_text())
    else:
        writer.writeheader()
    writer.writerows(rows)
    publish(path, text.getvalue().encode())


def picture_name(net: str, reset: str, device: str, others: list[str]) -> str:
    """The file of a run's picture; ``others``: what tells it from the picture of a run with the default options."""
    return "_".join(["sim_speed", net, reset, device, *others]) + ".png"


def plot(path: Path, rows: list[dict]) -> None:
    """Draw ms an image from rows of a run or of the CSV: lines against T, or bars where there is one T."""
    first, steps = rows[0], sorted({int(row["T"]) for row in rows})
    images = "one image" if int(first["batch"]) == 1 else f"{first['batch']} images at a time"
    weights = "" if str(first["trained"]) == "True" else ", random weights"
    where = (
        f"{first['net']} network{weights}, {_neurons(first)}{first['reset']} reset, {images}, Fashion-MNIST; "
        f"{first['device']}, {first['threads']} threads, torch {first['torch']}"
    )
    sentence = summary_of_times(rows, steps[-1])
    if len(steps) == 1:
        figure = _bars(rows)
    else:
        figure = _lines(rows, steps)
    figures.title(figure, sentence, where)
    save_figure(path, figure)


def _neurons(row: dict) -> str:
    """What to say of neurons that do not integrate and fire."""
    return "" if row["neuron"] == "if" else f"{row['neuron']} neurons, "


def summary_of_times(rows: list[dict], T: int) -> str:
    """The title: how much longer the fastest rival takes at ``T``, whichever way it goes."""
    times = {row["contender"]: float(row["median_ms_per_image"]) for row in rows if int(row["T"]) == T}
    ours = times.pop(OURS)
    times = {name: time for name, time in times.items() if name not in ASIDE}
    if not times:
        return f"{OURS} simulates {T} steps in {ours:.3g} ms an image"
    fastest = min(times, key=times.get)
    ratio, name = times[fastest] / ours, figures.look(fastest).label
    if ratio < 1:
        return f"{name} takes {ratio:.2g} times as long as {OURS} at T = {T}"
    return f"{OURS} simulates {T} steps {ratio:.1f} times as fast as the fastest rival"


def _lines(rows: list[dict], steps: list[int]):
    lines = defaultdict(list)
    for row in rows:
        lines[row["contender"]].append((int(row["T"]), float(row["median_ms_per_image"])))
    figure, (axes,) = figures.new_figure(5.2)
    for name in sorted(lines, key=lambda name: -max(lines[name])[1]):  # the legend in the order of the lines
        axes.loglog(*zip(*sorted(lines[name]), strict=True), marker="o", markersize=5, **figures.line(name))
    figures.ticks(axes.xaxis, steps)
    times = [time for points in lines.values() for _, time in points]
    figures.plain_numbers(axes.yaxis, min(times) / 1.5, max(times) * 1.5)
    axes.set_xlabel("steps T")
    axes.set_ylabel("ms an image (median, logarithmic)")
    figures.legend(figure, axes)
    return figure


def _bars(rows: list[dict]):
    rows = sorted(rows, key=lambda row: -float(row["median_ms_per_image"]))
    times = [float(row["median_ms_per_image"]) for row in rows]
    looks = [figures.look(row["contender"]) for row in rows]
    figure, (axes,) = figures.new_figure(1.3 + 0.36 * len(rows))
    axes.grid(visible=False, axis="y")
    bars = axes.barh([one.label for one in looks], times, color=[one.color for one in looks])
    batch = int(rows[0]["batch"])
    right = [f"{batch * float(row['accuracy']):.0f}" for row in rows]
    labels = [f"{time:.3g} ms, {count} of {batch} right" for time, count in zip(times, right, strict=True)]
    axes.bar_label(bars, labels, padding=4)
    axes.set_xlabel(f"ms an image (median), T = {rows[0]['T']}; images whose class is right")
    axes.margins(x=0.3)
    return figure


def _cells(row: dict, ours: float) -> list[str]:
    time = row["median_ms_per_image"]
    half = 50 * (row["max_ms_per_image"] - row["min_ms_per_image"]) / time
    return [
        figures.look(row["contender"]).label,
        f"{time:.3g}",
        f"±{half:.0f} %" if row["rounds"] > 1 else "",
        str(row["rounds"]),
        f"{time / ours:.2f}",
        str(row["counts_different"]),
        f"{100 * row['accuracy']:.1f} %",
        row["peak_mb"] if row["peak_mb"] == "" else f"{row['peak_mb']:.0f}",
    ]
