"""Which kernel of a CPU is fastest for a layer: a model of the time each takes, in clock cycles of one core.

The figures are measured, on a core with AVX-512 and AMX (benchmarks/ops_speed.py); only their ratios matter.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What the time depends on; shapes as in cpu_conv2d."""

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
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.neurons[0] * self.neurons[1]


def events(layer: Layer, rate: float) -> float:
    """Cycles of the event kernel: for each spike in a window, a row of weights is loaded and added."""
    blocks = math.ceil(layer.weight[0] / 32)
    spikes = layer.inputs * rate
    add_rows, fire = 2.9 * spikes * blocks, 14 * blocks
    list_window = 4.5 * layer.taps + 0.4 * spikes
    return layer.pixels * layer.T * (add_rows + fire + list_window)


def tiles(layer: Layer, digits: int) -> float:
    """Cycles of the matrix tiles: 16 steps of 16 channels at a time, whatever the firing rate."""
    tile_inputs = layer.taps * math.ceil(layer.weight[1] / 64)
    if layer.weight[1] % 64 and layer.dilation[1] == 1:  # a kernel row fills tiles
        tile_inputs = layer.weight[2] * math.ceil(layer.weight[3] * math.ceil(layer.weight[1] / 8) * 8 / 64)
    blocks, times = math.ceil(layer.weight[0] / 16), math.ceil(layer.T / 16)
    multiply, fire = 23 * tile_inputs * digits * blocks, 160 * blocks
    return layer.pixels * times * (multiply + fire + 12 * tile_inputs)


def dense(layer: Layer) -> float:
    """Cycles of torch's convolution, about 20 multiplications each, and of the scan of its currents."""
    unpack = layer.T * layer.neurons[0] * math.prod(layer.size) * layer.weight[1]
    multiply = layer.pixels * layer.T * layer.weight[0] * layer.inputs / 20
    return multiply + unpack + 0.5 * layer.pixels * layer.T * layer.weight[0]


def fastest(layer: Layer, rate: float, digits: int) -> str:
    """ "events", "tiles" or "dense". ``digits``: of the weights in tiles; 0 rules tiles out."""
    cycles = {"events": events(layer, rate), "dense": dense(layer)}
    if digits:
        cycles["tiles"] = tiles(layer, digits)
    return min(cycles, key=cycles.get)
