"""The engine against simulate and the step loop, in turn: what engine_speed.py prints."""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from common.checkout import commit
from common.command import refusing
from common.data import shipped_images
from common.machine import device_name, heading
from common.nets import load
from common.tables import check_out, read_csv, write_csv
from rich.console import Console
from rich.table import Table

import proxykernels as pk
from speed.rivals import NotOffered, build

BUDGET_S = 6.0  # of one row
MOST_ROUNDS = 15
SETTLE_S, BLOCK_S = 0.02, 0.02  # of a contender's calls back to back: those not counted, then those that are
LOOPS = "plain", "compiled"
COLUMNS = [
    "commit", "net", "trained", "reset", "batch", "precision", "device", "threads", "torch", "T", "contender",
    "median_ms",
]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    console = Console(width=140)
    with refusing("engine_speed.py"):
        images, _ = shipped_images(options.batch)
        if options.out is not None:
            check_out(options.out, {"engine_speed.csv": COLUMNS})
    net, trained = load(options.net, None if options.reset == "soft" else 0.0, random=options.random)
    about = {
        "commit": commit(), "net": options.net, "trained": trained, "reset": options.reset, "batch": options.batch,
        "precision": options.precision or "float32",
        "device": device_name(images.device), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    weights = "trained" if trained else "random weights"
    images_are = f"{options.batch} Fashion-MNIST test images"
    csv_path = options.out and options.out / "engine_speed.csv"
    console.print(heading(f"{options.net} net, {options.reset} reset, {weights}", images_are, csv_path))
    engines = {"engine": pk.compile(net, images, precision=options.precision)}
    console.print(str(engines["engine"]))
    if options.latency:
        latency(console, engines, images, options.latency)
        return
    contenders: dict[str, Callable[[int], object]] = {
        name: (lambda T, e=e: e(images, T).count()) for name, e in engines.items()
    }
    contenders["simulate"] = lambda T: pk.simulate(net, images, T, precision=options.precision).count()
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
    if csv_path:
        write_csv(csv_path, COLUMNS, read_csv(csv_path) + rows)


def in_turn(contenders: dict[str, Callable[[int], object]], T: int) -> dict[str, list[float]]:
    """Seconds of each run. All in turn, and the order moves on from round to round.

    A turn is a block of calls back to back, as torch.utils.benchmark measures. The first are not counted: they find
    caches as another contender left them, and its threads still waiting for work on the same cores.
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
            times[name] += block(lambda run=contenders[name]: run(T), clock)
        if time.perf_counter() > end and turn > 1:
            break
    return times


def block(run: Callable[[], object], clock: Callable[[], float]) -> list[float]:
    """Seconds of calls back to back, without the first ones."""
    settled = time.perf_counter() + SETTLE_S
    run()
    while time.perf_counter() < settled:
        run()
    times: list[float] = []
    while sum(times) < BLOCK_S:
        start = clock()
        run()
        times.append(clock() - start)
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
