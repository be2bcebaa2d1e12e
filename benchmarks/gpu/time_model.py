"""The modelled time of the paper's network on a GPU that need not be here, from what the compiler says of its kernels.

A launch takes the longest of three, and then LAUNCH_S:

    arithmetic  its programs run in waves, as many at a time as the multiprocessors hold. A pass of the main loop takes
                what its slowest unit takes (main_loop.py) where several programs share a multiprocessor, and where one
                is alone its tensor cores and the rest take turns. Instructions outside the main loop are issued once
                in 32 steps; at most 16 steps take half of all that.
    L2          each pass reads its words and weights from there.
    memory      words, weights, potentials and spikes are read or written once.

A chunk of steps is its launches one after another. Python prepares a launch in HOST_S, ahead of the GPU; where
something is waited for it cannot run ahead, and its time adds to the GPU's. Sustained clocks and L2 bandwidths are
assumptions too, from published microbenchmarks; no cache is modelled between launches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import NamedTuple

import torch

from gpu import compile_variants, variants
from gpu.main_loop import MainLoop
from gpu.variants import ConvLayer
from proxykernels.kernels.gpu.block_sizes import Blocks, choose_blocks

LAUNCH_S = 3e-6  # between two kernels of a stream
HOST_S, WAIT_S = 12e-6, 25e-6  # of Python for an operator or a launch; for a wait
CHUNK, STEPS = 64, 32  # steps: of a chunk, and of a pass of the main loop


class Card(NamedTuple):
    """A GPU: multiprocessors, clock in Hz, bytes/s of its L2 and memory, float32 FLOP/s without tensor cores."""

    target: str
    multiprocessors: int
    clock: float
    l2: float
    memory: float
    float32: float


CARDS = {
    "A100": Card("sm_80", 108, 1.41e9, 4.0e12, 2.039e12, 19.5e12),
    "H100": Card("sm_90", 132, 1.755e9, 5.5e12, 3.35e12, 67e12),
}


class Host(NamedTuple):
    """What a simulation asks of the host and of torch's operators, counted by tests/gpu/pretend_gpu.py.

    ``bytes``: that torch's operators read and write in a chunk, fixed and an image.
    """

    launches: float
    waits: float
    bytes: tuple[float, float]
    launches_of_run: float
    waits_of_run: float
    bytes_of_run: float


# Of the paper's network in chunks of 64 steps.
HOST = Host(9, 0, (0.0, 0.3e6), 101, 2, 169e6)
WEIGHTS = {"float32": "two-products", "int16": "two-digits"}  # and what they are multiplied as


class Layer(NamedTuple):
    """A convolution or matrix product of spikes: pixels out and in of an image, and its sizes."""

    name: str
    pixels: int
    pixels_in: int
    C: int
    C_out: int
    kernel_size: int
    pooled: bool = False


LAYERS = (
    Layer("conv2", 784, 784, 128, 128, 3, pooled=True),
    Layer("conv3", 196, 196, 128, 128, 3, pooled=True),
    Layer("linear1", 1, 1, 6272, 2560, 1),
    Layer("linear2", 1, 1, 2560, 1152, 1),
    Layer("linear3", 1, 1, 1152, 256, 1),
    Layer("linear4", 1, 1, 256, 10, 1),
)
HELD = 784 * 128  # neurons of the first layer, whose current is held
WORDS = HELD * 2 + 2 * 49 * 4 * 128 + 2 * 6272 + 2560 + 1152 + 256 + 10  # of 32 steps, that are counted for an image


@dataclass(frozen=True)
class Compiled:
    """A kernel as it is launched for a layer: its blocks, and what the compiler made of it."""

    blocks: Blocks
    registers: int
    programs: int
    outside: int  # instructions
    loop: MainLoop
    part_bytes: int = 2  # of a weight in each of its two parts: float16, or 1 of an int8 digit

    def cycles(self, target: str) -> dict[str, float]:
        """Clocks of a multiprocessor for a pass of one program, by unit."""
        blocks = self.blocks
        multiply_adds = (
            self.part_bytes * STEPS * blocks.PIXELS * blocks.CHANNELS * blocks.BLOCK_K
        )  # int8: in half the time
        weights = 2 * self.part_bytes * blocks.CHANNELS * blocks.BLOCK_K
        # sm_90: products of 64 rows, which read them from shared memory
        operands = STEPS * blocks.PIXELS // 64 * weights if target == "sm_90" else 0
        return self.loop.cycles(target, blocks.num_warps, multiply_adds, operands)


def compiled(layer: Layer, images: int, card: Card, weights: str) -> Compiled:
    """What triton.compile makes of a layer's launch for so many images; ``weights``: of WEIGHTS."""
    neurons, K = layer.pixels * images, layer.C * layer.kernel_size**2
    parts = variants.PRODUCTS[WEIGHTS[weights]]
    dtype = {"fp16": torch.float16, "i8": torch.int8}[parts.type]
    blocks = choose_blocks(neurons, layer.C_out, K, card.target, dtype, card.multiprocessors)
    name = f"{layer.name}-{images}"
    variants.CONV_LAYERS[name] = ConvLayer(neurons, layer.C, layer.C_out, layer.kernel_size, bias=layer.pooled)
    output = "pooled" if layer.pooled else "words"
    record = compile_variants.compile_variant(f"if_conv2d/{card.target}/{name}/{WEIGHTS[weights]}/hard/{output}")
    if "error" in record:
        raise RuntimeError(record["error"])
    loop = MainLoop(**record["loop"])
    outside = record["instructions"] - loop.instructions
    return Compiled(blocks, record["registers"], record["programs"], outside, loop, dtype.itemsize)


