"""The least time that a GPU's arithmetic and memory allow for each layer of a network, beside the measured one.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --net paper,cifar10 --T 64 --precision half

Prints for each network and card the FLOPs of the dense matrix products that the layers stand for, the bytes that this
design and an unfused one move, and the times that follow (roofline_model.py says how). It is a model: only the last
column is measured, where there is a GPU. Writes benchmarks/results/roofline.csv.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import nets, printed
from common.command import command
from common.printed import new_parser, positive
from common.tables import write_csv
from gpu.roofline_model import (
    CARDS,
    PRECISIONS,
    Card,
    Launch,
    Layer,
    Precision,
    compute_ms,
    floor_ms,
    fused,
    layers,
    memory_ms,
    unfused,
)
from rich.console import Console
from torch import nn
from tqdm import tqdm

import proxykernels as pk
from proxykernels.kernels import constants

NETS = {
    "small": (nets.small, (1, 28, 28)),
    "paper": (nets.paper, (1, 28, 28)),
    "cifar10": (nets.cifar10, (3, 32, 32)),
}
COLUMNS = [
    "net",
    "layer",
    "shape",
    "T",
    "batch",
    "precision",
    "card",
    "gflop",
    "fused_mb",
    "unfused_mb",
    "compute_ms",
    "memory_ms",
    "bound",
    "predicted_ms",
    "unfused_ms",
    "unfused_over_fused",
    "measured_ms",
    "measured_on",
]
WORK = {"gflop": "GFLOP", "fused_mb": "fused\nMB", "unfused_mb": "unfused\nMB"}
TIMES = {
    "compute_ms": "compute\nms",
    "memory_ms": "memory\nms",
    "bound": "bound by",
    "predicted_ms": "fused\nms",
    "unfused_ms": "unfused\nms",
    "unfused_over_fused": "unfused\n/ fused",
    "measured_ms": "measured\nms",
}
SUM = "sum"
RATE = 0.05  # spikes an input neuron and step, where layers are measured


def main(arguments: list[str] | None = None) -> None:
    options = make_parser().parse_args(arguments)
    console = Console()
    console.print(
        f"A model, not a measurement: T = {options.T}, batch {options.batch}, {options.precision} weights. Each launch "
        "takes the least time that its FLOPs and bytes allow; it costs nothing to start, no cache keeps data for the "
        "next one, and silent inputs are not skipped."
    )
    rows = []
    for name in options.net:
        make, size = NETS[name]
        with torch.device("meta"):  # shapes without memory
            net_layers = layers(make(), size)
        measured, device = measure_if_possible(make(), size, options) if torch.cuda.is_available() else ({}, "no GPU")
        for card in CARDS:
            mine = to_rows(net_layers, options, CARDS[card], measured)
            mine = [{"net": name, "card": card, "measured_on": device, **row} for row in mine]
            if card == next(iter(CARDS)):
                print_table(console, f"{name} net: work and memory traffic", mine, {"shape": "", **WORK})
            print_table(console, f"{name} net on {card}", mine, TIMES)
            rows += mine
        if measured:
            console.print(f"Measured on {device}, inputs firing at {RATE:.0%}; the other columns are the model's.")
    try:
        write_csv(options.out, COLUMNS, rows)
    except OSError as error:
        sys.exit(f"cannot write {options.out}: {error.strerror}")
    console.print(str(options.out), soft_wrap=True)


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--net", type=net_list, default=["small", "paper"], help=f"of {','.join(NETS)} (default: small,paper)")
    add("--T", type=positive, default=64, help="steps")
    add("--batch", type=positive, default=128, help="number of samples")
    add(
        "--precision",
        choices=list(PRECISIONS),
        default="hi-lo",
        help="of weights: float32 as two float16 parts, or 16 bits",
    )
    add("--out", type=Path, default=Path(__file__).parent / "results" / "roofline.csv", help="the CSV file")
    return parser


def net_list(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in NETS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no net is called {unknown[0]!r}; known: {', '.join(NETS)}")
    return names


def to_rows(net_layers: list[Layer], options: argparse.Namespace, card: Card, measured: dict[str, float]) -> list[dict]:
    """A row a layer, and one of their sum; ``measured`` in ms by the layer's name."""
    precision = PRECISIONS[options.precision]
    size = options.batch, options.T, precision
    ours = {layer.name: fused(layer, *size) for layer in net_layers}
    theirs = {layer.name: unfused(layer, *size) for layer in net_layers}
    shapes = {layer.name: layer.shape for layer in net_layers} | {SUM: ""}
    if measured:
        measured = measured | {SUM: sum(measured.values())}
    ours[SUM], theirs[SUM] = sum(ours.values(), []), sum(theirs.values(), [])
    return [
        {
            "layer": name,
            "shape": shapes[name],
            "T": options.T,
            "batch": options.batch,
            "precision": options.precision,
            **figures(ours[name], theirs[name], card, precision),
            "measured_ms": _rounded(measured[name]) if measured else "",
        }
        for name in ours
    ]


