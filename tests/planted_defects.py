"""Do the tests notice? Plants defects in a copy of the checkout, one at a time, and runs the tests on each.

    python tests/planted_defects.py [NAME ...] [--options "PYTEST OPTIONS"]

One defect for each family of kernels and one for each layer of the house (planted/), each of the kind that slips in: an
edge, a missing state, a wrong order. A defect that no test notices is printed, and the exit status is 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from planted import cpu_kernels, engines, gpu_kernels, layers_and_networks, sigma_delta
from planted.defect import Defect

ROOT = Path(__file__).resolve().parent.parent

DEFECTS: dict[str, Defect] = (
    cpu_kernels.DEFECTS | engines.DEFECTS | sigma_delta.DEFECTS | gpu_kernels.DEFECTS | layers_and_networks.DEFECTS
)


def noticed(defect: Defect, options: list[str]) -> tuple[bool, str]:
    """Whether the tests fail on a copy with the defect, and the line that says which one did."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__"))
        source = copy / defect.file
        text = source.read_text()
        if text.count(defect.old) < 1:
            raise ValueError(f"{defect.file} does not hold {defect.old!r} any more; adapt tests/planted")
        source.write_text(text.replace(defect.old, defect.new, 1))
        if source.suffix in (".h", ".cpp"):
            subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=copy, check=True,
                           capture_output=True)  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *options,
            *defect.tests.split(),
        ]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 1, 2, 5):
        raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
    failed = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return done.returncode not in (0, 5), failed or f"the tests ended with status {done.returncode}"  # 5: none ran


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of defects (default: all)")
    parser.add_argument("--options", default="--quick", help="of pytest (default: --quick)")
    chosen = parser.parse_args()
    missed = 0
    for name, defect in DEFECTS.items():
        if chosen.names and not any(part in name for part in chosen.names):
            continue
        start = time.perf_counter()
        found, line = noticed(defect, chosen.options.split())
        missed += not found
        print(f"{'noticed' if found else 'MISSED '} {time.perf_counter() - start:5.0f} s  {name}: {line}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
