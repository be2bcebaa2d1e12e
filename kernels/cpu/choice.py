"""Chooses the CPU kernel for a convolution of spikes."""

from collections.abc import Callable
from operator import itemgetter

from ..recording import Choice
from . import im2col
from .cost_model import ROWS, Layer, Machine, modelled_cycles

BLOCK = 32  # channels that the kernels handle at a time: src/simd.h
WORD, EIGHT = 32, 8  # inputs of a word, output channels of a set of tables: src/conv2d/lookup.h
KERNELS = (*ROWS, "lookup", "tiles", "dense")  # that can be forced, and compared by their time


def choose(
    layer: Layer,
    groups: int,
    forced: str | None,
    machine: Machine,
    *,
    has_lookup: bool,
    digits: Callable[[], int],
    row: Callable[[], int],
    rate: Callable[[], float],
) -> Choice:
    """The kernel for a convolution: one of KERNELS, "depthwise", "groups", which are joined and chosen for apart, or
    "im2col", whose windows are chosen for.

    Args:
        forced: one of KERNELS or "im2col", taken wherever it can be; None: the fastest by the model (cost_model.py)
            of the ``machine``.
        has_lookup: whether registers hold a table.
        digits: of the weights in tiles; 0 rules tiles out.
        row: output channels of the widest row that the weights fit.
        rate: rows that the event kernel adds for each input and step; this, and the two before, are asked for only if
            the choice depends on them.
    """
    if forced == "dense":
        return Choice("dense", "forced")
    if groups == layer.weight[0] and layer.weight[1] == 1 and groups >= 8:
        return Choice("depthwise", "one channel a group")
    if has_lookup and forced in ("lookup", None) and are_narrow(layer.weight, groups):
        return Choice("lookup", "narrow groups")
    joined = join(layer.weight, groups)
    if joined:
        return Choice("groups", "a convolution for each", joined=joined)
    if groups > 1:
        return Choice("dense", "groups no kernel takes")
    if forced:
        can = {
            "tiles": lambda: digits() > 0, "lookup": lambda: has_lookup,
            "shorts": lambda: row() == ROWS["shorts"], "bytes": lambda: row() == ROWS["bytes"],
            "im2col": lambda: im2col.is_possible(layer),
        }  # fmt: skip
        if forced in can and not can[forced]():
            return Choice("events", f"{forced} cannot take it")
        return Choice(forced, "forced")
    found, widest = rate(), row()
    cycles = modelled_cycles(machine, layer, found, has_lookup=has_lookup, digits=digits(), row=widest)
    if im2col.is_possible(layer):
        windows = modelled_cycles(machine, im2col.gathered(layer), found, has_lookup=has_lookup, digits=0, row=widest)
        cycles["im2col"] = im2col.cycles(layer) + min(windows.values())
    return Choice(min(cycles.items(), key=itemgetter(1))[0], cycles=cycles)


def are_narrow(weight: tuple[int, ...], groups: int) -> bool:
    """Whether these are groups for the lookup kernel, which alone takes them without joining."""
    return groups > 1 and weight[1] < WORD and weight[0] // groups % EIGHT == 0


def join(weight: tuple[int, ...], groups: int) -> int:
    """How many groups to join, so that they are whole bytes of spikes and wide enough for a kernel; 0: leave them."""
    C_out, C_in = weight[0] // groups, weight[1]
    if groups == 1 or C_in == C_out == 1:  # depthwise has a kernel of its own
        return 0
    divisors = (n for n in range(1, groups + 1) if groups % n == 0)
    return next((n for n in divisors if n * C_in >= BLOCK and n * C_in % 8 == n * C_out % 8 == 0), 0)
