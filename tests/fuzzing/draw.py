"""How sizes, spikes, weights and neurons are drawn.

Numbers that describe a case come from ``random.Random``; tensors from a generator seeded by the case. All values are
whole multiples of a power of two, few enough that every sum over inputs and steps fits the 24 bits of a float32.
"""

from random import Random

import torch
from torch import Generator, Tensor

EDGES = (8, 16, 32, 64, 100, 120, 128, 256)  # of words, blocks and lists: sizes beside them are drawn often
EXACT = 1 << 23  # units that no sum may pass
TRAINS = ("rate", "mixed", "bursts", "silent blocks", "always on")
LAYOUTS = ("contiguous", "channels last", "samples first", "strided")
THETAS = ("number", "channels", "just above", "just below")
RESETS = ("zero", "below", "above", "soft")


def channels(random: Random, most: int = 300) -> int:
    """Mostly few; often beside the edge of a word or a block."""
    chance = random.random()
    if chance < 0.3:
        return min(most, random.choice(EDGES) + random.randint(-1, 1))
    return random.randint(1, 20 if chance < 0.8 else most)


def steps(random: Random) -> int:
    chance = random.random()
    if chance < 0.25:
        return random.choice((1, 15, 16, 17, 31, 32, 33, 63, 64, 65))
    return random.randint(1, 24) if chance < 0.85 else random.randint(25, 300)


def samples(random: Random) -> int:
    return 0 if random.random() < 0.02 else random.choice((1, 1, 1, 1, 2, 2, 2, 3, 4, 5))


def image(random: Random) -> tuple[int, int]:
    """Height and width: small, thin, or larger than a cache line."""
    chance = random.random()
    if chance < 0.2:
        return random.choice(((1, random.randint(1, 40)), (random.randint(1, 40), 1)))
    most = 9 if chance < 0.9 else 34
    return random.randint(1, most), random.randint(1, most)


def rate(random: Random) -> float:
    return random.choice((0.02, 0.1, 0.1, 0.3, 0.5, 0.9))


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def whole(shape: tuple[int, ...], most: int, generator: Generator) -> Tensor:
    """Whole numbers from -most to most, float32."""
    return torch.randint(-most, most + 1, shape, generator=generator).float()


def values(shape: tuple[int, ...], most: int, generator: Generator) -> Tensor:
    """Whole numbers, of which many or few are not 0."""
    share = (0.05, 0.2, 0.5, 1.0)[int(torch.randint(4, (), generator=generator))]
    return whole(shape, most, generator) * (torch.rand(shape, generator=generator) < share)


def spikes(shape: tuple[int, ...], train: str, rate: float, generator: Generator) -> Tensor:
    """Spikes [T, N, C, ...] of 0 and 1, float32, of neurons that differ in how they fire."""
    x = torch.rand(shape, generator=generator) < rate
    T, neurons = shape[0], shape[1:]
    time = torch.arange(T).view(-1, *[1] * len(neurons))
    if train == "mixed":  # at every step, for a while, nearly always, rarely, never
        kind = torch.randint(0, 5, neurons, generator=generator)
        until = torch.where(kind == 1, torch.randint(0, T + 1, neurons, generator=generator), T)
        x = (torch.rand(shape, generator=generator) < torch.tensor([1.0, 1.0, 0.9, rate, 0.0])[kind]) & (time < until)
    elif train == "bursts":
        begin = torch.randint(0, T, neurons, generator=generator)
        x = (time >= begin) & (time < begin + 1 + int(rate * T))
    elif train == "silent blocks" and len(neurons) > 1:
        half = shape[2] // 2
        x[:, :, half : half + 33] = False
        x[T // 2 : T // 2 + 32] = False
    elif train == "always on" and len(neurons) > 1:
        x[:, :, shape[2] // 3 : shape[2] // 3 + 40] = True
    return x.float()


def with_plain(x: Tensor, share: float, generator: Generator) -> Tensor:
    """Images [..., H, W] of which so many pixels are like the first."""
    plain = torch.rand(x.shape[-2:], generator=generator) < share
    return torch.where(plain, x[..., :1, :1], x)


def reset(kind: str, unit: float) -> float | None:
    """v_reset, below every threshold: these are at least 2 units."""
    return {"zero": 0.0, "below": -3 * unit, "above": unit, "soft": None}[kind]


def thresholds(kind: str, factor: float, current: Tensor, C: int, unit: float, generator: Generator) -> Tensor | float:
    """Thresholds of the currents' scale, so that neurons fire: whole multiples of ``unit``, or one ulp beside one."""
    strength = current.abs().mean().item() / unit if current.numel() else 1.0
    theta = max(2.0, round(factor * strength)) * unit
    if kind == "number":
        return theta
    if kind == "channels":
        return (whole((C,), 2, generator) * max(1, theta / unit // 4) + theta / unit).clamp(min=2) * unit
    toward = torch.tensor(float("inf") if kind == "just above" else 0.0)
    return torch.nextafter(torch.full((C,), theta), toward)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another order of memory."""
    if layout == "channels last" and x.ndim > 3:
        return x.movedim(2, -1).contiguous().movedim(-1, 2)
    if layout == "samples first" and x.ndim > 1:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        return torch.stack([x, x + 1], -1)[..., 0]
    return x.contiguous()
