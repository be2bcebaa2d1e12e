"""Ways to a spiking network, from the same data, against steps, epochs and CPU time.

    python benchmarks/compare_methods.py --seeds 0,1,2,3,4
    python benchmarks/compare_methods.py --methods proxy,tandem --stop-at 300
    python benchmarks/compare_methods.py --neuron lif --decay 0.5
    python benchmarks/compare_methods.py recipes   which learn, which run away

conversion          the ReLU network alone, clipped; then pk.convert
qcfs                the same with the activations of a few steps (Bu et al., 2022), from half a threshold
the authors' recipe proxy learning with the settings of the paper's notebook
proxy               proxy learning, repaired: normalised linear layers, thresholds of its own
tandem              the same, every layer of the ReLU network fed with the spiking network's rates
ReLU network, then proxy    half of the steps each
bptt                backpropagation through 4 steps, normalisation over samples and steps (tdBN)
tet                 the same, the loss at each step (Deng et al., 2022, without its regularising term)

Of leaky neurons: proxy, whose twin has their own rate; the same with the twin of integrate-and-fire neurons, ReLUs,
clipped and not; tandem; and surrogate.

Of each way, --tune-steps steps with each learning rate, then with each threshold, choose what is most accurate on
held-out training images. Then all trainings go on in turns, from one measured step to the next, so that curves grow
together. A call goes on where the last one stopped, by Ctrl-C or by --stop-at; checkpoints are in --runs.

Writes results/compare_methods_NET_WIDTH.csv (accuracy at each measured step, of held-out images, and of the test images
after the last: strict, where a tie with the true class is wrong; lenient, where it is right; and by the potentials of a
last layer that never fires) and .png, and compare_methods_NET_WIDTH_settings.csv (what was tried).
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import nets, tables
from common.checkout import commit
from common.command import command
from common.printed import new_parser, positive, shown, some_of, written
from methods.report import SHARES, draw, show
from methods.trained import Training
from methods.ways import WAYS, Settings, settings_of
from torch.utils.data import Dataset, Subset
from training import data as train_data
from training.step import Breakdown
from training.termination import Termination

RESULTS = Path(__file__).parent / "results"
FIRST_POINTS = (50, 100, 200, 300, 400)  # steps that are measured in the first epoch
HELD_OUT = 2000
TUNE_SEED = 1000
READ = (4, 8, 16, 32)
SETTINGS = ["method", "T", "lr", "threshold", "steps", *SHARES, "images", "commit"]
COLUMNS = [
    "method", "seed", "lr", "threshold", "output_threshold", "step", "epoch", "cpu_seconds", "split", "images", "T",
    *SHARES, "relu", "threads", "torch", "commit",
]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    try:
        train_set, _ = train_data.load("fashion-mnist", options.root, "train")
        test_set, _ = train_data.load("fashion-mnist", options.root, "test")
        train_set, held_out = train_data.held_out(train_set, min(HELD_OUT, len(train_set) // 2))
        if options.batch > len(train_set):
            raise ValueError(f"--batch must be at most the {len(train_set)} training images, got {options.batch}")
        compare(options, train_set, held_out, test_set)
    except (ValueError, OSError) as error:
        raise SystemExit(f"compare_methods.py: {error}") from error
    show(options.out, stem_of(options))
    draw(options.out, stem_of(options))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=sorted(nets.TRAINABLE), default="paper")
    parser.add_argument("--width", type=float, default=0.25, help="share of the net's channels and neurons")
    parser.add_argument("--neuron", choices=sorted(WAYS), default="if", help="integrate and fire, or leak besides")
    parser.add_argument("--decay", type=float, default=0.5, help="share of the potential that a step leaves, of lif")
    names = {name for ways in WAYS.values() for name in ways}
    parser.add_argument("--methods", type=some_of(sorted(names)), help=f"of {shown(sorted(names))}; default: all")
    parser.add_argument("--seeds", type=seeds, default=[0], help="such as 0,1,2")
    parser.add_argument("--epochs", type=positive, default=20, help="of each training")
    parser.add_argument("--stop-at", type=positive, help="step at which this call stops; another call goes on")
    parser.add_argument("--T", type=positive, default=16, help="steps in training, of ways without their own")
    parser.add_argument("--batch", type=positive, default=100)
    text = "training steps of each setting that is tried; 0: none is, every way takes its first (methods/ways.py)"
    parser.add_argument("--tune-steps", type=int, default=200, help=text)
    parser.add_argument("--held-out", type=positive, default=1000, help="images that are measured on the way")
    parser.add_argument("--test", type=positive, default=10_000, help="test images, the first ones")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    known = WAYS[options.neuron]
    options.methods = list(known) if options.methods is None else options.methods
    if unknown := [name for name in options.methods if name not in known]:
        parser.error(
            f"--methods of --neuron {options.neuron} are {', '.join(map(written, known))}; got {written(unknown[0])}"
        )
    if options.tune_steps < 0:
        parser.error(f"--tune-steps must be at least 0, got {options.tune_steps}")
    if not 0 <= options.decay <= 1:
        parser.error(f"--decay must be within 0 .. 1, got {options.decay}")
    if not 0 < options.width < math.inf:
        parser.error(f"--width must be positive, got {options.width}")
    return options


def seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def compare(options: argparse.Namespace, train_set: Dataset, held_out: Dataset, test_set: Dataset) -> None:
    """Choose settings, then train in turns, and put what is measured into the tables."""
    held_out = Subset(held_out, range(min(options.held_out, len(held_out))))
    test_set = Subset(test_set, range(min(options.test, len(test_set))))
    chosen = {name: choose(options, name, train_set, held_out) for name in options.methods}
    measured, broken = done_points(options), set()
    with Termination("the same command goes on from here") as termination:
        for _, seed, name, goal, total in sorted(turns(options, len(train_set))):
            if (name, seed) in broken or (name, seed, goal) in measured:
                continue
            folder = options.runs / stem_of(options) / f"{written(name)}-{seed}"
            training = Training(WAYS[options.neuron][name], chosen[name], options, seed, train_set, total, folder)
            if training.step > goal:
                continue  # a row that is lost is not measured anew: its weights are gone
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
            "method": name, "seed": seed, "lr": training.settings.lr, "threshold": training.settings.threshold,
            "output_threshold": f"{training.output_threshold:.4g}", "step": training.step,
            "epoch": f"{training.step * training.options.batch / len(training.dataset):.2f}",
            "cpu_seconds": f"{training.cpu_seconds:.1f}", "split": split, "images": len(images),
            "relu": "" if relu is None else f"{relu:.4f}", "threads": torch.get_num_threads(),
            "torch": torch.__version__, "commit": commit(),
        }  # fmt: skip
        rows += [about | {"T": point.T} | shares(point) for point in curve]
    table = options.out / f"{stem_of(options)}.csv"
    tables.write_csv(table, COLUMNS, tables.read_csv(table) + rows)


def turns(options: argparse.Namespace, images: int) -> Iterator[tuple[float, int, str, int, int]]:
    """(epochs done, seed, method, step, steps of the whole training) of everything to be measured."""
    for seed, name in itertools.product(options.seeds, options.methods):
        an_epoch = images // settings_of(WAYS[options.neuron][name], options, seed).batch
        total = options.epochs * an_epoch
        goals = {*(step for step in FIRST_POINTS if step < an_epoch), *range(an_epoch, total + 1, an_epoch)}
        for goal in goals:
            if options.stop_at is None or goal <= options.stop_at:
                yield goal / an_epoch, seed, name, goal, total


def done_points(options: argparse.Namespace) -> set[tuple[str, int, int]]:
    """(method, seed, step) of what is in the table."""
    rows = tables.read_csv(options.out / f"{stem_of(options)}.csv")
    return {(row["method"], int(row["seed"]), int(row["step"])) for row in rows}


def choose(options: argparse.Namespace, name: str, train_set: Dataset, held_out: Dataset) -> Settings:
    """The learning rate, then the threshold, that are most accurate after --tune-steps steps, by strict counts."""
    way = WAYS[options.neuron][name]
    lr, threshold = way.lrs[0], way.thresholds[0]
    if options.tune_steps and len(way.lrs) > 1:
        lr = max(way.lrs, key=lambda lr: tried(options, name, Settings(lr, threshold), train_set, held_out))
    if options.tune_steps and len(way.thresholds) > 1:
        threshold = max(
            way.thresholds, key=lambda theta: tried(options, name, Settings(lr, theta), train_set, held_out)
        )
    return Settings(lr, threshold)


def tried(options: argparse.Namespace, name: str, settings: Settings, train_set: Dataset, held_out: Dataset) -> float:
    """Strict accuracy on the held-out images of a short training, which the table of settings keeps."""
    table = options.out / f"{stem_of(options)}_settings.csv"
    way = WAYS[options.neuron][name]
    for row in tables.read_csv(table):
        found = Settings(float(row["lr"]), float(row["threshold"]))
        if (row["method"], int(row["steps"]), found) == (name, options.tune_steps, settings):
            return float(row["strict"])
    training = Training(way, settings, options, TUNE_SEED, train_set, options.tune_steps)
    T = training.options.T
    about = {"method": name, "T": T, "lr": settings.lr, "threshold": settings.threshold, "commit": commit()}
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


def stem_of(options: argparse.Namespace) -> str:
    """The first part of the tables' names."""
    return f"compare_methods_{options.net}_{options.width:g}" + ("_lif" if options.neuron == "lif" else "")


if __name__ == "__main__":
    command(main, {"recipes": "methods.recipes"})
