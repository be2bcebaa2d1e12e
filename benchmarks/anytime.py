"""Accuracy against the number of steps: the trained ReLU network converted by each method, and the proxy-trained net.

    python benchmarks/anytime.py
    python benchmarks/anytime.py --parts exit --exit-images 1000

curves: every curve is one simulation of 1024 steps, read at 15 of them. Writes results/anytime.csv and .png.
exit: how many steps an image takes if it stops when its first class leads by a margin of spikes, and what accuracy that
costs. Writes results/early_exit_<net>.csv. "Fixed steps" in it is what the same accuracy takes without early exit: the
fewest steps that, given to every image, reach it.

Accuracy is strict: a tie is wrong, and so is silence.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import ann as relu
import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import figures, nets
from common.accuracy import ann_accuracy, strict_accuracy
from common.command import command
from common.data import fashion_mnist
from common.printed import new_parser
from common.tables import read_csv, save_figure, write_csv
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
PARTS = ("curves", "exit")
STEPS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
LEADS = (2, 3, 4, 6, 8)
BATCH = 50
CALIBRATION_IMAGES = 1000
MOST_LOST = 0.002  # accuracy that early exit may cost
PROXY, CONVERTED = "proxy-trained, hard reset", "converted, percentile, half a threshold to start"
DEFAULT = "converted, calibrated"  # as pk.convert does it by default
LEAST_SHOWN = 60  # % of accuracy
RELU = "the ReLU network"
# For early exit: the curve's name, and the steps without it; the proxy-trained net was trained for its 32.
EXITS = {"proxy": (PROXY, 32), "converted": (CONVERTED, 64)}


@dataclass
class Run:
    """What one pass over the images gave."""

    spikes: pk.Spikes
    steps: Tensor  # of each image
    ms_an_image: float


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    images, labels = fashion_mnist("test", options.root)
    networks = make_networks(fashion_mnist("train", options.root)[0][:CALIBRATION_IMAGES])
    if "curves" in options.parts:
        curves(networks, images[: options.images], labels[: options.images], options)
    if "exit" in options.parts:
        early_exit(networks, images[: options.exit_images], labels[: options.exit_images], options)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--images", type=int, default=500, help="test images for the curves")
    parser.add_argument("--longest", type=int, default=STEPS[-1], help="steps of the curves")
    parser.add_argument("--exit-images", type=int, default=10_000, help="test images for early exit")
    parser.add_argument("--exit-nets", nargs="+", choices=EXITS, default=list(EXITS))
    parser.add_argument("--chunk", type=int, default=2, help="steps between two looks at which images are decided")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def make_networks(calibration: Tensor) -> dict[str, nn.Module]:
    """The networks by the names of their curves."""
    networks = {PROXY: nets.load("small", 0.0)[0]}
    for method in ("max", "percentile"):
        for v_init, start in ((0.0, ""), (0.5, ", half a threshold to start")):
            net = pk.convert(relu.load(), calibration, method=method, v_init=v_init)
            networks[f"converted, {method}{start}"] = net
    networks[DEFAULT] = pk.convert(relu.load(), calibration)
    return networks


def run(net: nn.Module, images: Tensor, T: int, what: str, lead: float | None = None, chunk: int | None = None) -> Run:
    """Simulate all images; with ``lead``, an image stops when its first class leads by so many spikes."""
    start, spikes, steps = time.perf_counter(), [], []
    stop = None if lead is None else pk.margin(lead)
    for part in tqdm(images.split(BATCH), what, unit="batch", mininterval=1.0):
        result = pk.simulate(net, part, T, chunk=chunk, stop=stop)
        spikes.append(result.spikes.dense(torch.bool))
        steps.append(result.steps)
    milliseconds = 1e3 * (time.perf_counter() - start) / len(images)
    return Run(pk.pack(torch.cat(spikes, 1)), torch.cat(steps), milliseconds)


def curves(networks: dict[str, nn.Module], images: Tensor, labels: Tensor, options: argparse.Namespace) -> None:
    """Accuracy at STEPS of one run of each network, as a table and a plot."""
    rows = []
    for name, net in networks.items():
        shares = pk.plot.accuracy(run(net, images, options.longest, name).spikes, labels)
        rows += [
            {"network": name, "T": T, "accuracy": f"{shares[T - 1]:.4f}", "images": len(images)}
            for T in STEPS
            if T <= options.longest
        ]
    accuracy = ann_accuracy(relu.load(), TensorDataset(images, labels))
    rows.append({"network": RELU, "T": "", "accuracy": f"{accuracy:.4f}", "images": len(images)})
    write(options.out / "anytime.csv", rows)
    draw(options.out)
    print(f"wrote {options.out / 'anytime.png'}")


def draw(folder: Path) -> None:
    """Accuracy against T, a line a network, from the table."""
    rows = read_csv(folder / "anytime.csv")
    figure, (axes,) = figures.new_figure(5.4)
    for name in dict.fromkeys(row["network"] for row in rows if row["T"]):
        points = [(int(row["T"]), 100 * float(row["accuracy"])) for row in rows if row["network"] == name]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, **figures.line(name))
    relu_accuracy = next(float(row["accuracy"]) for row in rows if row["network"] == RELU)
    label = f"the ReLU network, {100 * relu_accuracy:.1f} %"
    axes.axhline(100 * relu_accuracy, color=figures.GRAY, linestyle=":", label=label)
    axes.set_xscale("log", base=2)
    steps = {int(row["T"]) for row in rows if row["T"]}
    figures.ticks(axes.xaxis, [T for T in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if T in steps] or steps)
    axes.set(ylim=(LEAST_SHOWN, 100), xlabel="steps T", ylabel="right (a tie is wrong), %")
    figures.legend(figure, axes, columns=2)
    where = (
        f"small network, the first {rows[0]['images']} test images of Fashion-MNIST; below {LEAST_SHOWN} % is left out"
    )
    figures.title(figure, sentence(rows), where)
    save_figure(folder / "anytime.png", figure)


def sentence(rows: list[dict]) -> str:
    """The title: the accuracies after a few steps."""
    T = "16" if any(row["T"] == "16" for row in rows) else rows[0]["T"]
    shares = {row["network"]: 100 * float(row["accuracy"]) for row in rows if row["T"] == T}
    proxy = shares.pop(PROXY)
    return f"After {T} steps {proxy:.1f} % are right by proxy, {max(shares.values()):.1f} % by the best conversion"


def early_exit(networks: dict[str, nn.Module], images: Tensor, labels: Tensor, options: argparse.Namespace) -> None:
    """Steps and accuracy at several margins, against the run in which every image takes all steps."""
    for key in options.exit_nets:
        name, T = EXITS[key]
        whole = run(networks[name], images, T, f"{name}, no early exit")
        shares = pk.plot.accuracy(whole.spikes, labels)
        rows = [exit_row(T, None, whole, shares, labels)]
        for lead in LEADS:
            exited = run(networks[name], images, T, f"margin {lead}", lead, options.chunk)
            rows.append({**exit_row(T, lead, exited, shares, labels), "chunk": options.chunk})
        report(name, rows)
        write(options.out / f"early_exit_{key}.csv", rows)


def exit_row(T: int, lead: float | None, exited: Run, shares: Tensor, labels: Tensor) -> dict:
    """One margin's row; ``shares`` is the accuracy after each step without early exit."""
    accuracy = strict_accuracy(exited.spikes.count(), labels)
    as_good = (shares >= accuracy).nonzero()
    mean_steps = exited.steps.float().mean().item()
    return {
        "T": T, "margin": lead or "none", "chunk": "none", "accuracy": f"{accuracy:.4f}",
        "lost": f"{shares[T - 1].item() - accuracy:.4f}", "mean_steps": f"{mean_steps:.2f}",
        "times_fewer": f"{T / mean_steps:.2f}", "fixed_steps": int(as_good[0]) + 1 if len(as_good) else "none",
        "ms_an_image": f"{exited.ms_an_image:.2f}", "images": len(labels),
    }  # fmt: skip


def report(name: str, rows: list[dict]) -> None:
    """Print the margin with the fewest steps among those that cost little accuracy."""
    good = [row for row in rows if float(row["lost"]) < MOST_LOST]
    best = min(good, key=lambda row: float(row["mean_steps"]))
    print(
        f"{name}: margin {best['margin']} takes {best['mean_steps']} of {best['T']} steps on average "
        f"({best['times_fewer']} times fewer) and costs {100 * float(best['lost']):.2f} % of accuracy "
        f"({float(best['accuracy']):.2%}); {best['fixed_steps']} steps for every image would give the same"
    )


def write(path: Path, rows: list[dict]) -> None:
    write_csv(path, list(rows[0]), rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    command(main)
