"""A part of what measure.py measures, in a process of its own, which measure.py starts:

python benchmarks/gpu_speed.py part kernels --folder runs/gpu_speed/H100-SXM-20261128
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import triton
from common.checkout import commit
from common.tables import read_csv, write_csv

import proxykernels
from gpu import first_call, kernel_speed, self_check, timing, tools, training_speed
from gpu.measure import COLUMNS, COMPILED, CSV, LIMITS_S, PARTS, ROOT, networks, now

SIZES = kernel_speed.Sizes()
ONCE = "once"  # a part of parts: what NVIDIA's tools look at


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", choices=[*PARTS, ONCE])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--doubts", type=json.loads, default={}, help="kind of weights -> what is wrong, as JSON")
    parser.add_argument("--weights", type=Path)


def run(options: argparse.Namespace) -> None:
    parts = {"first-call": time_first_calls, "self-check": check_itself, "tests": run_tests, "kernels": time_kernels}
    parts |= {"network": time_network, "training": time_training, "code": collect_code, ONCE: run_once}
    parts |= dict.fromkeys(tools.COMMANDS, look_with_a_tool)
    parts[options.part](options)


def time_first_calls(options: argparse.Namespace) -> None:
    add = writer(options)
    for row in first_call.rows(torch.device("cuda"), SIZES.net, SIZES.T):
        add(row)


def check_itself(options: argparse.Namespace) -> None:
    add = writer(options)
    wrong = 0
    for check in self_check.checks(torch.device("cuda"), SIZES.conv, SIZES.repeats):
        add({"figure": f"self-check, {check.weights}", "value": check.wrong, "unit": f"of {check.repeats} runs"})
        print(check, flush=True)
        if check.found is not None:
            path = options.folder / f"differences-{check.weights}"
            path.with_suffix(".txt").write_text(f"{check}\n{check.found.text}\n")
            np.savez_compressed(path.with_suffix(".npz"), **check.found.words)
        wrong += check.wrong
    sys.exit(1 if wrong else 0)


def run_tests(options: argparse.Namespace) -> None:
    junit = options.folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--quick", f"--junitxml={junit}"]
    try:
        sys.exit(subprocess.run(command, cwd=ROOT, timeout=LIMITS_S["tests"]).returncode)
    except subprocess.TimeoutExpired:
        sys.exit(f"the tests took more than {LIMITS_S['tests']:.0f} s")


def look_with_a_tool(options: argparse.Namespace) -> None:
    """compute-sanitizer or ncu on :func:`run_once`."""
    tool = tools.command(options.part, options.folder)
    if tool is None:
        print(f"no {tools.COMMANDS[options.part][0]} here: no {options.part}")
        return
    once = [sys.executable, str(ROOT / "benchmarks" / "gpu_speed.py"), "part", ONCE]
    once += ["--folder", str(options.folder)]
    sys.exit(subprocess.run([*tool, *once], cwd=ROOT).returncode)


def run_once(options: argparse.Namespace) -> None:
    for kind in tools.once(torch.device("cuda"), SIZES.once):
        print(kind, flush=True)


def collect_code(options: argparse.Namespace) -> None:
    print(f"{tools.collect(options.folder / COMPILED)} kernels in {COMPILED}")


def time_training(options: argparse.Namespace) -> None:
    add = writer(options)
    for row in training_speed.rows(torch.device("cuda"), SIZES.net, SIZES.batch, SIZES.few, timing.milliseconds):
        add(row)


def time_kernels(options: argparse.Namespace) -> None:
    add = writer(options)
    for row in kernel_speed.kernels(torch.device("cuda"), SIZES, timing.milliseconds):
        add(row)


def time_network(options: argparse.Namespace) -> None:
    """sim_speed.py writes its own table; its times are rows here too, where it is said whether to trust them."""
    from speed import report, sim_table
    from speed.options import parse

    add, path = writer(options), options.folder / "sim_speed.csv"
    weights = {report.OURS: "float32", report.DROP_IN: "float32"}
    weights |= {name: name.removeprefix(f"{report.OURS} ") for name in report.ROUNDED}
    for network in networks(options.weights, options.folder):
        before = len(read_csv(path))
        try:
            sim_table.run(parse(network), now)
        finally:
            for row in read_csv(path)[before:]:
                name = f"{row['net']} net, batch {row['batch']}, T = {row['T']}: {row['contender']}"
                ms = float(row["median_ms_per_image"]) * int(row["batch"])
                kind = weights.get(row["contender"], "")
                add({"figure": name, "value": f"{ms:.4g}", "unit": "ms", "weights": kind})


def writer(options: argparse.Namespace) -> Callable[[dict], None]:
    """A function that adds a row to the folder's table, with what all rows have."""
    about = {
        "commit": commit(),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "proxykernels": proxykernels.__version__,
    }
    path = options.folder / CSV

    def add(row: dict) -> None:
        wrong = options.doubts.get("*") or options.doubts.get(row.get("weights", ""))
        about["trusted"] = f"no: {wrong}" if wrong else "yes"
        about["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_csv(path, COLUMNS, [*read_csv(path), dict.fromkeys(COLUMNS, "") | about | row])
        now(f"{row['figure']}: {row['value']} {row['unit']}")

    return add
