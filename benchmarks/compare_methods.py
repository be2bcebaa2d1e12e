"""Four ways to a spiking network, from the same start, on the same data, with the same budget of time.

    python benchmarks/compare_methods.py --minutes 10

proxy       the spiking network's output, the gradient of a ReLU network with the same weights (pk.ProxyNet)
tandem      the same, every layer of the ReLU network fed with the spiking network's rates
surrogate   backpropagation through all T steps with a surrogate derivative (fused kernels forward and backward)
conversion  the ReLU network alone; then thresholds by the data (99.9 percentile of each layer's activations) and soft
            reset, as conversion is usually done

Each method trains for --minutes of this process's CPU time (a clock that other programs do not disturb), with its
learning rate annealed to 0 over them. Writes results/compare_methods.csv (a row a method), compare_methods_curves.csv
(accuracy on the test images at every T) and compare_methods.png.
"""

import argparse
import csv
import resource
import subprocess
import sys
import time
from pathlib import Path

import evaluate
import nets
import torch
import train_data
import train_options
import train_step
from conversion import convert
from torch.utils.data import Subset
from tqdm import tqdm
from train_methods import METHODS

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
CONVERSION = "conversion"
NAMES = ["proxy", "tandem", "surrogate", CONVERSION]
CALIBRATION = 1000  # images whose activations set the thresholds of a converted network
COLUMNS = ["method", "net", "T", "minutes", "steps", "seconds_an_epoch", "peak_mb", "accuracy_T", "accuracy_longest"]


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    if options.method:
        run_one(options)
        return
    for name in NAMES:  # each in a process of its own, so that its peak of memory is its own
        command = [sys.executable, __file__, *(arguments or sys.argv[1:]), "--method", name]
        subprocess.run(command, check=True)
    draw(options)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time that each method may train for")
    parser.add_argument("--net", choices=sorted(nets.TRAINABLE), default="small")
    parser.add_argument("--T", type=int, default=16, help="steps in training")
    parser.add_argument("--longest", type=int, default=128, help="steps of the evaluation")
    parser.add_argument("--test", type=int, default=2000, help="test images of the evaluation, the first ones")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--root", type=Path, help="folder with Fashion-MNIST's files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", choices=NAMES, help="only this one (default: all, and the plot)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def run_one(options: argparse.Namespace) -> None:
    """Train by one method, evaluate, and write its row and its curve."""
    train_set, _ = train_data.load("fashion-mnist", options.root, "train")
    test_set, _ = train_data.load("fashion-mnist", options.root, "test")
    torch.manual_seed(options.seed)
    net = nets.TRAINABLE[options.net](1.0, 0.0)
    net.to(memory_format=torch.channels_last)
    converted = options.method == CONVERSION
    model = pk.ProxyNet(net, options.T, clip=not converted, readout="rate")
    steps, seconds = train(options, model, train_set)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.eval()
    if converted:
        net = convert(model, torch.stack([train_set[i][0] for i in range(CALIBRATION)]))
    test_set = Subset(test_set, range(min(options.test, len(test_set))))
    curve = evaluate.evaluate(net.eval(), test_set, options.longest, torch.device("cpu"))
    epoch = seconds / steps * (len(train_set) // options.batch)
    row = [options.method, options.net, options.T, options.minutes, steps, f"{epoch:.2f}", f"{peak:.0f}"]
    row += [f"{curve.accuracy[options.T - 1]:.4f}", f"{curve.accuracy[-1]:.4f}"]
    options.out.mkdir(parents=True, exist_ok=True)
    replace_rows(options.out / "compare_methods.csv", COLUMNS, options.method, [row])
    points = [[options.method, t, f"{accuracy:.4f}"] for t, accuracy in enumerate(curve.accuracy, 1)]
    replace_rows(options.out / "compare_methods_curves.csv", ["method", "T", "accuracy"], options.method, points)
    print(dict(zip(COLUMNS, row, strict=True)))


def train(options: argparse.Namespace, model: pk.ProxyNet, dataset) -> tuple[int, float]:
    """Train until the time is spent; returns the steps, and the CPU seconds that they took."""
    settings = train_options.parse(["--T", str(options.T), "--net", options.net])
    data = train_data.augment(dataset, "mirror", 28, options.seed)
    method = METHODS["ann" if options.method == CONVERSION else options.method](model.train())
    optimizer = train_step.make_optimizer(settings, model, options.lr)
    budget, steps, shown, start = 60 * options.minutes, 0, {}, time.process_time()
    with tqdm(total=round(budget), desc=options.method, unit="s", mininterval=0.5) as bar:
        while True:
            for batch in train_data.batches(len(data), options.batch, options.seed, data.epoch):
                spent = time.process_time() - start
                bar.update(round(spent) - bar.n)
                if spent >= budget:
                    return steps, spent
                for group in optimizer.param_groups:
                    group["lr"] = train_step.learning_rate("cosine", options.lr, spent / budget)
                images, labels = (torch.stack(part) for part in zip(*(data[i] for i in batch), strict=True))
                figures = train_step.gradient(settings, method, model, images, labels)
                train_step.watch(shown, figures, f"by {options.method}")
                optimizer.step()
                bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
                steps += 1
            data.epoch += 1


def replace_rows(path: Path, columns: list[str], method: str, rows: list[list]) -> None:
    """Put a method's rows in a table in place of those it had there."""
    kept = list(csv.reader(path.open()))[1:] if path.is_file() else []
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *(row for row in kept if row[0] != method), *rows])
    temporary.replace(path)


def draw(options: argparse.Namespace) -> None:
    """Accuracy against T, and a training epoch's time and memory, from the two tables."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = list(csv.DictReader((options.out / "compare_methods_curves.csv").open()))
    rows = {row["method"]: row for row in csv.DictReader((options.out / "compare_methods.csv").open())}
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 4), layout="constrained", width_ratios=[2, 1, 1])
    for name in NAMES:
        points = [(int(p["T"]), float(p["accuracy"])) for p in curves if p["method"] == name]
        left.plot(*zip(*points, strict=True), label=name)
    left.axvline(options.T, color="gray", linestyle=":", label=f"T in training: {options.T}")
    left.set(xscale="log", xlabel="time steps T", ylabel="accuracy (a tie is wrong)", ylim=(0.5, 1))
    left.legend()
    left.grid(alpha=0.3)
    for axes, column, label in (
        (middle, "seconds_an_epoch", "CPU seconds a training epoch"),
        (right, "peak_mb", "peak memory in MB"),
    ):
        axes.bar(NAMES, [float(rows[name][column]) for name in NAMES])
        axes.set(ylabel=label)
        axes.tick_params(axis="x", rotation=45)
    temporary = options.out / "compare_methods.tmp"
    figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
    temporary.replace(options.out / "compare_methods.png")


if __name__ == "__main__":
    main()
