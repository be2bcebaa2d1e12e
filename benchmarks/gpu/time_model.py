"""The modelled time of the paper's network on a GPU that need not be here, from what the compiler says of its kernels.

A launch takes the longest of three, and then LAUNCH_S:

    arithmetic  its programs run in waves, as many at a time as the multiprocessors hold. A pass of the main loop takes
                what its slowest unit takes (main_loop.py) where several programs share a multiprocessor, and where one
                is alone its tensor cores and the rest take turns. Instructions outside the main loop are issued once
                in 16 steps.
    L2          each pass reads its words and weights from there.
    memory      words, weights, potentials and spikes are read or written once.

A chunk of steps is its launches one after another. Python prepares a launch in HOST_S, ahead of the GPU; where
something is waited for it cannot run ahead, and its time adds to the GPU's. Sustained clocks and L2 bandwidths are
assumptions too, from published microbenchmarks; no cache is modelled between launches, and silent blocks of K are not
skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import NamedTuple

from gpu import compile_variants
from gpu.compile_variants import ConvLayer
from gpu.main_loop import MainLoop
from proxykernels.kernels.gpu.block_sizes import Blocks, choose_blocks

LAUNCH_S = 3e-6  # between two kernels of a stream
HOST_S, WAIT_S = 12e-6, 25e-6  # of Python for an operator or a launch; for a wait
CHUNK = 64


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


# Of the paper's network in chunks of 64 steps: at commit 99ae48a, and since parameters are made ready once a run.
BEFORE = Host(464, 21, (994.6e6, 115.5e6), 29, 1, 79.6e6)
NOW = Host(9, 0, (0.0, 0.3e6), 101, 2, 169e6)


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

    def cycles(self, target: str) -> dict[str, float]:
        """Clocks of a multiprocessor for a pass of one program, by unit; weights are two float16 parts."""
        blocks = self.blocks
        multiply_adds = 2 * 16 * blocks.PIXELS * blocks.CHANNELS * blocks.BLOCK_K
        operands = blocks.num_warps // 4 * blocks.CHANNELS * blocks.BLOCK_K * 4 if target == "sm_90" else 0
        return self.loop.cycles(target, blocks.num_warps, multiply_adds, operands)


def compiled(layer: Layer, images: int, target: str) -> Compiled:
    """What triton.compile makes of a layer's launch for so many images."""
    neurons, K = layer.pixels * images, layer.C * layer.kernel_size**2
    blocks = choose_blocks(neurons, layer.C_out, K, target)
    name = f"{layer.name}-{images}"
    compile_variants.CONV_LAYERS[name] = ConvLayer(neurons, layer.C, layer.C_out, layer.kernel_size, bias=layer.pooled)
    output = "pooled" if layer.pooled else "words"
    record = compile_variants.compile_variant(f"if_conv2d/{target}/{name}/two-products/hard/{output}")
    if "error" in record:
        raise RuntimeError(record["error"])
    loop = MainLoop(**record["loop"])
    outside = record["instructions"] - loop.instructions
    return Compiled(blocks, record["registers"], record["programs"], outside, loop)


def layer_seconds(layer: Layer, kernel: Compiled, images: int, steps: int, card: Card) -> dict[str, float]:
    """Seconds of a launch by arithmetic, L2 and memory."""
    blocks, K = kernel.blocks, layer.C * layer.kernel_size**2
    units = kernel.cycles(card.target)
    others = max(cycles for unit, cycles in units.items() if unit != "tensor")
    alone = kernel.programs == 1
    of_pass = units["tensor"] + others if alone else max(units.values())
    turns = ceil(steps / 16)
    passes = turns * ceil(K / blocks.BLOCK_K)
    of_program = passes * of_pass + turns * kernel.outside * blocks.num_warps / 4
    programs = ceil(layer.pixels * images / blocks.PIXELS) * ceil(layer.C_out / blocks.CHANNELS)
    on_one = programs / card.multiprocessors  # programs that a multiprocessor runs, in whole waves but for the last
    waves = ceil(on_one) if on_one < kernel.programs else ceil(on_one / kernel.programs) * kernel.programs
    words = ceil(steps / 32)
    read = passes * programs * blocks.BLOCK_K * (blocks.CHANNELS * 4 + blocks.PIXELS * 4)
    neurons = images * layer.pixels * layer.C_out
    bytes_moved = 4 * words * images * layer.pixels_in * layer.C + 4 * layer.C_out * K
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