def figures(ours: list[Launch], theirs: list[Launch], card: Card, precision: Precision) -> dict:
    """The model's columns for the launches of a layer, or of a whole network."""
    compute = sum(compute_ms(launch, card, precision) for launch in ours)
    memory = sum(memory_ms(launch, card) for launch in ours)
    predicted, other = floor_ms(ours, card, precision), floor_ms(theirs, card, precision)
    return {
        "gflop": _rounded(sum(launch.flops for launch in ours) / 1e9),
        "fused_mb": _rounded(sum(launch.bytes for launch in ours) / 1e6),
        "unfused_mb": _rounded(sum(launch.bytes for launch in theirs) / 1e6),
        "compute_ms": _rounded(compute),
        "memory_ms": _rounded(memory),
        "bound": "compute" if compute > memory else "memory",
        "predicted_ms": _rounded(predicted),
        "unfused_ms": _rounded(other),
        "unfused_over_fused": _rounded(other / predicted),
    }


def print_table(console: Console, title: str, rows: list[dict], columns: dict[str, str]) -> None:
    """Print ``columns`` (name: heading) of the rows of one network."""
    lines = []
    for row in rows:
        cells = [_cell(row[name]) for name in columns]
        if "measured_ms" in columns and row["measured_ms"] == "":
            cells[-1] = row["measured_on"]
        lines.append([row["layer"], *cells])
    left = 2 if "shape" in columns else 1
    printed.print_table(console, title, ["layer", *columns.values()], lines, left=left, end=1)


def _cell(value: str | float) -> str:
    """Text as it is, and numbers in about three digits."""
    if isinstance(value, str) or value == 0:
        return f"{value:.0f}" if value == 0 else value
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def measure_if_possible(
    net: nn.Module, size: tuple[int, ...], options: argparse.Namespace
) -> tuple[dict[str, float], str]:
    """The measured ms by layer and the GPU's name, or nothing and why not."""
    if options.precision != "hi-lo":  # the layers' functions compute with float32 weights
        return {}, "hi-lo only"
    device = torch.device("cuda")
    return measure(net.to(device), size, options.batch, options.T), torch.cuda.get_device_name(device)


@torch.no_grad()
def measure(net: nn.Module, size: tuple[int, ...], batch: int, T: int) -> dict[str, float]:
    """ms of each layer by name: the first on constant images of ``size``, the others on random spikes of RATE."""
    device = next(net.parameters()).device
    result, shape = {}, size
    for name, layer in tqdm(net.eval().named_children(), desc="measuring", leave=False, disable=None):
        random = torch.rand(batch, *shape, device=device)
        x = pk.if_hold(2 * RATE * random, T)[0] if result else random.expand(T, *random.shape)
        # A layer takes a tensor or Spikes and gives the same; Spikes are what travels between layers.
        run = layer.spike if isinstance(layer, pk.layers.Fused) else layer
        with kernels_alone():
            result[name] = milliseconds(lambda run=run, x=x: run(x))
        y = run(x)
        shape = (y[0] if isinstance(y, tuple) else y).shape[2:]
    return result


@contextmanager
def kernels_alone() -> Iterator[None]:
    """Calls in the block look at no values, and take weights and neurons as the first of them made them ready."""
    with constants.unchanging():
        constants.looked_at()
        yield


def milliseconds(function: Callable[[], object], repeats: int = 20) -> float:
    """The median time of a call between CUDA events, after three calls that compile and fill caches."""
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


def _rounded(number: float) -> float:
    """Five digits, so that the CSV file holds no digits that mean nothing."""
    return float(f"{number:.5g}")


if __name__ == "__main__":
    command(main)
