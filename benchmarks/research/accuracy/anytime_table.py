"""Accuracy, steps and energy of an image: the work of anytime.py."""

import argparse
from pathlib import Path

import torch
from common import figures, nets, twins
from common.accuracy import BATCH, STEPS, Point, ann_accuracy, points, strict_accuracy
from common.command import refusing
from common.conversion import relu_network
from common.data import fashion_mnist
from common.machine import heading
from common.tables import check_out, read_csv, save_figure, write_csv
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import proxykernels as pk
from accuracy.work import relu_work
from proxykernels.running.synops import SynOps

MARGINS = (1, 2, 3, 4, 6, 8)
CALIBRATION_IMAGES = 1000
MOST_LOST = 0.002  # accuracy that early exit may cost
PROXY, DEFAULT, RELU = "trained by proxy", "converted, calibrated", "the ReLU network"
CONVERSIONS = {  # pk.convert's options; DEFAULT: none
    "converted, max": {"method": "max", "v_init": 0.0},
    "converted, max, half a threshold to start": {"method": "max", "v_init": 0.5},
    "converted, percentile": {"v_init": 0.0},
    "converted, percentile, half a threshold to start": {"v_init": 0.5},
    DEFAULT: {},
}
EXITS = (PROXY, DEFAULT)  # the networks whose early exit is measured
LEAST_SHOWN = 80  # % of accuracy
COLUMNS = ["network", "margin", "steps", "accuracy", "synops", "microjoules", "images"]


def run(options: argparse.Namespace) -> None:
    with refusing("evaluate.py anytime"):
        check_out(options.out)
        images, labels = fashion_mnist("test", options.root)
        calibration = fashion_mnist("train", options.root)[0][:CALIBRATION_IMAGES]
    dataset = TensorDataset(images[: options.images], labels[: options.images])
    table = options.out / "anytime_small.csv"
    print(heading("small net", f"{len(dataset)} test images of Fashion-MNIST", table))
    ann, networks = make_networks(calibration)
    rows = [relu_row(ann, dataset)]
    for name in options.networks or networks:
        rows += fixed_rows(name, networks[name], dataset, options.longest)
        if name in EXITS:
            rows += [exit_row(name, networks[name], margin, dataset, options) for margin in MARGINS]
            report(name, [row for row in rows if row["network"] == name])
        write_csv(table, COLUMNS, rows)  # so far
    draw(options.out)
    print(f"wrote {table} and .png")


def make_networks(calibration: Tensor) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The ReLU twin of the shipped network, and by the names of their lines that network and the twin converted."""
    model, _, _ = twins.load(nets.shipped()["small"], nets.NETS["small"])
    ann = relu_network(model)
    converted = {name: pk.convert(ann, calibration, **remedy) for name, remedy in CONVERSIONS.items()}
    return ann, {PROXY: model.net} | converted


def fixed_rows(name: str, net: nn.Module, dataset: TensorDataset, longest: int) -> list[dict]:
    """A network's rows at STEPS, every image for all of them."""
    return [
        row(name, "", point.T, point, len(dataset))
        for point in points(net, dataset, [T for T in STEPS if T <= longest], name)
    ]


def exit_row(name: str, net: nn.Module, margin: int, dataset: TensorDataset, options: argparse.Namespace) -> dict:
    """A network's row at one margin of early exit."""
    counts, truth, steps, synops, joules = [], [], 0, 0, 0.0
    for images, labels in tqdm(DataLoader(dataset, BATCH), f"{name}, margin {margin}", unit="batch", mininterval=1.0):
        result = pk.simulate(net, images, options.exit_steps, chunk=options.chunk, stop=pk.stop.margin(margin))
        counts.append(result.count())
        truth.append(labels)
        steps, synops = steps + result.steps.sum().item(), synops + result.synops.total
        joules += result.synops.joules
    right, count = strict_accuracy(torch.cat(counts), torch.cat(truth)), len(dataset)
    point = Point(options.exit_steps, right, 0, synops / count, joules / count)
    return row(name, margin, f"{steps / count:.2f}", point, count)


def relu_row(ann: nn.Module, dataset: TensorDataset) -> dict:
    """The ReLU network's accuracy and multiplications, those with 0 left out; what pads an image is none."""
    _, sparse, _ = relu_work(ann, dataset)
    joules = SynOps({}, {RELU: sparse.products}).joules
    return row(RELU, "", "", Point(1, ann_accuracy(ann, dataset), 0, sparse.products, joules), len(dataset))


