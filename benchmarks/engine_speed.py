"""Networks compiled once against the step loop: one image, few steps.

    python benchmarks/engine_speed.py
    python benchmarks/engine_speed.py --net paper --T 1,4 --batch 32
    python benchmarks/engine_speed.py --net paper --random --reset soft
    python benchmarks/engine_speed.py --latency 2000

A call's own cost counts most there. Each row: median milliseconds a batch of
the engine, of simulate and of the step loop, plain and compiled, all in turn;
and how many times as fast as the faster loop and as simulate the engine is
(below 1: slower). --latency: of so many single steps of a stream instead, the
median and the slowest of a hundred.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common.checkout import commit
from common.command import command
from common.machine import device_name
from common.nets import NETS, load
from common.printed import new_parser, numbers, positive
from common.tables import read_csv, write_csv
from rich.console import Console
from rich.table import Table
from speed.rivals import NotOffered, build

import proxykernels as pk

BUDGET_S = 6.0  # of one row
MOST_ROUNDS = 41
LOOPS = "plain", "compiled"


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(width=140)
    images = pk.samples.fashion_mnist()[0][: options.batch]
    net, trained = load(options.net, None if options.reset == "soft" else 0.0, random=options.random)
    about = {
        "commit": commit(), "net": options.net, "trained": trained, "reset": options.reset, "batch": options.batch,
        "device": device_name(images.device), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    engines = {"engine": pk.compile(net, images)}
    console.print(str(engines["engine"]))
    if options.latency:
        latency(console, engines, images, options.latency)
        return
    contenders: dict[str, Callable[[int], object]] = {
        name: (lambda T, e=e: e(images, T).count()) for name, e in engines.items()
    }
    contenders["simulate"] = lambda T: pk.simulate(net, images, T).count()
    for name in LOOPS[: 1 if options.fast else None]:
        try:
            rival = build(name, net, images)
        except NotOffered as reason:
            console.print(f"{name}: {reason}")
            continue
        contenders[name] = lambda T, rival=rival: rival.counts(images, T)
    table = Table(*("T", *(f"{name}, ms" for name in contenders), "times the loop", "times simulate"))
    rows = []
    for T in options.T:
        taken = {name: median(times) * 1e3 for name, times in in_turn(contenders, T).items()}
        loop = min(taken[name] for name in LOOPS if name in taken)
        table.add_row(
            str(T), *(f"{ms:.3f}" for ms in taken.values()),
            f"{loop / taken['engine']:.2f}", f"{taken['simulate'] / taken['engine']:.2f}",
        )  # fmt: skip
        rows += [{**about, "T": T, "contender": name, "median_ms": f"{ms:.4f}"} for name, ms in taken.items()]
    console.print(table)
    if options.out:
        write_csv(options.out, list(rows[0]), read_csv(options.out) + rows)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--T", type=numbers, default=[1, 4, 16, 64], help="steps")
    parser.add_argument("--batch", type=positive, default=1, help="images")
    parser.add_argument("--reset", choices=("hard", "soft"), default="hard")
    parser.add_argument("--random", action="store_true", help="random weights, at rates of 5 to 30 %%")
    parser.add_argument("--fast", action="store_true", help="without the compiled loop, which takes a minute to make")
    parser.add_argument("--latency", type=int, default=0, metavar="STEPS", help="time single steps of a stream")
    parser.add_argument("--out", type=Path, help="a CSV file to add the rows to")
    return parser.parse_args(arguments)


def in_turn(contenders: dict[str, Callable[[int], object]], T: int) -> dict[str, list[float]]:
    """Seconds of each run, all in turn, after two that do not count; the order moves on from round to round.

    Of one thread (OMP_NUM_THREADS=1) processor time is taken, which other programs lengthen little.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    names, times = list(contenders), {name: [] for name in contenders}
    for run in contenders.values():
        run(T), run(T)
    end = time.perf_counter() + BUDGET_S
    for turn in range(MOST_ROUNDS):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            start = clock()
            contenders[name](T)
            times[name].append(clock() - start)
        if time.perf_counter() > end and turn > 2:
            break
    return times


def latency(console: Console, engines: dict, images: torch.Tensor, steps: int) -> None:
    table = Table("stream", "median, ms", "p99, ms", "p99 / median")
    for name, engine in engines.items():
        stream, times = engine.stream(len(images)), []
        for _ in range(steps + 20):
            start = time.perf_counter()
            stream(images)
            times.append(1e3 * (time.perf_counter() - start))
        times = sorted(times[20:])
        p50, p99 = median(times), times[int(0.99 * len(times))]
        table.add_row(name, f"{p50:.3f}", f"{p99:.3f}", f"{p99 / p50:.2f}")
    console.print(table)


if __name__ == "__main__":
    command(main)
