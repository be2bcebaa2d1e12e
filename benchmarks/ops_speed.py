"""How fast the kernels of a CPU are: by firing rate, by shape, and by threads and instruction set.

    python benchmarks/ops_speed.py
    python benchmarks/ops_speed.py --out benchmarks/results
    python benchmarks/ops_speed.py --parts rates,threads --rounds 9 --threads 1
    python benchmarks/ops_speed.py --fit

rates    a convolution and a linear layer, each kernel forced in turn, against torch's convolution alone (no neurons)
shapes   the public functions with the kernel they choose, against torch's convolution and this library's scan
threads  1 and 2 threads, AVX2 and AVX-512
drop_in  one and two layers called on dense spikes, against a step loop and SpikingJelly; packing and unpacking; a model
         of SpikingJelly with some layers swapped

--fit: random layers, always the same, on one thread and by processor time: how often the choice of a kernel is right,
and the costs that the model behind it (kernels/cpu/cost_model.py) should have on this machine.

Speeds are dense-equivalent: the multiply-adds of the dense layer divided by the time. Prints tables; with --out it also
writes ops_speed_<part>.csv and a plot of speed against firing rate, ops_speed_rates.png, over those that are there.
"""

import argparse
import math
import os
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import figures
from common.checkout import commit
from common.command import command
from common.machine import device_name
from common.printed import new_parser, positive, print_table
from common.tables import save_figure, write_csv
from rich.console import Console
from speed import cost_fit, drop_in, ops_parts, swaps
from speed.ops_cases import LAYERS, QUICK_LAYERS, QUICK_SHAPES, RATES, SHAPES, Shape
from speed.ops_parts import BF16, CHOSEN, LOST, SPREAD
from tqdm import tqdm

from proxykernels.kernels import cpu

PARTS = ["rates", "shapes", "threads", "drop_in"]
QUICK_RATES = [0.05, 0.4]
THREAD_RATES = [0.05, 0.4]
THREADS = [1, 2]
CORE_MACS = 16  # fp32 multiply-adds a cycle: two units of 8, or one of 16; some cores have two units of 16
ROUNDS, QUICK_ROUNDS = 5, 2
FITTED_LAYERS = 200
PEAK_SIZE, QUICK_PEAK_SIZE = 2048, 256
SHAPE = ["T", "N", "C_in", "size", "C_out", "kernel_size", "stride", "padding", "dilation", "groups"]
COMMON = ["date", "commit", "layer", *SHAPE, "rate"]
MACHINE = ["device", "threads", "torch"]
RATE_FIGURES = ["gmac_s", "cycles_row_add", "clock_ghz", "peak_gmac_s"]
SHAPE_TIMES = [f"{who}_{name}" for who in ("ours", "rival") for name in SPREAD]
THREAD_FIGURES = ["gmac_s", "speed_over_1_thread", "speed_over_avx512"]
DROP_IN_FIGURES = ["ours_ms", "loop_ms", "spikingjelly_ms", "pack_gb_s", "dense_gb_s", "copy_gb_s"]
COLUMNS = {
    "rates": [*COMMON, "kernel", "taken", *SPREAD, "rounds", *RATE_FIGURES, *MACHINE],
    "shapes": [*COMMON, "kernel", *SHAPE_TIMES, "rounds", "ratio", "lost", *MACHINE],
    "threads": [*COMMON, "target", "kernel", "taken", *SPREAD, "rounds", *THREAD_FIGURES, *MACHINE],
    "drop_in": ["date", "commit", "job", "T", "N", "rate", "rate_out", *DROP_IN_FIGURES, "rounds", *MACHINE],
}
PEAK = "fp32 matrix-product peak"


def main(arguments: list[str] | None = None) -> None:
    start = time.perf_counter()
    options = prepare(arguments)
    console = Console()
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if options.fit:
        torch.set_num_threads(1)
        print_fit(
            console, list(tqdm(cost_fit.sweep(options.layers, 0, options.rounds), total=options.layers, leave=False))
        )
        return
    console.print("{device}, {threads} threads, torch {torch}".format(**machine))
    for part in options.parts:
        rows = [{**machine, **row} for row in RUN[part](options, console)]
        PRINT[part](console, rows)
        if options.out is None:
            continue
        path = options.out / f"ops_speed_{part}.csv"
        write_csv(path, COLUMNS[part], rows)
        console.print(str(path), soft_wrap=True)
        if part == "rates":
            path = path.with_suffix(".png")
            plot(path, rows)
            console.print(str(path), soft_wrap=True)
    console.print(f"ended after {time.perf_counter() - start:.0f} s")


