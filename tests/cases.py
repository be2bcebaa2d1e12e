"""Cases that the exactness tests share: data on a dyadic grid, so that every float32 sum is exact in any order."""

import math
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = [1, 7, 31, 32, 33, 64, 100]

RESETS = [pytest.param(0.0, id="hard"), pytest.param(-0.5, id="hard-below-zero"), pytest.param(None, id="soft")]

# C_in, H, W, C_out, kernel_size, stride, padding, dilation, groups
CONVOLUTIONS = [
    pytest.param((1, 7, 5, 3, (3, 3), 1, 1, 1, 1), id="one-channel"),
    pytest.param((8, 6, 6, 32, (3, 3), 1, 1, 1, 1), id="whole-blocks"),
    pytest.param((5, 7, 5, 11, (3, 3), 1, 1, 1, 1), id="odd-channels"),
    pytest.param((16, 8, 8, 33, (1, 1), 1, 0, 1, 1), id="pointwise-one-over-a-block"),
    pytest.param((64, 5, 9, 70, (3, 3), 2, 1, 1, 1), id="stride"),
    pytest.param((9, 9, 8, 40, (3, 2), (1, 2), (2, 0), (2, 3), 1), id="dilation"),
    pytest.param((24, 7, 7, 31, (5, 5), 1, 2, 1, 1), id="five-by-five"),
    pytest.param((72, 4, 4, 65, (4, 4), 1, 0, 1, 1), id="kernel-is-the-image"),
    pytest.param((16, 6, 7, 8, (2, 7), (2, 1), (1, 3), 1, 1), id="padding-over-the-edge"),
    pytest.param((6, 7, 6, 9, (3, 3), 1, 1, 1, 3), id="groups"),
    pytest.param((10, 6, 6, 10, (3, 3), 1, 1, 1, 10), id="depthwise"),
]


def many(values: Iterable, every: int = 3) -> list:
    """Parameters that are much alike: every third runs always, the others where slow tests do."""
    return [pytest.param(value, marks=pytest.mark.slow if k % every else ()) for k, value in enumerate(values)]


def dyadic(*shape: int, generator: torch.Generator, span: int = 16, unit: float = 1 / 16) -> Tensor:
    """Whole multiples of ``unit``, between -span and span units."""
    return torch.randint(-span, span + 1, shape, generator=generator) * unit


def fine(*shape: int, generator: torch.Generator) -> Tensor:
    """Weights [C_out, ...] whose sums are exact in float32 in any order, and of which every part counts that a kernel
    splits them into: multiples of 2**-21, of which a channel's magnitudes add up to less than 2**24.

    In each channel one is from 1 to 2, the others are small.
    """
    inputs = math.prod(shape[1:])
    small = max(1, min(2**18, 2**23 // inputs))
    weight = torch.randint(-small, small + 1, (shape[0], inputs), generator=generator)
    large = torch.randint(2**21, 2**22, (shape[0], 1), generator=generator) | 1
    weight.scatter_(1, torch.randint(0, inputs, large.shape, generator=generator), large)
    return weight.view(shape) * 2.0**-21


def spikes(*shape: int, generator: torch.Generator, rate: float = 0.2) -> Tensor:
    """Random 0 and 1, float32."""
    return (torch.rand(shape, generator=generator) < rate).float()


def thresholds(channels: int, generator: torch.Generator) -> Tensor:
    """One threshold a channel, between 1/2 and 2."""
    return torch.randint(8, 33, (channels,), generator=generator) / 16


def words_over_time(dense: Tensor) -> Tensor:
    """The definition of a GPU's words: dense [T, N, C, P] of 0 and 1 to int32 [ceil(T / 32), N, P, C]."""
    T, N, C, P = dense.shape
    words = torch.zeros(-(-T // 32), N, P, C, dtype=torch.int64, device=dense.device)
    for t in range(T):
        words[t // 32] += dense[t].transpose(1, 2).long() * 2 ** (t % 32)
    return torch.where(words < 2**31, words, words - 2**32).int()  # bit 31 is the sign


def bright_halves(count: int, dark: float, bright: float) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 8, 8] of which a half is bright, and which one: a task that is learned in seconds."""
    labels, images = torch.arange(count) % 2, torch.full((count, 1, 8, 8), dark)
    images[labels == 0, :, :, :4] += bright
    images[labels == 1, :, :, 4:] += bright
    return images, labels


def learned(model: nn.Module, x: object, labels: Tensor) -> float:
    """Train on the two classes for 60 steps; the share of what is right after it, of counts in 16 steps."""
    optimizer, target = torch.optim.Adam(model.parameters(), 1e-2), F.one_hot(labels, 2) * 8.0
    for _ in range(60):
        loss = F.mse_loss(model(x), target) / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    counts = model.eval()(x)
    return (counts[:, 0] > counts[:, 1]).eq(labels == 0).float().mean().item()


class OnGPU(Tensor):
    """A tensor that says it is on a GPU, and counts how often its values are waited for."""

    is_cuda = True
    reads = 0

    def tolist(self):
        OnGPU.reads += 1
        return super().tolist()

    def item(self):
        OnGPU.reads += 1
        return super().item()
