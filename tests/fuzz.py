"""Random cases of everything the library computes on a CPU, bit for bit against the oracle, until one is wrong.

    python tests/fuzz.py                          two minutes
    python tests/fuzz.py --seconds 3600           an hour
    python tests/fuzz.py --cases 10000            so many cases
    python tests/fuzz.py --only convolutions      one kind; the table at the end names them all
    python tests/fuzz.py --checked                on a build with AddressSanitizer and UBSan (checked_build.py)
    python tests/fuzz.py --seed 7                 the seed is printed first; the same seed draws the same cases
    python tests/fuzz.py --seed 7 --case 1234     one of them, again

Every case takes one instruction set, and one kernel where that can be forced; the table counts what was really
executed, and in a long run a kernel that never ran is a failure. A case that is wrong, crashes or hangs is shrunk and
printed as Python. The exit code is 1 then.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from random import SystemRandom

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # small cases: threads that spin take the cores from each other
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # python -P leaves it out

COMPLETE = 3000  # cases after which every kernel must have run


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.checked:
        return _run_checked(sys.argv[1:] if arguments is None else arguments)
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if options.case is not None:
        numbers, seconds = range(options.case, options.case + 1), None
    elif options.cases:
        numbers, seconds = range(options.cases), None
    else:
        numbers, seconds = range(1 << 60), options.seconds
    return _search(seed, options.only, numbers, seconds)


def _parser() -> argparse.ArgumentParser:
    from fuzzing.kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=120, help="how long to look (default 120)")
    length.add_argument("--cases", type=int, help="how many cases to run instead")
    length.add_argument("--case", type=int, help="the number of the one case to run")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--only", choices=KINDS, help="one kind of case")
    parser.add_argument("--checked", action="store_true", help="on a build with sanitizers")
    return parser


def _search(seed: int, only: str | None, numbers: range, seconds: float | None) -> int:
    from fuzzing import kinds, report, runner, ways
    from tqdm import tqdm

    warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
    total = len(numbers) if seconds is None else None
    with tqdm(total=total, unit=" cases", disable=None, smoothing=0) as bar:
        tally = runner.search(seed, only, numbers, seconds, bar.update)
    print(report.table(tally, ways.expected()))
    if tally.failure:
        kind, one = kinds.case(seed, tally.failure.number, only, ways.WAYS)
        print(f"\nCase {tally.failure.number} ({kind}) is wrong: {tally.failure.text}")
        smallest = None
        if runner.alone(one, quiet=True) is not None:
            with tqdm(unit=" cases", desc="shrinking", disable=None) as bar:
                smallest = runner.shrink(one, tally.failure.kind, bar.update)
        print(report.replay(one, smallest, seed, tally.failure.number, only))
        return 1
    missing = report.never_ran(tally, ways.expected())
    if missing and not only and sum(tally.cases.values()) >= COMPLETE:
        print(f"\nNever executed: {', '.join(missing)}")
        return 1
    return 0


def _run_checked(arguments: list[str]) -> int:
    from checked_build import build_checked, environment

    with tempfile.TemporaryDirectory() as folder:
        build_checked(folder)
        command = [sys.executable, str(Path(__file__).resolve()), *(a for a in arguments if a != "--checked")]
        return subprocess.run(command, env=environment(folder), cwd=HERE).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
