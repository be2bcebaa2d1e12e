"""Chooses the CPU kernel for a convolution of spikes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ..recording import Choice
from . import im2col
from .cost_model import ROWS, Layer, model, modelled_cycles

BLOCK = 32  # channels that the kernels handle at a time: src/simd.h
WORD, EIGHT = 32, 8  # inputs of a word, output channels of a set of tables: src/conv2d/lookup.h
KERNELS = (*ROWS, "lookup", "tiles", "dense")  # the ones that can be forced and are compared by their time


@dataclass(frozen=True)
class Options:
    """The kernels that can run a convolution.

    Attributes:
        only: the kernel, if there is nothing to compare.
        cycles: kernel -> its cycles at the rates 0 and 1. windows: the same for gathered windows (im2col.py).
        gathering: cycles to gather the windows.
    """

    only: Choice | None = None
    cycles: dict[str, tuple[float, float]] = field(default_factory=dict)
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    gathering: float = 0.0

    def at(self, rate: float) -> Choice:
        """The fastest kernel if the event kernel adds ``rate`` rows per input and step."""
        cycles = {}
        for kernel, (silent, busy) in self.cycles.items():
            cycles[kernel] = silent + rate * (busy - silent)
        if self.windows:
            windows = (silent + rate * (busy - silent) for silent, busy in self.windows.values())
            cycles["im2col"] = self.gathering + min(windows)
        return Choice(min(cycles, key=cycles.__getitem__), cycles=cycles)


def options(
    layer: Layer,
    groups: int,
    forced: str | None,
    *,
    has_tiles: bool,
    has_lookup: bool,
    digits: int,
    row: Callable[[], int],
) -> Options:
    """The kernels for a convolution: some of KERNELS; "depthwise"; "groups", which runs joined groups by a kernel that
    is chosen separately; or "im2col", with a kernel for the gathered windows.

    Args:
        forced: one of KERNELS or "im2col", taken wherever it can be; None: the fastest by the model (cost_model.py).
        has_tiles: whether there are matrix tiles. has_lookup: whether registers hold a table.
        digits: of the weights in tiles; 0 rules tiles out.
        row: output channels of the widest row that the weights fit; asked for only if the choice depends on it.
    """
    if forced == "dense":
        return _only("dense", "forced")
    if groups == layer.weight[0] and layer.weight[1] == 1 and groups >= 8:
        return _only("depthwise", "one channel a group")
    if has_lookup and forced in ("lookup", None) and are_narrow(layer.weight, groups):
        return _only("lookup", "narrow groups")
    joined = model().join(layer.weight[0] // groups, layer.weight[1], groups) if groups > 1 else 0
    if joined:
        return _only("groups", "a convolution for each", joined=joined)
    if groups > 1:
        return _only("dense", "groups no kernel takes")
    cycles = partial(modelled_cycles, has_tiles=has_tiles, has_lookup=has_lookup)
    if forced:
        can = {
            "tiles": lambda: "tiles" in cycles(layer, digits=digits, row=ROWS["events"]), "lookup": lambda: has_lookup,
            "shorts": lambda: row() == ROWS["shorts"], "bytes": lambda: row() == ROWS["bytes"],
            "im2col": lambda: im2col.is_possible(layer),
        }  # fmt: skip
        if forced in can and not can[forced]():
            return _only("events", f"{forced} cannot take it")
        return _only(forced, "forced")
    widest = row()
    whole = cycles(layer, digits=digits, row=widest)
    if not im2col.is_possible(layer):
        return Options(cycles=whole)
    windows = cycles(im2col.gathered(layer), digits=0, row=widest)
    return Options(cycles=whole, windows=windows, gathering=im2col.cycles(layer))


def _only(kernel: str, reason: str, joined: int = 0) -> Options:
    return Options(Choice(kernel, reason, joined=joined))


def are_narrow(weight: tuple[int, ...], groups: int) -> bool:
    """Whether the lookup kernel takes these groups; it is the only one that takes groups without joining them."""
    return groups > 1 and weight[1] < WORD and weight[0] // groups % EIGHT == 0
