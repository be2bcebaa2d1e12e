"""Ways to a spiking network, from the same start, on the same data, with the same budget of time.

    python benchmarks/compare_methods.py --minutes 10
    python benchmarks/compare_methods.py --minutes 10 --neuron lif --decay 0.5

proxy       the spiking network's output, the gradient of a ReLU network with the same weights (pk.ProxyNet)
tandem      the same, every layer of the ReLU network fed with the spiking network's rates
surrogate   backpropagation through all T steps with a surrogate derivative (pk.SurrogateNet: packed spikes are kept)
conversion  the ReLU network alone; then pk.convert: thresholds by the data, soft reset, half a threshold to start from

Of leaky neurons: proxy, whose twin has their own rate; the same with the twin of integrate-and-fire neurons, ReLUs,
clipped and not; tandem; and surrogate.

Each method trains for --minutes of this process's CPU time (a clock that other programs hardly disturb), with its
learning rate annealed to 0 over them. Writes results/compare_methods.csv (a row a method), compare_methods_curves.csv
(accuracy on the test images at every T) and compare_methods.png; of leaky neurons compare_methods_lif*.
"""

import argparse
import copy
import subprocess
import sys
import time
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import evaluate
import torch
from common import figures, nets, tables
from common.command import INTERRUPTED, command
from common.memory import PeakMemory
from common.printed import new_parser
from common.stages import stages
from sim_speed import commit, positive
from torch import nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm
from training import data as train_data
from training import loop as train_loop
from training import options as train_options
from training.step import Breakdown

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
CONVERSION = "conversion"
NAMES = {
    "if": ["proxy", "tandem", "surrogate", CONVERSION],
    "lif": ["proxy", "clipped relu twin", "relu twin", "tandem", "surrogate"],
}
STEMS = {"if": "compare_methods", "lif": "compare_methods_lif"}  # of the tables' and the picture's names
CALIBRATION = 1000  # training images whose activations set the thresholds of a converted network
COLUMNS = [
    "method", "net", "T", "batch", "minutes", "steps", "seconds_an_epoch", "peak_mb", "longest", "accuracy_T",
    "accuracy_longest", "ties_T", "mean_rate", "images", "threads", "torch", "commit",
]  # fmt: skip
CURVE_COLUMNS = ["method", "T", "accuracy", "ties"]


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_options(arguments)
    try:
        if options.method:
            run_one(options)
            return
    except (ValueError, OSError, Breakdown) as error:
        raise SystemExit(f"compare_methods.py: {error}") from error
    for name in NAMES[options.neuron]:  # each in a process of its own, so that its peak of memory is its own
        try:
            done = subprocess.run([sys.executable, __file__, *arguments, "--method", name])
        except KeyboardInterrupt:  # which went to that process too, and it has said so
            raise SystemExit(INTERRUPTED) from None
        if done.returncode:
            raise SystemExit(done.returncode)
    draw(options.out, STEMS[options.neuron])


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time that each method may train for")
    parser.add_argument("--net", choices=sorted(nets.TRAINABLE), default="small")
    parser.add_argument("--neuron", choices=sorted(NAMES), default="if", help="integrate and fire, or leak besides")
    parser.add_argument("--decay", type=float, default=0.5, help="share of the potential that a step leaves, of lif")
    parser.add_argument("--T", type=positive, default=16, help="steps in training")
    parser.add_argument("--longest", type=positive, default=128, help="steps of the evaluation, at least --T")
    parser.add_argument("--test", type=positive, default=2000, help="test images of the evaluation, the first ones")
    parser.add_argument("--batch", type=positive, default=100)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--seed", type=int, default=0)
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
    if not options.minutes > 0:
        parser.error(f"--minutes must be positive, got {options.minutes}")
    if options.longest < options.T:
        parser.error(f"--longest must be at least --T {options.T}, got {options.longest}")
    return options


def run_one(options: argparse.Namespace) -> None:
    """Train by one method, evaluate, and put its row and its curve into the tables."""
    train_set, _ = train_data.load("fashion-mnist", options.root, "train")
    test_set, _ = train_data.load("fashion-mnist", options.root, "test")
    if options.batch > len(train_set):
        raise ValueError(f"--batch must be at most the {len(train_set)} training images, got {options.batch}")
    torch.manual_seed(options.seed)
    net = nets.TRAINABLE[options.net](1.0, 0.0, decay=options.decay if options.neuron == "lif" else None)
    net.to(memory_format=torch.channels_last)
    converted = options.method == CONVERSION
    model = pk.ProxyNet(net, options.T, clip=not converted, readout="rate")
    with PeakMemory(torch.device("cpu")) as memory:
        steps, seconds = train(options, model, train_set)
    if converted:
        net = pk.convert(relu_network(model), torch.stack([train_set[i][0] for i in range(CALIBRATION)]))
    test_set = Subset(test_set, range(min(options.test, len(test_set))))
    curve = evaluate.evaluate(net.eval(), test_set, options.longest, torch.device("cpu"))
    row = {
        "method": options.method, "net": options.net, "T": options.T, "batch": options.batch,
        "minutes": options.minutes, "steps": steps,
        "seconds_an_epoch": f"{seconds / steps * (len(train_set) // options.batch):.2f}",
        "peak_mb": "" if memory.growth_bytes is None else f"{memory.growth_bytes / 1e6:.0f}",
        "longest": options.longest, "accuracy_T": f"{curve.accuracy[options.T - 1]:.4f}",
        "accuracy_longest": f"{curve.accuracy[-1]:.4f}", "ties_T": f"{curve.ties[options.T - 1]:.4f}",
        "mean_rate": f"{sum(curve.rates.values()) / len(curve.rates):.4f}", "images": len(test_set),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": commit(),
    }  # fmt: skip
    points = [
        {"method": options.method, "T": t, "accuracy": f"{accuracy:.4f}", "ties": f"{ties:.4f}"}
        for t, (accuracy, ties) in enumerate(zip(curve.accuracy, curve.ties, strict=True), 1)
    ]
    stem = STEMS[options.neuron]
    replace_rows(options.out / f"{stem}.csv", COLUMNS, [row])
    replace_rows(options.out / f"{stem}_curves.csv", CURVE_COLUMNS, points)
    print(row)


