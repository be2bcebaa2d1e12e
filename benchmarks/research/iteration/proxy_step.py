"""The time of a training iteration by proxy, ours and the authors': what train_iteration.py does."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from common import datasets, nets, tables, weights_file
from common.accuracy import PRECISIONS
from common.checkout import commit
from common.command import refusing
from common.machine import check_precision, device_name, heading
from common.printed import new_parser
from speed import rivals
from torch import Tensor, nn

import proxykernels as pk

OURS = "proxykernels"
COLUMNS = [
    "date", "commit", "net", "weights", "batch", "T", "precision", "snn_precision", "contender", "wall_s", "cpu_s",
    "snn_cpu_s", "rounds", "times_slower", "times_slower_cpu", "counts_different", "counts_total", "mean_rate",
    "device", "threads", "torch",
]  # fmt: skip

Simulation = Callable[[Tensor], Tensor]  # images [N, C, H, W] to spike counts [N, classes] after T steps


@dataclass(frozen=True)
class Times:
    """Seconds of one iteration: of the wall, of the process's CPU time, and the T steps' part of the latter."""

    wall_s: float
    cpu_s: float
    snn_cpu_s: float


def run(options: argparse.Namespace) -> None:
    check_precision(new_parser(""), options.precision, torch.device("cpu"))
    with refusing("train_iteration.py"):
        tables.check_out(options.out, {"train_iteration.csv": COLUMNS})
        model, trained = load_model(options)
        images, labels = load_batch(options)
    weights = "trained" if trained else "random weights"
    network = f"{options.weights or options.net} net, {weights}, T = {options.T}"
    table = options.out / "train_iteration.csv"
    print(heading(network, f"{options.batch} Fashion-MNIST test images", table))
    simulations = {OURS: model.snn} | loops(options, model.net, images)
    counts = {name: simulate(images) for name, simulate in simulations.items()}
    times = measure(options, model, simulations, images, labels)
    rows = [
        common_columns(options, model, trained)
        | time_columns(times[name], times[OURS])
        | {
            "contender": name,
            "counts_different": int((counts[name] != counts[OURS]).sum()),
            "counts_total": counts[name].numel(),
        }
        for name in simulations
    ]
    for row in rows:
        print(f"{row['contender']}: {row['wall_s']} s ({row['times_slower']} times ours), CPU {row['cpu_s']} s")
    tables.write_csv(table, COLUMNS, tables.read_csv(table) + rows)


def load_model(options: argparse.Namespace) -> tuple[pk.ProxyNet, bool]:
    """The network and its twin in training mode, normalisation frozen; and whether the weights are trained ones."""
    net, trained = (nets.load_file(options.weights)[0], True) if options.weights else nets.load(options.net, 0.0)
    net, precision = net.to(memory_format=torch.channels_last), PRECISIONS[options.snn_precision]
    model = pk.ProxyNet(net, options.T, clip=True, precision=precision, statistics_of="steps").train()
    model.freeze_batch_norm()
    return model, trained


def load_batch(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The first test images [N, 1, 28, 28] and their labels [N]."""
    dataset, _ = datasets.load("fashion-mnist", options.root, "test")
    if options.batch > len(dataset):
        raise ValueError(f"--batch must be at most the {len(dataset)} test images, got {options.batch}")
    images, labels = zip(*(dataset[index] for index in range(options.batch)), strict=True)
    return torch.stack(images), torch.stack(labels)


def loops(options: argparse.Namespace, net: nn.Sequential, images: Tensor) -> dict[str, Simulation]:
    """The T steps as the authors take them, for each of --loops that runs here."""
    found = {}
    for name in options.loops:
        try:
            rival = rivals.build(name, net, images)
        except rivals.NotOffered as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        # A result of inference mode: autograd takes a copy.
        found[name] = lambda x, rival=rival: rival.counts(x, options.T).clone().float()
    return found


def measure(
    options: argparse.Namespace, model: pk.ProxyNet, simulations: dict[str, Simulation], images: Tensor, labels: Tensor
) -> dict[str, Times]:
    """Median times of an iteration with each of the simulations, in rounds in which they take turns."""
    optimizer = torch.optim.Adam(model.parameters(), 0.0, fused=True)  # it works, and leaves the weights as they are
    target = 5.0 * F.one_hot(labels, model(images[:1]).shape[1])
    seen: dict[str, list[Times]] = {name: [] for name in simulations}
    for _ in range(options.rounds):
        for name, simulate in simulations.items():
            forget_packed(model)
            model.snn = stopwatch = Stopwatch(simulate)
            wall, cpu = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                output = model(images)
            optimizer.zero_grad()
            F.mse_loss(output, target).backward()
            optimizer.step()
            seen[name].append(Times(time.perf_counter() - wall, time.process_time() - cpu, stopwatch.cpu_s))
    return {name: median(times) for name, times in seen.items()}


def forget_packed(model: pk.ProxyNet) -> None:
    """Change the weights, so that folded, rounded and packed forms are made again, as after a training step."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


class Stopwatch:
    """A simulation, in float32 whatever the twin's precision is, and the CPU seconds of its last run."""

    def __init__(self, simulate: Simulation):
        self.simulate, self.cpu_s = simulate, 0.0

    def __call__(self, x: Tensor, masks=None) -> Tensor:  # masks: of dropout, which these networks have not
        start = time.process_time()
        with torch.autocast("cpu", enabled=False):
            counts = self.simulate(x)
        self.cpu_s = time.process_time() - start
        return counts


def median(times: list[Times]) -> Times:
    """The median of each clock."""
    return Times(
        statistics.median(t.wall_s for t in times),
        statistics.median(t.cpu_s for t in times),
        statistics.median(t.snn_cpu_s for t in times),
    )


def common_columns(options: argparse.Namespace, model: pk.ProxyNet, trained: bool) -> dict:
    """The columns that all rows of this run share."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(),
        "net": weights_file.stem(options.weights) if options.weights else options.net,
        "weights": "trained" if trained else "random", "batch": options.batch, "T": options.T,
        "precision": options.precision, "snn_precision": options.snn_precision, "rounds": options.rounds,
        "mean_rate": f"{statistics.mean(model.rates.values()):.4f}", "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip


def time_columns(times: Times, ours: Times) -> dict:
    """A contender's times, and how many times ours they are."""
    return {
        "wall_s": f"{times.wall_s:.3f}", "cpu_s": f"{times.cpu_s:.3f}", "snn_cpu_s": f"{times.snn_cpu_s:.3f}",
        "times_slower": f"{times.wall_s / ours.wall_s:.2f}", "times_slower_cpu": f"{times.cpu_s / ours.cpu_s:.2f}",
    }  # fmt: skip
