"""The engine against simulate, the step loop and the ReLU network, in turn: what engine_speed.py prints."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from common import names, subjects
from common.accuracy import strict_accuracy
from common.checkout import commit
from common.command import refusing
from common.data import shipped_images
from common.machine import device_name, heading
from common.nets import load, reset_of
from common.printed import print_table
from common.tables import check_out, read_csv, write_csv
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import proxykernels as pk
from speed import answers, layer_table, read_add, relu_passes, rivals, turns
from speed.rivals import NotOffered

LOOPS = "plain", "compiled"
COLUMNS = [
    "commit", "net", "weights", "reset", "batch", "precision", "device", "threads", "torch", "T", "contender", "right",
    "rate", "changing_ms", "paused_ms",
]  # fmt: skip
HEADINGS = ["", "T", "right, %", "rate, %", "ms, back\nto back", "ms, after\na pause", "engine:\ntimes as fast", ""]


@dataclass
class Case:
    """A network with its contenders' common settings.

    Attributes:
        subject: the ReLU twin, with calibration and test images.
        converted: whether ``net`` is what convert makes of it; its answers are logits then, and spike counts else.
    """

    name: str
    subject: subjects.Subject
    net: nn.Module
    converted: bool
    batch: int
    precision: str | None
    fast: bool

    def answers(self, result) -> Tensor:
        return result.logits if self.converted else result.count()


def run(options: argparse.Namespace) -> None:
    console = Console(width=140)
    with refusing("engine_speed.py"):
        shipped, _ = shipped_images(max(options.batch))
        if options.out is not None:
            layers = {layer_table.NAME: layer_table.COLUMNS}
            check_out(options.out, layers if options.layers else {"engine_times.csv": COLUMNS})
        wanted = [options.net] if options.net else names.NETS
        found = {name: subjects.load(name, options.root) for name in wanted}
        if options.layers:
            read_add.check()
    csv_path = options.out and options.out / "engine_times.csv"
    if options.layers:
        converted = layer_table.kind_of(options) == "converted"
        nets = {name: (network(subject, converted)[0], subject.images) for name, subject in found.items()}
        return layer_table.run(console, nets, options)
    if options.latency:
        return latency(console, found, shipped[: options.batch[0]], options)
    about = {"commit": commit(), "device": device_name(shipped.device), "threads": torch.get_num_threads(),
             "precision": options.precision or "float32", "torch": torch.__version__}  # fmt: skip
    console.print(heading("networks compiled once", "Fashion-MNIST test images", csv_path))
    for name, subject in found.items():
        for weights in [options.kind] if options.kind else ("trained", "converted"):
            net, reset = network(subject, weights == "converted")
            right = {}
            for batch in options.batch:
                case = Case(name, subject, net, weights == "converted", batch, options.precision, options.fast)
                rows = list(measured(console, case, options.T, right))
                print_rows(console, f"{name}, {weights}, {reset} reset, {batch} images a call", rows)
                if csv_path:
                    of = about | {"net": name, "weights": weights, "reset": reset, "batch": batch}
                    write_csv(csv_path, COLUMNS, read_csv(csv_path) + [of | row for row in rows])


def network(subject: subjects.Subject, converted: bool) -> tuple[nn.Module, str]:
    """The spiking network of a subject, and its reset: the one that it was trained with, or convert's."""
    if converted:
        return pk.convert(subject.ann, subject.calibration), "soft"
    reset = reset_of(subject.name, None, False)
    return load(subject.name, None if reset == "soft" else 0.0)[0], reset


def measured(console: Console, case: Case, steps: list[int], right: dict) -> Iterator[dict]:
    """A row for each contender and T. ``right``: accuracies that are known, by contender and T, added to."""
    batches = [batch for batch in case.subject.images.split(case.batch)[:256] if len(batch) == case.batch]
    engine = pk.compile(case.net, batches[0], precision=case.precision)
    passes, loops = relu_contenders(console, case), step_loops(console, case, batches[0])
    for T in steps:
        contenders = {"engine": lambda x, T=T: case.answers(engine(x, T))}
        contenders["simulate"] = lambda x, T=T: case.answers(pk.simulate(case.net, x, T, precision=case.precision))
        contenders |= {name: partial(lambda x, T, loop: loop(x, T), T=T, loop=loop) for name, loop in loops.items()}
        same_answers(contenders, batches[0])
        contenders |= passes
        changing, paused = turns.back_to_back(contenders, batches), turns.after_a_pause(contenders, batches)
        if ("engine", T) not in right:
            right["engine", T] = accuracy_and_rate(case, engine, T)
        for name in contenders:
            is_pass = name in passes
            if is_pass and name not in right:
                right[name] = accuracy(case, passes[name])
            share, rate = (right[name], None) if is_pass else right["engine", T]
            yield {
                "T": "" if is_pass else T, "contender": name, "right": f"{100 * share:.2f}",
                "rate": "" if rate is None else f"{100 * rate:.2f}",
                "changing_ms": f"{1e3 * median(changing[name]):.4f}", "paused_ms": f"{1e3 * median(paused[name]):.4f}",
            }  # fmt: skip


