"""The tables and the picture of compare_methods.py, from its CSV file."""

import statistics
from pathlib import Path

from common import figures, tables
from common.printed import print_table
from rich.console import Console

MARKS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 100)  # of errors, in %
SHARES = ("strict", "lenient", "potential")  # how an output is read


COLUMNS = [
    "training", "method", "seed", "lr", "threshold", "start", "output_threshold", "step", "epoch", "cpu_seconds",
    "split", "images", "T", *SHARES, "relu", "threads", "torch", "commit",
]  # fmt: skip


def at(rows: list[dict], method: str, step: int, T: int, column: str, split: str = "held-out") -> list[float]:
    """A column of all seeds of a method after a number of training steps, read at T."""
    wanted = method, str(step), str(T), split
    found = [row for row in rows if (row["method"], row["step"], row["T"], row["split"]) == wanted]
    return [float(row[column]) for row in found if row[column]]


def spread(values: list[float], scale: float = 100) -> str:
    """The mean, and half of what lies between the least and the most."""
    if not values:
        return ""
    half = f" ±{scale * (max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.1f}{half}"


def last_step(rows: list[dict], method: str) -> int:
    """The last measured step that all seeds of a method have reached."""
    of_seed: dict[str, int] = {}
    for row in rows:
        if row["method"] == method:
            of_seed[row["seed"]] = max(of_seed.get(row["seed"], 0), int(row["step"]))
    return min(of_seed.values())


HEADINGS = ["", "seeds", "lr", "threshold", "start", "steps", "epochs", "CPU s", *SHARES, "ReLU"]


def lines(rows: list[dict], T: int = 16) -> list[list[str]]:
    """A method's accuracies at T after as many steps as all methods have done, and after as many as it has; in %."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    common = min((last_step(rows, method) for method in methods), default=0)
    found = []
    for method in methods:
        for step in sorted({common, last_step(rows, method)}):
            shares = [spread(at(rows, method, step, T, column)) for column in (*SHARES, "relu")]
            seconds = at(rows, method, step, T, "cpu_seconds")
            about = next(row for row in rows if (row["method"], row["step"]) == (method, str(step)))
            settings = about["lr"], about["threshold"], about["start"], str(step), about["epoch"], spread(seconds, 1)
            found.append([figures.look(method).label, str(len(seconds)), *settings, *shares])
    return found


def markdown(rows: list[dict]) -> str:
    """The table of docs/paper.md."""
    table = [HEADINGS, ["---"] * len(HEADINGS), *lines(rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table).replace("|  |", "| |").replace("| --- ", "|---")


def show(folder: Path, stem: str) -> None:
    """Print the accuracies of the table."""
    rows = tables.read_csv(folder / f"{stem}.csv")
    if rows:
        print_table(Console(), "Right at T = 16, held-out images, %", HEADINGS, lines(rows))


def draw(folder: Path, stem: str) -> None:
    """Errors at T = 16 against training steps and CPU seconds, the mean of the seeds."""
    rows = [row for row in tables.read_csv(folder / f"{stem}.csv", COLUMNS) if row["split"] == "held-out"]
    if not rows:
        return
    figure, panels = figures.new_figure(4.8, 2, sharey=True)
    for method in dict.fromkeys(row["method"] for row in rows):
        steps = sorted({int(row["step"]) for row in rows if row["method"] == method and row["T"] == "16"})
        means = [100 * (1 - statistics.mean(at(rows, method, step, 16, "strict"))) for step in steps]
        seconds = [max(0.1, statistics.mean(at(rows, method, step, 16, "cpu_seconds"))) for step in steps]
        for axes, x in zip(panels, (steps, seconds), strict=True):
            axes.plot(x, means, marker="o", markersize=3, **figures.line(method))
    for axes, label in zip(panels, ("training steps", "CPU seconds"), strict=True):
        axes.set_xscale("log")
        axes.set_xlabel(label)
    panels[0].set(yscale="log", ylabel="wrong or tied, %")
    low, high = panels[0].get_ylim()
    figures.ticks(panels[0].yaxis, [mark for mark in MARKS if low <= mark <= high])
    figures.legend(figure, panels[0], columns=2)
    _, net, width, *_ = stem.removeprefix("compare_").split("_")
    where = f"{net} network, width {width}, {rows[0]['images']} held-out images, T = 16"
    figures.title(figure, sentence(rows), where)
    tables.save_figure(folder / f"{stem}.png", figure)


def sentence(rows: list[dict]) -> str:
    """The title: the most accurate after as many steps as all have done."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    step = min(last_step(rows, method) for method in methods)
    found = {method: at(rows, method, step, 16, "strict") for method in methods}
    means = {method: statistics.mean(values) for method, values in found.items() if values}
    best = max(means, key=means.__getitem__)
    return f"After {step} training steps {figures.look(best).label} is right most often: {100 * means[best]:.1f} %"
