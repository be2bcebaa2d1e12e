"""The ways that CPU tensors can take: each instruction set, each kernel forced; and what was really executed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu.words import Fallback
from proxykernels.kernels.table import Runner

TARGETS = tuple(target for target in cpu.TARGETS if cpu.load(target))  # fastest first
if not TARGETS:
    raise RuntimeError("the C++ kernels are not built here: install a C++ compiler, then pip install -e .")
FOR_TESTS = (
    "max_threads",
    "row_channels",
    "count_digits",
    "sample_rates",
)  # functions that no layer calls by the table
FALLBACK = "fallback"

# Instruction set and kernel of the convolutions. A target alone: whatever it finds fastest.
WAYS = [
    *(f"{target} {kernel}" for target in TARGETS for kernel in ("plan", "im2col")),
    *TARGETS,
    f"{TARGETS[0]} dense",
    FALLBACK,
]

executed: Counter[tuple[str, str]] = Counter()  # (instruction set, function) -> calls since the last look


class Counted:
    """The functions of one instruction set, counting their calls."""

    def __init__(self, target: str, table):
        for name, _ in table._fields_:
            function = getattr(table, name)
            setattr(self, name, _counting(target, name, function) if function else function)


def _counting(target: str, name: str, function):
    def call(*arguments):
        executed[target, name] += 1
        return function(*arguments)

    return call


@cache
def kernels(way: str):
    """The backend of a way."""
    if way == FALLBACK:
        return Fallback()
    target, _, kernel = way.partition(" ")
    backend = cpu.load(target, kernel or None)
    if backend is None:
        raise RuntimeError(f"this machine cannot run {target}")
    backend._table = Counted(target, backend._table)
    choice = backend._plans.choice

    def count_torch(*arguments, **options):
        found = choice(*arguments, **options)
        executed[target, "torch's convolution"] += found.runner == Runner.TORCH
        return found

    backend._plans.choice = count_torch
    return backend


@contextmanager
def use(way: str, threads: int = 1) -> Iterator[None]:
    """The whole library on one way, with so many threads."""
    backend, before, given = kernels(way), torch.get_num_threads(), backends.cpu_backend
    executed[FALLBACK, "everything"] += way == FALLBACK
    backends.cpu_backend = lambda: backend
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        backends.cpu_backend = given
        torch.set_num_threads(before)


def expected() -> list[tuple[str, str]]:
    """All that can be executed on this machine, and so must be in the end."""
    functions = [(FALLBACK, "everything"), (TARGETS[0], "torch's convolution")]
    for target in TARGETS:
        kernels = ["patterns", "depthwise", "rows", "scattered", "values"]
        kernels += ["tables"] * (target in ("amx", "avx512")) + ["tiles", "pixel tiles"] * (target == "amx")
        functions += [(target, "engine"), *((target, f"engine: {kernel}") for kernel in kernels)]
    for target in TARGETS:
        table = cpu.load(target)._table
        functions += [(target, name) for name, _ in table._fields_ if getattr(table, name) and name not in FOR_TESTS]
    return functions
