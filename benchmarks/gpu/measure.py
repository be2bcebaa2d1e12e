"""Everything there is to measure on the GPU at hand, in one archive: a stranger's one command.

    python benchmarks/gpu_speed.py
    python benchmarks/gpu_speed.py --weights runs/train/paper.safetensors
    python benchmarks/gpu_speed.py --dry-run    without a GPU: whether the command works, nothing is measured

1. First calls, which compile, from an empty cache.
2. Half a minute of self-check: convolutions that fill the card, 100 times each, must give the spikes of the CPU's
   kernels bit for bit (gpu/self_check.py). If they do not: where and how they differ.
3. `pytest -m gpu --quick`, ten minutes at most; and, where it is there, NVIDIA's compute-sanitizer.
4. The kernels alone: the IF scan's bytes a second beside those of a copy, the FLOPs a second of the fused 128 -> 128
   convolution beside those of a large matrix product, and in 1 to 256 steps.
5. `sim_speed.py --device cuda --net paper`: the paper's network against every rival that runs, 128 images and one, 1 to
   512 steps (with 512 chunks are replayed as CUDA graphs), hard and soft reset.
6. Training steps; where NVIDIA's ncu is there, a profile; PTX, cubin and SASS of what ran.

Nothing ends it early: what fails is named. Rows of kernels with a kind of weights whose self-check failed are marked as
not trusted. Each part is a group of processes, which is ended before the next one. What a part does is printed as it
goes. Each row is written as soon as it is measured, with its time; clocks.csv has the card's clocks and power all the
while. All that came of it is in one archive: gpu_speed.csv, sim_speed.csv, clocks.csv, junit.xml, versions.txt,
nvidia-smi.txt, log.txt, compiled, and what there was of differences-*.txt, differences-*.npz and profile.ncu-rep.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from common import printed
from common.tables import read_csv
from rich.console import Console

from gpu import children

ROOT = Path(__file__).parents[2]
COLUMNS = ["date", "commit", "device", "torch", "triton", "proxykernels", "figure", "value", "unit", "limit"]
COLUMNS += ["share", "effective", "weights", "trusted"]  # weights: of the package's kernels, where they ran
STEPS = "1,4,16,64,256,512"
NETWORKS = [["--net", "paper", "--batch", batch, "--T", STEPS] for batch in ("128", "1")]  # of sim_speed.py
NETWORKS += [["--net", "paper", "--batch", "128", "--T", "4,64", "--reset", "soft"]]
LIMITS_S = {  # compilations among them
    "first-call": 600.0, "self-check": 300.0, "tests": 600.0, "sanitizer": 900.0, "kernels": 900.0, "network": 5400.0,
    "training": 900.0, "profile": 900.0, "code": 600.0,
}  # fmt: skip
MORE_S = 60.0  # before a part is killed that should have ended by itself
PARTS = list(LIMITS_S)
CSV, COMPILED = "gpu_speed.csv", "compiled"
SAMPLE_MS, REASONS = 100, "clocks_throttle_reasons.active"  # between two looks at the clocks, and why they are low


def run(options: argparse.Namespace) -> None:
    """All parts, each in a process of its own, so that a persistent driver error ends only that process."""
    console = Console(file=sys.stdout)  # also while a dry run sends a part's output elsewhere
    console.print("looks for a GPU ...")
    import torch  # here, so that --help is quick, and something is printed at once

    if not torch.cuda.is_available():
        sys.exit("gpu_speed.py measures on a GPU, and torch finds no CUDA device here; --dry-run needs none")
    check_network(options)  # a bad option ends here, not after minutes
    device = torch.device("cuda")
    properties = torch.cuda.get_device_properties(device)
    name = torch.cuda.get_device_name(device)
    folder = options.out / f"{name.replace(' ', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    console.print(f"{name}, torch {torch.__version__}; to {folder}")
    (folder / "versions.txt").write_text(versions())
    (folder / "nvidia-smi.txt").write_text(output_of("nvidia-smi", "-q") + output_of("nvidia-smi", "topo", "-m"))
    failures: list[str] = []
    doubts = {"*": "a dry run"} if options.dry_run else {}
    with sampled(folder / "clocks.csv", f"GPU-{properties.uuid}"):
        for part in PARTS:
            console.print(f"{part} ...")
            with Progress(part, console) as progress:
                found, wrong = run_part(part, folder, doubts, options, progress)
            failures, doubts = failures + found, doubts | wrong
            console.print("\n".join(f"  {failure}" for failure in found) or "  as it should be")
    if not options.dry_run:
        print_table(name, read_csv(folder / CSV))
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    console.print(f"Failed: {'; '.join(failures)}" if failures else "All checks passed.")
    last = "A dry run: nothing was measured." if options.dry_run else "Please send us"
    console.print(f"{last} {folder}.zip", soft_wrap=True)
    sys.exit(1 if failures else 0)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, help="a file of train.py for the paper's network (default: those shipped)"
    )
    parser.add_argument("--dry-run", action="store_true", help="on a GPU that is not there, with tiny sizes")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_speed", help="where the archive goes")


def check_network(options: argparse.Namespace) -> None:
    from speed.options import parse
    from speed.prepare import prepare

    for network in networks(options.weights, options.out):
        prepare(parse(network))


def networks(weights: Path | None, out: Path) -> list[list[str]]:
    """The arguments of sim_speed.py, for each of its runs."""
    common = ["--device", "cuda", "--out", str(out)]
    common += ["--int16", "--int8", *(["--weights", str(weights)] if weights else [])]
    return [common + network for network in NETWORKS]


def run_part(
    part: str, folder: Path, doubts: dict[str, str], options: argparse.Namespace, progress: "Progress"
) -> tuple[list[str], dict[str, str]]:
    """What is wrong after a part of PARTS, in words, and with which weights of the kernels; its output is added to
    log.txt. ``doubts``: weights -> what was wrong with them before; "*": with all."""
    arguments = ["part", part, "--folder", str(folder), "--doubts", json.dumps(doubts)]
    arguments += ["--weights", str(options.weights)] if options.weights else []
    try:
        status = in_child(arguments, folder / "log.txt", LIMITS_S[part] + MORE_S, progress)
    except subprocess.TimeoutExpired:
        return [f"{part} took more than {LIMITS_S[part] + MORE_S:.0f} s"], {}
    checks = [row for row in read_csv(folder / CSV) if row["figure"].startswith("self-check") and part == "self-check"]
    wrong = {
        row["figure"].removeprefix("self-check, "): f"{row['figure']}: wrong in {row['value']} {row['unit']}"
        for row in checks
        if float(row["value"]) > 0
    }
    return [*wrong.values()] + ([f"{part} ended with status {status} (log.txt)"] if status and not wrong else []), wrong


class Progress:
    """In its block, prints the lines of a part that begin with NOW, and where there are none for SILENT_S, that it goes
    on."""

    NOW, SILENT_S = "now: ", 30.0

    def __init__(self, part: str, console: Console):
        self.part, self.console = part, console
        self.start = self.printed = time.monotonic()
        self.last, self.ended = part, threading.Event()

    def __enter__(self) -> "Progress":
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.ended.set()
        self.thread.join()

    def lines(self, lines: list[str]) -> None:
        """New lines of the part's output."""
        for line in lines:
            if line.startswith(self.NOW):
                self.last = line.removeprefix(self.NOW)
                self._print(self.last)

    def _beat(self) -> None:
        while not self.ended.wait(self.SILENT_S / 30):
            if time.monotonic() - self.printed > self.SILENT_S:
                self._print(f"still going on, after: {self.last}")

    def _print(self, text: str) -> None:
        self.printed = time.monotonic()
        self.console.print(f"  {self.printed - self.start:4.0f} s  {text}", soft_wrap=True, highlight=False)


