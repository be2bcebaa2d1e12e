"""Trainings by the recipes: the work of recipes.py."""

import argparse
from itertools import islice
from pathlib import Path

import torch
from common import datasets, figures, nets, tables
from common.command import refusing
from common.machine import heading
from torch.utils.data import Dataset
from tqdm import tqdm
from training import loop as train_loop
from training import options as train_options
from training import step as train_step
from training.methods import METHODS
from training.step import Breakdown

import proxykernels as pk

RECIPES = {
    "the authors' loss": "--init random --lr 1e-3 --twin relu --loss mse-count --target 1",
    "cross-entropy": "--init random --lr 1e-3 --twin relu --loss cross-entropy",
    "cross-entropy, clipped twin": "--init random --lr 1e-3 --twin clipped --loss cross-entropy",
    "from a ReLU network": "--init ann --lr 3e-4 --twin relu --loss mse-rate",
    "from a ReLU network, clipped twin": "--init ann --lr 3e-4 --twin clipped --loss mse-rate",
}
RUN_AWAY = 0.5  # of a layer's neurons fire at every step: none of the recipes that learn comes near
COLUMNS = ["recipe", "step", "loss", "snn", "ann", "rate", "highest", "stopped"]


def run(options: argparse.Namespace) -> None:
    with refusing("compare_methods.py recipes"):
        tables.check_out(options.out, {"recipes.csv": COLUMNS})
        dataset, _ = datasets.load("fashion-mnist", options.root, "train")
    table = options.out / "recipes.csv"
    print(heading("small net", f"{len(dataset)} training images of Fashion-MNIST", table))
    for name in options.recipes:
        kept = [row for row in tables.read_csv(table) if row["recipe"] != name]
        tables.write_csv(table, COLUMNS, kept + follow(options, name, dataset))
    draw(options.out)


def follow(options: argparse.Namespace, name: str, dataset: Dataset) -> list[dict]:
    """Train by one recipe; returns a row a step."""
    settings = train_options.parse(
        f"--preset plain --T {options.T} --batch {options.batch} --schedule constant {RECIPES[name]}".split()
    )
    torch.manual_seed(settings.seed)
    net = nets.small(settings.threshold).to(memory_format=torch.channels_last)
    model = pk.ProxyNet(net, options.T, clip=settings.twin == "clipped", readout="rate", statistics_of="steps")
    rows: list[dict] = []

    def train(method: str, lr: float):
        trained, optimizer = METHODS[method](model), train_step.make_optimizer(settings, model, lr)
        training = train_loop.steps(settings, trained, optimizer, model, dataset, lambda step: lr)
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
    rows = tables.read_csv(folder / "recipes.csv", COLUMNS)
    figure, (left, right) = figures.new_figure(4.8, 2)
    colors = figures.VERMILION, figures.BROWN, figures.ORANGE, figures.BLUE, figures.SKY
    for name, color in zip(RECIPES, colors, strict=True):
        points = [row for row in rows if row["recipe"] == name]
        if not points:
            continue
        dash = "--" if "clipped" in name else "-"
        for axes, column in ((left, "snn"), (right, "highest")):
            steps, shares = [int(p["step"]) for p in points], [100 * float(p[column]) for p in points]
            axes.plot(steps, shares, dash, label=name, color=color, linewidth=1.8)
            stopped = [index for index, p in enumerate(points) if p["stopped"]]
            axes.plot([steps[i] for i in stopped], [shares[i] for i in stopped], "x", color=color, markersize=10)
    left.set(xlabel="training step", ylabel="right on the training batches, %", ylim=(0, 100))
    right.set(xlabel="training step", ylabel="highest firing rate of a layer, %", ylim=(0, 100))
    figures.legend(figure, left)
    last = {row["recipe"]: row for row in rows}
    steps = max((int(row["step"]) for row in rows), default=0)
    where = f"small network, Fashion-MNIST, {steps} steps, running means; dashed: clipped twin; a cross: stopped"
    figures.title(figure, sentence(last), where)
    tables.save_figure(folder / "recipes.png", figure)


def sentence(last: dict[str, dict]) -> str:
    """The title, from the last row of each recipe: which ran away."""
    away = [name for name, row in last.items() if float(row["highest"]) > RUN_AWAY or row["stopped"]]
    if not away:
        return "No recipe makes the firing rates run away"
    names = " and ".join(f'"{name}"' for name in away)
    return f"By {'one recipe' if len(away) == 1 else 'some recipes'} the firing rates run away: {names}"
