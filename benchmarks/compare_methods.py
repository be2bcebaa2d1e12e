"""Ways to a spiking network, from the same start, on the same data, with the same budget of time.

    python benchmarks/compare_methods.py --minutes 2,8 --seeds 0,1,2
    python benchmarks/compare_methods.py --minutes 8 --neuron lif --decay 0.5
    python benchmarks/compare_methods.py recipes    which learn, which run away

proxy               the spiking network's output, the gradient of a ReLU network with the same weights (pk.ProxyNet)
proxy, soft reset   the same, of neurons that keep what lay above the threshold, as converted ones do
tandem              proxy, every layer of the ReLU network fed with the spiking network's rates
surrogate           backpropagation through all T steps with a surrogate derivative (pk.SurrogateNet)
conversion          the ReLU network alone; then pk.convert, with each of its remedies for few steps
clipped conversion  the same, of clipped ReLUs, by pk.convert's default
tuned conversion    the network of clipped ReLUs alone for half the time; then pk.convert, and proxy for the other half

Of leaky neurons: proxy, whose twin has their own rate; the same with the twin of integrate-and-fire neurons, ReLUs,
clipped and not; tandem; and surrogate.

Each method trains for --minutes of this process's CPU time (a clock that other programs hardly disturb), with its
learning rate annealed to 0 over them. Writes results/compare_methods.csv (a row a method, budget and seed),
compare_methods_curves.csv (accuracy on the test images at every T, by spike counts and, of converted networks, by
logits) and compare_methods.png; of leaky neurons compare_methods_lif*, of another network compare_methods_NET_WIDTH*.
What is in the tables for the same method, budget and seed is replaced.
"""

