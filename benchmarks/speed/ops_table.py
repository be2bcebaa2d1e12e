"""The kernels of a CPU, measured part by part: what ops_speed.py does."""

import argparse
import time
from datetime import UTC, datetime

import torch
from common.checkout import commit
from common.command import refusing
from common.machine import device_name, heading
from common.tables import check_out, write_csv
from rich.console import Console
from tqdm import tqdm

from proxykernels.kernels import cpu
from speed import drop_in, integer_nets, ops_parts, swaps
from speed.ops_cases import LAYERS, QUICK_LAYERS, QUICK_SHAPES, RATES, SHAPES, Shape
from speed.ops_parts import BF16, SPREAD
from speed.ops_report import PRINT, plot

QUICK_RATES = [0.05, 0.4]
PEAK_SIZE, QUICK_PEAK_SIZE = 2048, 256
SHAPE = ["T", "N", "C_in", "size", "C_out", "kernel_size", "stride", "padding", "dilation", "groups"]
COMMON = ["date", "commit", "layer", *SHAPE, "rate"]
MACHINE = ["device", "threads", "torch"]
RATE_FIGURES = ["gmac_s", "cycles_row_add", "clock_ghz", "peak_gmac_s"]
SHAPE_TIMES = [f"{who}_{name}" for who in ("ours", "rival") for name in SPREAD]
DROP_IN_FIGURES = ["ours_ms", "loop_ms", "spikingjelly_ms", "pack_gb_s", "dense_gb_s", "copy_gb_s"]
COLUMNS = {
    "rates": [*COMMON, "kernel", "taken", *SPREAD, "rounds", *RATE_FIGURES, *MACHINE],
    "shapes": [*COMMON, "kernel", *SHAPE_TIMES, "rounds", "ratio", "lost", *MACHINE],
    "drop_in": ["date", "commit", "job", "T", "N", "rate", "rate_out", *DROP_IN_FIGURES, "rounds", *MACHINE],
    "networks": ["date", "commit", "job", "T", "N", "rate", *DROP_IN_FIGURES[:3:2], "rounds", *MACHINE],
}


def run(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    if options.out is not None:
        with refusing("ops_speed.py"):
            check_out(options.out)
    if cpu.load() is None:
        raise SystemExit(
            "ops_speed.py: the C++ kernels were not built: install a C++ compiler, then proxykernels again"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console = Console()
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    console.print(heading("single layers", "random spikes", options.out))
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


def bar(part: str, cases: list[Shape]) -> tqdm:
    """The cases, with a progress bar."""
    return tqdm(cases, desc=part, unit="case", leave=False, disable=None)


def case_columns(shape: Shape) -> dict:
    columns = {name: getattr(shape, "kernel" if name == "kernel_size" else name) for name in [*SHAPE, "rate"]}
    return {"layer": str(shape), **columns}


def run_rates(options: argparse.Namespace, console: Console) -> list[dict]:
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


def run_drop_in(options: argparse.Namespace, console: Console) -> list[dict]:
    cases, size = (drop_in.QUICK_CASES, drop_in.QUICK_SIZE) if options.quick else (drop_in.CASES, drop_in.SIZE)
    rows = [
        row
        for case in tqdm(cases, desc="drop_in", unit="case", leave=False, disable=None)
        for row in drop_in.one_case(*case, options.rounds, size)
    ]
    rows += swaps.rows(options.rounds, swaps.QUICK_SIZE if options.quick else swaps.SIZE)
    return [{"rounds": options.rounds, **row} for row in rows]


def run_networks(options: argparse.Namespace, console: Console) -> list[dict]:
    return [{"rounds": options.rounds, **row} for row in integer_nets.rows(options.rounds, options.quick)]


RUN = {"rates": run_rates, "shapes": run_shapes, "drop_in": run_drop_in, "networks": run_networks}
