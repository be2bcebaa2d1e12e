"""What the main job leaves behind: a table on the screen, rows in a CSV file, and a plot drawn from them."""

import csv
import io
from collections import defaultdict
from pathlib import Path

from common.tables import replace, save_figure
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

COLUMNS = [
    "date",
    "commit",
    "net",
    "trained",
    "reset",
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
INT16 = f"{OURS} int16"
HEADINGS = ["ms an\nimage", "min..max", "runs", "time\n/ ours", "counts\ndiffer", "accu-\nracy", "peak\nMB"]


def print_line_up(console: Console, settings: dict[str, str], missing: dict[str, str]) -> None:
    """Print how each contender runs, and why the others do not."""
    table = Table(box=None, show_header=False)
    for name, text in {**settings, **missing}.items():
        table.add_row(name, text)
    console.print(table)


def print_table(console: Console, rows: list[dict], missing: dict[str, str], rates: dict[str, float]) -> None:
    """Print the rows of one T, rivals that did not run, the ratios, and the firing rate of each layer."""
    first = rows[0]
    title = (
        f"\nT = {first['T']}, {first['reset']} reset, {first['batch']} images, {first['counts_total']} output counts"
    )
    table = Table(title=title, title_justify="left", box=HORIZONTALS, padding=(0, 1), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    ours = next(row for row in rows if row["contender"] == OURS)["median_ms_per_image"]
    for row in rows:
        table.add_row(*_cells(row, ours))
    for name in missing:
        table.add_row(name, "", "not run")
    console.print(table)
    console.print(summary(rows))
    layers = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items())
    console.print(f"Firing rates (spikes a neuron and step): {layers}")


def summary(rows: list[dict]) -> str:
    """One sentence: the speed against the plain loop and the fastest rival, whichever way it goes."""
    times = {row["contender"]: row["median_ms_per_image"] for row in rows}
    ours = times.pop(OURS)
    times.pop(INT16, None)  # not a rival
    if not times:
        return f"{OURS}: {ours:.3g} ms an image; no rival ran."
    fastest = min(times, key=times.get)
    parts = []
    if "plain" in times:
        parts.append(f"{times['plain'] / ours:.2f} times as fast as the plain step loop")
    parts.append(f"{times[fastest] / ours:.2f} times as fast as the fastest rival ({fastest})")
    return f"{OURS} is {' and '.join(parts)}."


def check_csv(path: Path) -> None:
    """Raise ValueError if rows cannot be appended to ``path`` because it has other columns."""
    if path.exists() and path.read_text().partition("\n")[0].split(",") != COLUMNS:
        raise ValueError(f"{path} has other columns than this version writes; move it away")


def append_csv(path: Path, rows: list[dict]) -> None:
    """Add rows; a reader, or a crash half-way, sees the old file or the new one, never a part."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if path.exists():
        text.write(path.read_text())
    else:
        writer.writeheader()
    writer.writerows(rows)
    replace(path, text.getvalue().encode())


def plot(path: Path, rows: list[dict]) -> None:
    """Draw ms an image against T, both logarithmic, a line a contender, and save it as a PNG."""
    from matplotlib.figure import Figure  # without pyplot: draws into a file, needs no display

    lines = defaultdict(list)
    for row in rows:
        lines[row["contender"]].append((int(row["T"]), float(row["median_ms_per_image"])))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        style = {"linewidth": 3, "color": "black"} if name == OURS else {"linewidth": 1.2}
        axes.loglog(*zip(*sorted(points), strict=True), marker="o", label=name, **style)
    steps = sorted({int(row["T"]) for row in rows})
    axes.set_xticks(steps, [str(T) for T in steps], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("simulation steps T")
    axes.set_ylabel("ms an image (median)")
    first = rows[0]
    axes.set_title(
        f"{first['net']} net, {first['reset']} reset, batch {first['batch']}\n"
        f"{first['device']}, {first['threads']} threads, torch {first['torch']}",
        fontsize="medium",
    )
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    save_figure(path, figure)


def _cells(row: dict, ours: float) -> list[str]:
    time = row["median_ms_per_image"]
    return [
        row["contender"],
        f"{time:.3g}",
        f"{row['min_ms_per_image']:.3g}..{row['max_ms_per_image']:.3g}" if row["rounds"] > 1 else "",
        str(row["rounds"]),
        f"{time / ours:.2f}",
        str(row["counts_different"]),
        f"{100 * row['accuracy']:.1f}%",
        row["peak_mb"] if row["peak_mb"] == "" else f"{row['peak_mb']:.0f}",
    ]