import argparse
import itertools
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import figures, nets, tables
from common.accuracy import STEPS, Point, points
from common.checkout import commit
from common.command import INTERRUPTED, command
from common.memory import PeakMemory
from common.printed import new_parser, positive, shown, some_of, written
from rich.console import Console
from rich.table import Table
from torch.utils.data import Subset
from training import data as train_data
from training import ways
from training.step import Breakdown
from training.ways import CLIPPED, CONVERSION, REMEDIES, SOFT, TUNED

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "if": ["proxy", SOFT, "tandem", "surrogate", CONVERSION, CLIPPED, TUNED],
    "lif": ["proxy", "clipped relu twin", "relu twin", "tandem", "surrogate"],
}
STEMS = {"if": "compare_methods", "lif": "compare_methods_lif"}  # of the tables' and the picture's names
LEAST_SHOWN = 70  # % of accuracy, against energy
SHOWN = (4, 8, 16, 32, 64, 128, 256)  # steps whose accuracy is printed
KEY = ["method", "minutes", "seed"]
COLUMNS = [
    *KEY, "net", "width", "T", "batch", "steps", "seconds_an_epoch", "peak_mb", "longest", "accuracy_T",
    "accuracy_longest", "ties_T", "microjoules_T", "images", "threads", "torch", "commit",
]  # fmt: skip
CURVE_COLUMNS = [*KEY, "T", "accuracy", "by_logits", "ties", "synops", "microjoules"]


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
        only = ["--method", written(name), "--minutes", f"{minutes:g}", "--seeds", str(seed)]
        try:  # in a process of its own, so that its peak of memory is its own
            done = subprocess.run([sys.executable, __file__, *arguments, *only])
        except KeyboardInterrupt:  # which went to that process too, and it has said so
            raise SystemExit(INTERRUPTED) from None
        if done.returncode:
            raise SystemExit(done.returncode)
    show(options.out, stem_of(options))
    draw(options.out, stem_of(options))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--minutes", type=floats, default=[8.0], help="CPU time that each method may train for, such as 2,8"
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
    parser.add_argument("--seeds", type=seeds, default=[0], help="such as 0,1,2")
    parser.add_argument(
        "--method",
        type=one_of({*NAMES["if"], *NAMES["lif"]}),
        help=f"only this one (default: all, and the plot): {shown(sorted({*NAMES['if'], *NAMES['lif']}))}",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.method not in (None, *NAMES[options.neuron]):
        parser.error(
            f"--method of --neuron {options.neuron} is one of {', '.join(map(written, NAMES[options.neuron]))}"
        )
    if not 0 <= options.decay <= 1:
        parser.error(f"--decay must be within 0 .. 1, got {options.decay}")
    for name in ("minutes", "width"):
        given = getattr(options, name)
        if not all(0 < number < math.inf for number in (given if isinstance(given, list) else [given])):
            parser.error(f"--{name} must be positive, got {given}")
    if options.longest < options.T:
        parser.error(f"--longest must be at least --T {options.T}, got {options.longest}")
    return options


def floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def one_of(names: set[str]):
    """The type of an option that is one of ``names``."""
    parse = some_of(sorted(names))

    def name(text: str) -> str:
        if "," in text:
            raise argparse.ArgumentTypeError(f"expected one method, got {text!r}")
        return parse(text)[0]

    return name


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
            read = sorted({*(T for T in STEPS if T < options.longest), options.T, options.longest})
            record(options, {"method": name} | about, points(net, test_set, read, name))


def record(options: argparse.Namespace, about: dict, curve: list[Point]) -> None:
    """Put a network's row and curve into the tables."""
    trained = next(point for point in curve if point.T == options.T)
    row = about | {
        "longest": options.longest, "accuracy_T": f"{trained.accuracy:.4f}",
        "accuracy_longest": f"{curve[-1].accuracy:.4f}", "ties_T": f"{trained.ties:.4f}",
        "microjoules_T": f"{1e6 * trained.joules:.3f}",
        "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": commit(),
    }  # fmt: skip
    curve_rows = [
        {key: about[key] for key in KEY}
        | {"T": point.T, "accuracy": f"{point.accuracy:.4f}", "ties": f"{point.ties:.4f}"}
        | {"by_logits": "" if point.by_logits is None else f"{point.by_logits:.4f}"}
        | {"synops": f"{point.synops:.0f}", "microjoules": f"{1e6 * point.joules:.3f}"}
        for point in curve
    ]
    stem = stem_of(options)
    replace_rows(options.out / f"{stem}.csv", COLUMNS, [row])
    replace_rows(options.out / f"{stem}_curves.csv", CURVE_COLUMNS, curve_rows)
    print(row)


def stem_of(options: argparse.Namespace) -> str:
    """Of the names of a network's tables and picture: other networks than the default have their own."""
    stem = STEMS[options.neuron]
    return stem if (options.net, options.width) == ("small", 1) else f"{stem}_{options.net}_{options.width:g}"


def replace_rows(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Put rows in a table in place of those that it had for the same method, budget and seed."""
    key = [str(rows[0][name]) for name in KEY]
    kept = [row for row in tables.read_csv(path) if [row[name] for name in KEY] != key]
    tables.write_csv(path, columns, kept + rows)


def draw(folder: Path, stem: str = STEMS["if"]) -> None:
    """For each budget accuracy against T and energy; and a training epoch's time and memory: from the two tables."""
    rows, curves = tables.read_csv(folder / f"{stem}.csv"), tables.read_csv(folder / f"{stem}_curves.csv")
    names = [name for name in _lines(stem) if any(row["method"] == name for row in rows)]
    budgets = sorted({row["minutes"] for row in rows}, key=float)
    figure, panels = figures.new_figure(2.8 * len(budgets) + 4.4, 2, len(budgets) + 1)
    for minutes, by_steps, by_energy in zip(budgets, panels[::2], panels[1::2], strict=False):
        for name in names:
            line = spread(curves, name, minutes)
            for axes, x in ((by_steps, line.T), (by_energy, line.microjoules)):
                axes.plot(x, line.mean, **figures.line(name))
                axes.fill_between(x, line.low, line.high, color=figures.look(name).color, alpha=0.2, linewidth=0)
        by_steps.axvline(int(rows[0]["T"]), color=figures.GRAY, linestyle=":", label=f"T in training: {rows[0]['T']}")
        by_steps.set_xscale("log", base=2)
        figures.ticks(by_steps.xaxis, [t for t in (1, 4, 16, 64, 256) if t <= int(rows[0]["longest"])])
        by_steps.set(xlabel="steps T", ylim=(0, 100), ylabel="right (a tie is wrong), %")
        by_steps.set_title(f"{float(minutes):g} CPU minutes", fontsize=10)
        if by_energy.dataLim.x1 > 0:
            by_energy.set_xscale("log")
            by_energy.set(xlabel="energy, estimated, µJ an image", ylim=(LEAST_SHOWN, 100), ylabel="right, %")
        else:  # tables from before the energy was counted have none
            by_energy.set_visible(False)
    remedies = [name for name in names if name in REMEDIES]
    trained = [name for name in names if name not in remedies[1:]]  # one of them stands for a training that they share
    _bars(panels[-2], rows, trained, "seconds_an_epoch", "CPU seconds an epoch")
    _bars(panels[-1], rows, trained, "peak_mb", "MB for training, at the peak")
    panels[-1].set_yticklabels([])
    figures.legend(figure, panels[0], columns=2)
    seeds, width = len({row["seed"] for row in rows}), float(rows[0]["width"])
    net = f"{rows[0]['net']} network" + (f", width {width:g}" if width != 1 else "")
    from_seeds = f", mean and range of {seeds} seeds" if seeds > 1 else ""
    figures.title(figure, _sentence(rows), f"{net}, {rows[0]['images']} test images of Fashion-MNIST{from_seeds}")
    tables.save_figure(folder / f"{stem}.png", figure)


def _bars(axes, rows: list[dict], names: list[str], column: str, label: str) -> None:
    """A bar a method: the mean of its seeds, and a line from the least to the most of them."""
    values = [[float(row[column] or 0) for row in rows if row["method"] == name] for name in names]
    means = [statistics.mean(of) for of in values]
    reach = [[mean - min(of), max(of) - mean] for mean, of in zip(means, values, strict=True)]
    looks = [figures.look(name) for name in names]
    labels = ["converted" if name in REMEDIES else look.label for name, look in zip(names, looks, strict=True)]
    several = max(map(len, values)) > 1
    bars = axes.barh(
        labels, means, xerr=list(zip(*reach, strict=True)) if several else None,
        color=[look.color for look in looks], error_kw={"ecolor": figures.GRAY, "capsize": 2, "elinewidth": 1.2},
    )  # fmt: skip
    axes.bar_label(bars, [f"{mean:,.0f}" for mean in means], padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(label)


def _lines(stem: str) -> list[str]:
    """What a picture and a printed table compare: the methods, a converted network with each remedy."""
    names = NAMES["lif" if stem.startswith(STEMS["lif"]) else "if"]
    return [line for name in names for line in (REMEDIES if name == CONVERSION else [name])]


@dataclass
class Spread:
    """A method's curve: at each T the lowest, mean and highest accuracy of its seeds, in percent, and mean energy."""

    T: list[int]
    low: list[float]
    mean: list[float]
    high: list[float]
    microjoules: list[float]


def spread(curves: list[dict], name: str, minutes: str, column: str = "accuracy") -> Spread:
    """The curve of a method and budget, from the rows of all; empty if there are none."""
    at: dict[int, list[dict]] = {}
    for point in curves:
        if point["method"] == name and point["minutes"] == minutes and point.get(column):
            at.setdefault(int(point["T"]), []).append(point)
    T = sorted(at)
    accuracies = [[100 * float(point[column]) for point in at[t]] for t in T]
    energies = [statistics.mean(float(point.get("microjoules") or math.nan) for point in at[t]) for t in T]
    return Spread(T, *([of(shares) for shares in accuracies] for of in (min, statistics.mean, max)), energies)


def show(folder: Path, stem: str) -> None:
    """Print the accuracies of both tables: the mean of the seeds, and how far they lie apart."""
    rows, curves = tables.read_csv(folder / f"{stem}.csv"), tables.read_csv(folder / f"{stem}_curves.csv")
    several = len({row["seed"] for row in rows}) > 1
    half = ", ± half of what lies between the seeds" if several else ""
    for minutes in sorted({row["minutes"] for row in rows}, key=float):
        shown = Table(title=f"{float(minutes):g} CPU minutes: right, %{half}")
        steps = [t for t in SHOWN if t <= int(rows[0]["longest"])]
        for heading in ("T", *map(str, steps)):
            shown.add_column(heading, justify="left" if heading == "T" else "right")
        for name, column in itertools.product(_lines(stem), ("accuracy", "by_logits")):
            line = spread(curves, name, minutes, column)
            seeds = zip(line.T, line.low, line.mean, line.high, strict=True)
            cells = {
                T: f"{mean:.1f}" + (f" ±{(high - low) / 2:.1f}" if several else "") for T, low, mean, high in seeds
            }
            label = figures.look(name).label + (", by logits" if column == "by_logits" else "")
            if cells:
                shown.add_row(label, *(cells.get(T, "") for T in steps))
        Console().print(shown)


def _sentence(rows: list[dict]) -> str:
    def mean(name: str, column: str) -> float:
        return statistics.mean(float(row[column]) for row in rows if row["method"] == name)

    if any(row["method"] == "clipped relu twin" for row in rows):
        own, clipped = (100 * mean(name, "accuracy_T") for name in ("proxy", "clipped relu twin"))
        return f"Leaky neurons: {own:.1f} % by a twin with their own rate, {clipped:.1f} % by clipped ReLUs"
    shares = {name: 100 * mean(name, "accuracy_T") for name in {row["method"] for row in rows}}
    converted = max(shares[name] for name in (*REMEDIES, CLIPPED) if name in shares)
    return f"In the same time {converted:.1f} % by conversion, {shares['proxy']:.1f} % by proxy (T = {rows[0]['T']})"


if __name__ == "__main__":
    command(main, {"recipes": "methods.recipes"})
