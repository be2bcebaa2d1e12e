"""The GPUs that the model knows, told from each other by their names, and the clocks of the one at hand.

Sources: NVIDIA's white papers (Ampere GA100, Hopper H100, Ada) and data sheets. ``clock`` is the one that the data
sheet's peak of tensor cores stands for; PCIe and NVL boards of the H100 hold lower ones than SXM modules.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

SAMPLE_MS = 100  # between two looks at clocks and power
QUERY = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")


class Card(NamedTuple):
    """A GPU.

    Attributes:
        name: a regular expression that finds it in what the driver calls the card.
        target: as compilers call it.
        clock: Hz, sustained.
        l2, memory: bytes/s. Of the L2 from published microbenchmarks.
        float32: FLOP/s without tensor cores.
    """

    name: str
    target: str
    multiprocessors: int
    clock: float
    l2: float
    memory: float
    float32: float


CARDS = {
    "H100 SXM": Card("H100 (80GB HBM3|SXM)", "sm_90", 132, 1.755e9, 5.5e12, 3.35e12, 67e12),
    "H100 NVL": Card("H100 NVL", "sm_90", 132, 1.545e9, 5.0e12, 3.9e12, 60e12),
    "H100 PCIe": Card("H100 (PCIe|80GB HBM2e)", "sm_90", 114, 1.62e9, 4.5e12, 2.0e12, 51e12),
    "A100 SXM": Card("A100-SXM4-80GB", "sm_80", 108, 1.41e9, 4.0e12, 2.039e12, 19.5e12),
    "A100 PCIe": Card("A100 80GB PCIe", "sm_80", 108, 1.41e9, 4.0e12, 1.935e12, 19.5e12),
    "RTX 4090": Card("GeForce RTX 4090$", "sm_89", 128, 2.52e9, 5.0e12, 1.008e12, 82.6e12),
}
MODELLED = ("H100 SXM", "A100 SXM", "RTX 4090")  # in the tables


def known(name: str, multiprocessors: int) -> str:
    """The key of CARDS of a card by its driver's name; "" for others, and for a part of a card (MIG)."""
    found = (key for key, card in CARDS.items() if re.search(card.name, name))
    return next((key for key in found if CARDS[key].multiprocessors == multiprocessors), "")


class Clocks:
    """Clocks and power of a card, written by nvidia-smi to ``path``; where there is no nvidia-smi, nothing."""

    def __init__(self, path: Path):
        self.path, self._read = path, path.stat().st_size if path.is_file() else 0

    def since_last(self) -> dict[str, float | str]:
        """Medians of MHz and watts since the last call, or "" where nothing was written."""
        if not self.path.is_file():
            return {"sm_mhz": "", "watts": ""}
        with self.path.open() as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # the last may be half written
        self._read += sum(map(len, whole))
        samples = [line.split(",") for line in whole]
        whole_samples = [sample for sample in samples if len(sample) == 1 + len(QUERY)]
        places = {"sm_mhz": 1, "watts": 3}
        return {name: _median(_number(sample[place]) for sample in whole_samples) for name, place in places.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # a heading, or "[N/A]"
        return None


def _median(values) -> float | str:
    known_values = [value for value in values if value is not None]
    return median(known_values) if known_values else ""


@contextmanager
def sampled(path: Path, uuid: str) -> Iterator[None]:
    """Have nvidia-smi write clocks, power and temperature of a card to ``path`` during the block."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    query = f"--query-gpu=timestamp,{','.join(QUERY)}"
    command = ["nvidia-smi", query, "--format=csv,nounits", f"--id={uuid}", f"--loop-ms={SAMPLE_MS}"]
    with path.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL) as child:
        try:
            yield
        finally:
            child.terminate()
