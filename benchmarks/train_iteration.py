"""The time of one training iteration by proxy: ours, and the authors' formulation in plain PyTorch.

    python benchmarks/train_iteration.py                                     # random weights that fire at 5 %
    python benchmarks/train_iteration.py --weights runs/train/paper.safetensors

An iteration is the ReLU twin's pass, the spiking network's T steps, the loss, the twin's backward pass and Adam. All
contenders share everything but the T steps: the authors run them as a loop over time. Theirs is given the best settings
we know (rivals.py: channels last, in place, normalisation folded, the first layer's currents computed once; with and
without torch.compile), and normalisation is frozen, as it is after the first epoch. Times are medians of interleaved
rounds, of the wall and of the process's CPU time, which other programs disturb less. Appends to
results/train_iteration.csv.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import nets
import rivals
import torch
import torch.nn.functional as F
import train_data
from sim_speed import commit
from torch import Tensor

import proxykernels as pk

RESULTS = Path(__file__).parent / "results" / "train_iteration.csv"
OURS = "proxykernels"
LOOPS = ["plain", "compiled"]  # names of rivals.RIVALS
COLUMNS = [
    "date", "commit", "net", "weights", "batch", "T", "precision", "contender", "cpu_s", "wall_s", "snn_cpu_s",
    "rounds", "times_slower", "counts_different", "counts_total", "mean_rate", "threads", "torch",
]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    net = nets.load_file(options.weights)[0] if options.weights else nets.load(options.net, 0.0)[0]
    dataset, _ = train_data.load("fashion-mnist", options.root, "test")
    images, labels = (torch.stack(part) for part in zip(*(dataset[i] for i in range(options.batch)), strict=True))
    model = pk.ProxyNet(net.to(memory_format=torch.channels_last), options.T, clip=True).train()
    model.freeze_batch_norm()
    passes = {OURS: model.snn} | {name: loop(name, net, images, options.T) for name in options.loops}
    counts = {name: run(images) for name, run in passes.items()}
    rate = statistics.mean(model.rates.values())
    times = measure(options, model, passes, images, labels)
    rows = []
    for name, (cpu, wall, snn) in times.items():
        different = int((counts[name] != counts[OURS]).sum())
        rows.append(
            [date.today(), commit(), options.net, options.weights.name if options.weights else "random", options.batch]
            + [options.T, options.precision, name, f"{cpu:.3f}", f"{wall:.3f}", f"{snn:.3f}", options.rounds]
            + [
                f"{cpu / times[OURS][0]:.2f}",
                different,
                counts[name].numel(),
                f"{rate:.4f}",
            ]
            + [torch.get_num_threads(), torch.__version__]
        )
        print(dict(zip(COLUMNS, rows[-1], strict=True)))
    append(options.out, rows)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=sorted(nets.NETS), default="paper")
    parser.add_argument("--weights", type=Path, help="a file that train.py wrote, of --net")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--T", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the twin")
    parser.add_argument("--loops", nargs="*", choices=LOOPS, default=LOOPS)
    parser.add_argument("--root", type=Path, help="folder with Fashion-MNIST's files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def loop(name: str, net, images: Tensor, T: int) -> Callable[[Tensor], Tensor]:
    """The T steps as the authors take them: spike counts of images."""
    rival = rivals.build(name, net, images)
    return lambda x: rival.counts(x, T).clone().float()


def measure(options, model: pk.ProxyNet, passes: dict, images: Tensor, labels: Tensor) -> dict[str, tuple]:
    """Contender -> median CPU and wall seconds of an iteration, and CPU seconds of its T steps."""
    optimizer = torch.optim.Adam(model.parameters(), 0.0, fused=True)  # it works, and leaves the weights as they are
    target = 5.0 * F.one_hot(labels, 10)
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in passes}
    for _ in range(options.rounds):
        for name, run in passes.items():
            model.snn, spent = timed(run)
            start = time.process_time(), time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                output = model(images)
            optimizer.zero_grad()
            F.mse_loss(output, target).backward()
            optimizer.step()
            seen[name].append((time.process_time() - start[0], time.perf_counter() - start[1], spent[0]))
    return {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in seen.items()}


def timed(run: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """The function, and a list that will hold the CPU seconds of its call."""
    spent: list[float] = []

    def call(x: Tensor) -> Tensor:
        start = time.process_time()
        with torch.autocast("cpu", enabled=False):
            y = run(x)
        spent.append(time.process_time() - start)
        return y

    return call, spent


def append(path: Path, rows: list[list]) -> None:
    """Add rows to the table, written under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = list(csv.reader(path.open()))[1:] if path.is_file() else []
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *kept, *rows])
    temporary.replace(path)


if __name__ == "__main__":
    main()
