"""What is done with packed spikes: packing, counting, cutting, joining, flattening, pooling; of periods too."""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.spikes.spikes import cat_channels, cat_steps, flatten

from . import draw, ways
from .case import Case, Mismatch, same
from .scans import draw_shape, steps_for

DTYPES = ("bool", "uint8", "int64", "float32", "float16")


def of_every_kind(
    shape: tuple[int, ...], train: str, rate: float, periods: bool, layout: str, dtype: str, g: torch.Generator
) -> tuple[Tensor, pk.Spikes]:
    """Spikes, dense float32 and packed; ``periods``: those of a held current."""
    if periods:
        current = draw.whole(shape[1:], 9, g)
        return reference.if_hold(current, shape[0], v_threshold=7.0)[0], pk.if_hold(current, shape[0], v_threshold=7.0)[
            0
        ]
    x = draw.spikes(shape, train, rate, g)
    layout = layout if layout != "strided" or dtype == "float32" else "contiguous"
    return x, pk.pack(draw.laid_out(x, layout).to(getattr(torch, dtype)))


@dataclass(frozen=True, kw_only=True)
class WordCase(Case):
    """Packed spikes say what the dense ones do."""

    T: int = 1
    shape: tuple[int, ...] = (1,)
    cut: tuple[int, int] = (0, 1)
    train: str = draw.TRAINS[0]
    rate: float = 0.5
    periods: bool = False
    layout: str = draw.LAYOUTS[0]
    dtype: str = "bool"

    @classmethod
    def draw(cls, random: Random, **common) -> "WordCase":
        shape = draw_shape(random)
        T = steps_for(random, torch.Size(shape).numel())
        begin = random.randint(0, T - 1)
        return cls(
            **common, T=T, shape=shape, cut=(begin, random.randint(begin + 1, T)), train=random.choice(draw.TRAINS),
            rate=draw.rate(random), periods=random.random() < 0.3, layout=random.choice(draw.LAYOUTS),
            dtype=random.choice(DTYPES),
        )  # fmt: skip

    def check(self) -> bool:
        g, (begin, end) = draw.generator(self.seed), self.cut
        end = min(end, self.T)
        begin = min(begin, end - 1)
        with ways.use(self.way, self.threads):
            shape = self.T, *self.shape
            x, spikes = of_every_kind(shape, self.train, self.rate, self.periods, self.layout, self.dtype, g)
            size = x.numel()
            rate = spikes.rate()
            if size and rate != int(x.double().sum()) / size:
                raise Mismatch(f"rate: {rate}, expected {int(x.double().sum()) / size}")
            part = spikes[begin:end]
            same("cut", part.dense(), x[begin:end])
            same("rate of the cut", part._total(), x[begin:end].double().sum().long())
            same("joined", cat_steps([part, spikes, part]).dense(), torch.cat([x[begin:end], x, x[begin:end]]))
            same("dense", spikes.dense(), x)
            same("count", spikes.count(end), x[:end].sum(0).int())
            same("to", spikes.to("cpu").dense(torch.bool), x.bool())
            if x.ndim > 2:
                same("flatten", flatten(spikes).dense(), x.flatten(2))
                other = draw.spikes((*x.shape[:2], 1 + self.seed % 70, *x.shape[3:]), self.train, self.rate, g)
                parts = [spikes, pk.pack(other), spikes]
                same("channels", cat_channels(parts).dense(), torch.cat([x, other, x], 2))
            if x.ndim == 5:
                pixels = torch.randint(0, x[0, 0, 0].numel() if x.numel() else 1, (5,), generator=g)
                if x.numel():
                    same("pixels", spikes._at(pixels).dense(), x.flatten(3)[..., pixels])
        return bool(x.any())


@dataclass(frozen=True, kw_only=True)
class Pool(Case):
    """max_pool2d and MaxRatePool2d."""

    T: int = 1
    N: int = 1
    C: int = 1
    size: tuple[int, int] = (1, 1)
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    of_rates: bool = False
    begun: int = 0  # spikes at most of each input before
    train: str = draw.TRAINS[0]
    rate: float = 0.5
    periods: bool = False

    @classmethod
    def draw(cls, random: Random, **common) -> "Pool":
        N, C, (height, width) = draw.samples(random), draw.channels(random), draw.image(random)
        kernel = tuple(random.choice((1, 2, 2, 3, 4, 5, 7)) for _ in range(2))
        padding = tuple(random.randint(0, k // 2) for k in kernel)
        size = tuple(max(n, k - 2 * p, 1) for n, k, p in zip((height, width), kernel, padding, strict=True))
        T = max(1, min(draw.steps(random), 400_000 // max(1, N * C * size[0] * size[1])))
        return cls(
            **common, T=T, N=N, C=C, size=size, kernel_size=kernel, padding=padding,
            stride=tuple(random.randint(1, 4) for _ in range(2)), of_rates=random.random() < 0.4,
            begun=random.choice((0, 0, 3, 300)), train=random.choice(draw.TRAINS), rate=draw.rate(random),
            periods=random.random() < 0.3,
        )  # fmt: skip

    def check(self) -> bool:
        g, window = draw.generator(self.seed), (self.kernel_size, self.stride, self.padding)
        with ways.use(self.way, self.threads):
            shape = self.T, self.N, self.C, *self.size
            x, spikes = of_every_kind(shape, self.train, self.rate, self.periods, "contiguous", "bool", g)
            if self.of_rates:
                before = torch.randint(0, self.begun + 1, shape[1:], generator=g).float()
                counts = torch.cat([before[None], before + x.cumsum(0)])
                highest = F.max_pool2d(counts.flatten(0, 1), *window).unflatten(0, (self.T + 1, self.N))
                expected = highest[1:] - highest[:-1]
                actual, after = pk.MaxRatePool2d(*window)(spikes, before)
                same("counts", after, counts[-1])
            else:
                expected = reference.max_pool2d(x, *window)
                actual = pk.max_pool2d(spikes, *window)
            same("spikes", actual.dense(), expected)
        return bool(expected.any())