def row(name: str, margin: int | str, steps: int | str, point: Point, images: int) -> dict:
    """A row of the table; operations and energy are an image's."""
    return {
        "network": name, "margin": margin, "steps": steps, "accuracy": f"{point.accuracy:.4f}",
        "synops": f"{point.synops:.0f}", "microjoules": f"{1e6 * point.joules:.3f}",
        "images": images,
    }  # fmt: skip


def report(name: str, rows: list[dict]) -> None:
    """Print the margin with the fewest steps among those that cost little accuracy, and what it saves."""
    fixed = [row for row in rows if row["margin"] == ""]
    best = max(float(row["accuracy"]) for row in fixed)
    good = [row for row in rows if row["margin"] != "" and float(row["accuracy"]) >= best - MOST_LOST]
    if not good:
        print(f"{name}: every margin costs more than {MOST_LOST:.1%} of the best accuracy, {best:.2%}")
        return
    least = min(good, key=lambda row: float(row["steps"]))
    as_good = [row for row in fixed if float(row["accuracy"]) >= float(least["accuracy"])]
    print(
        f"{name}: margin {least['margin']} takes {least['steps']} steps on average for {float(least['accuracy']):.2%} "
        f"(best without: {best:.2%}), {float(least['microjoules']):.2f} uJ an image; "
        + (
            f"every image would need {as_good[0]['steps']} steps and {float(as_good[0]['microjoules']):.2f} uJ for it"
            if as_good
            else "no fixed number of steps reaches that"
        )
    )


def draw(folder: Path) -> None:
    """Accuracy against steps and against energy: EXITS, each with early exit and without, from the table."""
    rows = read_csv(folder / "anytime_small.csv", COLUMNS)
    figure, panels = figures.new_figure(5.4, 2, sharey=True)
    relu_row = next(row for row in rows if row["network"] == RELU)
    accuracy, energy = 100 * float(relu_row["accuracy"]), float(relu_row["microjoules"])
    for axes, column in zip(panels, ("steps", "microjoules"), strict=True):
        for name in EXITS:
            for exits in (False, True):
                line = [row for row in rows if row["network"] == name and bool(row["margin"]) == exits]
                points = [(float(row[column]), 100 * float(row["accuracy"])) for row in line]
                if points:
                    axes.plot(*zip(*points, strict=True), markersize=4, **_line(name, exits))
        axes.axhline(accuracy, color=figures.GRAY, linestyle=":", label=f"the ReLU network, {accuracy:.1f} %")
        axes.set_xscale("log", base=2 if column == "steps" else 10)
    panels[1].plot([energy], [accuracy], marker="*", markersize=11, color=figures.GRAY, linestyle="none")
    steps = {int(row["steps"]) for row in rows if row["steps"] and not row["margin"]}
    figures.ticks(panels[0].xaxis, sorted({t for t in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if t in steps} or steps))
    panels[0].set(ylim=(LEAST_SHOWN, 100), xlabel="steps, mean of the images", ylabel="right (a tie is wrong), %")
    panels[1].set_xlabel("energy of the arithmetic, estimated, µJ an image\n(star: the ReLU network, zeros skipped)")
    figures.legend(figure, panels[0], columns=2)
    where = f"small network, {rows[0]['images']} test images of Fashion-MNIST; below {LEAST_SHOWN} % is left out"
    figures.title(figure, sentence(rows), where)
    save_figure(folder / "anytime_small.png", figure)


def _line(name: str, exits: bool) -> dict:
    style = figures.line(name)
    if exits:
        return style | {"label": f"{style['label']}, early exit", "linestyle": "--", "marker": "o", "linewidth": 1.2}
    return style | {"marker": "s"}


def sentence(rows: list[dict]) -> str:
    """The title: the accuracies after a few steps."""
    fixed = [row for row in rows if row["steps"] and not row["margin"]]
    T = "16" if any(row["steps"] == "16" for row in fixed) else fixed[0]["steps"]
    shares = {row["network"]: 100 * float(row["accuracy"]) for row in fixed if row["steps"] == T}
    parts = [f"{shares.pop(PROXY):.1f} % are right by proxy"] if PROXY in shares else []
    parts += [f"{max(shares.values()):.1f} % by the best conversion"] if shares else []
    return f"After {T} steps {', '.join(parts)}"
