"""What each layer of an engine takes, and its additions a second against the limit of the cache that its weights fit:
what engine_speed.py --layers prints.

One thread. Additions are those of a weight to a potential, one for each step in which an input fires. So where a row of
weights is read once for several steps, there may be more of them than a core can read and add.
"""

import argparse
import math
import time
from collections.abc import Iterator
from ctypes import c_int64
from dataclasses import dataclass

import torch
from common.checkout import commit
from common.machine import device_name, heading
from common.printed import print_table
from common.tables import read_csv, write_csv
from rich.console import Console
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels.table import TALLIES
from proxykernels.plan.library import Session
from proxykernels.plan.operations import Operation, Slot
from speed import read_add

NAME = "engine_layers.csv"
LIMITED = "kilobytes", "level", "additions", "products", "giga_a_second", "limit", "share"  # of layers with weights
COLUMNS = [
    "commit", "net", "weights", "precision", "batch", "T", "device", "torch", "layer", "kernel", "us", *LIMITED,
]  # fmt: skip
HEADINGS = [
    "", "kernel", "us an\nimage", "kB of\nweights", "in level", "additions", "products", "10^9\na second", "limit",
    "share",
]  # fmt: skip
IMAGES, ROUNDS = 128, 30  # of each image, the fastest round counts
BYTES = {None: 4, "int16": 2, "int8": 1}  # of a weight in a row
NARROW = 16  # channels of a layer whose weights are floats in any case (kernels/cpu/src/engine/packed_plan.h)
REST = "Python, input and output"


@dataclass
class Taken:
    """What an operation took for all images.

    Attributes:
        additions: of a weight for a spike; products: of a weight and a real value.
    """

    seconds: float
    additions: int = 0
    products: int = 0
    kernel: str = ""


def run(console: Console, nets: dict[str, tuple[nn.Module, Tensor]], options: argparse.Namespace) -> None:
    """The layers of each network, on some of its images, for each number of images a call."""
    torch.set_num_threads(1)
    path = options.out and options.out / NAME
    console.print(heading(f"layers of engines, {options.layers} steps", "Fashion-MNIST test images", path))
    about = {
        "commit": commit(), "device": device_name(torch.device("cpu")), "torch": torch.__version__,
        "weights": kind_of(options), "precision": options.precision or "float32", "T": options.layers,
    }  # fmt: skip
    for name, (net, images) in nets.items():
        engine, some = pk.compile(net, images[:1], precision=options.precision), images[: max(IMAGES, *options.batch)]
        for batch in options.batch:
            rows = list(rows_of(engine, some, batch, options.layers))
            print_rows(console, f"{name}, {about['weights']}, {about['precision']}, {batch} images a call", rows)
            if path:
                of = about | {"net": name, "batch": batch}
                write_csv(path, COLUMNS, read_csv(path) + [of | row for row in rows])


def kind_of(options: argparse.Namespace) -> str:
    return options.kind or "converted"


def rows_of(engine: pk.Engine, images: Tensor, batch: int, T: int) -> Iterator[dict]:
    """One for each operation, and one for the rest of a call."""
    batches = [part for part in images.split(batch) if len(part) == batch]
    N = batch * len(batches)
    operations, whole = measured(engine, batches, T)
    for op, taken in zip(engine.plan.operations, operations, strict=True):
        row = {"layer": op.name, "kernel": taken.kernel, "us": f"{1e6 * taken.seconds / N:.2f}"}
        yield row | against_limit(op, taken, N, engine.plan.precision)
    rest = whole - sum(taken.seconds for taken in operations)
    yield {"layer": REST, "kernel": "", "us": f"{1e6 * rest / N:.2f}"} | dict.fromkeys(LIMITED, "")


def measured(engine: pk.Engine, batches: list[Tensor], T: int) -> tuple[list[Taken], float]:
    """What the operations take for all images, and the seconds of all calls. Each call takes other images; of each,
    the fastest of ROUNDS calls counts, and what the operations took in it."""
    plan, session = engine.plan, engine.session()
    tally = engine.tally()
    for x in batches:
        engine.advance(session, engine.inputs.given(x), T, tally, fresh=True, goes_on=False)
    session.took = (c_int64 * len(plan.operations))()
    engine._sessions[:] = [session]  # which the calls take
    fastest = [[math.inf]] * len(batches)
    for _ in range(ROUNDS):
        fastest = [min(best, timed(engine, session, x, T)) for best, x in zip(fastest, batches, strict=True)]
    whole, *seconds = (sum(times) for times in zip(*fastest, strict=True))
    products = plan.products(Slot(True, True), sum(map(len, batches)), 0)
    taken = [
        Taken(seconds[k], tally[TALLIES * k + 1], products[k], session.way(k) if op.neurons else "")
        for k, op in enumerate(plan.operations)
    ]
    return taken, whole


def timed(engine: pk.Engine, session: Session, x: Tensor, T: int) -> list[float]:
    """The seconds of a call, and of its operations."""
    session.took[:] = [0] * len(session.took)
    start = time.perf_counter()
    engine(x, T).count()
    seconds = time.perf_counter() - start
    return [seconds, *(1e-9 * ns for ns in session.took)]


def against_limit(op: Operation, taken: Taken, N: int, precision: str | None) -> dict[str, str]:
    """For a layer with weights: the cache that they fit, and how close to the limit the layer comes."""
    weights, done = sum(weight.numel() for weight in op.weights), taken.additions + taken.products
    if not weights or not done:
        return dict.fromkeys(LIMITED, "")
    number_bytes = 4 if taken.products or op.image[0] <= NARROW else BYTES[precision]
    level = read_add.level_of(weights * number_bytes)
    limit = read_add.products() if taken.products else read_add.additions(level, number_bytes)
    rate = done / taken.seconds
    told = (
        f"{weights * number_bytes / 1e3:.1f}", level, f"{taken.additions / N:.0f}", f"{taken.products / N:.0f}",
        f"{rate / 1e9:.1f}", f"{limit / 1e9:.1f}", f"{rate / limit:.2f}",
    )  # fmt: skip
    return dict(zip(LIMITED, told, strict=True))


def print_rows(console: Console, title: str, rows: list[dict]) -> None:
    cells = [[row[name] for name in COLUMNS[-len(HEADINGS) :]] for row in rows]
    print_table(console, title, HEADINGS, cells, left=2, end=1)