def layer_seconds(layer: Layer, kernel: Compiled, images: int, steps: int, card: Card) -> dict[str, float]:
    """Seconds of a launch by arithmetic, L2 and memory."""
    blocks, K = kernel.blocks, layer.C * layer.kernel_size**2
    units = kernel.cycles(card.target)
    others = max(cycles for unit, cycles in units.items() if unit != "tensor")
    alone = kernel.programs == 1
    of_pass = units["tensor"] + others if alone else max(units.values())
    turns = ceil(steps / STEPS) if steps > 16 else 0.5
    passes = turns * ceil(K / blocks.BLOCK_K)
    of_program = passes * of_pass + turns * kernel.outside * blocks.num_warps / 4
    programs = ceil(layer.pixels * images / blocks.PIXELS) * ceil(layer.C_out / blocks.CHANNELS)
    on_one = programs / card.multiprocessors  # programs that a multiprocessor runs, in whole waves but for the last
    waves = ceil(on_one) if on_one < kernel.programs else ceil(on_one / kernel.programs) * kernel.programs
    words = ceil(steps / 32)
    weights = 2 * kernel.part_bytes
    reads = ceil(turns) * ceil(K / blocks.BLOCK_K) * programs
    read = reads * blocks.BLOCK_K * (blocks.CHANNELS * weights + blocks.PIXELS * 4)
    neurons = images * layer.pixels * layer.C_out
    bytes_moved = 4 * words * images * layer.pixels_in * layer.C + weights * layer.C_out * K
    bytes_moved += neurons * (8 + words * (5 if layer.pooled else 4))
    return {
        "arithmetic": waves * of_program / card.clock,
        "L2": read / card.l2,
        "memory": bytes_moved / card.memory,
    }


def chunk_seconds(kernels: dict[str, Compiled], images: int, steps: int, card: Card) -> Iterator[tuple[str, float]]:
    """(what, seconds on the GPU) of a chunk's launches."""
    words = ceil(steps / 32)
    yield "scan", images * HELD * (4 + 8 + 4 * words) / card.memory + LAUNCH_S
    for layer in LAYERS:
        yield layer.name, max(layer_seconds(layer, kernels[layer.name], images, steps, card).values()) + LAUNCH_S


def run_ms(kernels: dict[str, Compiled], images: int, T: int, card: Card, host: Host) -> dict[str, float]:
    """Milliseconds of a whole simulation: of convolutions, of everything else on the GPU, of the host, and in all."""
    layers = other = host_s = 0.0
    for first in range(0, T, CHUNK):
        steps = min(CHUNK, T - first)
        for name, seconds in chunk_seconds(kernels, images, steps, card):
            layers += seconds if name != "scan" else 0
            other += seconds if name == "scan" else 0
        share = steps / CHUNK
        swept = host.bytes[0] + share * images * host.bytes[1]
        if not host.waits:  # words are counted by one kernel, which reads them once
            swept += images * WORDS * 4 * ceil(steps / 32)
        other += swept / card.memory + max(0, host.launches - 7) * LAUNCH_S
        host_s += host.launches * HOST_S + host.waits * WAIT_S
    other += host.bytes_of_run / card.memory + 2 * 9 * images * HELD / card.float32
    host_s += host.launches_of_run * HOST_S + host.waits_of_run * WAIT_S
    gpu = layers + other
    total = gpu + host_s if host.waits else max(gpu, host_s)
    return {"layers": 1e3 * layers, "other": 1e3 * other, "host": 1e3 * host_s, "total": 1e3 * total}


def executed_tflop(images: int, T: int) -> float:
    """FLOPs in 10**12 of the products that all T steps make, with two parts of each weight."""
    return 2 * 2 * T * images * sum(x.pixels * x.C_out * x.C * prod([x.kernel_size] * 2) for x in LAYERS) / 1e12
