"""Whether the choice of a kernel is right, on random layers, and what the model behind it should say here."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from statistics import median

import torch
from torch import Tensor

from proxykernels.kernels.cpu.choice import KERNELS
from proxykernels.kernels.cpu.cost_model import CLOCK_HZ, STRUCTS, Layer, model
from proxykernels.kernels.rounding import PRECISIONS, round_weights
from speed.ops_cases import Shape
from speed.ops_parts import Kernel, absent, rival

LEAST_S = 0.003  # shorter calls are timed several at once
SMALLEST, LARGEST = 0.02, 1.0  # GMAC of a layer: calls of half a millisecond and more
NEAR = 1.1  # times the best kernel's time: a choice that is right
STIFFNESS = 0.3  # of the costs that there are, against those measured: what layers do not tell stays


Numbers = dict[str, dict[str, float]]  # of each kernel, by what it does: how often, or what it costs in cycles


@dataclass(frozen=True)
class Measured:
    """One layer.

    Attributes:
        seconds: processor time of each kernel that can take it. rival: of torch's convolution and the scan.
        chosen: the kernel that is taken. counts: of each kernel, as the model counts.
    """

    shape: Shape
    precision: str
    seconds: dict[str, float]
    rival: float
    chosen: str
    counts: Numbers

    @property
    def best(self) -> str:
        return min(self.seconds, key=lambda kernel: self.seconds[kernel])

    def choice(self, costs: Numbers) -> str:
        """The kernel that these costs would choose."""
        return min(self.counts, key=lambda kernel: cycles(kernel, self.counts, costs))

    def excess(self, kernel: str) -> float:
        """How many times the best kernel's time it takes."""
        return self.seconds[kernel] / self.seconds[self.best]


def counts_of(layer: Layer, rate: float, *, has_tiles: bool, digits: int) -> Numbers:
    """How often each kernel does what costs time."""
    counts = STRUCTS["Work"]()
    model().count(layer.for_library(), rate, digits, has_tiles, counts)
    return _by_name(counts)


def costs_of(has_tiles: bool) -> Numbers:
    """The costs in the model for a core with or without matrix tiles."""
    return _by_name(model().machines[has_tiles].costs)


def _by_name(work) -> Numbers:
    parts = {kernel: getattr(work, kernel) for kernel, _ in work._fields_}
    return {kernel: {name: getattr(part, name) for name, _ in part._fields_} for kernel, part in parts.items()}


