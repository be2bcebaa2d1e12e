"""The ways that CPU tensors can take: each instruction set, each kernel forced; and what was really executed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu.fallback import Fallback

TARGETS = tuple(target for target in cpu.TARGETS if cpu.load(target))  # fastest first
if not TARGETS:
    raise RuntimeError("the C++ kernels are not built here: install a C++ compiler, then pip install -e .")
CONVOLUTIONS = ("event_conv2d", "period_conv2d")  # which have a form with each kind of rows
ROWS = {16: "", 32: ", short rows", 64: ", byte rows"}
FALLBACK = "fallback"

# Instruction set and kernel of the convolutions. A target alone: whatever it finds fastest.
WAYS = [
    *(f"{target} {rows}" for target in TARGETS for rows in ("events", "shorts", "bytes", "im2col")),
    *(f"{target} lookup" for target in TARGETS if target == "avx512"),
    *(f"{target} tiles" for target in TARGETS if target == "amx"),
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
        rows = ROWS[getattr(arguments[0], "conv", arguments[0]).row_channels] if name in CONVOLUTIONS else ""
        executed[target, name + rows] += 1
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
    look = backend._look

    def count_dense(*arguments, **options):
        call = look(*arguments, **options)
        if call.choice.kernel == "dense":
            executed[target, "torch's convolution"] += 1
        return call

    backend._look = count_dense
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
        kernels = ["patterns", "depthwise", "rows", "scattered"]
        kernels += ["tables"] * (target in ("amx", "avx512")) + ["tiles", "pixel tiles"] * (target == "amx")
        functions += [(target, "engine"), *((target, f"engine: {kernel}") for kernel in kernels)]
    for target in TARGETS:
        table = cpu.load(target)._table
        functions += [(target, name) for name, _ in table._fields_ if getattr(table, name) and name != "max_threads"]
        functions += [(target, name + rows) for name in CONVOLUTIONS for rows in ROWS.values() if rows]
    return functions
