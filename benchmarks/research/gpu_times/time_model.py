"""The modelled time of the paper's network on a GPU that need not be here, from what the compiler says of its kernels.

A launch takes the longest of three, and then LAUNCH_S:

    arithmetic  its programs run in waves, as many at a time as the multiprocessors hold. A pass of the main loop takes
                what its slowest unit takes (main_loop.py) where several programs share a multiprocessor, and where one
                is alone its tensor cores and the rest take turns. Other instructions are issued besides, those of the
                neurons once in 32 steps. Of 16 steps and fewer the kernel is another one. All is divided by EFFICIENCY.
    L2          each pass reads its words and weights from there, at L2 of its bandwidth. What the first-level cache
                saves of the words of neighbouring taps is left out.
    memory      words, potentials and spikes, and weights, are read or written once.

A run is that of pk.compile: its launches one after another in a CUDA graph, and RUN_S of Python before and after it.
Sustained clocks and L2 bandwidths are assumptions too; no cache is modelled between launches. rival_model.py
models the rival by the same rules.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from gpu import variants
from gpu.compile_variants import compile_in_child
from gpu.launches import LAUNCHES_OF_CHUNK, LAUNCHES_OF_RUN
from gpu.main_loop import MULTIPROCESSORS, MainLoop

from proxykernels.kernels.gpu.block_sizes import Blocks, choose_blocks, steps_at_a_time

# What good kernels reach: of tensor cores the best GEMMs and convolutions have 60 to 65 %, of memory streams 90 %.
EFFICIENCY, BANDWIDTH = 0.625, 0.9
L2 = 0.75  # of what microbenchmarks read: a kernel also waits for its own arithmetic and for the other half of the L2
LAUNCH_S = 3e-6  # between two kernels of a stream
RUN_S = 50e-6  # of Python: to copy the input and launch the graph, and to wait for its end
CHUNK, STEPS = 64, 32  # steps: of a chunk, and at most of a pass of the main loop
# What simulate has, and what it is multiplied as.
WEIGHTS = {"float32": "three-digits", "float16": "one-product", "int16": "two-digits", "int8": "one-digit"}


class Card(NamedTuple):
    """A GPU, by NVIDIA's white papers (Ampere GA100, Hopper H100, Ada) and data sheets; of its L2 by microbenchmarks.

    Attributes:
        target: as compilers call it.
        clock: Hz, of the data sheets' peak of tensor cores: 989 TFLOP/s of an H100 are 1.83 GHz, 312 of an A100 1.41.
        l2, memory: bytes/s.
        float32: FLOP/s without tensor cores.
    """

    target: str
    multiprocessors: int
    clock: float
    l2: float
    memory: float
    float32: float


CARDS = {
    "H100 SXM": Card("sm_90", 132, 1.83e9, 5.5e12, 3.35e12, 67e12),
    "A100 SXM": Card("sm_80", 108, 1.41e9, 4.0e12, 2.039e12, 19.5e12),
    "RTX 4090": Card("sm_89", 128, 2.52e9, 5.0e12, 1.008e12, 82.6e12),
}


class Layer(NamedTuple):
    """A convolution or matrix product of spikes: pixels out and in of an image, and its sizes."""

    name: str
    pixels: int
    pixels_in: int
    C: int
    C_out: int
    kernel_size: int
    pooled: bool = False

    @property
    def K(self) -> int:
        return self.C * self.kernel_size**2


LAYERS = (
    Layer("conv2", 784, 784, 128, 128, 3, pooled=True),
    Layer("conv3", 196, 196, 128, 128, 3, pooled=True),
    Layer("linear1", 1, 1, 6272, 2560, 1),
    Layer("linear2", 1, 1, 2560, 1152, 1),
    Layer("linear3", 1, 1, 1152, 256, 1),
    Layer("linear4", 1, 1, 256, 10, 1),
)
CONSTANT = 784 * 128  # neurons of the first layer, whose current is constant
# Per image: words of 32 steps that are counted; bytes of a chunk that flattening reads and writes.
WORDS, FLATTENED = CONSTANT * 2 + 2 * 49 * 4 * 128 + 2 * 6272 + 2560 + 1152 + 256 + 10, 0.3e6


@dataclass(frozen=True)
class Compiled:
    """A kernel as it is launched for a layer: its blocks, and what the compiler made of it.

    Attributes:
        parts: how many a weight has, each a product.
        type: of the parts, "fp16" or "i8".
        steps: of a pass.
    """

    blocks: Blocks
    registers: int
    programs: int
    loop: MainLoop
    parts: int = 2
    type: str = "fp16"
    steps: int = STEPS

    @property
    def weight_bytes(self) -> int:
        return self.parts * {"fp16": 2, "i8": 1}[self.type]

    def cycles(self, target: str) -> dict[str, float]:
        """Clocks of a multiprocessor for a pass of one program, by unit."""
        blocks = self.blocks
        multiply_adds = self.parts * self.steps * blocks.PIXELS * blocks.CHANNELS * blocks.BLOCK_K
        weights = self.weight_bytes * blocks.CHANNELS * blocks.BLOCK_K
        # sm_90: products of 64 rows, which read them from shared memory
        operands = self.steps * blocks.PIXELS // 64 * weights if target == "sm_90" else 0
        tensor = multiply_adds / MULTIPROCESSORS[target].multiply_adds[self.type]
        return self.loop.cycles(blocks.num_warps, tensor, operands)


Launch = tuple[Layer, int, Card, str, int]  # a layer, images, a card, a name of WEIGHTS, steps of a pass


def compiled(launches: Iterable[Launch]) -> Iterator[tuple[Launch, Compiled]]:
    """What triton.compile makes of launches, each as soon as it is there; those of the same kernel are compiled once.

    Raises:
        RuntimeError: one does not compile.
    """
    launches = list(launches)
    wanted = [_variant(*launch) for launch in launches]
    records = compile_in_child(dict.fromkeys(variant for variant, _ in wanted))
    done: dict[str, dict] = {}
    for launch, (variant, blocks) in zip(launches, wanted, strict=True):
        while variant not in done:
            record = next(records)
            done[record["variant"]] = record
        record = done[variant]
        if reason := record.get("error") or record.get("absent"):
            raise RuntimeError(f"{variant}: {reason}")
        parts, loop = variants.PRODUCTS[WEIGHTS[launch[3]]], MainLoop(**record["loop"])
        yield launch, Compiled(blocks, record["registers"], record["programs"], loop, *parts[::-1], launch[4])


def passes_of(T: int, card: Card) -> set[int]:
    """The steps of a pass, of all chunks of a run."""
    return {steps_at_a_time(min(CHUNK, T - first), card.target) for first in range(0, T, CHUNK)}


def _variant(layer: Layer, images: int, card: Card, weights: str, steps: int) -> tuple[str, Blocks]:
    """The name by which compile_variants.py knows the kernel of a launch, and its blocks.

    Launches with the same blocks are the same kernel: its name has the fewest pixels with which they are chosen there.
    """
    sizes = layer.C_out, layer.K, card.target, variants.PRODUCTS[WEIGHTS[weights]].digits
    blocks = choose_blocks(layer.pixels * images, *sizes, card.multiprocessors, steps)
    neurons = next(2**k for k in range(30) if choose_blocks(2**k, *sizes, steps=steps) == blocks)
    name = f"{neurons}-{layer.C}-{layer.C_out}-{layer.kernel_size}-{int(layer.pooled)}"
    output = ("pooled" if layer.pooled else "words") + (f"-{steps}" if steps < STEPS else "")
    return f"if_conv2d/{card.target}/{name}/{WEIGHTS[weights]}/hard/{output}", blocks


def layer_seconds(layer: Layer, kernel: Compiled, images: int, steps: int, card: Card) -> dict[str, float]:
    """Seconds of a launch by arithmetic, L2 and memory."""
    blocks = kernel.blocks
    units = kernel.cycles(card.target)
    alone = units["tensor"] + max(cycles for unit, cycles in units.items() if unit != "tensor")
    of_pass = alone if kernel.programs == 1 else max(units.values())
    turns = ceil(steps / kernel.steps)
    passes = turns * ceil(layer.K / blocks.BLOCK_K)
    others = turns * kernel.loop.turn + kernel.loop.once  # instructions of a warp
    of_program = passes * of_pass + others * blocks.num_warps / 4
    programs = ceil(layer.pixels * images / blocks.PIXELS) * ceil(layer.C_out / blocks.CHANNELS)
    on_one = programs / card.multiprocessors  # programs per multiprocessor, in whole waves except the last
    waves = ceil(on_one) if on_one < kernel.programs else ceil(on_one / kernel.programs) * kernel.programs
    words = ceil(steps / 32)
    reads = turns * ceil(layer.K / blocks.BLOCK_K) * programs
    read = reads * blocks.BLOCK_K * (blocks.CHANNELS * kernel.weight_bytes + blocks.PIXELS * 4)
    neurons = images * layer.pixels * layer.C_out
    bytes_moved = 4 * words * images * layer.pixels_in * layer.C + kernel.weight_bytes * layer.C_out * layer.K
    bytes_moved += neurons * (8 + words * (5 if layer.pooled else 4))
    return {
        "arithmetic": waves * of_program / card.clock / EFFICIENCY,
        "L2": read / card.l2 / L2,
        "memory": memory_seconds(bytes_moved, card),
    }


def memory_seconds(bytes_moved: float, card: Card) -> float:
    return bytes_moved / card.memory / BANDWIDTH


def run_ms(kernels: dict[tuple[str, int], Compiled], images: int, T: int, card: Card, weights: str) -> dict[str, float]:
    """Milliseconds of a run: of the layers that take spikes, of all else, and of the whole.

    ``kernels``: by the name of a layer and the steps of a pass.
    """
    layers, other = 0.0, RUN_S + held_seconds(images, card) + LAUNCHES_OF_RUN[weights] * LAUNCH_S
    for first in range(0, T, CHUNK):
        steps = min(CHUNK, T - first)
        mine = {layer: kernels[layer.name, steps_at_a_time(steps, card.target)] for layer in LAYERS}
        layers += sum(max(layer_seconds(*one, images, steps, card).values()) for one in mine.items())
        words = ceil(steps / 32)
        moved = images * CONSTANT * (4 + 8 + 4 * words)  # by the scan of the first layer
        moved += images * (WORDS * 4 * words + steps / CHUNK * FLATTENED)  # by what counts, and flattens
        other += memory_seconds(moved, card) + LAUNCHES_OF_CHUNK * LAUNCH_S
    return {"layers": 1e3 * layers, "other": 1e3 * other, "total": 1e3 * (layers + other)}


def products_ms(images: int, T: int, card: Card, weights: str) -> float:
    """Milliseconds of only the products of a run, at EFFICIENCY of the tensor cores' peak: no kernel is faster."""
    parts = variants.PRODUCTS[WEIGHTS[weights]]
    multiply_adds = parts.count * images * T * sum(layer.pixels * layer.C_out * layer.K for layer in LAYERS)
    of_card = MULTIPROCESSORS[card.target].multiply_adds[parts.type] * card.multiprocessors * card.clock
    return 1e3 * multiply_adds / of_card / EFFICIENCY


def held_seconds(images: int, card: Card) -> float:
    """Seconds for the first layer's convolution: one channel, 3 x 3, in float32."""
    return 2 * 9 * images * CONSTANT / card.float32
