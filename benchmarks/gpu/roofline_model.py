"""The roofline model of a GPU's time for the layers of a network: what arithmetic and memory traffic allow at best.

Each launch takes max(FLOPs / peak, bytes / bandwidth), and launches follow each other (S. Williams, A. Waterman and D.
Patterson, "Roofline", CACM 52(4), 2009). Not in the model: caches that keep data from one launch to the next, the cost
of a launch, and that this design skips blocks of inputs that hold no spike.
"""

from dataclasses import dataclass

import torch
from torch import nn

import proxykernels as pk
from proxykernels.conversion.nir_nodes import output_shape


@dataclass(frozen=True)
class Card:
    """A GPU: FLOP/s of its tensor cores, dense, 16-bit factors and float32 sums; bytes/s of its memory."""

    flops: float
    bandwidth: float


CARDS = {
    # NVIDIA H100 Tensor Core GPU Architecture (white paper) and H100 datasheet, H100 SXM: 989.4 TFLOP/s, 3.35 TB/s.
    "H100 SXM": Card(989.4e12, 3.35e12),
    # NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM: 312 TFLOP/s, 2,039 GB/s.
    "A100 SXM": Card(312e12, 2.039e12),
    # NVIDIA Ada GPU Architecture (white paper), GeForce RTX 4090: 165.2 TFLOP/s with FP32 accumulate, 1008 GB/s.
    "RTX 4090": Card(165.2e12, 1.008e12),
}


@dataclass(frozen=True)
class Precision:
    """How weights are kept: products that one weight takes, and bytes of a weight and of an unfused design's floats."""

    products: int
    float_bytes: int


# float32 weights are two float16 parts here; TF32, the unfused way to nearly the same, has half the peak: also twice.
PRECISIONS = {"hi-lo": Precision(2, 4), "half": Precision(1, 2)}


@dataclass(frozen=True)
class Layer:
    """One layer as numbers of one sample: input and output neurons, weights, and multiplications of one step.

    Attributes:
        kind: "product" (a convolution or a matrix product, and IF neurons), "pool" or "flatten".
        held: the input is a constant image, so the product is computed once instead of T times.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    weights: int = 0
    multiplications: int = 0
    held: bool = False
    shape: str = ""


@dataclass(frozen=True)
class Launch:
    """What one kernel launch does at least: FLOPs, counted once for any precision, and bytes of memory traffic."""

    flops: int
    bytes: int


def layers(net: nn.Sequential, size: tuple[int, int, int]) -> list[Layer]:
    """The layers of a network for constant images of ``size`` (C, H, W)."""
    found, shape = [], size
    for name, layer in net.named_children():
        after = output_shape(layer, [shape])
        inputs, outputs = torch.Size(shape).numel(), torch.Size(after).numel()
        weights = multiplications = 0
        if isinstance(layer, pk.layers.Fused):
            weights, multiplications = layer.weight.numel(), layer.synapse(layer).fan_in * outputs
        kind = {pk.MaxPool2d: "pool", pk.Flatten: "flatten"}.get(type(layer), "product")
        text = f"{'x'.join(map(str, shape))} -> {'x'.join(map(str, after))}"
        found.append(Layer(name, kind, inputs, outputs, weights, multiplications, held=not found, shape=text))
        shape = after
    return found


def fused(layer: Layer, N: int, T: int, precision: Precision) -> list[Launch]:
    """What this design does for a layer.

    Spikes are words of 32 steps; a product reads its input words and its weights once, writes its words, and reads and
    writes the float32 potentials. A held image is convolved once in float32, and its currents are written and read by
    the neurons' launch. Pooling and flattening read and write words.
    """
    words = 4 * -(-T // 32)  # bytes of a neuron's spikes
    if layer.kind != "product":
        return [Launch(0, words * N * (layer.inputs + layer.outputs))]
    weights = layer.weights * precision.float_bytes
    neurons = (words + 8) * N * layer.outputs  # spikes out, potentials in and out
    flops = 2 * layer.multiplications * N
    if layer.held:
        currents = 4 * N * layer.outputs
        return [Launch(flops, 4 * N * layer.inputs + weights + currents), Launch(0, currents + neurons)]
    return [Launch(flops * T, words * N * layer.inputs + weights + neurons)]


def unfused(layer: Layer, N: int, T: int, precision: Precision) -> list[Launch]:
    """What a design does that multiplies dense spikes and runs the neurons on the currents in a second launch.

    Spikes and currents are floats of the weights' width. It is the best of its kind: all T steps in each launch,
    weights read once, potentials kept in registers, a held image convolved once, flattening free.
    """
    width = precision.float_bytes
    if layer.kind == "flatten":
        return []
    if layer.kind == "pool":
        return [Launch(0, width * T * N * (layer.inputs + layer.outputs))]
    steps = 1 if layer.held else T
    currents = width * steps * N * layer.outputs
    product = Launch(
        2 * layer.multiplications * N * steps, width * steps * N * layer.inputs + layer.weights * width + currents
    )
    return [product, Launch(0, currents + (width * T + 8) * N * layer.outputs)]


def compute_ms(launch: Launch, card: Card, precision: Precision) -> float:
    return 1e3 * launch.flops * precision.products / card.flops


def memory_ms(launch: Launch, card: Card) -> float:
    return 1e3 * launch.bytes / card.bandwidth


def floor_ms(launches: list[Launch], card: Card, precision: Precision) -> float:
    """The time of launches one after another, each bounded by its arithmetic or its memory traffic."""
    return sum(max(compute_ms(launch, card, precision), memory_ms(launch, card)) for launch in launches)
