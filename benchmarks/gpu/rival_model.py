"""The modelled time of the strongest rival (rivals.py, layers-...): layer by layer, all steps of a chunk at once.

A layer is a product of dense spikes by cuDNN or cuBLAS, which writes currents; a scan of the neurons over the steps,
which reads them and writes spikes; and pooling, which reads and writes spikes. Each launch takes the longer of its
arithmetic and its memory traffic, by the rules of time_model.py: no cache, launches one after another. A held image is
convolved once, bias and batch normalisation are part of a product, flattening and counting cost nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

from gpu.cards import Card
from gpu.main_loop import MULTIPROCESSORS
from gpu.time_model import CHUNK, CONSTANT, EFFICIENCY, LAUNCH_S, LAYERS, Layer, held_seconds, memory_seconds

SIMT = 0.8  # of the float32 lanes' peak, which good GEMMs without tensor cores reach; Winograd's algorithm is left out
GRAPH_S = 10e-6  # to replay a chunk


class Precision(NamedTuple):
    """Of the rival's weights, spikes and currents: bytes of one, and whether tensor cores multiply them."""

    width: int
    tensor_cores: bool


PRECISIONS = {"float32": Precision(4, False), "float16": Precision(2, True)}


def flops(card: Card, precision: Precision) -> float:
    """FLOP/s that its products reach."""
    if not precision.tensor_cores:
        return SIMT * card.float32
    return EFFICIENCY * 2 * MULTIPROCESSORS[card.target].multiply_adds["fp16"] * card.multiprocessors * card.clock


def layer_launches(layer: Layer, images: int, steps: int, card: Card, precision: Precision) -> Iterator[float]:
    """Seconds of each launch of a layer."""
    samples, width = images * steps, precision.width
    inputs, outputs = samples * layer.pixels_in * layer.C, samples * layer.pixels * layer.C_out
    moved = width * (inputs + outputs + layer.C_out * layer.K)
    yield max(2 * outputs * layer.K / flops(card, precision), memory_seconds(moved, card))
    yield _scan_seconds(width * outputs, outputs // steps, width * outputs, card)
    if layer.pooled:
        yield memory_seconds(width * outputs * 5 / 4, card)


def _scan_seconds(read: float, neurons: int, written: float, card: Card) -> float:
    """Of neurons that read currents, write spikes, and have their potentials read and written in float32."""
    return memory_seconds(read + written + 8 * neurons, card)


def run_ms(images: int, T: int, card: Card, precision: str) -> float:
    """Milliseconds of a simulation whose chunks are CUDA graphs."""
    has, seconds = PRECISIONS[precision], held_seconds(images, card)
    for first in range(0, T, CHUNK):
        steps = min(CHUNK, T - first)
        launches = [
            _scan_seconds(has.width * images * CONSTANT, images * CONSTANT, has.width * steps * images * CONSTANT, card)
        ]
        for layer in LAYERS:
            launches += layer_launches(layer, images, steps, card, has)
        seconds += GRAPH_S + sum(launches) + LAUNCH_S * len(launches)
    return 1e3 * seconds


def peak_bytes(images: int, steps: int, precision: str) -> int:
    """Of the largest product: its spikes and its currents."""
    return (
        PRECISIONS[precision].width
        * images
        * min(steps, CHUNK)
        * max(layer.pixels_in * layer.C + layer.pixels * layer.C_out for layer in LAYERS)
    )
