"""Everything there is to measure on a GPU: tests, kernels against the card's own speed, a network against its rivals.

    python benchmarks/gpu_speed.py
    python benchmarks/gpu_speed.py --weights runs/train/paper.safetensors

1. `pytest -m gpu`: the kernels must give the oracle's spikes before their speed means anything.
2. The IF scan's bytes a second beside those of a copy, and the FLOPs a second of the fused 128 -> 128 convolution
   beside those of a large matrix product in bfloat16. Rows are added to benchmarks/results/gpu_speed.csv.
3. `sim_speed.py --device cuda --net paper --batch 128 --T 64`: the paper's network against every rival that runs.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import sim_speed
import torch
from common import printed
from common.command import command
from common.printed import new_parser
from common.tables import read_csv, write_csv
from rich.console import Console
from roofline import RATE, milliseconds

import proxykernels as pk

ROOT = Path(__file__).parents[1]
COLUMNS = ["date", "commit", "device", "torch", "proxykernels", "figure", "value", "unit", "limit", "share"]
COPY_BYTES = 1 << 30
MATRIX = 8192  # rows and columns
SCAN = (64, 128, 128 * 28 * 28)  # T, N, features of the scan's currents: 3.3 GB
CONV = (64, 128, 128, 28)  # T, N, channels in and out, height and width of the convolution


def main(arguments: list[str] | None = None) -> None:
    options = make_parser().parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("gpu_speed.py measures on a GPU, and torch finds no CUDA device here")
    network = ["--device", "cuda", "--net", "paper", "--batch", "128", "--T", "64", "--out", str(options.out)]
    network += ["--weights", str(options.weights)] if options.weights else []
    sim_speed.prepare(network)  # a bad option ends here, not after minutes
    if subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], cwd=ROOT).returncode:
        sys.exit("a test failed on this GPU: its speed was not measured")
    device = torch.device("cuda")
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": sim_speed.commit(),
        "device": sim_speed.device_name(device),
        "torch": torch.__version__,
        "proxykernels": pk.__version__,
    }
    with Console().status("timing kernels"):
        rows = [about | row for row in kernels(device)]
    path = options.out / "gpu_speed.csv"
    write_csv(path, COLUMNS, read_csv(path) + rows)
    print_table(about["device"], rows)
    print(path)
    sim_speed.main(network)


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--weights", type=Path, help="a file of train.py for the paper's network (default: random ones)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the CSV files")
    return parser


@torch.no_grad()
def kernels(
    device: torch.device,
    *,
    copy_bytes: int = COPY_BYTES,
    matrix: int = MATRIX,
    scan: tuple[int, int, int] = SCAN,
    conv: tuple[int, int, int, int] = CONV,
    time: Callable[[Callable[[], object]], float] = milliseconds,
) -> Iterator[dict]:
    """A row for each figure. ``limit``: the card's own speed in the same unit, and ``share`` of it.

    ``time``: ms that a call takes.
    """
    copy = copy_speed(device, copy_bytes, time)
    yield {"figure": "copy", "value": round(copy, 1), "unit": "GB/s", "limit": "", "share": ""}
    yield figure("IF scan", scan_speed(device, scan, time), "GB/s", copy)
    peak = matrix_speed(device, matrix, time)
    yield {"figure": "matrix product, bfloat16", "value": round(peak, 1), "unit": "TFLOP/s", "limit": "", "share": ""}
    C, size = conv[2:]
    for dtype, products in ((torch.bfloat16, 1), (torch.float32, 2)):
        name = f"conv {C}->{C} 3x3 at {size}x{size}, {str(dtype).removeprefix('torch.')} weights"
        yield figure(name, convolution_speed(device, conv, dtype, products, time), "TFLOP/s", peak)


def figure(name: str, value: float, unit: str, limit: float) -> dict:
    share = round(value / limit, 3)
    return {"figure": name, "value": round(value, 1), "unit": unit, "limit": round(limit, 1), "share": share}


def copy_speed(device: torch.device, size: int, time: Callable) -> float:
    """GB/s read and written by a copy of ``size`` bytes."""
    x = torch.zeros(size, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * size / time(lambda: y.copy_(x)) / 1e6


def scan_speed(device: torch.device, shape: tuple[int, int, int], time: Callable) -> float:
    """GB/s that the IF scan must move: float32 currents in, a bit a spike out, potentials in and out."""
    T, N, features = shape
    current, v = torch.rand(shape, device=device), torch.zeros(N, features, device=device)
    size = N * features * (4 * T + T / 8 + 8)
    return size / time(lambda: pk.if_scan(current, v, v_threshold=2.0)) / 1e6


def matrix_speed(device: torch.device, size: int, time: Callable) -> float:
    """TFLOP/s of a square matrix product in bfloat16."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / time(lambda: a @ b) / 1e9


def convolution_speed(
    device: torch.device, shape: tuple[int, int, int, int], dtype: torch.dtype, products: int, time: Callable
) -> float:
    """TFLOP/s of the dense products that the fused convolution makes of spikes at RATE; ``products`` of each weight."""
    T, N, C, size = shape
    spikes, _ = pk.if_hold(2 * RATE * torch.rand(N, C, size, size, device=device), T)
    weight = (torch.randn(C, C, 3, 3, device=device) / (9 * C) ** 0.5).to(dtype)
    flops = products * 2 * T * N * size**2 * C * 9 * C
    return flops / time(lambda: pk.if_conv2d(spikes, weight, padding=1)) / 1e9


def print_table(device: str, rows: list[dict]) -> None:
    lines = [
        [
            row["figure"],
            f"{row['value']} {row['unit']}",
            str(row["limit"]),
            f"{row['share']:.0%}" if row["share"] != "" else "",
        ]
        for row in rows
    ]
    printed.print_table(Console(), device, ["", "measured", "of", "share"], lines)


if __name__ == "__main__":
    command(main)
