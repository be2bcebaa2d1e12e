"""Trainings of several methods, compared: the work of compare_methods.py."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import torch
from common import datasets, tables
from common.checkout import commit
from common.command import refusing
from common.machine import heading
from common.printed import written
from torch.utils.data import Dataset, Subset
from training.checkpoint import Termination
from training.step import Breakdown

from methods.report import COLUMNS, SHARES, draw, show
from methods.trained import Training
from methods.ways import WAYS, Settings, settings_of

FIRST_POINTS = (50, 100, 200, 300, 400)  # steps that are measured in the first epoch
HELD_OUT = 2000
TUNE_SEED = 1000
READ = (4, 8, 16, 32)
SETTINGS = ["method", "T", "lr", "threshold", "start", "steps", *SHARES, "images", "commit"]


def run(options: argparse.Namespace) -> None:
    with refusing("compare_methods.py"):
        of_table = {f"{curves_of(options)}.csv": COLUMNS, f"{stem_of(options)}_settings.csv": SETTINGS}
        tables.check_out(options.out, of_table)
        tables.check_out(options.runs, option="--runs")
        train_set, test_set = (datasets.in_memory(options.data, options.root, split) for split in ("train", "test"))
        train_set, held_out = datasets.held_out(train_set, min(HELD_OUT, len(train_set) // 2))
        if options.batch > len(train_set):
            raise ValueError(f"--batch must be at most the {len(train_set)} training images, got {options.batch}")
        first = min(min(goals(options, name, len(train_set))[1]) for name in options.methods)
        if options.stop_at is not None and options.stop_at < first:
            raise ValueError(f"--stop-at must be at least {first}, the first measured step, got {options.stop_at}")
        compare(options, train_set, held_out, test_set)
    show(options.out, curves_of(options))
    draw(options.out, curves_of(options))


def compare(options: argparse.Namespace, train_set: Dataset, held_out: Dataset, test_set: Dataset) -> None:
    """Choose settings, then train in turns, and put what is measured into the tables."""
    network, folder = f"{options.net} net, {options.width:g} of its width", options.runs / curves_of(options)
    resumes = (f"goes on from {folder}",) if folder.exists() else ()
    images = f"{len(train_set)} training images of {options.data}"
    print(heading(network, images, options.out / f"{curves_of(options)}.csv", "cpu", *resumes))
    held_out = Subset(held_out, range(min(options.held_out, len(held_out))))
    test_set = Subset(test_set, range(min(options.test, len(test_set))))
    measured, broken = done_points(options), set()
    chosen = {name: choose(options, name, train_set, held_out) for name in options.methods}
    with Termination("the same command goes on from here") as termination:
        for _, seed, name, goal, total in sorted(turns(options, len(train_set))):
            if (name, seed) in broken or (name, seed, goal) in measured:
                continue
            folder = options.runs / curves_of(options) / f"{written(name)}-{seed}"
            training = Training(WAYS[name], chosen[name], options, seed, train_set, total, folder)
            if training.step > goal:
                continue  # a lost row cannot be measured again: its weights are gone
            termination.safe = False
            try:
                training.advance(goal, termination)
            except Breakdown as error:
                print(f"{name}, seed {seed}: {error}", file=sys.stderr)
                broken.add((name, seed))
                continue
            termination.safe = True
            splits = {"held-out": held_out} | ({"test": test_set} if goal == total else {})
            add_rows(options, name, seed, training, splits)


def add_rows(options: argparse.Namespace, name: str, seed: int, training: Training, splits: dict[str, Dataset]) -> None:
    """Measure a network as it is now, and add its rows to the table, all at once."""
    rows = []
    for split, images in splits.items():
        curve, relu = training.measure(images, sorted({*READ, training.options.T}))
        about = {
            "training": training_of(options), "method": name, "seed": seed, **asdict(training.settings),
            "output_threshold": f"{training.output_threshold:.4g}", "step": training.step,
            "epoch": f"{training.step * training.options.batch / len(training.dataset):.2f}",
            "cpu_seconds": f"{training.cpu_seconds:.1f}", "split": split, "images": len(images),
            "relu": "" if relu is None else f"{relu:.4f}", "threads": torch.get_num_threads(),
            "torch": torch.__version__, "commit": commit(),
        }  # fmt: skip
        rows += [about | {"T": point.T} | shares(point) for point in curve]
    table = options.out / f"{curves_of(options)}.csv"
    tables.write_csv(table, COLUMNS, tables.read_csv(table) + rows)


def turns(options: argparse.Namespace, images: int) -> Iterator[tuple[float, int, str, int, int]]:
    """(epochs done, seed, method, step, steps of the whole training) of everything to be measured."""
    for seed, name in itertools.product(options.seeds, options.methods):
        an_epoch, measured = goals(options, name, images)
        for goal in measured:
            if options.stop_at is None or goal <= options.stop_at:
                yield goal / an_epoch, seed, name, goal, options.epochs * an_epoch


def goals(options: argparse.Namespace, name: str, images: int) -> tuple[int, set[int]]:
    """The steps of a method's epoch, and the steps at which its trainings are measured."""
    an_epoch = images // settings_of(WAYS[name], options, 0).batch
    ends = range(an_epoch, options.epochs * an_epoch + 1, an_epoch)
    return an_epoch, {*(step for step in FIRST_POINTS if step < an_epoch), *ends}


