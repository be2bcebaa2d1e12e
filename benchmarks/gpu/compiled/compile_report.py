"""Compile every Triton kernel, with no GPU, and print what each takes.

    python benchmarks/gpu_speed.py compile
    python benchmarks/gpu_speed.py compile --all

For NVIDIA's sm_75, 80, 86, 87, 89, 90, 100, 103 and 120 and AMD's gfx90a, gfx942, gfx950, gfx1100 and gfx1201:
registers, spills, shared memory, tensor-core instructions, layout conversions, and instructions that mix the steps of
spikes. Without --all of each kernel the most important variants. Writes compile_report.csv, where the rows of other
versions of Triton stay. Ends with status 1, naming the variants, if one does not compile, spills registers in its main
loop (or many elsewhere), needs more shared memory than its target has, multiplies without tensor cores, mixes steps, or
stores every block of a pipelined loop in one slot; on sm_80, 87, 89 and 90 also if a multiprocessor holds one program
only, or a main loop is longer than it was. The compilation runs in a child process without Triton's interpreter, so
TRITON_INTERPRET may be set or not.
"""

import argparse
import sys
from importlib.util import find_spec

from common import printed
from common.printed import add_out
from common.tables import read_csv, write_csv
from rich.console import Console
from tqdm import tqdm

from gpu.compiled.compile_variants import compile_in_child, faults
from gpu.compiled.variants import QUICK, VARIANTS

MEASURES = ["registers", "spilled", "loop_spills", "shared", "tensor_core", "layout_conversions", "mixed_steps"]
COLUMNS = ["kernel", "variant", "target", *MEASURES, "note", "triton"]


def run(options: argparse.Namespace) -> None:
    if find_spec("triton") is None:
        sys.exit("compiling the Triton kernels needs: pip install triton")
    variants = VARIANTS if options.all else QUICK
    try:
        with tqdm(compile_in_child(variants), total=len(variants), unit="variant", leave=False, disable=None) as bar:
            records = list(bar)
    except RuntimeError as error:
        sys.exit(str(error))
    rows, console = [to_row(record) for record in records], Console()
    for target in dict.fromkeys(row["target"] for row in rows):
        mine = [row for row in rows if row["target"] == target]
        lines = [[f"{row['kernel']}/{row['variant']}", *(str(row[name]) for name in COLUMNS[3:-1])] for row in mine]
        printed.print_table(console, f"{target}, Triton {rows[0]['triton']}", ["", *COLUMNS[3:-1]], lines)
    path = options.out / "compile_report.csv"
    others = [row for row in read_csv(path) if row["triton"] != rows[0]["triton"]]
    try:
        write_csv(path, COLUMNS, others + rows)
    except OSError as error:
        sys.exit(f"cannot write {path}: {error.strerror}")
    console.print(str(path), soft_wrap=True)
    at_fault = {record["variant"]: faults(record) for record in records if faults(record)}
    if at_fault:
        lines = "\n".join(f"  {variant}: {'; '.join(found)}" for variant, found in at_fault.items())
        sys.exit(f"{len(at_fault)} of {len(records)} variants at fault:\n{lines}")
    compiled = sum("absent" not in record for record in records)
    console.print(f"{compiled} variants compiled: no spills in a main loop, and tensor cores in every product.")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"{len(VARIANTS)} variants, in place of {len(QUICK)}")
    add_out(parser, "the CSV")


def to_row(record: dict) -> dict:
    """The record as a row of the CSV file: ``note`` is why there are no figures, or what is wrong with them."""
    kernel, target, rest = record["variant"].split("/", 2)
    row = {"kernel": kernel, "variant": rest, "target": target, "triton": record["triton"]}
    row |= {measure: "" if record.get(measure) is None else record[measure] for measure in MEASURES}
    return row | {"note": record.get("absent") or "; ".join(faults(record))}