def random_shape(random: Random) -> Shape:
    """A random shape that takes milliseconds."""
    while True:
        T, N = random.choice((8, 16, 32, 64, 100)), random.choice((1, 1, 2, 4, 8, 16))
        rate = math.exp(random.uniform(math.log(0.005), math.log(0.6)))
        C_in, C_out = (round(2 ** random.uniform(3, 9.5)) for _ in range(2))
        if random.random() < 0.3:
            C_in, C_out = 4 * C_in, 2 * C_out
            shape = Shape(T, N, C_in, 1, C_out, 1, rate)
        else:
            kernel, size = random.choice((1, 3, 3, 3, 5)), random.randint(5, 32)
            shape = Shape(T, N, C_in, size, C_out, kernel, rate, random.choice((1, 1, 1, 2)), kernel // 2)
        if SMALLEST < shape.gmac < LARGEST:
            return shape


def spikes(shape: Shape, bursts: float, generator: torch.Generator) -> Tensor:
    """Bool [T, N, C_in, size, size]: neurons that differ in rate, and go on firing with the probability ``bursts``."""
    size = shape.N, shape.C_in, shape.size, shape.size
    rates = (torch.rand(size, generator=generator) ** 2 * 3 * shape.rate).clamp(0, 0.98)
    fires, steps = torch.rand(size, generator=generator) < rates, []
    for _ in range(shape.T):
        stays = torch.rand(size, generator=generator) < bursts
        fires = torch.where(stays, fires, torch.rand(size, generator=generator) < rates)
        steps.append(fires)
    return torch.stack(steps)


def measure(shape: Shape, precision: str, bursts: float, seed: int, rounds: int) -> Measured:
    """Time every kernel that can take a layer, on one thread; the choice's counts are those of its spikes."""
    generator = torch.Generator().manual_seed(seed)
    dense = spikes(shape, bursts, generator)
    weight = torch.randn(shape.C_out, shape.C_in, shape.kernel, shape.kernel, generator=generator)
    weight /= (shape.C_in * shape.kernel**2) ** 0.5
    if precision in PRECISIONS:
        weight = round_weights(weight, None, PRECISIONS[precision])[0].float()
    free = Kernel(None, None)
    words = free.pack(dense)
    free.run(shape, words, weight)
    contenders = {}
    for name in KERNELS:
        kernel = Kernel(None, name)
        if name not in absent():
            kernel.run(shape, words, weight)
            if kernel.taken == name:
                contenders[name] = lambda kernel=kernel: kernel.run(shape, words, weight)
    contenders["rival"], contenders["look"] = rival(shape, dense, weight), lambda: free.look_for_steady(words, weight)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    calls = {name: max(1, math.ceil(LEAST_S / _seconds(run, 1))) for name, run in contenders.items()}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(_seconds(run, calls[name]))
    seconds = {name: min(own) for name, own in times.items()}  # other programs, which share the caches, only add
    rival_s, look_s = seconds.pop("rival"), seconds.pop("look")
    for name in ("events", "shorts", "bytes"):  # where they are not forced, the choice has looked, whatever it takes
        if name in seconds:
            seconds[name] = max(seconds[name] - look_s, 1e-7)
    return Measured(shape, precision, seconds, rival_s, free.taken, _counts(free, shape, words, weight, seconds))


def _counts(kernel: Kernel, shape: Shape, words: Tensor, weight: Tensor, seconds: dict[str, float]) -> Numbers:
    pairs = ((value, value) for value in (shape.stride, shape.padding, shape.dilation))
    pixels = math.prod(shape.out)
    layer = Layer(shape.T, (shape.N, pixels, shape.C_out), (shape.size,) * 2, tuple(weight.shape), *pairs)
    rate = kernel.rate(words, weight)
    digits = kernel.digits(weight) if "tiles" in seconds else 0
    counts = counts_of(layer, rate, has_tiles=kernel.has_tiles, digits=digits)
    return {name: counts[name] for name in seconds}


def _seconds(run, calls: int) -> float:
    """Processor time, which other programs do not lengthen."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return max((time.process_time() - start) / calls, 1e-7)


def sweep(layers: int, seed: int, rounds: int) -> Iterator[Measured]:
    """Random layers, always the same of a seed."""
    random = Random(seed)
    for number in range(layers):
        shape = random_shape(random)
        precision = random.choice(("float32", "float32", *PRECISIONS))
        yield measure(shape, precision, random.choice((0.0, 0.5, 0.8)), number, rounds)


def fit(measured: list[Measured], before: Numbers) -> Numbers:
    """Costs, in cycles, that give the measured times with the least relative errors; none below 0.

    ``before``: the costs that there are.
    """
    fitted = {kernel: dict(costs) for kernel, costs in before.items()}
    for kernel, costs in before.items():
        mine = [one for one in measured if kernel in one.seconds]
        if len(mine) < len(costs):
            continue
        names = list(costs)
        known = torch.tensor([costs[name] for name in names], dtype=torch.float64)
        counts = torch.tensor([[one.counts[kernel][name] for name in names] for one in mine], dtype=torch.float64)
        counts /= torch.tensor([one.seconds[kernel] * CLOCK_HZ for one in mine], dtype=torch.float64)[:, None]
        fitted[kernel] = dict(zip(names, _least_squares(counts * known).mul(known).tolist(), strict=True))
    return fitted


def _least_squares(counts: Tensor) -> Tensor:
    """Factors of at least 0 with which counts [n, k] sum up to 1, and which stay near 1."""
    n, k = counts.shape
    keep = torch.ones(k, dtype=torch.bool)
    factors = torch.zeros(k, dtype=torch.float64)
    stiff = STIFFNESS * torch.eye(k, dtype=torch.float64)
    while True:
        system = torch.cat([counts, stiff])[:, keep]
        right = torch.cat([torch.ones(n, dtype=torch.float64), torch.full((k,), STIFFNESS, dtype=torch.float64)])
        factors.zero_()[keep] = torch.linalg.lstsq(system, right).solution
        if (factors >= 0).all():
            return factors
        keep &= factors >= 0


def cycles(kernel: str, counts: Numbers, costs: Numbers) -> float:
    """What a kernel's counts cost."""
    return sum(costs[kernel][what] * often for what, often in counts[kernel].items())


def error(measured: list[Measured], kernel: str, costs: Numbers) -> float:
    """The median of |modelled / measured - 1| of a kernel; nan if it took no layer."""
    mine = [one for one in measured if kernel in one.seconds]
    ratios = [cycles(kernel, one.counts, costs) / CLOCK_HZ / one.seconds[kernel] for one in mine]
    return median(abs(ratio - 1) for ratio in ratios) if ratios else math.nan
