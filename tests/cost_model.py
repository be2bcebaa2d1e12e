"""The cost model of the CPU kernels, kernels/cpu/src/cost_model.h, as tests ask for it."""

from functools import cache, lru_cache
from math import inf
from typing import Any, NamedTuple

from proxykernels.kernels.cpu import abi, compiled, declared

# Kernels that add rows of weights (floats, int16, int8) -> output channels per row.
ROWS = {"events": 16, "shorts": 32, "bytes": 64}


class Layer(NamedTuple):
    """The sizes that the time depends on; shapes as in conv2d.py."""

    T: int
    neurons: tuple[int, int, int]  # N, P, C_out
    size: tuple[int, int]
    weight: tuple[int, ...]  # C_out, C_in, kernel_h, kernel_w
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def for_library(self) -> Any:
        _, C_in, *kernel = self.weight
        return declared.ConvSizes(self.T, *self.neurons, *self.size, C_in, *kernel, self.padding[1], *self.dilation)


@cache
def model() -> Any:
    """The model in the compiled library, which must exist."""
    return declared.Model.in_dll(compiled.opened(abi.LIBRARY), "proxykernels_cost_model")


@lru_cache(1024)
def modelled_cycles(
    layer: Layer, *, has_tiles: bool, has_lookup: bool, digits: int, row: int
) -> dict[str, tuple[float, float]]:
    """Cycles of each kernel that can take a layer, one of ROWS, "lookup", "tiles" or "dense", at the rates 0 and 1.

    Between these, cycles are linear in the rate, which is the number of rows that the event kernel adds per input and
    step. ``has_tiles``: whether the core has matrix tiles. ``digits``: of the weights in tiles; 0 rules tiles out.
    ``row``: output channels of the widest row that the weights fit.
    """
    silent, busy, given = declared.Cycles(), declared.Cycles(), layer.for_library()
    for rate, cycles in ((0.0, silent), (1.0, busy)):
        model().cycles(given, rate, digits, has_tiles, cycles)
    found = {kernel: (getattr(silent, kernel), getattr(busy, kernel)) for kernel, *_ in silent._fields_}

    def can(kernel: str) -> bool:
        return (has_lookup or kernel != "lookup") and ROWS.get(kernel, 0) <= row and found[kernel] != (inf, inf)

    return {kernel: line for kernel, line in found.items() if can(kernel)}
