"""The tables of modelled times: what gpu_model.py does."""

import argparse
import sys
from importlib.util import find_spec

from common import printed
from common.tables import write_csv
from rich.console import Console
from tqdm import tqdm

KERNELS = ["card", "batch", "weights", "layer", "steps", "pixels", "channels", "block_k", "stages", "warps"]
KERNELS += ["registers", "programs", "instructions", "turn", "once", "step", "issue", "integer", "shared", "tensor"]
KERNELS += ["arithmetic_us", "L2_us", "memory_us"]
TIMES = ["card", "batch", "T", "weights", "products_ms", "layers_ms", "other_ms", "ms"]
TIMES += ["rival", "rival_ms", "ratio", "limit", "goal", "met"]
# The rival that computes as exactly, of float32 also what torch does by default, or else the fastest; and how many
# times as fast as the first of them ours shall be, of GOAL_OF.
RIVALS = {"float32": ("float32", "tf32"), "float16": ("float16",), "int16": ("float16",), "int8": ("float16",)}
GOALS = {"float32": 6.0, "float16": 1.7, "int8": 3.0}
GOAL_OF = {"card": "H100 SXM", "batch": 128, "T": 64}


def run(options: argparse.Namespace) -> None:
    if find_spec("triton") is None:
        sys.exit("compiling the Triton kernels needs: pip install triton")
    from gpu_times.time_model import CARDS, LAYERS, WEIGHTS, compiled, passes_of

    cases = [(name, images, weights) for name in CARDS for images in options.batch for weights in WEIGHTS]
    passes = {name: sorted(set().union(*(passes_of(T, card) for T in options.T))) for name, card in CARDS.items()}
    launches = [
        (layer, images, CARDS[name], weights, steps)
        for name, images, weights in cases
        for steps in passes[name]
        for layer in LAYERS
    ]
    with tqdm(compiled(launches), total=len(launches), unit="launch", leave=False, disable=None) as bar:
        kernels = dict(bar)
    kernel_rows, time_rows = [], []
    for name, images, weights in cases:
        card = CARDS[name]
        mine = {
            (layer.name, steps): kernels[layer, images, card, weights, steps]
            for layer in LAYERS
            for steps in passes[name]
        }
        about = {"card": name, "batch": images, "weights": weights}
        kernel_rows += [
            about | of_kernel(layer, mine[layer.name, steps], images, card)
            for layer in LAYERS
            for steps in passes[name]
        ]
        time_rows += [of_time(about, mine, T, rival) for T in options.T for rival in RIVALS[weights]]
    time_rows.sort(key=lambda row: ([*CARDS].index(row["card"]), row["batch"], row["T"]))
    console = Console()
    for name, title, columns, rows in (
        (
            "gpu_model_kernels",
            "a pass of the main loop: instructions of a warp, clocks by unit; a launch",
            KERNELS,
            kernel_rows,
        ),
        ("gpu_model", "modelled, not measured", TIMES, time_rows),
    ):
        printed.print_table(console, title, columns, [[str(row[column]) for column in columns] for row in rows])
        path = options.out / f"{name}.csv"
        write_csv(path, columns, rows)
        console.print(str(path), soft_wrap=True)


def of_kernel(layer, kernel, images: int, card) -> dict:
    """What a compiled kernel takes. ``step``: instructions outside the main loop, a neuron and step; of few steps all
    are issued once. And microseconds of a launch of as many steps as a pass has, by what bounds it."""
    from gpu_times.time_model import layer_seconds

    row = dict(zip(KERNELS[5:10], kernel.blocks, strict=False)) | vars(kernel.loop) | kernel.cycles(card.target)
    row |= {"steps": kernel.steps, "registers": kernel.registers, "programs": kernel.programs}
    found = {column: round(row[column]) for column in KERNELS[4:] if column in row}
    threads, currents = 32 * kernel.blocks.num_warps, kernel.steps * kernel.blocks.PIXELS * kernel.blocks.CHANNELS
    found["step"] = round((kernel.loop.turn or kernel.loop.once) * threads / currents, 1)
    seconds = layer_seconds(layer, kernel, images, kernel.steps, card)
    return {"layer": layer.name} | found | {f"{by}_us": three_digits(1e6 * s) for by, s in seconds.items()}


def of_time(about: dict, kernels: dict, T: int, rival: str) -> dict:
    """The row of a card, a batch, weights, a number of steps and a rival's precision."""
    from gpu_times import rival_model, time_model

    card, images, weights = time_model.CARDS[about["card"]], about["batch"], about["weights"]
    ours = time_model.run_ms(kernels, images, T, card, weights)
    ours["products"] = time_model.products_ms(images, T, card, weights)
    rival_ms = rival_model.run_ms(images, T, card, rival)
    row = about | {"T": T} | {f"{part}_ms": three_digits(ms) for part, ms in ours.items()}
    row["limit"] = round(rival_ms / (ours["products"] + ours["other"]), 2)
    row |= {"ms": row.pop("total_ms"), "rival": f"layers-graph-{rival}", "rival_ms": three_digits(rival_ms)}
    row |= {"ratio": round(rival_ms / ours["total"], 2), "goal": "", "met": ""}
    if weights in GOALS and rival == RIVALS[weights][0] and GOAL_OF.items() <= row.items():
        row |= {"goal": GOALS[weights], "met": "yes" if row["ratio"] >= GOALS[weights] else "no"}
    return row


def three_digits(value: float) -> float:
    return float(f"{value:.3g}")