def done_points(options: argparse.Namespace) -> set[tuple[str, int, int]]:
    """(method, seed, step) of what is in the table.

    Raises:
        ValueError: trainings with other options are in it.
    """
    table = options.out / f"{curves_of(options)}.csv"
    rows = tables.read_csv(table)
    others = {row["training"] for row in rows} - {training_of(options)}
    if others:
        raise ValueError(f"--out has {table} of trainings with {min(others)}, not {training_of(options)}; name another")
    return {(row["method"], int(row["seed"]), int(row["step"])) for row in rows}


def choose(options: argparse.Namespace, name: str, train_set: Dataset, held_out: Dataset) -> Settings:
    """The settings that are most accurate after --tune-steps steps, by strict counts: one is chosen after the other."""
    way = WAYS[name]
    chosen = Settings(way.lrs[0], way.thresholds[0], way.starts[0])
    for key, values in (("lr", way.lrs), ("threshold", way.thresholds), ("start", way.starts)):
        candidates = [replace(chosen, **{key: value}) for value in values]
        if options.tune_steps and len(candidates) > 1:
            chosen = max(candidates, key=lambda settings: tried(options, name, settings, train_set, held_out))
    return chosen


def tried(options: argparse.Namespace, name: str, settings: Settings, train_set: Dataset, held_out: Dataset) -> float:
    """Strict accuracy on the held-out images of a short training, which the table of settings keeps."""
    table = options.out / f"{stem_of(options)}_settings.csv"
    way = WAYS[name]
    for row in tables.read_csv(table):
        found = Settings(*(float(row[key]) for key in ("lr", "threshold", "start")))
        if (row["method"], int(row["steps"]), found) == (name, options.tune_steps, settings):
            return float(row["strict"])
    training = Training(way, settings, options, TUNE_SEED, train_set, options.tune_steps)
    T = training.options.T
    about = {"method": name, "T": T, "commit": commit()} | asdict(settings)
    about |= {"steps": options.tune_steps, "images": len(held_out)} | dict.fromkeys(SHARES, "0")
    try:
        training.advance(options.tune_steps)
        about |= shares(training.measure(held_out, [T])[0][0])
    except Breakdown as error:
        print(f"{name}, {settings}: {error}", file=sys.stderr)
    tables.write_csv(table, SETTINGS, [*tables.read_csv(table), about])
    return float(about["strict"])


def shares(point) -> dict[str, str]:
    """The three ways to read an output."""
    found = point.accuracy, point.accuracy + point.ties, point.by_potential
    return {key: f"{share:.4f}" for key, share in zip(SHARES, found, strict=True)}


def training_of(options: argparse.Namespace) -> str:
    """The options that a table's trainings share and its name does not say."""
    return f"{options.data}, batches of {options.batch}, T = {options.T}"


def stem_of(options: argparse.Namespace) -> str:
    """The first part of the tables' names."""
    return f"compare_methods_{options.net}_{options.width:g}"


def curves_of(options: argparse.Namespace) -> str:
    """The name of the table of curves: learning rates fall over all epochs, so trainings of fewer are others."""
    return f"{stem_of(options)}_{options.epochs}_epochs"
