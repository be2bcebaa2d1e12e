"""A cost model of the CPU kernels: the clock cycles that each takes for a layer on one core.

A kernel's time is a sum: how often it does something, which the functions below count, times what that costs there.
`python benchmarks/ops_speed.py --fit` measures what it costs on another machine; only the ratios matter.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

CLOCK_HZ = 3.06e9  # of the Zen 4 core below; the other's costs are in such cycles, too
# Kernels that add rows of weights, and for how many output channels a row is: events by what their rows hold.
ROWS = {"events": 16, "shorts": 32, "bytes": 64}
CACHE_BYTES = 1 << 20  # weights that are more are fetched anew each time they are used
ROW_BYTES = 64
SCANNED = 32  # channels that a scan takes together
# Inputs of a neuron: with more, the joined 32-bit sums of two digits of -128 (src/conv2d/amx.h) could overflow.
MOST_TILE_INPUTS = (2**31 - 1) // (128 * 256 + 128)
MOST_TILE_BYTES = 1 << 30  # of a thread's memory; positions in it are 32-bit numbers
SPAN_BYTES = 1 << 20  # of weights in tiles, for which the tile kernel expands all spikes anew: src/conv2d/amx_inputs.h

Counts = dict[str, float]
Costs = dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Machine:
    """A kind of core.

    Attributes:
        costs: in cycles.
        event_slice: rows of weights of a slice (src/conv2d/slices.h). Of 24 kB they stay in a first-level cache of 32
            kB; where that has 48 kB, and the second level is near, 72 kB are better: fewer slices, and so fewer visits.
    """

    costs: Costs
    event_slice: int


# Measured on an AMD core with AVX-512 (Zen 4).
WITHOUT_TILES = Machine(event_slice=384, costs={
    "events": {
        "add": 1, "visit": 6.9, "fire": 0.29, "scan": 15, "list": 0.36, "list slice": 5.3, "list tap": 2.6,
        "list spike": 0.38, "start": 708, "start tap": 22, "fetch": 0.047, "call": 3.6e5,
    },
    "shorts": {
        "add": 1.1, "visit": 7.4, "fire": 0.3, "scan": 19, "list": 0.46, "list slice": 8.3, "list tap": 2.2,
        "list spike": 0.23, "start": 438, "start tap": 33, "fetch": 0.077, "call": 2.8e5,
    },
    "bytes": {
        "add": 1.3, "visit": 10, "fire": 0.28, "scan": 13, "list": 0.44, "list slice": 7.2, "list tap": 2.8,
        "list spike": 0.24, "start": 210, "start tap": 33, "fetch": 0.061, "call": 3.4e5,
    },
    "lookup": {
        "look up": 8.9, "block": 98, "table": 34, "read": 136, "read tap": 2.4, "fetch": 0.048, "call": 3.1e5,
    },
    "dense": {"multiply": 0.058, "fire": 2.1, "move": 0.66, "unpack": 8.3, "call": 1.1e6},
})  # fmt: skip
# Measured on an Intel core with AMX (Sapphire Rapids), when each window made all of its lists.
WITH_TILES = Machine(event_slice=1152, costs={
    "events": {
        "add": 1.3, "visit": 17, "fire": 0.067, "scan": 30, "list": 0.49, "list slice": 5.9, "list tap": 2.9,
        "list spike": 0.19, "start": 210, "start tap": 36, "fetch": 0.35, "call": 5.5e5,
    },
    "shorts": {
        "add": 1.4, "visit": 23, "fire": 0.079, "scan": 29, "list": 0.48, "list slice": 5.5, "list tap": 2.5,
        "list spike": 0.37, "start": 220, "start tap": 35, "fetch": 0.56, "call": 5.0e5,
    },
    "bytes": {
        "add": 1.8, "visit": 26, "fire": 0.37, "scan": 28, "list": 0.49, "list slice": 5.2, "list tap": 2,
        "list spike": 0.15, "start": 220, "start tap": 26, "fetch": 0.97, "call": 4.9e5,
    },
    "lookup": {"look up": 10, "block": 130, "table": 72, "read": 260, "read tap": 3, "fetch": 0.071, "call": 3.6e5},
    "tiles": {"multiply": 29, "fire": 180, "list": 38, "expand": 110, "fetch": 0.64, "call": 4.1e5},
    "dense": {"multiply": 0.041, "fire": 3.2, "move": 0.99, "unpack": 9.4, "call": 1.5e6},
})  # fmt: skip


class Layer(NamedTuple):
    """What the time depends on; shapes as in conv2d.py."""

    T: int
    neurons: tuple[int, int, int]  # N, P, C_out
    size: tuple[int, int]
    weight: tuple[int, int, int, int]  # C_out, C_in, kernel_h, kernel_w
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def taps(self) -> int:
        """Pixels of a window."""
        return self.weight[2] * self.weight[3]

    @property
    def inputs(self) -> int:
        """Inputs of a neuron."""
        return self.weight[1] * self.taps

    @property
    def most_expanded_bytes(self) -> int:
        """What the tile kernel expands for a row of output pixels, at most: 16 steps of whole tiles of 64 inputs."""
        rows = min(self.size[0], (self.weight[2] - 1) * self.dilation[0] + 1)
        width = self.size[1] + 2 * self.padding[1] + self.weight[3]
        return 16 * 64 * (rows + 1) * (width * math.ceil(self.weight[1] / 64) + 4)

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.neurons[0] * self.neurons[1]


def sliced(layer: Layer, slice_rows: int) -> tuple[int, int, float]:
    """Slices of a window and the taps of each (src/conv2d/slices.h), and the share of their lists that are made.

    The others are those of windows above or beside (src/conv2d/window_lists.h).
    """
    channels, width, pixels = layer.weight[1], layer.weight[3], layer.neurons[1]
    chunks = math.ceil(channels / slice_rows)
    runs = layer.taps if chunks > 1 else math.ceil(layer.taps / max(1, slice_rows // channels))
    taps = math.ceil(layer.taps / runs)
    if runs > 1:
        taps = min(taps, width)
    slices = math.ceil(layer.taps / taps) * chunks
    different = math.prod(layer.size) * chunks if width % taps == 0 else pixels * slices
    return slices, taps, min(1.0, different / max(1, pixels * slices))


def adding(layer: Layer, rate: float, row: int, slice_rows: int) -> Counts:
    """The event kernel: for each spike in a window, a row of weights is loaded and added.

    ``rate``: of spikes, those of an input that fires for long counted once a span (src/conv2d/event.h). ``row``: output
    channels of a row. ``slice_rows``: rows of a slice.
    """
    blocks, (slices, taps, made) = math.ceil(layer.weight[0] / row), sliced(layer, slice_rows)
    steps, segments = layer.pixels * layer.T, layer.pixels * math.ceil(layer.T / 64)
    spikes = layer.inputs * rate
    return {
        "add": blocks * spikes * steps,
        "visit": blocks * slices * steps,
        "fire": blocks * row * steps,
        "scan": layer.T * layer.neurons[0] * math.prod(layer.size) * math.ceil(layer.weight[1] / 64),
        "list": steps,
        "list slice": slices * steps * made,
        "list tap": slices * taps * steps * made,
        "list spike": spikes * steps * made,
        "start": segments,
        "start tap": layer.taps * segments,
        "fetch": _fetched(blocks * layer.inputs * ROW_BYTES, layer, uses=512),
        "call": 1,
    }


def lookup(layer: Layer) -> Counts:
    """The lookup kernel: for each four inputs, a permutation and an addition for 16 steps of a channel."""
    eights, fours = math.ceil(layer.weight[0] / 8), math.ceil(layer.inputs / 4)
    uses = layer.pixels * math.ceil(layer.T / 16)
    return {
        "look up": eights * fours * uses,
        "block": eights * uses,
        "table": eights * fours * math.ceil(uses / 256),
        "read": uses,
        "read tap": layer.taps * uses if layer.weight[1] % 32 else 0,  # to put the bits of a window together
        "fetch": _fetched(4 * layer.weight[0] * layer.inputs, layer, uses=4096),
        "call": 1,
    }


def _fetched(size: int, layer: Layer, uses: int) -> float:
    """Bytes of weights that are too many for the caches, fetched once for so many output pixels times steps."""
    return size * math.ceil(layer.pixels * layer.T / uses) if size > CACHE_BYTES else 0.0


def tiles(layer: Layer, digits: int) -> Counts:
    """The matrix tiles: 16 steps of 16 channels at a time, whatever the firing rate."""
    tile_inputs = layer.taps * math.ceil(layer.weight[1] / 64)
    if layer.weight[1] % 64 and layer.dilation[1] == 1:  # a kernel row fills tiles
        tile_inputs = layer.weight[2] * math.ceil(layer.weight[3] * math.ceil(layer.weight[1] / 8) * 8 / 64)
    blocks, times = math.ceil(layer.weight[0] / 16), math.ceil(layer.T / 16)
    tiles, uses = tile_inputs * digits * blocks, layer.pixels * times
    spans = math.ceil(16 * 64 * tiles / SPAN_BYTES)
    return {
        "multiply": tiles * uses,
        "fire": blocks * uses,
        "list": spans * tile_inputs * uses,
        "expand": spans * times * layer.neurons[0] * math.prod(layer.size) * math.ceil(layer.weight[1] / 64),
        "fetch": _fetched(16 * 64 * tiles, layer, uses=layer.pixels * layer.T),
        "call": 1,
    }


def tiles_hold(layer: Layer) -> bool:
    """Whether the tile kernel's sums and memory are large enough."""
    return layer.inputs <= MOST_TILE_INPUTS and layer.most_expanded_bytes <= MOST_TILE_BYTES


