"""Time block sizes of the Triton convolution on the GPU at hand, and print a table for kernels/gpu/block_sizes.py.

    python benchmarks/gpu_speed.py tune
    python benchmarks/gpu_speed.py tune --net paper,cifar10 --T 64 --batch 128

For each layer of the networks that is a convolution or fully connected: the fastest block sizes, their time, and the
time of those that choose_blocks gives today, as soon as they are known. Run it offline; no call of the library tunes
anything. Sizes that do not compile, or need more than the GPU has, are left out. Each time is written to a table of
this GPU when it is there: the same command goes on where it was interrupted, and repeats what is of another commit.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from math import inf, prod
from pathlib import Path

import torch
from common import nets, printed
from common.checkout import commit
from common.printed import add_out, positive, shown, some_of
from common.tables import check_out, read_csv
from rich.console import Console
from torch import nn
from tqdm import tqdm

import proxykernels as pk
from gpu.timing import RATE, kernels_alone, milliseconds

COLUMNS = ["commit", "triton", "batch", "T", "layer", "blocks", "ms"]
NETS = {"small": (nets.small, (1, 28, 28)), "paper": (nets.paper, (1, 28, 28)), "cifar10": (nets.cifar10, (3, 32, 32))}


def run(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        sys.exit("tuning times kernels on a GPU, and torch finds no CUDA device here")
    from proxykernels.kernels.gpu.backend import has_tensor_cores
    from proxykernels.kernels.gpu.block_sizes import architecture

    target, console, rows = architecture(torch.device("cuda")), Console(), []
    if not has_tensor_cores(target):
        sys.exit(f"there are no block sizes to tune on {target}: torch computes its convolutions")
    device = torch.cuda.get_device_name()
    name = f"tune-{device.replace(' ', '-')}.csv"
    check_out(options.out, {name: COLUMNS})
    console.print(f"{device}, {target}; to {options.out / name}", soft_wrap=True)
    for net in options.net:
        make, size = NETS[net]
        times = Times(options.out / name, net, options.batch, options.T)
        for layer, *rest in tune(make().cuda(), size, options.batch, options.T, times):
            rows.append((f"{net} {layer}", *rest))
            console.print(f"{net} {layer}: {tuple(rest[3])} {rest[4]:.4g} ms, today {rest[5]:.4g} ms", soft_wrap=True)
    print_table(rows, f"{device}, {target}")


class Times:
    """What was timed on this GPU, in a table: a row is added as soon as it is known, and not timed again.

    Attributes:
        layer: whose block sizes are timed now.
    """

    def __init__(self, path: Path, net: str, batch: int, T: int, time: Callable = milliseconds):
        """``time``: of a call, in ms."""
        import triton

        self.path, self.net, self.time, self.layer = path, net, time, ""
        self._about = [commit(), triton.__version__, str(batch), str(T)]
        rows = read_csv(path, COLUMNS)
        self._known = {tuple(row.values())[:-1]: float(row["ms"]) for row in rows if "-dirty" not in row["commit"]}

    def __call__(self, blocks: object, run: Callable[[], object]) -> float:
        """Milliseconds of ``run`` with these block sizes; infinity for those that do not run."""
        key = *self._about, f"{self.net} {self.layer}", str(tuple(blocks))  # type: ignore[call-overload]
        if key not in self._known:
            self._known[key] = self.time(run)
            self._add(*key, f"{self._known[key]:.6g}")
        return self._known[key]

    def fails(self, blocks: object) -> None:
        """Note sizes that do not compile or run."""
        key = *self._about, f"{self.net} {self.layer}", str(tuple(blocks))  # type: ignore[call-overload]
        self._known[key] = inf
        self._add(*key, "inf")

    def _add(self, *cells: str) -> None:
        begins = not self.path.exists()
        with self.path.open("a", newline="") as file:  # a line, whole once the system has it
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, cells] if begins else [cells])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", type=some_of(NETS), default=["paper"], help=f"of {shown(NETS)}")
    parser.add_argument("--T", type=positive, default=64, help="steps")
    parser.add_argument("--batch", type=positive, default=128, help="images")
    add_out(parser, "the table of times")


def candidates(C_out: int, K: int) -> Iterator:
    """Block sizes worth a try for C_out channels and K inputs a group: none that is more than half empty."""
    from proxykernels.kernels.gpu.block_sizes import Blocks

    for pixels, channels, block_k, stages, warps, registers in product(
        (4, 8), (16, 32, 64, 128), (16, 32, 64, 128), (1, 2, 3, 4), (4, 8), (None, 128, 160, 168, 255)
    ):
        fits = channels < 2 * max(C_out, 16) and block_k < 2 * max(K, 16)
        if fits and (stages == 1) == (K <= block_k):  # with one block of K there is nothing to load ahead
            yield Blocks(pixels, channels, block_k, stages, warps, registers)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fastest(choices: Iterable, run: Callable[[object], object], times: Times) -> tuple:
    """(choice, ms) of the fastest; a choice that a compiler or driver refuses is no choice.

    Raises:
        RuntimeError: none runs; or one broke the process's access to the GPU, whose later figures would mean nothing.
    """
    results = []
    for choice in choices:
        try:
            results.append((choice, times(choice, lambda choice=choice: run(choice))))
        except Exception as error:  # of Triton's compiler or of the driver, in many types: too much memory, registers
            try:
                wait()
            except Exception:  # an error that stays, as of an illegal address
                raise RuntimeError(f"the GPU does not work any more after {choice}: {error}") from error
            times.fails(choice)
    best = min(results, key=lambda result: result[1], default=(None, inf))
    if best[1] == inf:
        raise RuntimeError("no block sizes compile and run here")
    return best


@torch.no_grad()
def tune(net: nn.Sequential, size: tuple[int, ...], batch: int, T: int, times: Times) -> Iterator:
    """(layer, neurons, C_out, K, fastest sizes, ms, ms of choose_blocks) of each layer that takes spikes."""
    from proxykernels.kernels.gpu import conv2d_launch
    from proxykernels.kernels.gpu.block_sizes import architecture, choose_blocks, multiprocessors, takes_digits

    device, shape, first = next(net.parameters()).device, size, True
    for name, layer in net.eval().named_children():
        x = pk.if_hold(2 * RATE * torch.rand(batch, *shape, device=device), T)[0]
        y = layer(x)
        if isinstance(layer, pk.layers.Fused) and not first:
            groups = getattr(layer, "groups", 1)
            C_out, K = len(layer.weight) // groups, layer.weight[0].numel()
            neurons = batch * prod(y.shape[3:])

            def run(blocks, layer=layer, x=x):
                chosen, conv2d_launch.choose_blocks = conv2d_launch.choose_blocks, lambda *_: blocks
                try:
                    return layer(x)
                finally:
                    conv2d_launch.choose_blocks = chosen

            times.layer = name
            with kernels_alone():
                choices = tqdm([*candidates(C_out, K)], desc=f"layer {name}", leave=False, disable=None)
                best, best_ms = fastest(choices, run, times)
                target = architecture(device)
                digits = 3 if takes_digits(target) else 0
                today = choose_blocks(neurons, C_out, K, target, digits, multiprocessors(device))
                today_ms = times(today, lambda run=run, today=today: run(today))
            yield name, neurons, C_out, K, best, best_ms, today_ms
        first, shape = False, y.shape[2:]


def print_table(rows: list[tuple], device: str) -> None:
    blocks = "pixels, channels,\nblock_k, stages,\nwarps, registers"
    headings = ["layer", "neurons", "C_out", "K", blocks, "ms", "ms\ntoday"]
    lines = [
        [layer, *map(str, (neurons, C_out, K)), str(tuple(blocks)), f"{ms:.4g}", f"{today_ms:.4g}"]
        for layer, neurons, C_out, K, blocks, ms, today_ms in rows
    ]
    printed.print_table(Console(), f"fastest block sizes on {device}", headings, lines)
