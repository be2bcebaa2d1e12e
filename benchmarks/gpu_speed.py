"""Everything there is to measure on a GPU: tests, kernels against the card's own speed, a network against its rivals.

    python benchmarks/gpu_speed.py
    python benchmarks/gpu_speed.py --weights runs/train/paper.safetensors

1. `pytest -m gpu --quick`, four minutes at most: the kernels must give the oracle's spikes before their speed means
   anything.
2. The IF scan's bytes a second beside those of a copy, and the FLOPs a second of the fused 128 -> 128 convolution
   beside those of a large matrix product in bfloat16: executed, and effective, those of the dense convolution that they
   stand for; with the prediction of gpu/time_model.py where that knows the card. The kernels alone: nothing is looked
   at twice. Rows are added to benchmarks/results/gpu_speed.csv one by one.
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
from common.machine import commit, device_name
from common.printed import new_parser
from common.tables import read_csv, write_csv
from rich.console import Console
from roofline import RATE, kernels_alone, milliseconds
from speed.options import prepare

import proxykernels as pk

ROOT = Path(__file__).parents[1]
COLUMNS = ["date", "commit", "device", "torch", "proxykernels", "figure", "value", "unit", "limit", "share"]
COLUMNS += ["effective", "predicted"]
TESTS_S = 240.0
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
    prepare(network)  # a bad option ends here, not after minutes
    run_tests()
    device = torch.device("cuda")
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": device_name(device),
        "torch": torch.__version__,
        "proxykernels": pk.__version__,
    }
    path, rows = options.out / "gpu_speed.csv", []
    before = [dict.fromkeys(COLUMNS, "") | row for row in read_csv(path)]
    with Console().status("timing kernels"):
        for row in kernels(device):  # what is there stays if a later one fails
            rows.append(about | row)
            write_csv(path, COLUMNS, before + rows)
    print_table(about["device"], rows)
    print(path)
    sim_speed.main(network)


def run_tests() -> None:
    """The tests on this GPU; the process ends here if one fails, or if they take too long."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--quick"]
    try:
        failed = subprocess.run(command, cwd=ROOT, timeout=TESTS_S).returncode
    except subprocess.TimeoutExpired:
        sys.exit(f"the tests on this GPU took more than {TESTS_S:.0f} s: run `{' '.join(command[1:])}`, and look which")
    if failed:
        sys.exit("a test failed on this GPU: its speed was not measured")


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

    ``effective``: TFLOP/s of the dense convolution that the executed products stand for. ``predicted``: ``value`` by
    gpu/time_model.py. ``time``: ms that a call takes.
    """
    copy = copy_speed(device, copy_bytes, time)
    yield figure("copy", copy, "GB/s")
    yield figure("IF scan", scan_speed(device, scan, time), "GB/s", copy, predicted=predicted_bandwidth(device))
    peak = matrix_speed(device, matrix, time)
    yield figure("matrix product, bfloat16", peak, "TFLOP/s")
    C, size = conv[2:]
    for dtype, products in ((torch.bfloat16, 1), (torch.float32, 2)):
        name = f"conv {C}->{C} 3x3 at {size}x{size}, {str(dtype).removeprefix('torch.')} weights"
        executed = convolution_speed(device, conv, dtype, products, time)
        predicted = predicted_convolution(device, conv) if products == 2 else ""
        yield figure(name, executed, "TFLOP/s", peak, executed / products, predicted)


def figure(
    name: str,
    value: float,
    unit: str,
    limit: float | str = "",
    effective: float | str = "",
    predicted: float | str = "",
) -> dict:
    columns = {"limit": limit, "share": "", "effective": effective, "predicted": predicted}
    if not isinstance(limit, str):
        columns["share"] = round(value / limit, 3)
    rounded = {name: x if isinstance(x, str) or name == "share" else round(x, 1) for name, x in columns.items()}
    return {"figure": name, "value": round(value, 1), "unit": unit, **rounded}


def predicted_bandwidth(device: torch.device) -> float | str:
    """GB/s of memory that the model has for the card; "" for one that it does not know."""
    card = known_card(device)
    return card.memory / 1e9 if card else ""


def predicted_convolution(device: torch.device, shape: tuple[int, int, int, int]) -> float | str:
    """Executed TFLOP/s of the convolution of float32 weights by the model; "" for a card that it does not know."""
    card = known_card(device)
    if not card:
        return ""
    from gpu.time_model import Layer, compiled, layer_seconds

    T, N, C, size = shape
    layer = Layer("conv", size**2, size**2, C, C, 3)
    seconds = max(layer_seconds(layer, compiled(layer, N, card.target), N, T, card).values())
    return 2 * 2 * T * N * size**2 * C * 9 * C / seconds / 1e12


def known_card(device: torch.device):
    """The card of gpu/time_model.py that the device is, or None."""
    if device.type != "cuda" or torch.version.hip:
        return None
    from gpu.time_model import CARDS

    return next((card for name, card in CARDS.items() if name in torch.cuda.get_device_name(device)), None)


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
    with kernels_alone():
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
    with kernels_alone():
        return flops / time(lambda: pk.if_conv2d(spikes, weight, padding=1)) / 1e9


def print_table(device: str, rows: list[dict]) -> None:
    lines = [
        [
            row["figure"],
            f"{row['value']} {row['unit']}",
            str(row["limit"]),
            f"{row['share']:.0%}" if row["share"] != "" else "",
            str(row["effective"]),
            str(row["predicted"]),
        ]
        for row in rows
    ]
    printed.print_table(Console(), device, ["", "measured", "of", "share", "effective", "predicted"], lines)


if __name__ == "__main__":
    command(main)
