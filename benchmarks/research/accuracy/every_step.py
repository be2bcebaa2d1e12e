"""A network's accuracy after every step of one pass over the test images: what evaluate.py does."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from common import conversion, datasets, figures, nets, tables, twins, weights_file
from common.accuracy import BATCH, PRECISIONS, ann_accuracy, simulated, strict_correct, tied
from common.command import refusing
from common.machine import check_device, heading
from common.printed import new_parser
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from training import model as train_model

ROUNDING = 0.0002  # two of 10,000 images may lie so near to a threshold that the order of a sum decides
COLUMNS = ["T", "accuracy", "ties"]
CURVES = {  # the table's suffix: how its line looks
    "": ("trained", figures.BLACK, "-", 3.0),
    "_converted": ("the ReLU twin, converted", figures.BLUE, "-", 1.8),
}
LEAST_SHOWN = 85  # % of accuracy


class Curve(NamedTuple):
    """What one pass found after t = 1 .. T steps.

    Attributes:
        accuracy: share of the images that are strictly right.
        ties: share of the images whose true class shares the highest count, silence included.
    """

    accuracy: list[float]
    ties: list[float]


def run(options: argparse.Namespace) -> int:
    """Evaluate files; returns the exit status."""
    check_device(new_parser(""), options.device)
    with refusing("evaluate.py"):
        paths = list(options.weights or nets.shipped().values())
        curves = [f"accuracy_{weights_file.stem(path)}{suffix}.csv" for path in paths for suffix in CURVES]
        tables.check_out(options.out, dict.fromkeys(curves, COLUMNS))
        below = [fault for path in paths if (fault := evaluate_file(options, path))]
    if below:
        print("below the accuracy recorded for it: " + "; ".join(below), file=sys.stderr)
    return 1 if below else 0


def evaluate_file(options: argparse.Namespace, path: Path) -> str:
    """Evaluate one file and write its curve; returns what is wrong with its accuracy, or nothing."""
    model, twin_is_whole, about = twins.load(path, nets.NETS.get(name := weights_file.stem(path)))
    device = torch.device(options.device)
    model.to(device)
    dataset, _ = datasets.load(options.data, options.root, "test")
    trained_T, T = int(about["T"]), options.T or int(about["T"])
    precision = about.get("snn_precision", "float32")
    data = f"{len(dataset)} test images of {options.data}"
    print(heading(f"{path}, {precision}, T = {T}", data, options.out, device))
    net = model.net
    if options.converted or train_model.is_twin_alone(about):
        if not twin_is_whole:
            raise ValueError(f"{path} lacks the statistics of the ReLU twin, which is to be converted; train it again")
        if "decay" in about:
            raise ValueError(f"{path} is of leaky neurons, whose twin is no ReLU network; leave --converted out")
        train_set, _ = datasets.load(options.data, options.root, "train")
        net = conversion.converted(model, conversion.calibration(train_set).to(device))
    curve = evaluate(net, dataset, T, device, PRECISIONS[precision])
    suffix = "_converted" * options.converted
    write(options.out / f"accuracy_{name}{suffix}.csv", curve)
    draw(options.out, name)
    report(name + suffix, curve, ann_accuracy(model.eval().ann, dataset, device) if twin_is_whole else None)
    recorded = about.get("test_accuracy")
    comparable = recorded and not options.converted and T >= trained_T
    if comparable and curve.accuracy[trained_T - 1] < float(recorded) - ROUNDING:
        return f"{path}: {curve.accuracy[trained_T - 1]:.2%} at T = {trained_T}, recorded {float(recorded):.2%}"
    return ""


def evaluate(net: nn.Module, dataset: Dataset, T: int, device: torch.device, precision: str | None = None) -> Curve:
    """Simulate every image once for T steps, and judge the counts after each of them."""
    correct, ties = torch.zeros(T), torch.zeros(T)
    batches = simulated(net, dataset, T, device, precision)
    for result, labels in tqdm(batches, "evaluate", -(-len(dataset) // BATCH), unit="batch", mininterval=0.5):
        for t in range(T):
            counts = result.count(until=t + 1).cpu()
            correct[t] += strict_correct(counts, labels).sum()
            ties[t] += tied(counts, labels).sum()
    return Curve((correct / len(dataset)).tolist(), (ties / len(dataset)).tolist())


def report(name: str, curve: Curve, twin: float | None) -> None:
    """Print the last step's figures."""
    print(
        f"{name}: {curve.accuracy[-1]:.2%} at T = {len(curve.accuracy)} (a tie is wrong; {curve.ties[-1]:.2%} "
        f"tie: {curve.accuracy[-1] + curve.ties[-1]:.2%} if it were right)"
        + ("" if twin is None else f", ReLU twin {twin:.2%}")
    )


def write(path: Path, curve: Curve) -> None:
    """The curve as a table."""
    rows = [
        {"T": t, "accuracy": f"{accuracy:.4f}", "ties": f"{ties:.4f}"}
        for t, (accuracy, ties) in enumerate(zip(curve.accuracy, curve.ties, strict=True), 1)
    ]
    tables.write_csv(path, COLUMNS, rows)


def draw(folder: Path, name: str) -> None:
    """A network's accuracy at every T, trained and converted, from its tables in ``folder``."""
    figure, (axes,) = figures.new_figure(4.2)
    shown = []
    for suffix, (label, color, dash, width) in CURVES.items():
        rows = tables.read_csv(folder / f"accuracy_{name}{suffix}.csv", COLUMNS)
        if rows:
            shown.append(rows)
            steps, shares = [int(row["T"]) for row in rows], [100 * float(row["accuracy"]) for row in rows]
            axes.plot(steps, shares, label=label, color=color, linestyle=dash, linewidth=width)
    axes.set_xscale("log", base=2)
    longest = max(int(rows[-1]["T"]) for rows in shown)
    figures.ticks(axes.xaxis, [2**k for k in range(longest.bit_length())])
    axes.set(xlabel="steps T, logarithmic", ylabel="right (a tie is wrong), %", ylim=(LEAST_SHOWN, 100))
    figures.legend(figure, axes, columns=2)
    rows = shown[0]
    half, last = rows[(len(rows) + 1) // 2 - 1], rows[-1]
    sentence = (
        f"{100 * float(last['accuracy']):.1f} % of the images are right after {last['T']} steps, "
        f"{100 * float(half['accuracy']):.1f} % after {half['T']}"
    )
    where = f"{name} network, test images; the true class must lead by a spike; below {LEAST_SHOWN} % is left out"
    figures.title(figure, sentence, where)
    tables.save_figure(folder / f"accuracy_{name}.png", figure)