def relu_contenders(console: Console, case: Case) -> dict[str, relu_passes.Logits]:
    """Passes of the ReLU network that a converted network is to replace; of a trained one none."""
    found, passes = {}, relu_passes.Passes(case.subject.ann, case.subject.calibration)
    for name in relu_passes.NAMES if case.converted else ():
        try:
            found[f"ReLU network, {name}"] = passes.of(name, case.batch)
        except NotOffered as reason:
            console.print(f"{name}: {reason}")
    return found


def step_loops(console: Console, case: Case, images: Tensor) -> dict[str, rivals.Counts]:
    """Step loops of a trained network; those of a converted one are what sim_speed.py measures."""
    found = {}
    for name in () if case.converted else LOOPS[: 1 if case.fast else None]:
        try:
            found[f"step loop, {name}"] = rivals.build(name, case.net, images).counts
        except NotOffered as reason:
            console.print(f"{name}: {reason}")
    return found


def same_answers(contenders: dict[str, turns.Contender], images: Tensor) -> None:
    """RuntimeError if simulations do not agree, except for rounding at a threshold, since they share one accuracy."""
    (engine, expected), *others = ((name, run(images)) for name, run in contenders.items())
    room = 0.05 * expected.abs().max() if expected.is_floating_point() else 1  # of logits; of counts: a spike
    for name, found in others:
        differ = ((found - expected).abs() > room).float().mean().item()
        if differ > 0.02:
            raise RuntimeError(f"{name}'s outputs differ from those of {engine} in {differ:.1%} of the cases")


def accuracy_and_rate(case: Case, engine: pk.Engine, T: int) -> tuple[float, float]:
    """The share of test images that are right, strictly, and spikes a neuron and step."""
    images, labels = case.subject.images, case.subject.right.float().argmax(1)
    neurons = answers.neurons_of(case.net, images)
    found = answers.spiking(partial(engine, T=T), images, neurons, case.answers, f"T = {T}")
    return strict_accuracy(found.outputs, labels), found.rate


def accuracy(case: Case, logits: relu_passes.Logits) -> float:
    images = case.subject.images[: len(case.subject.images) // case.batch * case.batch]
    return case.subject.accuracy(torch.cat([logits(x).clone() for x in images.split(case.batch)]))


def print_rows(console: Console, title: str, rows: list[dict]) -> None:
    cells, engine = [], {}
    for row in rows:
        if row["contender"] == "engine":
            engine = row
        times = [f"{float(row[key]) / float(engine[key]):.2f}" for key in ("changing_ms", "paused_ms")]
        cells.append(
            [row["contender"], str(row["T"]), row["right"], row["rate"], f"{float(row['changing_ms']):.3f}",
             f"{float(row['paused_ms']):.3f}", *times]
        )  # fmt: skip
    print_table(console, title, HEADINGS, cells)


def latency(console: Console, found: dict[str, subjects.Subject], images: Tensor, options: argparse.Namespace) -> None:
    table = Table("stream", "median, ms", "p99, ms", "p99 / median")
    for name, subject in found.items():
        net, _ = network(subject, options.kind == "converted")
        stream, times = pk.compile(net, images, precision=options.precision).stream(len(images)), []
        for _ in range(options.latency + 20):
            start = time.perf_counter()
            stream(images)
            times.append(1e3 * (time.perf_counter() - start))
        times = sorted(times[20:])
        p50, p99 = median(times), times[int(0.99 * len(times))]
        table.add_row(name, f"{p50:.3f}", f"{p99:.3f}", f"{p99 / p50:.2f}")
    console.print(table)
