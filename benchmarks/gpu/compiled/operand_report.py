"""Read which numbers the convolutions of each GPU and each Triton pack, with no GPU.

    python benchmarks/gpu_speed.py operands
    python benchmarks/gpu_speed.py operands --triton 3.6.0 --target sm_90

The short code that expands spikes (kernels/gpu/spike_operands.py) is right only where a thread packs inputs of one
step. It is compiled as far as layouts are chosen, for convolutions of all block sizes; counted are the instructions
that need such a layout, and those that have it. kernels/gpu/block_sizes.py lists the pairs of GPU and Triton where all
have it. Writes spike_operands.csv, where other rows stay. Ends with status 1 if that list differs.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from common.printed import add_out
from common.tables import read_csv, write_csv
from rich.console import Console

from gpu.compiled import compile_variants, operand_layouts
from gpu.compiled.tritons import FOLDER, TRITONS, environment, installed
from gpu.compiled.variants import PRODUCTS, is_launched, output_and_steps

TARGETS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121")
COLUMNS = ["triton", "target", "convolutions", "packed", "of_one_step", "code", "other_layout"]
SHORT, ANY = "short", "any layout"


def run(options: argparse.Namespace) -> None:
    from proxykernels.kernels.gpu.block_sizes import is_of_one_step

    path, console, wrong = options.out / "spike_operands.csv", Console(), []
    for version in options.triton or TRITONS:
        triton = installed(version, options.folder)
        for target in options.target or TARGETS:
            row = to_row(version, target, list(read_in_child(target, triton, options.folder / "cache" / version)))
            others = [other for other in read_csv(path) if (other["triton"], other["target"]) != (version, target)]
            write_csv(path, COLUMNS, sorted([*others, row], key=place))
            console.print(f"Triton {version}, {target}: {row['of_one_step']} of {row['packed']} are of one step")
            if (row["code"] == SHORT) != is_of_one_step(target, version):
                wrong.append(f"{target} with Triton {version}: {row['code']}")
    console.print(str(path), soft_wrap=True)
    if wrong:
        sys.exit("kernels/gpu/block_sizes.py says otherwise of " + "; ".join(wrong))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--triton", choices=TRITONS, action="append", help="only this one; may be given again")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be given again")
    add_out(parser, "the CSV")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of other Tritons (default: %(default)s)")


def read_in_child(target: str, triton: Path | None, cache: Path) -> Iterator[dict]:
    """:func:`read` for all of a target's convolutions, in a process with the Triton of a folder."""
    command = [sys.executable, "-m", "gpu.compiled.operand_report", target]
    with subprocess.Popen(command, env=environment(triton, cache), stdout=subprocess.PIPE, text=True) as child:
        yield from map(json.loads, child.stdout)
    if child.returncode:
        raise RuntimeError(f"compiling for {target} ended with status {child.returncode}")


def to_row(version: str, target: str, records: list[dict]) -> dict:
    """A row of the table. ``code``: which one is right, the short one or that for any layout."""
    if any(record["triton"] != version for record in records):
        raise RuntimeError(f"Triton {version} was asked for, and {records[0]['triton']} compiled")
    packed, mixed = sum(record["packed"] for record in records), [one for record in records for one in record["mixed"]]
    return {
        "triton": version,
        "target": target,
        "convolutions": len(records),
        "packed": packed,
        "of_one_step": packed - len(mixed),
        "code": SHORT if packed and not mixed else ANY,
        "other_layout": next(iter(mixed), ""),
    }


def place(row: dict) -> tuple[int, int]:
    """The sort key of a row of the table."""
    return TRITONS.index(row["triton"]), TARGETS.index(row["target"])


# Pixels, input and output channels, and output: the largest blocks at 32, 16 and 4 steps, and the smallest ones.
LAYERS = (
    *((100352, 128, 128, output) for output in ("words", "words-16", "words-4")),
    *((1, 128, 32, output) for output in ("words", "words-4")),
    (1, 3, 16, "words"),
)


def convolutions(target: str) -> list[str]:
    """1 x 1 convolutions of each product that a target has, with its largest and its smallest operands."""
    return [
        f"{pixels}-{C}-{C_out}-1-1/{products}/hard/{output}"
        for products in PRODUCTS
        for pixels, C, C_out, output in LAYERS
        if is_launched(target, products, output_and_steps(output)[1])
    ]


def read(target: str, convolution: str) -> dict:
    """What operand_layouts.py reads of a target's convolution, if it had the short code."""
    import triton

    source, options = compile_variants.convolution(target, *convolution.split("/"), ONE_STEP=True)
    found = {"target": target, "convolution": convolution, "triton": triton.__version__}
    return found | operand_layouts.operands(compile_variants.gpu_ir(target, source, options))


if __name__ == "__main__":  # the child process of read_in_child
    for convolution in convolutions(sys.argv[1]):
        print(json.dumps(read(sys.argv[1], convolution)), flush=True)
