"""Ways to a spiking network, from the same start, on the same data, with the same budget of time.

    python benchmarks/compare_methods.py --minutes 2 8 --seeds 0 1 2
    python benchmarks/compare_methods.py --minutes 8 --neuron lif --decay 0.5

proxy             the spiking network's output, the gradient of a ReLU network with the same weights (pk.ProxyNet)
tandem            the same, every layer of the ReLU network fed with the spiking network's rates
surrogate         backpropagation through all T steps with a surrogate derivative (pk.SurrogateNet)
conversion        the ReLU network alone; then pk.convert, with each of its remedies for few steps
tuned conversion  the ReLU network alone for half the time; then pk.convert, and proxy for the other half

Of leaky neurons: proxy, whose twin has their own rate; the same with the twin of integrate-and-fire neurons, ReLUs,
clipped and not; tandem; and surrogate.

Each method trains for --minutes of this process's CPU time (a clock that other programs hardly disturb), with its
learning rate annealed to 0 over them. Writes results/compare_methods.csv (a row a method, budget and seed),
compare_methods_curves.csv (accuracy on the test images at every T) and compare_methods.png; of leaky neurons
compare_methods_lif*. What is in the tables for the same method, budget and seed is replaced.
"""

import argparse
import itertools
import math
import statistics
import subprocess
import sys
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import evaluate
import torch
from common import figures, nets, tables
from common.command import INTERRUPTED, command
from common.memory import PeakMemory
from common.printed import new_parser
from rich.console import Console
from rich.table import Table
from sim_speed import commit, positive
from torch.utils.data import Subset
from training import data as train_data
from training import ways
from training.step import Breakdown
from training.ways import CONVERSION, REMEDIES, TUNED

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")
NAMES = {
    "if": ["proxy", "tandem", "surrogate", CONVERSION, TUNED],
    "lif": ["proxy", "clipped relu twin", "relu twin", "tandem", "surrogate"],
}
STEMS = {"if": "compare_methods", "lif": "compare_methods_lif"}  # of the tables' and the picture's names
SHOWN = (4, 8, 16, 32, 64, 128, 256)  # steps whose accuracy is printed
KEY = ["method", "minutes", "seed"]
COLUMNS = [
    *KEY, "net", "width", "T", "batch", "steps", "seconds_an_epoch", "peak_mb", "longest", "accuracy_T",
    "accuracy_longest", "ties_T", "mean_rate", "images", "threads", "torch", "commit",
]  # fmt: skip
CURVE_COLUMNS = [*KEY, "T", "accuracy", "ties"]


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_options(arguments)
    try:
        if options.method:
            run_one(options)
            return
    except (ValueError, OSError, Breakdown) as error:
        raise SystemExit(f"compare_methods.py: {error}") from error
    for minutes, seed, name in itertools.product(options.minutes, options.seeds, NAMES[options.neuron]):
        only = ["--method", name, "--minutes", f"{minutes:g}", "--seeds", str(seed)]
        try:  # in a process of its own, so that its peak of memory is its own
            done = subprocess.run([sys.executable, __file__, *arguments, *only])
        except KeyboardInterrupt:  # which went to that process too, and it has said so
            raise SystemExit(INTERRUPTED) from None
        if done.returncode:
            raise SystemExit(done.returncode)
    show(options.out, STEMS[options.neuron])
    draw(options.out, STEMS[options.neuron])


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[8.0], help="CPU time that each method may train for; each in turn"
    )
    parser.add_argument("--net", choices=sorted(nets.TRAINABLE), default="small")
    parser.add_argument("--width", type=float, default=1.0, help="share of the net's channels and neurons")
    parser.add_argument("--neuron", choices=sorted(NAMES), default="if", help="integrate and fire, or leak besides")
    parser.add_argument("--decay", type=float, default=0.5, help="share of the potential that a step leaves, of lif")
    parser.add_argument("--T", type=positive, default=16, help="steps in training")
    parser.add_argument("--longest", type=positive, default=128, help="steps of the evaluation, at least --T")
    parser.add_argument("--test", type=positive, default=2000, help="test images of the evaluation, the first ones")
    parser.add_argument("--batch", type=positive, default=100)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each in turn")
    parser.add_argument(
        "--method",
        choices=sorted({*NAMES["if"], *NAMES["lif"]}),
        metavar="NAME",
        help="only this one (default: all, and the plot): %(choices)s",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.method not in (None, *NAMES[options.neuron]):
        parser.error(f"--method of --neuron {options.neuron} is one of {', '.join(NAMES[options.neuron])}")
    if not 0 <= options.decay <= 1:
        parser.error(f"--decay must be within 0 .. 1, got {options.decay}")
    for name in ("minutes", "width"):
        given = getattr(options, name)
        if not all(0 < number < math.inf for number in (given if isinstance(given, list) else [given])):
            parser.error(f"--{name} must be positive, got {given}")
    if options.longest < options.T:
        parser.error(f"--longest must be at least --T {options.T}, got {options.longest}")
    return options


def run_one(options: argparse.Namespace) -> None:
    """Train by one method, for each budget and from each seed; evaluate, and put rows and curves into the tables."""
    train_set, _ = train_data.load("fashion-mnist", options.root, "train")
    test_set, _ = train_data.load("fashion-mnist", options.root, "test")
    if options.batch > len(train_set):
        raise ValueError(f"--batch must be at most the {len(train_set)} training images, got {options.batch}")
    test_set = Subset(test_set, range(min(options.test, len(test_set))))
    for minutes, seed in itertools.product(options.minutes, options.seeds):
        with PeakMemory(torch.device("cpu")) as memory:
            trained, steps, seconds = ways.train(options, minutes, seed, train_set)
        about = {
            "minutes": f"{minutes:g}", "seed": seed, "net": options.net, "width": options.width, "T": options.T,
            "batch": options.batch, "steps": steps,
            "seconds_an_epoch": f"{seconds / steps * (len(train_set) // options.batch):.2f}",
            "peak_mb": "" if memory.growth_bytes is None else f"{memory.growth_bytes / 1e6:.0f}",
            "images": len(test_set),
        }  # fmt: skip
        for name, net in trained.items():
            record(options, {"method": name} | about, evaluate.evaluate(net, test_set, options.longest, CPU))


def record(options: argparse.Namespace, about: dict, curve: evaluate.Curve) -> None:
    """Put a network's row and curve into the tables."""
    row = about | {
        "longest": options.longest, "accuracy_T": f"{curve.accuracy[options.T - 1]:.4f}",
        "accuracy_longest": f"{curve.accuracy[-1]:.4f}", "ties_T": f"{curve.ties[options.T - 1]:.4f}",
        "mean_rate": f"{sum(curve.rates.values()) / len(curve.rates):.4f}",
        "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": commit(),
    }  # fmt: skip
    points = [
        {key: about[key] for key in KEY} | {"T": t, "accuracy": f"{accuracy:.4f}", "ties": f"{ties:.4f}"}
        for t, (accuracy, ties) in enumerate(zip(curve.accuracy, curve.ties, strict=True), 1)
    ]
    stem = STEMS[options.neuron]
    replace_rows(options.out / f"{stem}.csv", COLUMNS, [row])
    replace_rows(options.out / f"{stem}_curves.csv", CURVE_COLUMNS, points)
    print(row)


def replace_rows(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Put rows in a table in place of those that it had for the same method, budget and seed."""
    key = [str(rows[0][name]) for name in KEY]
    kept = [row for row in tables.read_csv(path) if [row[name] for name in KEY] != key]
    tables.write_csv(path, columns, kept + rows)


def draw(folder: Path, stem: str = STEMS["if"]) -> None:
    """Accuracy against T for each budget, and a training epoch's time and memory, from the two tables."""
    rows, curves = tables.read_csv(folder / f"{stem}.csv"), tables.read_csv(folder / f"{stem}_curves.csv")
    names = [name for name in _lines(stem) if any(row["method"] == name for row in rows)]
    budgets = sorted({row["minutes"] for row in rows}, key=float)
    figure, panels = figures.new_figure(4.8, len(budgets) + 2, width_ratios=[2.4] * len(budgets) + [1, 1])
    for minutes, axes in zip(budgets, panels, strict=False):
        for name in names:
            T, low, middle, high = spread(curves, name, minutes)
            axes.plot(T, middle, **figures.line(name))
            axes.fill_between(T, low, high, color=figures.look(name).color, alpha=0.2, linewidth=0)
        axes.axvline(int(rows[0]["T"]), color=figures.GRAY, linestyle=":", label=f"T in training: {rows[0]['T']}")
        axes.set_xscale("log", base=2)
        figures.ticks(axes.xaxis, [t for t in (1, 4, 16, 64, 256) if t <= int(rows[0]["longest"])])
        axes.set(xlabel="steps T", ylim=(0, 100))
        axes.set_title(f"{float(minutes):g} CPU minutes", fontsize=10)
    panels[0].set_ylabel("right (a tie is wrong), %")
    remedies = [name for name in names if name in REMEDIES]
    trained = [name for name in names if name not in remedies[1:]]  # one of them stands for a training that they share
    for axes, column, label in (
        (panels[-2], "seconds_an_epoch", "CPU seconds\nan epoch"),
        (panels[-1], "peak_mb", "MB for training,\nat the peak"),
    ):
        values = [statistics.mean(float(row[column] or 0) for row in rows if row["method"] == name) for name in trained]
        bars = axes.bar(range(len(trained)), values, color=[figures.look(name).color for name in trained])
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=2, fontsize=8)
        axes.set_xticks([])
        axes.set_title(label, fontsize=10)
        axes.margins(y=0.1)
    figures.legend(figure, panels[0])
    seeds, width = len({row["seed"] for row in rows}), float(rows[0]["width"])
    net = f"{rows[0]['net']} network" + (f", width {width:g}" if width != 1 else "")
    from_seeds = f", mean and range of {seeds} seeds" if seeds > 1 else ""
    figures.title(figure, _sentence(rows), f"{net}, {rows[0]['images']} test images of Fashion-MNIST{from_seeds}")
    tables.save_figure(folder / f"{stem}.png", figure)


def _lines(stem: str) -> list[str]:
    """What a picture and a printed table compare: the methods, a converted network with each remedy."""
    names = next(NAMES[neuron] for neuron in STEMS if STEMS[neuron] == stem)
    return [line for name in names for line in (REMEDIES if name == CONVERSION else [name])]


def spread(curves: list[dict], name: str, minutes: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """The steps T, and at each the lowest, mean and highest accuracy of a method's seeds, in percent."""
    at: dict[int, list[float]] = {}
    for point in curves:
        if point["method"] == name and point["minutes"] == minutes:
            at.setdefault(int(point["T"]), []).append(100 * float(point["accuracy"]))
    T = sorted(at)
    low, middle, high = ([of(at[t]) for t in T] for of in (min, statistics.mean, max))
    return T, low, middle, high


def show(folder: Path, stem: str) -> None:
    """Print the accuracies of both tables: the mean of the seeds, and how far they lie apart."""
    rows, curves = tables.read_csv(folder / f"{stem}.csv"), tables.read_csv(folder / f"{stem}_curves.csv")
    for minutes in sorted({row["minutes"] for row in rows}, key=float):
        shown = Table(title=f"{float(minutes):g} CPU minutes: right, %, ± half of what lies between the seeds")
        steps = [t for t in SHOWN if t <= int(rows[0]["longest"])]
        for heading in ("T", *map(str, steps)):
            shown.add_column(heading, justify="left" if heading == "T" else "right")
        for name in _lines(stem):
            T, low, middle, high = spread(curves, name, minutes)
            if T:
                cells = [f"{middle[t - 1]:.1f} ±{(high[t - 1] - low[t - 1]) / 2:.1f}" for t in steps]
                shown.add_row(figures.look(name).label, *cells)
        Console().print(shown)


def _sentence(rows: list[dict]) -> str:
    def mean(name: str, column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows if row["method"] == name)

    if any(row["method"] == "clipped relu twin" for row in rows):
        own, clipped = (100 * mean(name, "accuracy_T") for name in ("proxy", "clipped relu twin"))
        return f"Leaky neurons: {own:.1f} % by a twin with their own rate, {clipped:.1f} % by clipped ReLUs"
    cost = mean("surrogate", "seconds_an_epoch") / mean("proxy", "seconds_an_epoch")
    return f"Backpropagation through time takes {cost:.2g} times the proxy's time an epoch"


if __name__ == "__main__":
    command(main)