def dense(layer: Layer) -> Counts:
    """torch's convolution, about 12 multiplications a cycle, with all that is moved, and the scan."""
    steps = layer.pixels * layer.T
    return {
        "multiply": steps * layer.weight[0] * layer.inputs,
        "fire": steps * math.ceil(layer.weight[0] / SCANNED) * SCANNED,
        "move": steps,
        "unpack": layer.T * layer.neurons[0] * math.prod(layer.size) * layer.weight[1],
        "call": 1,
    }


def counts_of(
    machine: Machine, layer: Layer, rate: float, *, has_lookup: bool, digits: int, row: int
) -> dict[str, Counts]:
    """How often each kernel that can take a layer does what costs time; arguments as of :func:`modelled_cycles`."""
    counts = {"dense": dense(layer)}
    for kernel, width in ROWS.items():
        if width <= row:
            counts[kernel] = adding(layer, rate, width, machine.event_slice)
    if has_lookup:
        counts["lookup"] = lookup(layer)
    if digits:
        counts["tiles"] = tiles(layer, digits)
    return counts


@lru_cache(1024)
def modelled_cycles(
    machine: Machine, layer: Layer, *, has_lookup: bool, digits: int, row: int
) -> dict[str, tuple[float, float]]:
    """Cycles of each kernel that can take a layer, one of ROWS, "lookup", "tiles" or "dense", at the rates 0 and 1.

    They lie on a line between: the rate is that of rows that the event kernel adds for each input and step.
    ``digits``: of the weights in tiles; 0 rules tiles out. ``row``: output channels of the widest row that the weights
    fit.
    """
    ends = [counts_of(machine, layer, r, has_lookup=has_lookup, digits=digits, row=row) for r in (0.0, 1.0)]
    silent, busy = ({kernel: cycles(kernel, own, machine.costs) for kernel, own in end.items()} for end in ends)
    return {kernel: (silent[kernel], busy[kernel]) for kernel in silent}


def cycles(kernel: str, counts: Counts, costs: Costs) -> float:
    """What a kernel's counts cost."""
    return sum(costs[kernel][what] * often for what, often in counts.items())
