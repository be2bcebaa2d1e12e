"""How much there is to read, and how far a call goes: the house in figures, of the checkout that this file stands in.

    python tests/house.py

Lines are those of Python and C++ that are not empty. A call's functions are those of Python that are entered, its files
those that have them, torch's too. The time of an import is the processor's, least of several, on a machine at rest.
"""

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch
from hops import walked

ROOT = Path(__file__).parents[1]
IMPORT = "import time, torch; t = time.process_time(); import proxykernels; print(time.process_time() - t)"


def listed() -> dict[str, int]:
    """The lines of each source that git knows, by its path."""
    command = ["git", "ls-files", "proxykernels", "kernels", "tests", "benchmarks"]
    paths = subprocess.run(command, cwd=ROOT, check=True, text=True, capture_output=True).stdout.splitlines()
    found = [path for path in paths if Path(path).suffix in (".py", ".h", ".cpp", ".c") and (ROOT / path).is_file()]
    return {path: sum(bool(line.strip()) for line in (ROOT / path).open(encoding="utf-8")) for path in found}


def counted(lines: dict[str, int]) -> list[tuple[str, str]]:
    """The rows of lines and files."""
    licences = [path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "kernels").rglob("LICENSE*")]
    others = [path for path in lines if any(path.startswith(f"{folder}/") for folder in licences)]
    own = {path: count for path, count in lines.items() if path not in others}
    house = [count for path, count in own.items() if path.startswith(("proxykernels/", "kernels/"))]

    def total(pattern: str) -> str:
        return f"{sum(count for path, count in own.items() if re.match(pattern, path)):,}"

    return [
        *((f"{folder}/", total(f"{folder}/")) for folder in ("proxykernels", "kernels", "tests")),
        ("vendored", f"{sum(lines[path] for path in others):,}"),
        (
            "benchmarks/ without research; research",
            f"{total('benchmarks/(?!research/)')}; {total('benchmarks/research/')}",
        ),
        ("files of proxykernels/ and kernels/; median lines", f"{len(house)}; {median(house):.0f}"),
    ]


def distance(call) -> tuple[int, int]:
    """Python calls and files of a call."""
    codes = walked(call)
    return len(codes), len({code.co_filename for code in codes})


@torch.no_grad()
def calls() -> list[tuple[str, str]]:
    """The rows of calls."""
    sys.path.insert(0, str(Path(__file__).parent / "calls"))
    from test_hops import LAYERS, given, run_of_a_network

    layers = [distance(given(layer, shape, packed)) for layer, shape, packed, _ in LAYERS]
    simulate, engine = (distance(run_of_a_network(simulated)) for simulated in (True, False))
    spans = [f"{min(found)} to {max(found)}" for found in zip(*layers, strict=True)]
    return [
        ("a layer's call: Python calls; files", "; ".join(spans)),
        ("simulate: Python calls; files", "{}; {}".format(*simulate)),
        ("an engine's call: Python calls; files", "{}; {}".format(*engine)),
    ]


def import_seconds(times: int = 7) -> float:
    """Seconds above torch's, once the bytecode is there, as an installed package has it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = os.environ | {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        run = partial(subprocess.run, cwd=ROOT, check=True, text=True, capture_output=True, env=settings)
        return min(float(run([sys.executable, "-c", IMPORT]).stdout) for _ in range(times))


def main() -> None:
    rows = [*counted(listed()), *calls(), ("import, seconds above torch's", f"{import_seconds():.2f}")]
    for name, value in rows:
        print(f"{name:<52} {value:>14}")


if __name__ == "__main__":
    main()
