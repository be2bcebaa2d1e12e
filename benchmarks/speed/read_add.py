"""How fast a core reads numbers from each level of its caches and adds them, and how fast it adds products."""

import ctypes
import os
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

CODE = Path(__file__).with_suffix(".cpp")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # as Linux describes them
LEVELS = "first", "second", "third"
MEMORY = "memory"
NUMBERS = {1: "add_bytes", 2: "add_shorts", 4: "add_floats"}  # by their bytes
PIECE = 512  # bytes that the code takes at a time
SECONDS, TRIES = 3e-3, 25  # of a try, about; the fastest one counts


def check() -> None:
    """Raises:
    ValueError: the system does not tell the sizes of its caches. OSError: there is no C++ compiler.
    """
    _rooms(), _library()


def level_of(size: int) -> str:
    """The first cache level of a core that ``size`` bytes fit."""
    return next((level for level, room in _rooms().items() if size <= room), MEMORY)


@cache
def additions(level: str, number_bytes: int) -> float:
    """Numbers a second that are read from a level, of 1, 2 or 4 bytes each, and added."""
    return _rate(NUMBERS[number_bytes], _read_from(level)) / number_bytes


@cache
def products() -> float:
    """Products of two float32 in registers that are added a second."""
    return _rate("add_products", 1 << 14) / 4


@cache
def _rooms() -> dict[str, int]:
    """Bytes of each level."""
    found = {}
    for folder in CACHES.glob("index*"):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[int(level)] = int(size.removesuffix("K")) << 10
    if sorted(found) != [1, 2, 3]:
        raise ValueError(f"{CACHES} does not tell the sizes of three levels, which --layers compares with")
    return {name: found[level] for level, name in enumerate(LEVELS, 1)}


def _read_from(level: str) -> int:
    """Bytes of a buffer that lies in a level and in none before it."""
    first, second, third = _rooms().values()
    most = {"first": first // 2, "second": second // 2, "third": min(8 * second, third // 2), MEMORY: 4 * third}
    return max(PIECE, most[level] // PIECE * PIECE)


def _rate(function: str, size: int) -> float:
    """Bytes per second of a function, over a buffer of ``size`` bytes."""
    run, buffer = getattr(_library(), function), torch.ones(size + 64, dtype=torch.uint8)
    at = -(-buffer.data_ptr() // 64) * 64
    run(at, size, 1)
    start = time.thread_time()
    run(at, size, 1)
    times = max(1, round(SECONDS / max(time.thread_time() - start, 1e-7)))
    fastest = min(_seconds(run, at, size, times) for _ in range(TRIES))
    return times * size / fastest


def _seconds(run, at: int, size: int, times: int) -> float:
    start = time.thread_time()
    run(at, size, times)
    return time.thread_time() - start


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "read_add.so"
        compiler = os.environ.get("CXX", "c++")
        try:
            subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", CODE, "-o", made], check=True)
        except OSError as error:
            raise OSError(f"{compiler} cannot be run; --layers needs a C++ compiler, in CXX") from error
        library = ctypes.CDLL(str(made))
    for name in (*NUMBERS.values(), "add_products"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return library
