"""Everything there is to measure on the GPU at hand, in one archive: a stranger's one command.

    python benchmarks/gpu_speed.py
    python benchmarks/gpu_speed.py --weights runs/train/paper.safetensors

1. Half a minute of self-check: convolutions that fill the card, 100 times each, must give the spikes of the CPU's
   kernels bit for bit (gpu/self_check.py).
2. `pytest -m gpu --quick`, ten minutes at most.
3. The kernels alone: the IF scan's bytes a second beside those of a copy, the FLOPs a second of the fused 128 -> 128
   convolution beside those of a large matrix product, and what gpu/time_model.py predicts where it knows the card.
4. `sim_speed.py --device cuda --net paper --batch 128 --T 64,512`: the paper's network against every rival that runs;
   512 steps, because only then chunks are replayed as CUDA graphs. Then one image, 64 and 512 steps.

Nothing ends it early: what fails is named, and rows that were measured after a failure are marked as not trusted. Each
row is written as soon as it is measured, with the card's clock and power. All that came of it is in one archive:
gpu_speed.csv, sim_speed.csv, clocks.csv, junit.xml, versions.txt, nvidia-smi.txt and log.txt.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common import printed
from common.tables import read_csv
from rich.console import Console

from gpu import cards

ROOT = Path(__file__).parents[2]
COLUMNS = ["date", "commit", "device", "card", "torch", "triton", "proxykernels", "figure", "value", "unit", "limit"]
COLUMNS += ["share", "effective", "predicted", "sm_mhz", "watts", "trusted"]
NETWORKS = [["--net", "paper", "--batch", batch, "--T", "64,512"] for batch in ("128", "1")]  # of sim_speed.py
LIMITS_S = {"self-check": 300.0, "tests": 600.0, "kernels": 900.0, "network": 3600.0}  # compilations among them
PARTS = list(LIMITS_S)
CSV = "gpu_speed.csv"


def run(options: argparse.Namespace) -> None:
    """All parts, each in a process of its own: an error that the driver keeps ends that process alone."""
    import torch  # here, so that --help is quick

    if not torch.cuda.is_available():
        sys.exit("gpu_speed.py measures on a GPU, and torch finds no CUDA device here; `gpu_speed.py model` needs none")
    check_network(options)  # a bad option ends here, not after minutes
    device = torch.device("cuda")
    properties = torch.cuda.get_device_properties(device)
    name = torch.cuda.get_device_name(device)
    card = cards.known(name, properties.multi_processor_count)
    folder = options.out / f"{(card or name).replace(' ', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    console = Console()
    console.print(f"{name} ({card or 'no card that the model knows'}), torch {torch.__version__}; to {folder}")
    (folder / "versions.txt").write_text(versions(name, card))
    (folder / "nvidia-smi.txt").write_text(output_of("nvidia-smi", "-q") + output_of("nvidia-smi", "topo", "-m"))
    failures: list[str] = []
    with cards.sampled(folder / "clocks.csv", f"GPU-{properties.uuid}"):
        for part in PARTS:
            console.print(f"{part} ...")
            failures += run_part(part, folder, failures, options)
            console.print("\n".join(f"  {failure}" for failure in failures) or "  as it should be")
    print_table(name, read_csv(folder / CSV))
    archive = pack(folder)
    console.print(f"Not trusted: {'; '.join(failures)}" if failures else "All checks passed.")
    console.print(f"Please send us {archive}", soft_wrap=True)
    sys.exit(1 if failures else 0)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, help="a file of train.py for the paper's network (default: those shipped)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_speed", help="where the archive goes")


def check_network(options: argparse.Namespace) -> None:
    from speed.options import prepare

    for network in networks(options.weights, options.out):
        prepare(network)


def networks(weights: Path | None, out: Path) -> list[list[str]]:
    """The arguments of sim_speed.py, for each of its runs."""
    common = ["--device", "cuda", "--out", str(out)]
    common += ["--int16", "--int8", *(["--weights", str(weights)] if weights else [])]
    return [common + network for network in NETWORKS]


def run_part(part: str, folder: Path, failures: list[str], options: argparse.Namespace) -> list[str]:
    """What is wrong after a part of PARTS, in words; its output is added to log.txt."""
    arguments = [
        "part",
        part,
        "--folder",
        str(folder),
        "--trusted",
        "no: " + "; ".join(failures) if failures else "yes",
    ]
    arguments += ["--weights", str(options.weights)] if options.weights else []
    try:
        status = in_child(arguments, folder / "log.txt", LIMITS_S[part])
    except subprocess.TimeoutExpired:
        return [f"{part} took more than {LIMITS_S[part]:.0f} s"]
    wrong = [f"{row['figure']}: wrong in {row['value']} {row['unit']}" for row in self_checks(folder) if wrong_in(row)]
    found = wrong if part == "self-check" else []
    return found + ([f"{part} ended with status {status} (log.txt)"] if status and not found else [])


def in_child(arguments: list[str], log: Path, limit_s: float) -> int:
    """The exit status of gpu_speed.py with ``arguments``, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_speed.py"), *arguments]
    with log.open("a") as file:
        return subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=limit_s).returncode


def self_checks(folder: Path) -> list[dict[str, str]]:
    return [row for row in read_csv(folder / CSV) if row["figure"].startswith("self-check")]


def wrong_in(row: dict[str, str]) -> bool:
    return float(row["value"]) > 0


# What is known of the machine


def versions(name: str, card: str) -> str:
    import torch
    from common.checkout import commit

    lines = {
        "device": name,
        "card": card or "unknown to the model",
        "commit": commit(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "triton": version_of("triton"),
        "spikingjelly": version_of("spikingjelly"),
        "driver": output_of("nvidia-smi", "--query-gpu=name,driver_version,power.limit,pci.bus_id", "--format=csv"),
        "ptxas": ptxas(),
        "gcc": output_of("gcc", "--version"),
    }
    return "".join(f"{key}: {text.strip()}\n" for key, text in lines.items())


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def ptxas() -> str:
    """The version of the assembler that Triton carries."""
    try:
        import triton

        return output_of(triton.knobs.nvidia.ptxas.path, "--version")
    except Exception as error:  # no Triton, or one without it: the archive says so
        return f"{type(error).__name__}: {error}"


def output_of(*command: str) -> str:
    """What a command prints, or why there is nothing."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]}\n"
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"LC_ALL": "C"}).stdout


def pack(folder: Path) -> Path:
    """The folder's archive, beside it."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{folder.name}/{path.name}")
    return archive


def print_table(device: str, rows: list[dict]) -> None:
    shown = ["limit", "share", "effective", "predicted", "sm_mhz", "watts", "trusted"]
    lines = [
        [
            row["figure"],
            f"{row['value']} {row['unit']}",
            *(row[name][: 3 if name == "trusted" else None] for name in shown),
        ]
        for row in rows
    ]
    printed.print_table(Console(), device, ["", "measured", "of", *shown[1:]], lines)
