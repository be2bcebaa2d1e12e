"""The checkout that a figure comes from: its commit, and where its tables belong.

Commands write to runs/, which git ignores, and so change nothing that it tracks. results/ holds what maintainers
measured, with ``--out benchmarks/results``, at a commit. What they measure of a changed tree goes to results/scratch/,
which git ignores too: tables there begin as copies of those in results/.
"""

import subprocess
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
WEIGHTS = RESULTS.parent / "weights"
SCRATCH = RESULTS / "scratch"
RUNS = RESULTS.parents[1] / "runs"
MEASURES_NOTHING = ("benchmarks/results", "docs", "*.md")  # changes there do not change a figure


@cache
def commit() -> str:
    """The checkout's commit, with "-dirty" if the code differs from it; "unknown" outside a checkout."""
    try:
        name = _git("describe", "--always", "--exclude=*")
        code = [f":(top,exclude){path}" for path in MEASURES_NOTHING]
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changes else name


def place(path: Path) -> Path:
    """Where what a command writes to ``path`` goes: elsewhere only from results/, if the tree is no commit's."""
    inside = path.parent.resolve() == RESULTS.resolve()
    return SCRATCH / path.name if inside and commit().endswith("-dirty") else path


@cache
def say_scratch() -> None:
    """Say, once, that results are not those of a commit."""
    print(f"The code differs from its commit: tables and pictures go to {SCRATCH}, not to {RESULTS}")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()
