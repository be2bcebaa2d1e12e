"""Recipes of training by proxy, step by step: which of them learn, and which run away.

    python benchmarks/recipes.py --steps 300

Each recipe is a set of train.py's options. It trains the small network for --steps steps, from random weights or from
those of a ReLU network that was trained for as many steps (--init ann). A run-away stops, as in train.py. Writes
results/recipes.csv (running means over about 20 steps of the training batches) and recipes.png.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
from common import nets, tables
from common.command import command
from torch.utils.data import Dataset
from tqdm import tqdm
from training import data as train_data
from training import loop as train_loop
from training import options as train_options
from training.step import Breakdown

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
RECIPES = {
    "the authors' loss": "--init random --lr 1e-3 --twin relu --loss mse-count --target 1",
    "cross-entropy": "--init random --lr 1e-3 --twin relu --loss cross-entropy",
    "cross-entropy, clipped twin": "--init random --lr 1e-3 --twin clipped --loss cross-entropy",
    "from a ReLU network": "--init ann --lr 3e-4 --twin relu --loss mse-rate",
    "from a ReLU network, clipped twin": "--init ann --lr 3e-4 --twin clipped --loss mse-rate",
}
COLUMNS = ["recipe", "step", "loss", "snn", "ann", "rate", "highest", "stopped"]


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    try:
        dataset, _ = train_data.load("fashion-mnist", options.root, "train")
    except (ValueError, OSError) as error:
        raise SystemExit(f"recipes.py: {error}") from error
    table = options.out / "recipes.csv"
    for name in options.recipes:
        kept = [row for row in tables.read_csv(table) if row["recipe"] != name]
        tables.write_csv(table, COLUMNS, kept + follow(options, name, dataset))
    draw(options.out)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--T", type=int, default=16)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--root", type=Path, help="folder with Fashion-MNIST's files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for name in ("steps", "T", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def follow(options: argparse.Namespace, name: str, dataset: Dataset) -> list[dict]:
    """Train by one recipe; returns a row a step."""
    settings = train_options.parse(
        f"--T {options.T} --batch {options.batch} --schedule constant {RECIPES[name]}".split()
    )
    torch.manual_seed(settings.seed)
    net = nets.small(settings.threshold).to(memory_format=torch.channels_last)
    model = pk.ProxyNet(net, options.T, clip=settings.twin == "clipped", readout="rate")
    rows: list[dict] = []

    def train(method: str, lr: float):
        training = train_loop.steps(settings, method, lr, model, dataset, lambda: 0.0)
        return tqdm(islice(training, options.steps), f"{name}: {method}", options.steps, mininterval=0.5)

    if settings.init == "ann":
        for _ in train("ann", settings.ann_lr):
            pass
    try:
        for step, shown in enumerate(train("proxy", settings.lr), 1):
            rows.append({"recipe": name, "step": step, "stopped": ""} | {key: f"{shown[key]:.4f}" for key in shown})
    except Breakdown as error:
        if rows:
            rows[-1]["stopped"] = "yes"
        tqdm.write(f"{name}: {error}")
    return [{key: row[key] for key in COLUMNS} for row in rows]


def draw(folder: Path) -> None:
    """Accuracy and the highest firing rate of a layer against the step, from the table."""
    from matplotlib.figure import Figure  # without pyplot: draws into a file, needs no display

    rows = tables.read_csv(folder / "recipes.csv")
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in RECIPES:
        points = [row for row in rows if row["recipe"] == name]
        if not points:
            continue
        for axes, column in ((left, "snn"), (right, "highest")):
            (line,) = axes.plot([int(p["step"]) for p in points], [float(p[column]) for p in points], label=name)
            for p in points:
                if p["stopped"]:
                    axes.plot(int(p["step"]), float(p[column]), "x", color=line.get_color(), markersize=10)
    left.set(xlabel="step", ylabel="spiking accuracy on the batches", ylim=(0, 1))
    right.set(xlabel="step", ylabel="highest firing rate of a layer", ylim=(0, 1), title="x: stopped, it runs away")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(RECIPES))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    tables.save_figure(folder / "recipes.png", figure)


if __name__ == "__main__":
    command(main)