def now(text: str) -> None:
    """Says in a part what it does, for :class:`Progress`."""
    print(Progress.NOW + text, flush=True)


def in_child(arguments: list[str], log: Path, limit_s: float, progress: Progress) -> int:
    """The exit status of gpu_speed.py with ``arguments``, in a group of processes of its own. What Triton compiles goes
    into the archive, except that of the tests, which is large."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_speed.py"), *arguments]
    settings = {} if "tests" in arguments else {"TRITON_CACHE_DIR": str(log.parent / COMPILED)}
    return children.run(command, log, limit_s, settings, progress.lines)


@contextmanager
def sampled(path: Path, uuid: str) -> Iterator[None]:
    """Have nvidia-smi, where it is, write clocks, power and temperature of a card to ``path`` during the block."""
    query = ",".join(("timestamp", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", REASONS))
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,nounits", f"--id={uuid}", f"--loop-ms={SAMPLE_MS}"]
    with path.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file) if shutil.which("nvidia-smi") else None
        try:
            yield
        finally:
            if child is not None:
                child.terminate()
                child.wait()


def versions() -> str:
    """The versions of all software involved, and the commit."""
    from common.checkout import commit
    from torch.utils.collect_env import get_pretty_env_info

    try:
        import triton

        ptxas = output_of(triton.knobs.nvidia.ptxas.path, "--version")
    except Exception as error:  # no Triton, or one without it: the archive says so
        ptxas = f"{type(error).__name__}: {error}"
    return f"commit: {commit()}\n\n{ptxas}\n{get_pretty_env_info()}\n"


def output_of(*command: str) -> str:
    """What a command prints, or why there is nothing."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]}\n"
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C"}).stdout


def print_table(device: str, rows: list[dict]) -> None:
    shown = ["figure", "value", "unit", "limit", "share", "effective", "trusted"]
    lines = [[row[name] for name in shown[:-1]] + [row["trusted"].partition(":")[0]] for row in rows]
    printed.print_table(Console(), device, ["", "measured", "", "of", *shown[4:]], lines)