def train(options: argparse.Namespace, model: pk.ProxyNet, dataset: Dataset) -> tuple[int, float]:
    """Train until the time is spent; returns the steps, at least one, and the CPU seconds that they took."""
    settings = train_options.parse(["--T", str(options.T), "--batch", str(options.batch), "--seed", str(options.seed)])
    method = "ann" if options.method == CONVERSION else options.method
    budget, start = 60 * options.minutes, time.process_time()

    def spent() -> float:
        return time.process_time() - start

    training = train_loop.steps(settings, method, options.lr, model, dataset, lambda: min(1.0, spent() / budget))
    with tqdm(total=round(budget), desc=options.method, unit="s", mininterval=0.5) as bar:
        for step, shown in enumerate(training, 1):
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            bar.update(min(round(spent()), bar.total) - bar.n)
            if spent() >= budget:
                return step, spent()


@torch.no_grad()
def relu_network(model: pk.ProxyNet) -> nn.Sequential:
    """The ReLU twin as plain torch modules, normalisation by its own statistics folded."""
    net = copy.deepcopy(model.net)
    for name, own in model.statistics.items():
        bn = net.get_submodule(name).bn
        bn.running_mean.copy_(own.running_mean)
        bn.running_var.copy_(own.running_var)
    parts = stages(net.eval(), torch.device("cpu"), channels_last=False)
    modules = [module for part in parts for module in (part.synapses, nn.ReLU())]
    return nn.Sequential(*modules[:-1])  # the last layer is linear


def replace_rows(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Put a method's rows in a table in place of those it had there."""
    kept = [row for row in tables.read_csv(path) if row["method"] != rows[0]["method"]]
    tables.write_csv(path, columns, kept + rows)


def draw(folder: Path, stem: str = STEMS["if"]) -> None:
    """Accuracy against T, and a training epoch's time and memory, from the two tables."""
    curves = tables.read_csv(folder / f"{stem}_curves.csv")
    rows = {row["method"]: row for row in tables.read_csv(folder / f"{stem}.csv")}
    names = next(NAMES[neuron] for neuron in STEMS if STEMS[neuron] == stem)
    figure, (left, middle, right) = figures.new_figure(4.8, 3, width_ratios=[2.6, 1, 1])
    for name in names:
        points = [(int(p["T"]), 100 * float(p["accuracy"])) for p in curves if p["method"] == name]
        left.plot(*zip(*points, strict=True), **figures.line(name))
    about = rows[names[0]]
    left.axvline(int(about["T"]), color=figures.GRAY, linestyle=":", label=f"T in training: {about['T']}")
    left.set_xscale("log", base=2)
    figures.ticks(left.xaxis, [t for t in (1, 2, 4, 8, 16, 32, 64, 128) if t <= int(about["longest"])])
    left.set(xlabel="steps T", ylabel="right (a tie is wrong), %", ylim=(0, 100))
    for axes, column, label in (
        (middle, "seconds_an_epoch", "CPU seconds\nan epoch"),
        (right, "peak_mb", "MB for training,\nat the peak"),
    ):
        values = [float(rows[name][column] or 0) for name in names]
        bars = axes.bar(range(len(names)), values, color=[figures.look(name).color for name in names])
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=2, fontsize=9)
        axes.set_xticks([])
        axes.set_title(label, fontsize=10)
        axes.margins(y=0.1)
    figures.legend(figure, left)
    images = f"{about['images']} test images of Fashion-MNIST"
    where = f"{about['net']} network, {float(about['minutes']):g} minutes of CPU time each, {images}"
    figures.title(figure, _sentence(rows), where)
    tables.save_figure(folder / f"{stem}.png", figure)


def _sentence(rows: dict[str, dict]) -> str:
    if "clipped relu twin" in rows:
        own, clipped = (100 * float(rows[name]["accuracy_T"]) for name in ("proxy", "clipped relu twin"))
        return f"Leaky neurons: {own:.1f} % by a twin with their own rate, {clipped:.1f} % by clipped ReLUs"
    cost = float(rows["surrogate"]["seconds_an_epoch"]) / float(rows["proxy"]["seconds_an_epoch"])
    return f"Backpropagation through time takes {cost:.2g} times the proxy's time an epoch"


if __name__ == "__main__":
    command(main)
