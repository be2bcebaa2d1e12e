"""The modelled time of the strongest rival (gpu/rivals.py): layer by layer, all steps of a chunk at once.

A layer is a product of dense spikes by cuDNN or cuBLAS, which writes currents; a scan of the neurons over the steps,
which reads them and writes spikes; and pooling, which reads and writes spikes. Each launch takes the longer of its
arithmetic and its memory traffic, by the rules of time_model.py: no cache, launches one after another. A constant image
is convolved once, bias and batch normalisation are part of a product, flattening and counting cost nothing.
"""

from collections.abc import Iterator

from gpu.main_loop import MULTIPROCESSORS

from gpu_times.time_model import (
    CHUNK,
    CONSTANT,
    EFFICIENCY,
    LAUNCH_S,
    LAYERS,
    Card,
    Layer,
    held_seconds,
    memory_seconds,
)

SIMT = 0.8  # of the float32 lanes' peak, which good GEMMs without tensor cores reach; Winograd's algorithm is left out
TF32 = 0.5  # of float16's rate on tensor cores; torch's default for convolutions of float32
GRAPH_S = 10e-6  # to replay a chunk
WIDTHS = {
    "float32": 4,
    "tf32": 4,
    "float16": 2,
}  # bytes of a weight, a spike and a current


def flops(card: Card, precision: str) -> float:
    """FLOP/s that its products reach."""
    if precision == "float32":
        return SIMT * card.float32
    of_clock = 2 * MULTIPROCESSORS[card.target].multiply_adds["fp16"] * card.multiprocessors
    return EFFICIENCY * of_clock * card.clock * (TF32 if precision == "tf32" else 1.0)


def layer_launches(layer: Layer, images: int, steps: int, card: Card, precision: str) -> Iterator[float]:
    """Seconds of each launch of a layer."""
    samples, width = images * steps, WIDTHS[precision]
    inputs, outputs = samples * layer.pixels_in * layer.C, samples * layer.pixels * layer.C_out
    moved = width * (inputs + outputs + layer.C_out * layer.K)
    yield max(2 * outputs * layer.K / flops(card, precision), memory_seconds(moved, card))
    yield memory_seconds(width * outputs * 2 + 8 * (outputs // steps), card)  # potentials are of float32
    if layer.pooled:
        yield memory_seconds(width * outputs * 5 / 4, card)


def run_ms(images: int, T: int, card: Card, precision: str) -> float:
    """Milliseconds of a simulation whose chunks are CUDA graphs."""
    neurons, width, seconds = images * CONSTANT, WIDTHS[precision], held_seconds(images, card)
    for first in range(0, T, CHUNK):
        steps = min(CHUNK, T - first)
        launches = [memory_seconds(neurons * (width + width * steps + 8), card)]
        for layer in LAYERS:
            launches += layer_launches(layer, images, steps, card, precision)
        seconds += GRAPH_S + sum(launches) + LAUNCH_S * len(launches)
    return 1e3 * seconds
