"""The paper's network on an A100 and an H100, modelled: no GPU is needed, and nothing is measured.

    python benchmarks/gpu_model.py
    python benchmarks/gpu_model.py --batch 128 --T 64

Compiles the convolution as it is launched for each layer and batch, and prints its registers, programs on a
multiprocessor, instructions, and clocks of a pass by unit; then, for each batch and number of steps, modelled
milliseconds with float32 weights and with precision="int16" (gpu/time_model.py has the model and its assumptions).
Writes gpu_model.csv and gpu_model_kernels.csv in benchmarks/results.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common import printed
from common.command import command
from common.printed import new_parser, positive
from common.tables import write_csv
from rich.console import Console
from tqdm import tqdm

KERNELS = ["card", "batch", "weights", "layer", "pixels", "channels", "block_k", "stages", "warps"]
KERNELS += ["registers", "programs"]
KERNELS += ["instructions", "issue", "integer", "shared", "tensor"]
TIMES = ["card", "batch", "weights", "T", "layers_ms", "other_ms", "host_ms", "ms"]


def main(arguments: list[str] | None = None) -> None:
    options = make_parser().parse_args(arguments)
    if find_spec("triton") is None:
        sys.exit("compiling the Triton kernels needs: pip install triton")
    from gpu.time_model import CARDS, WEIGHTS

    kernel_rows, time_rows = [], []
    for card in tqdm(CARDS, leave=False, disable=None):
        for images in options.batch:
            for weights in WEIGHTS:
                of_kernels, of_times = model(card, images, weights, options.T)
                kernel_rows += of_kernels
                time_rows += of_times
    console = Console()
    show(console, "a pass of the main loop: instructions of a warp, clocks by unit", KERNELS, kernel_rows)
    show(console, "modelled, not measured", TIMES, time_rows)
    for name, columns, rows in (("gpu_model_kernels", KERNELS, kernel_rows), ("gpu_model", TIMES, time_rows)):
        path = options.out / f"{name}.csv"
        write_csv(path, columns, rows)
        console.print(str(path), soft_wrap=True)


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=numbers, default=[1, 32, 128], help="images, such as 1,32,128")
    parser.add_argument("--T", type=numbers, default=[16, 64, 256, 1024], help="steps, such as 16,64")
    default = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=default, help="folder of the CSV files")
    return parser


def numbers(text: str) -> list[int]:
    return sorted({positive(part) for part in text.split(",")})


def model(name: str, images: int, weights: str, T: list[int]) -> tuple[list[dict], list[dict]]:
    """The rows of the kernels and of the times of a card, a batch and weights."""
    from gpu.time_model import CARDS, HOST, LAYERS, compiled, run_ms

    card = CARDS[name]
    kernels = {layer.name: compiled(layer, images, card, weights) for layer in LAYERS}
    about = {"card": name, "batch": images, "weights": weights}
    of_kernels = [
        about
        | {"layer": layer, **dict(zip(KERNELS[4:9], kernel.blocks, strict=False))}
        | {"registers": kernel.registers, "programs": kernel.programs, "instructions": kernel.loop.instructions}
        | {unit: round(cycles) for unit, cycles in kernel.cycles(card.target).items()}
        for layer, kernel in kernels.items()
    ]
    of_times = []
    for steps in T:
        figures = [float(f"{value:.3g}") for value in run_ms(kernels, images, steps, card, HOST).values()]
        of_times.append(about | {"T": steps} | dict(zip(TIMES[4:], figures, strict=True)))
    return of_kernels, of_times


def show(console: Console, title: str, columns: list[str], rows: list[dict]) -> None:
    printed.print_table(console, title, columns, [[str(row[name]) for name in columns] for row in rows])


if __name__ == "__main__":
    command(main)
