"""Accuracy of trained networks at every number of steps, from one pass over the test images.

    python benchmarks/evaluate.py                                  # the shipped networks
    python benchmarks/evaluate.py runs/paper/paper.safetensors --T 50

For each file: accuracy by strict argmax after t = 1 .. T steps (a tie with the true class is wrong, and so is silence),
the share of ties, the firing rate of each layer and the spikes an image. Writes results/accuracy_<name>.csv and .png.
The exit status is 1 if a network falls below the accuracy that its file records for the test images.
"""

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nets
import torch
import train_data
from accuracy import strict_correct, tied
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
ROUNDING = 0.0002  # two of 10,000 images may lie so near to a threshold that the order of a sum decides


@dataclass
class Curve:
    """What one pass found: at t = 1 .. T, and over all T steps."""

    accuracy: list[float]  # share of images, strict
    ties: list[float]  # share of images whose true class shares the highest count, silence included
    rates: dict[str, float]  # layer -> spikes a neuron and step
    spikes: float  # of all neurons, an image


def main(arguments: list[str] | None = None) -> int:
    """Evaluate the files of the command line; returns the exit status."""
    options = parse_options(arguments)
    matplotlib.use("Agg")
    below = []
    for path in options.weights or sorted(nets.WEIGHTS.glob("*.safetensors")):
        try:
            net, about = nets.load_file(path, nets.NETS.get(path.stem))
            T = options.T or int(about["T"])
            dataset, _ = train_data.load(options.data, options.root, "test")
        except (ValueError, OSError) as error:
            raise SystemExit(f"evaluate.py: {error}") from error
        curve = evaluate(net.to(options.device), dataset, T, torch.device(options.device))
        write(options.out / f"accuracy_{path.stem}", curve)
        report(path, curve)
        recorded = float(about.get("test_accuracy", "nan"))
        if T >= int(about["T"]) and curve.accuracy[int(about["T"]) - 1] < recorded - ROUNDING:
            below.append(f"{path}: {curve.accuracy[int(about['T']) - 1]:.2%}, recorded {recorded:.2%}")
    if below:
        print("below the accuracy recorded for it: " + "; ".join(below), file=sys.stderr)
    return 1 if below else 0


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="*", type=Path, help="files that train.py wrote (default: the shipped ones)")
    parser.add_argument("--T", type=int, help="steps (default: those that the network was trained for)")
    parser.add_argument("--data", choices=sorted(train_data.LOADERS), default="fashion-mnist")
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table and the plot")
    options = parser.parse_args(arguments)
    if options.T is not None and options.T < 1:
        parser.error(f"--T must be at least 1 step, got {options.T}")
    return options


def evaluate(net: nn.Module, dataset: Dataset, T: int, device: torch.device, batch: int = 100) -> Curve:
    """Simulate every image once for T steps, and judge the counts after each of them."""
    correct, ties = torch.zeros(T), torch.zeros(T)
    spikes: dict[str, float] = {}
    neurons = layer_sizes(net, dataset[0][0].unsqueeze(0).to(device))
    for images, labels in tqdm(DataLoader(dataset, batch), "evaluate", unit="batch", mininterval=0.5):
        result = pk.simulate(net, images.to(device), T)
        for t in range(T):
            counts = result.count(until=t + 1).cpu()
            correct[t] += strict_correct(counts, labels).sum()
            ties[t] += tied(counts, labels).sum()
        for name, rate in result.rates.items():
            spikes[name] = spikes.get(name, 0.0) + rate * neurons[name] * T * len(images)
    count = len(dataset)
    rates = {name: total / (neurons[name] * T * count) for name, total in spikes.items()}
    return Curve((correct / count).tolist(), (ties / count).tolist(), rates, sum(spikes.values()) / count)


def layer_sizes(net: nn.Module, image: Tensor) -> dict[str, int]:
    """Neurons of each layer."""
    return {name: sum(v.numel() for v in states) for name, states in pk.simulate(net, image, 1).state.items()}


def report(path: Path, curve: Curve) -> None:
    """Print the last step's figures."""
    rates = ", ".join(f"{name} {rate:.1%}" for name, rate in curve.rates.items())
    print(
        f"{path.stem}: {curve.accuracy[-1]:.2%} at T = {len(curve.accuracy)} (a tie is wrong; {curve.ties[-1]:.2%} "
        f"tie), {curve.spikes:,.0f} spikes an image; firing rates {rates}"
    )


def write(stem: Path, curve: Curve) -> None:
    """The curve as a table and as a plot, each under a temporary name first."""
    from matplotlib import pyplot

    stem.parent.mkdir(parents=True, exist_ok=True)
    temporary = stem.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["T", "accuracy", "ties"])
        for t, (accuracy, ties) in enumerate(zip(curve.accuracy, curve.ties, strict=True), 1):
            writer.writerow([t, f"{accuracy:.4f}", f"{ties:.4f}"])
    temporary.replace(stem.with_suffix(".csv"))
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    steps = range(1, len(curve.accuracy) + 1)
    axes.plot(steps, curve.accuracy, label="right")
    axes.plot(steps, curve.ties, label="tie with the true class (counted as wrong)")
    axes.set(xlabel="time steps T", ylabel="share of the test images", ylim=(0, 1), title=stem.name)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
    temporary.replace(stem.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
