"""A network's accuracy after every step of one pass over the test images: what evaluate.py does."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from common import conversion, datasets, figures, nets, tables, twins, weights_file
from common.accuracy import BATCH, PRECISIONS, ann_accuracy, simulated, strict_correct, tied
from common.checkout import commit
from common.command import refusing
from common.machine import check_device, heading
from common.printed import new_parser
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from training import weights as train_weights

import proxykernels as pk

ROUNDING = 0.0002  # two of 10,000 images may lie so near to a threshold that the order of a sum decides
COLUMNS = [
    "name", "net", "method", "precision", "T", "images", "accuracy", "ties", "recorded", "relu_twin",
    "spikes_an_image", "rates", "torch", "commit",
]  # fmt: skip
CURVE_COLUMNS = ["T", "accuracy", "ties"]
CURVES = {  # the table's suffix: how its line looks
    "": ("float32", figures.BLACK, "-", 3.0),
    "_converted": ("the ReLU twin, converted", figures.BLUE, "-", 1.8),
    "_int16": ("int16 weights", figures.ORANGE, "--", 1.8),
    "_int8": ("int8 weights", figures.GREEN, ":", 2.2),
}
LEAST_SHOWN = 85  # % of accuracy


@dataclass
class Curve:
    """What one pass found: at t = 1 .. T, and over all T steps."""

    accuracy: list[float]  # share of images, strict
    ties: list[float]  # share of images whose true class shares the highest count, silence included
    rates: dict[str, float]  # layer -> spikes a neuron and step
    spikes: float  # of all neurons, an image


def run(options: argparse.Namespace) -> int:
    """Evaluate files; returns the exit status."""
    check_device(new_parser(""), options.device)
    with refusing("evaluate.py"):
        paths = list(options.weights or nets.shipped().values())
        curves = [f"accuracy_{weights_file.stem(path)}{suffix}.csv" for path in paths for suffix in CURVES]
        tables.check_out(options.out, {"accuracy.csv": COLUMNS} | dict.fromkeys(curves, CURVE_COLUMNS))
        below = [fault for path in paths if (fault := evaluate_file(options, path))]
    if below:
        print("below the accuracy recorded for it: " + "; ".join(below), file=sys.stderr)
    return 1 if below else 0


def evaluate_file(options: argparse.Namespace, path: Path) -> str:
    """Evaluate one file, and leave its figures; returns what is wrong with its accuracy, or nothing."""
    model, twin_is_whole, about = twins.load(path, nets.NETS.get(name := weights_file.stem(path)))
    device = torch.device(options.device)
    model.to(device)
    dataset, _ = datasets.load(options.data, options.root, "test")
    trained_T, T = int(about["T"]), options.T or int(about["T"])
    data = f"{len(dataset)} test images of {options.data}"
    print(heading(f"{path}, {options.precision}, T = {T}", data, options.out, device))
    net = model.net
    if options.converted or train_weights.is_twin_alone(about):
        if not twin_is_whole:
            raise ValueError(f"{path} lacks the statistics of the ReLU twin, which is to be converted; train it again")
        if "decay" in about:
            raise ValueError(f"{path} is of leaky neurons, whose twin is no ReLU network; leave --converted out")
        train_set, _ = datasets.load(options.data, options.root, "train")
        net = conversion.converted(model, conversion.calibration(train_set).to(device))
    curve = evaluate(net, dataset, T, device, precision=PRECISIONS[options.precision])
    recorded = about.get("test_accuracy")
    twin = ann_accuracy(model.eval().ann, dataset, device) if twin_is_whole else None
    suffix = "_converted" * options.converted + f"_{options.precision}" * (options.precision != "float32")
    method = "conversion" if options.converted else about.get("method", "proxy")
    write(options.out / f"accuracy_{name}{suffix}", curve)
    draw(options.out, name)
    row = {
        "name": name, "net": about.get("net", name), "method": method,
        "precision": options.precision, "T": T, "images": len(dataset), "accuracy": f"{curve.accuracy[-1]:.4f}",
        "ties": f"{curve.ties[-1]:.4f}",
        "recorded": recorded or "", "relu_twin": "" if twin is None else f"{twin:.4f}",
        "spikes_an_image": f"{curve.spikes:.0f}",
        "rates": "; ".join(f"{name} {rate:.4f}" for name, rate in curve.rates.items()),
        "torch": torch.__version__, "commit": commit(),
    }  # fmt: skip
    table = options.out / "accuracy.csv"
    kept = [other for other in tables.read_csv(table) if _key(other) != _key(row)]
    tables.write_csv(table, COLUMNS, [*kept, row])
    report(name + suffix, curve, twin)
    same = not options.converted and options.precision == about.get("snn_precision", "float32")
    comparable = same and T >= trained_T
    if recorded and comparable and curve.accuracy[trained_T - 1] < float(recorded) - ROUNDING:
        return f"{path}: {curve.accuracy[trained_T - 1]:.2%} at T = {trained_T}, recorded {float(recorded):.2%}"
    return ""


def _key(row: dict) -> tuple:
    """Of the rows that are alike, a table keeps the last; a file that was trained anew, by any method, is the same."""
    return row["name"], row["precision"], str(row["T"]), row["method"] == "conversion"


def evaluate(net: nn.Module, dataset: Dataset, T: int, device: torch.device, precision: str | None = None) -> Curve:
    """Simulate every image once for T steps, and judge the counts after each of them."""
    correct, ties = torch.zeros(T), torch.zeros(T)
    spikes: dict[str, float] = {}
    neurons = layer_sizes(net, dataset[0][0].unsqueeze(0).to(device))
    batches = simulated(net, dataset, T, device, precision)
    for result, labels in tqdm(batches, "evaluate", -(-len(dataset) // BATCH), unit="batch", mininterval=0.5):
        for t in range(T):
            counts = result.count(until=t + 1).cpu()
            correct[t] += strict_correct(counts, labels).sum()
            ties[t] += tied(counts, labels).sum()
        for name, rate in result.rates.items():
            spikes[name] = spikes.get(name, 0.0) + rate * neurons[name] * T * len(labels)
    count = len(dataset)
    rates = {name: total / (neurons[name] * T * count) for name, total in spikes.items()}
    return Curve((correct / count).tolist(), (ties / count).tolist(), rates, sum(spikes.values()) / count)


def layer_sizes(net: nn.Module, image: Tensor) -> dict[str, int]:
    """Neurons of each layer."""
    return {name: sum(v.numel() for v in states) for name, states in pk.simulate(net, image, 1).state.items()}


def report(name: str, curve: Curve, twin: float | None) -> None:
    """Print the last step's figures."""
    rates = ", ".join(f"{name} {rate:.1%}" for name, rate in curve.rates.items())
    print(
        f"{name}: {curve.accuracy[-1]:.2%} at T = {len(curve.accuracy)} (a tie is wrong; {curve.ties[-1]:.2%} "
        f"tie: {curve.accuracy[-1] + curve.ties[-1]:.2%} if it were right)"
        + ("" if twin is None else f", ReLU twin {twin:.2%}")
        + f", {curve.spikes:,.0f} spikes an image; "
        f"firing rates {rates}"
    )


def write(stem: Path, curve: Curve) -> None:
    """The curve as a table."""
    rows = [
        {"T": t, "accuracy": f"{accuracy:.4f}", "ties": f"{ties:.4f}"}
        for t, (accuracy, ties) in enumerate(zip(curve.accuracy, curve.ties, strict=True), 1)
    ]
    tables.write_csv(stem.with_name(stem.name + ".csv"), CURVE_COLUMNS, rows)


def draw(folder: Path, name: str) -> None:
    """A network's accuracy at every T, in float32 and with rounded weights, from its tables in ``folder``."""
    figure, (axes,) = figures.new_figure(4.2)
    shown = []
    for suffix, (label, color, dash, width) in CURVES.items():
        rows = tables.read_csv(folder / f"accuracy_{name}{suffix}.csv", CURVE_COLUMNS)
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
