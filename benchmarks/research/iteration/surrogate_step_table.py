"""One training step by backpropagation through time, of each contender: the work of surrogate_step.py."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from common import nets, tables
from common.checkout import commit
from common.command import refusing
from common.data import shipped_images
from common.machine import device_name, heading
from common.memory import PeakMemory

from iteration.surrogate_models import CONTENDERS

COMMAND = str(Path(__file__).parents[1] / "train_iteration.py")
COLUMNS = [
    "date", "commit", "net", "batch", "T", "contender", "wall_s", "cpu_s", "cpu_spread_s", "peak_mb", "rounds",
    "times_slower_cpu", "times_memory", "output_spikes", "gradient_difference", "device", "threads", "torch",
]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    options.threads = options.threads or torch.get_num_threads()
    if options.alone:
        print(json.dumps(run_alone(options, options.alone)))
        return
    with refusing("train_iteration.py surrogate"):
        shipped_images(options.batch)
        tables.check_out(options.out, {"surrogate_step.csv": COLUMNS})
    table = options.out / "surrogate_step.csv"
    print(heading("small net", f"{options.batch} Fashion-MNIST images, T = {options.T}", table))
    rows: list[dict] = []
    for name in options.contenders:
        found = in_a_process(options, name)
        if "error" in found:
            print(f"{name} is left out: {found['error']}", file=sys.stderr)
            continue
        rows.append(common_columns(options) | compared(found | {"contender": name}, rows[0] if rows else None))
        row = rows[-1]
        print(
            f"{name}: {row['wall_s']} s, CPU {row['cpu_s']} s ({row['times_slower_cpu']} times "
            f"{rows[0]['contender']}), {row['peak_mb']} MB ({row['times_memory']} times)",
            flush=True,
        )
    for row in rows:
        row.pop("gradient")
    tables.write_csv(table, COLUMNS, tables.read_csv(table) + rows)


def in_a_process(options: argparse.Namespace, name: str) -> dict:
    """What ``run_alone`` finds, or the last line of what went wrong."""
    given = [f"--{key}={getattr(options, key)}" for key in ("batch", "T", "rounds", "threads")]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        [sys.executable, COMMAND, "surrogate", "--alone", name, *given],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def run_alone(options: argparse.Namespace, name: str) -> dict:
    """Times, peak memory, output spikes and the gradient of the last layer's bias of one contender."""
    torch.set_num_threads(options.threads)
    net, _ = nets.load("small", 0.0)
    images, labels = shipped_images(options.batch)
    images = images.contiguous(memory_format=torch.channels_last)
    target, model = 5.0 * F.one_hot(labels, 10), CONTENDERS[name](net, images, options.T)
    parameters = list(model.parameters())
    walls, cpus = [], []
    with PeakMemory(torch.device("cpu")) as memory:
        for _ in range(1 + options.rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            counts = model(images)
            gradients = torch.autograd.grad(F.mse_loss(counts, target), parameters)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return {
        "wall_s": statistics.median(walls[1:]),
        "cpu_s": statistics.median(cpus[1:]),
        "cpu_spread_s": max(cpus[1:]) - min(cpus[1:]),
        "peak_mb": None if memory.growth_bytes is None else memory.growth_bytes / 2**20,
        "output_spikes": counts.sum().item(),
        "gradient": gradients[0].flatten().tolist(),
    }


def compared(found: dict, first: dict | None) -> dict:
    """A contender's figures, and how many times the first one's they are."""
    first = found if first is None else first
    ours, theirs = torch.tensor(first["gradient"]), torch.tensor(found["gradient"])
    memory = found["peak_mb"]
    return {
        "contender": found["contender"], "gradient": found["gradient"],
        "wall_s": f"{found['wall_s']:.2f}", "cpu_s": f"{found['cpu_s']:.2f}",
        "cpu_spread_s": f"{found['cpu_spread_s']:.2f}",
        "peak_mb": "" if memory is None else f"{memory:.0f}",
        "times_slower_cpu": f"{found['cpu_s'] / float(first['cpu_s']):.2f}",
        "times_memory": "" if memory is None else f"{memory / float(first['peak_mb']):.2f}",
        "output_spikes": int(found["output_spikes"]),
        "gradient_difference": f"{((ours - theirs).abs().max() / ours.abs().max()).item():.1e}",
    }  # fmt: skip


def common_columns(options: argparse.Namespace) -> dict:
    """The columns that all rows of this run share."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "net": "small",
        "batch": options.batch, "T": options.T, "rounds": options.rounds,
        "device": device_name(torch.device("cpu")), "threads": options.threads, "torch": torch.__version__,
    }  # fmt: skip
