"""The C++ kernels and engine with every access to memory checked: AddressSanitizer, UBSan, assertions, exact sizes.

    python tests/checked_build.py COMMAND...        builds, then runs a command on that build, for instance
    python tests/checked_build.py python -m pytest tests/cpu
    python tests/checked_build.py --emulate-tiles python -m pytest tests/cpu         no checks, at full speed

The first access outside an allocation, overflow of a signed number or broken assertion ends the command with a report
of where it was. In both builds matrix tiles (AMX) are emulated: their kernel runs on any machine with AVX-512, which
chooses as one that has them does. PROXYKERNELS_CPU=avx2 in the environment makes of it one that has AVX2 alone.
Threads: GCC's ThreadSanitizer does not know OpenMP's barriers, so it cannot tell a race from none. In its place,

    OMP_NUM_THREADS=8 python tests/checked_build.py python -m pytest tests/cpu/test_exactness.py

cuts each kernel's work for 1 to 8 threads, into spans of channels and bands of rows: a task that wrote to another's
spikes or potentials, or read scratch memory that it has not written (new memory is 0xbe), would change a result.
From Python: ``build_checked(folder)``, then ``subprocess.run(command, env=environment(folder))``; in that process
``import proxykernels`` takes the checked package. Needs GCC and Linux.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The sanitizers come before all others; libstdc++ too, since theirs of C++ exceptions looks for it when it starts.
PRELOADED = ("libasan.so", "libubsan.so", "libstdc++.so.6")


def build_checked(folder: str | Path, kind: str = "--checked", target: str | None = None) -> None:
    """Build the package in ``folder``.

    ``kind``: "--checked" or "--emulate-tiles", which only emulates matrix tiles. ``target``: the only instruction set;
    None: all.
    """
    package = Path(folder, "package")
    shutil.rmtree(package, ignore_errors=True)  # of a former build
    options = ["--build-lib", str(package), "--build-temp", str(Path(folder, "objects"))]
    command = [sys.executable, "setup.py", "-q", "build_py", *options[:2], "build_ext", *options, kind]
    command += [] if target is None else ["--target", target]
    subprocess.run(command, cwd=ROOT, check=True)
    libraries = list(package.rglob("_kernels.*"))
    if len(libraries) != 1:
        raise RuntimeError(f"the checked build made {len(libraries)} libraries")


def environment(folder: str | Path, kind: str = "--checked") -> dict[str, str]:
    """The environment of a process that runs on the build in ``folder``."""
    package = {
        "PYTHONPATH": str(Path(folder, "package").resolve()),
        "PYTHONSAFEPATH": "1",  # `python -m` would put the checkout, and its own library, first
    }
    if kind == "--emulate-tiles":
        return {**os.environ, **package}
    find = (subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip() for name in PRELOADED)
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(find),
        # Python and torch keep memory until the process ends. New memory, all of it, is filled with 0xbe.
        "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1000000000",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        **package,
    }


def main(command: list[str], kind: str, target: str | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        build_checked(folder, kind, target)
        return subprocess.run(command, env=environment(folder, kind)).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulate-tiles", action="store_true", help="no checks: only matrix tiles are emulated")
    parser.add_argument("--target", help="the only instruction set, such as amx or avx2 (default: all)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="runs on the build")
    options = parser.parse_args()
    kind = "--emulate-tiles" if options.emulate_tiles else "--checked"
    sys.exit(
        main(options.command or parser.error("COMMAND is missing: what to run on the build"), kind, options.target)
    )
