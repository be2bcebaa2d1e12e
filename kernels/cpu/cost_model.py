"""Which kernel of a CPU is fastest for a layer: a model of the time each takes, in clock cycles of one core.

The figures are measured (benchmarks/ops_speed.py), those of the tiles on an Intel core with AMX and the others on an
AMD core with AVX-512 (Zen 4); only their ratios matter.
"""

import math
from functools import lru_cache
from typing import NamedTuple

CLOCK_HZ = 3.06e9  # of the AMD core
# Kernels that add rows of weights, and for how many output channels a row is: events by what their rows hold.
ROWS = {"events": 16, "patterns": 16, "shorts": 32, "bytes": 64}
PATTERN = 4  # steps of a pattern: src/conv2d/pattern.h


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


def events(layer: Layer, rate: float, row: int = 16) -> float:
    """Cycles of the event kernel: for each spike in a window, a row of weights is loaded and added.

    ``rate``: of spikes, those of an input that fires for long counted once a span (src/conv2d/event.h). ``row``: output
    channels of a row.
    """
    blocks, slices = math.ceil(layer.weight[0] / row), math.ceil(layer.inputs / 384)
    spikes = layer.inputs * rate
    add_rows, fire = blocks * (1.15 * spikes + 6 * slices), blocks * row
    list_window, start_window = 30 + 4 * layer.taps + 0.6 * spikes, (400 + 25 * layer.taps) * math.ceil(layer.T / 64)
    steps = layer.T * (add_rows + fire + list_window)
    return layer.pixels * (steps + start_window) + _fetch(layer, uses=512)


def patterns(layer: Layer, rate: float) -> float:
    """Cycles of the pattern kernel: a row for each input and window of four steps in which it fires, to one of 15 sums.

    ``rate``: of such windows, a step.
    """
    blocks, slices, visits = layer.weight[0] / 16, math.ceil(layer.inputs / 384), 15 / PATTERN
    rows = layer.inputs * rate
    add_rows, finish, fire = 1.2 * rows + 9 * slices * visits, 16, 16
    list_window, start_window = 90 + 15 * layer.taps + 0.6 * rows, (400 + 25 * layer.taps) * math.ceil(layer.T / 64)
    steps = layer.T * (math.ceil(blocks) * (add_rows + finish + fire) + list_window)
    return layer.pixels * (steps + start_window) + _fetch(layer, uses=512)


def lookup(layer: Layer) -> float:
    """Cycles of the lookup kernel: for each four inputs, a permutation and an addition for 16 steps of a channel."""
    eights, fours = math.ceil(layer.weight[0] / 8), math.ceil(layer.inputs / 4)
    uses = layer.pixels * math.ceil(layer.T / 16)
    look_up, make_tables = (10.75 * fours + 130) * uses, 36 * fours * math.ceil(uses / 256)
    read = 200 + (6 * layer.taps if layer.weight[1] % 32 else 0)  # and put the bits of a window together
    return eights * (look_up + make_tables) + read * uses + _fetch(layer, uses=4096)


def _fetch(layer: Layer, uses: int) -> float:
    """Cycles to fetch weights that are too many for the caches, once for so many output pixels times steps."""
    size = 4 * layer.weight[0] * layer.inputs
    return size / 5 * math.ceil(layer.pixels * layer.T / uses) if size > 1 << 20 else 0.0


def tiles(layer: Layer, digits: int) -> float:
    """Cycles of the matrix tiles: 16 steps of 16 channels at a time, whatever the firing rate."""
    tile_inputs = layer.taps * math.ceil(layer.weight[1] / 64)
    if layer.weight[1] % 64 and layer.dilation[1] == 1:  # a kernel row fills tiles
        tile_inputs = layer.weight[2] * math.ceil(layer.weight[3] * math.ceil(layer.weight[1] / 8) * 8 / 64)
    blocks, times = math.ceil(layer.weight[0] / 16), math.ceil(layer.T / 16)
    multiply, fire = 23 * tile_inputs * digits * blocks, 160 * blocks
    return layer.pixels * times * (multiply + fire + 12 * tile_inputs)


def dense(layer: Layer) -> float:
    """Cycles of torch's convolution, about 12 multiplications each, with all that is moved, and of the scan."""
    unpack = layer.T * layer.neurons[0] * math.prod(layer.size) * layer.weight[1]
    multiply, move_and_scan = layer.weight[0] * layer.inputs / 12, 100 + 8 * layer.weight[0]
    return layer.pixels * layer.T * (multiply + move_and_scan) + unpack


def modelled_cycles(
    layer: Layer, rates: tuple[float, float], *, has_lookup: bool, digits: int, row: int
) -> dict[str, float]:
    """Cycles of each kernel that can take a layer: one of ROWS, "lookup", "tiles" or "dense".

    ``rates``: rows that the event and the pattern kernel add for each input and step.
    ``digits``: of the weights in tiles; 0 rules tiles out. ``row``: output channels of the widest row that the weights
    fit.
    """
    kernels = _at_both_ends(layer, has_lookup, digits, row)
    rate = dict.fromkeys(kernels, rates[0]) | {"patterns": rates[1]}
    return {kernel: silent + rate[kernel] * (busy - silent) for kernel, (silent, busy) in kernels.items()}


@lru_cache(1024)
def _at_both_ends(layer: Layer, has_lookup: bool, digits: int, row: int) -> dict[str, tuple[float, float]]:
    """Cycles at the rates 0 and 1; they lie on a line between."""
    cycles = {"dense": (dense(layer),) * 2}
    for kernel, width in ROWS.items():
        if kernel == "patterns":
            cycles[kernel] = patterns(layer, 0), patterns(layer, 1)
        elif width <= row:
            cycles[kernel] = events(layer, 0, width), events(layer, 1, width)
    if has_lookup:
        cycles["lookup"] = (lookup(layer),) * 2
    if digits:
        cycles["tiles"] = (tiles(layer, digits),) * 2
    return cycles