def prepare(arguments: list[str] | None) -> argparse.Namespace:
    """The options; a bad one, or a machine without the kernels, ends here with one sentence."""
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--parts", type=part_list, default=PARTS, help=f"of {','.join(PARTS)} (default: all)")
    add("--rounds", type=positive, help=f"timed rounds for each case (default: {ROUNDS}, quick {QUICK_ROUNDS})")
    add("--quick", action="store_true", help="small layers, to see that it works")
    add("--threads", type=positive, help="threads of the rates and shapes (default: torch's)")
    add("--macs-a-cycle", type=positive, default=CORE_MACS, help=f"fp32 multiply-adds of a core (default: {CORE_MACS})")
    add("--fit", action="store_true", help="fit the model of the choice to this machine")
    add("--layers", type=positive, default=FITTED_LAYERS, help=f"random layers of --fit (default: {FITTED_LAYERS})")
    add("--out", type=Path, help="folder of the CSV files and the plot (default: none are written)")
    options = parser.parse_args(arguments)
    if cpu.load() is None:
        parser.error("the C++ kernels were not built: install a C++ compiler, then proxykernels again")
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    try:
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: cannot make {options.out}: {error.strerror}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


def part_list(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part is called {unknown[0]!r}; known: {', '.join(PARTS)}")
    return names


def bar(part: str, cases: list[Shape]) -> tqdm:
    """The cases, with a progress bar."""
    return tqdm(cases, desc=part, unit="case", leave=False, disable=None)


def case_columns(shape: Shape) -> dict:
    columns = {name: getattr(shape, "kernel" if name == "kernel_size" else name) for name in [*SHAPE, "rate"]}
    return {"layer": str(shape), **columns}


def run_rates(options: argparse.Namespace, console: Console) -> list[dict]:
    for reason in ops_parts.absent().values():
        console.print(reason)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        console.print(f"{BF16}: not run, oneDNN has no bf16 on this processor")
    peak = ops_parts.peak(QUICK_PEAK_SIZE if options.quick else PEAK_SIZE)
    found = QUICK_RATES if options.quick else RATES
    cases = [layer.at(rate) for layer in (QUICK_LAYERS if options.quick else LAYERS) for rate in found]
    return [
        {**case_columns(shape), **row}
        for shape in bar("rates", cases)
        for row in ops_parts.rates(shape, options.rounds, peak, options.macs_a_cycle)
    ]


def run_shapes(options: argparse.Namespace, console: Console) -> list[dict]:
    cases = QUICK_SHAPES if options.quick else SHAPES
    return [{**case_columns(shape), **ops_parts.one_shape(shape, options.rounds)} for shape in bar("shapes", cases)]


def run_threads(options: argparse.Namespace, console: Console) -> list[dict]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    counts = [count for count in THREADS if count <= cores]
    if len(counts) < len(THREADS):
        console.print(f"{THREADS[-1]} threads: not run, this process has {cores} core")
    targets = [target for target in ("avx512", "avx2", "portable") if cpu.load(target)]
    for target in {"avx512", "avx2"} - set(targets):
        console.print(f"{target}: not run, this processor lacks it")
    targets = targets[:2]  # without AVX2 the portable code is the only one
    cases = [layer.at(rate) for layer in (QUICK_LAYERS if options.quick else LAYERS) for rate in THREAD_RATES]
    return [
        {**case_columns(shape), **row}
        for shape in bar("threads", cases)
        for row in ops_parts.threads(shape, counts, targets, options.rounds)
    ]


def run_drop_in(options: argparse.Namespace, console: Console) -> list[dict]:
    cases, size = (drop_in.QUICK_CASES, drop_in.QUICK_SIZE) if options.quick else (drop_in.CASES, drop_in.SIZE)
    rows = [
        row
        for case in tqdm(cases, desc="drop_in", unit="case", leave=False, disable=None)
        for row in drop_in.one_case(*case, options.rounds, size)
    ]
    rows += swaps.rows(options.rounds, swaps.QUICK_SIZE if options.quick else swaps.SIZE)
    return [{"rounds": options.rounds, **row} for row in rows]


RUN = {"rates": run_rates, "shapes": run_shapes, "threads": run_threads, "drop_in": run_drop_in}


# What it shows


def spread(row: dict, prefix: str = "") -> str:
    """The median, and half of the range around it."""
    median, least, most = (row[f"{prefix}{name}"] for name in SPREAD)
    return f"{median:.3g} ±{50 * (most - least) / median:.0f}%"


def kernel_name(row: dict) -> str:
    return f"{CHOSEN} ({row['taken']})" if row["kernel"] == CHOSEN else row["kernel"]


def print_rates(console: Console, rows: list[dict]) -> None:
    peak = rows[0]["peak_gmac_s"]
    for layer, mine in grouped(rows, "layer").items():
        title = f"{layer}, T = {mine[0]['T']}, N = {mine[0]['N']}; {PEAK} {peak:.0f} GMAC/s"
        headings = ["kernel", "rate", "ms", "GMAC/s", "/ peak", "cycles a\nrow-add"]
        lines = []
        for same in grouped(mine, "kernel").values():
            for row in same:
                speed = f"{row['gmac_s']:.0f}", f"{row['gmac_s'] / peak:.2f}", str(row["cycles_row_add"])
                lines.append([kernel_name(row), f"{row['rate']:.0%}", spread(row), *speed])
        print_table(console, title, headings, lines)
    console.print(
        f"Cycles: of one core, a clock of {rows[0]['clock_ghz']:.2f} GHz taken from the peak; the floor is 1, one load "
        "of 64 bytes a cycle."
    )


def print_shapes(console: Console, rows: list[dict]) -> None:
    headings = ["layer", "T", "N", "rate", "kernel", "ours\nms", "rival\nms", "ratio"]
    lines = []
    for row in sorted(rows, key=lambda row: row["ratio"]):
        case = row["layer"], str(row["T"]), str(row["N"]), f"{row['rate']:.0%}", row["kernel"]
        times = f"{row['ours_median_ms']:.3g}", f"{row['rival_median_ms']:.3g}"
        lines.append([*case, *times, f"{'lost ' if row['lost'] else ''}{row['ratio']:.2f}"])
    print_table(console, "Time of torch's convolution and the fused scan / time of ours", headings, lines)
    lost = [row for row in rows if row["lost"]]
    console.print(f"{len(lost)} of {len(rows)} shapes slower than {LOST} times the rival")


def print_threads(console: Console, rows: list[dict]) -> None:
    headings = ["target", "kernel", "rate", "threads", "ms", "GMAC/s", "/ one", "/ avx512"]
    for layer, mine in grouped(rows, "layer").items():
        lines = []
        for row in mine:
            case = row["target"], kernel_name(row), f"{row['rate']:.0%}", str(row["threads"])
            ratios = f"{row['speed_over_1_thread']:.2f}", str(row["speed_over_avx512"])
            lines.append([*case, spread(row), f"{row['gmac_s']:.0f}", *ratios])
        print_table(console, f"{layer}, T = {mine[0]['T']}, N = {mine[0]['N']}", headings, lines, left=2)


def print_fit(console: Console, measured: list[cost_fit.Measured]) -> None:
    known = ops_parts.Kernel(None, None).machine.costs
    fitted = cost_fit.fit(measured, known)
    for kernel in known:
        before, after = (cost_fit.error(measured, kernel, costs) for costs in (known, fitted))
        if not math.isnan(before):
            costs = ", ".join(f'"{name}": {cost:.3g}' for name, cost in fitted[kernel].items())
            console.print(f'"{kernel}": {{{costs}}},', soft_wrap=True)
            console.print(f"    median error {before:.0%} before, {after:.0%} so")
    print_choices(console, "as chosen", measured, [one.chosen for one in measured])
    print_choices(console, "by the costs above", measured, [one.choice(fitted) for one in measured])


def print_choices(console: Console, title: str, measured: list[cost_fit.Measured], choices: list[str]) -> None:
    """How many choices are right, and those that are not."""
    pairs = list(zip(measured, choices, strict=True))
    excess = [one.excess(kernel) for one, kernel in pairs]
    slower = [one.seconds[kernel] / one.rival for one, kernel in pairs]
    console.print(
        f"{title}: {sum(e <= cost_fit.NEAR for e in excess) / len(pairs):.1%} of {len(pairs)} layers within "
        f"{cost_fit.NEAR - 1:.0%} of the best kernel, the worst {max(excess):.2f} times as long; "
        f"{sum(ratio > 1 for ratio in slower)} slower than torch's convolution and a scan"
    )
    for (one, kernel), e, ratio in zip(pairs, excess, slower, strict=True):
        if e > cost_fit.NEAR or ratio > 1:
            case = f"{one.shape}, T = {one.shape.T}, N = {one.shape.N}, {one.shape.rate:.1%}, {one.precision}"
            console.print(f"    {case}: {kernel}, {e:.2f} times {one.best}, {ratio:.2f} times torch", soft_wrap=True)


def print_drop_in(console: Console, rows: list[dict]) -> None:
    headings = [
        "",
        "T",
        "N",
        "rate",
        "ours\nms",
        "step loop\nms",
        "SpikingJelly\nms",
        "pack\nGB/s",
        "dense()\nGB/s",
        "copy\nGB/s",
    ]
    lines = []
    for row in rows:
        times = [f"{row['ours_ms']:.3g}"]
        for rival in ("loop_ms", "spikingjelly_ms"):
            times.append(f"{row[rival]:.3g} ({row[rival] / row['ours_ms']:.1f}x)" if row[rival] else "not run")
        speeds = [str(row[f"{name}_gb_s"]) for name in ("pack", "dense", "copy")]
        rate = f"{row['rate']:.0%}" if row["rate"] else ""
        lines.append([row["job"], str(row["T"]), str(row["N"]), rate, *times, *speeds])
    print_table(
        console, "Layers called on dense spikes, 3x3 on 28x28 pixels, their output read by torch", headings, lines
    )


PRINT = {"rates": print_rates, "shapes": print_shapes, "threads": print_threads, "drop_in": print_drop_in}


def grouped(rows: list[dict], column: str) -> dict[str, list[dict]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups


def plot(path: Path, rows: list[dict]) -> None:
    """Speed against firing rate, both logarithmic, a panel a layer, from rows of a run or of the CSV."""
    layers, first = grouped(rows, "layer"), rows[0]
    figure, panels = figures.new_figure(5.4, len(layers), sharey=True)
    for axes, (layer, mine) in zip(panels, layers.items(), strict=True):
        for name in sorted(grouped(mine, "kernel"), key=lambda name: name != CHOSEN):  # the chosen one lies under all
            same = [row for row in mine if row["kernel"] == name]
            style = figures.line(name) | ({"alpha": 0.3} if name == CHOSEN else {"marker": "o", "markersize": 4})
            axes.loglog([100 * float(row["rate"]) for row in same], [float(row["gmac_s"]) for row in same], **style)
        axes.axhline(float(first["peak_gmac_s"]), color=figures.GRAY, linestyle=":", label=PEAK)
        axes.set_title(f"{layer}, T = {mine[0]['T']}, {mine[0]['N']} images", fontsize=10)
        figures.ticks(axes.xaxis, {round(100 * float(row["rate"]), 6) for row in mine})
        axes.set_xlabel("inputs that fire at a step, %")
    speeds = [float(row["gmac_s"]) for row in rows]
    figures.plain_numbers(panels[0].yaxis, min(speeds) / 1.3, max(speeds) * 1.3)
    panels[0].set_ylabel("dense-equivalent GMAC/s (median)")
    figures.legend(figure, panels[0], columns=4)
    where = f"{first['device']}, {first['threads']} threads, torch {first['torch']}"
    figures.title(figure, "The fewer inputs fire, the faster are the kernels that add only what fired", where)
    save_figure(path, figure)


if __name__ == "__main__":
    command(main)
