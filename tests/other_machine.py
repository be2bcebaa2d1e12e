"""The CPU kernels on a processor that is not here: compiled for it, and run under an emulator against plain loops.

    python tests/other_machine.py --compiler aarch64-linux-gnu-g++ --emulator "qemu-aarch64 -L /usr/aarch64-linux-gnu"
    python tests/other_machine.py                       # this machine's own compiler, no emulator

The cases and the loops are in cpu/other_machine.cpp, which knows nothing of torch; on this machine the same program is
part of the tests, so its loops are known to agree with the oracle's. (On Debian: apt-get install g++-aarch64-linux-gnu
qemu-user.)
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from proxykernels.kernels.cpu import sources

PROGRAM = Path(__file__).parent / "cpu" / "other_machine.cpp"


def build(folder: str | Path, compiler: str = "c++") -> Path:
    """Compile the kernels and the program for the compiler's processor; returns the program."""
    program = Path(folder, "other_machine")
    flags = [*sources.FLAGS, *sources.OPENMP[0][0], "-static-libstdc++"]
    flags += [f"-I{sources.FOLDER}", "-DPK_TARGET=portable", "-pthread"]
    names = "cost_model", *sources.KERNELS, *sources.TASKS, *sources.ENGINE
    files = [*(str(sources.FOLDER / f"{name}.cpp") for name in names), str(PROGRAM)]
    subprocess.run([*shlex.split(compiler), *flags, *files, "-o", str(program)], check=True)
    return program


def run(program: Path, emulator: str = "", seed: int = 0, cases: int = 700) -> subprocess.CompletedProcess:
    """Run so many cases; the text that the program prints, and its exit status."""
    command = [*shlex.split(emulator), str(program), str(seed), str(cases)]
    return subprocess.run(command, capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="c++")
    parser.add_argument("--emulator", default="", help="command in front of the program (default: none)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=7000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = run(build(folder, options.compiler), options.emulator, options.seed, options.cases)
    print(done.stdout + done.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
