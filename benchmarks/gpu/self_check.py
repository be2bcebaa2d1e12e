"""Whether this GPU gives the spikes that it must, on the sizes that are timed: before any speed means anything.

A convolution that fills the card, of each kind of weights, run again and again, must give the spikes and potentials of
the CPU's kernels bit for bit. The data's sums are exact in float32 and in whole numbers, so all kinds must agree; the
weights of float32 have 14 bits, so that no part into which the kernels split them is zero. A race shows in some of the
repeats and some of the programs only: that is what the repeats and the full card are for.

Where torch convolves (sm_75), cuDNN may transform the data first (Winograd), which rounds sums that are exact. There
torch's own convolution, which adds the products as they are, takes its place: the check is of our kernels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import proxykernels as pk
from gpu.differences import described

BITS = {"float32": 14, "float16": 11, "int16": 14, "int8": 8}  # of a weight with its sign
RATE, THRESHOLD = 0.05, 4.0
DISTINCT = 4  # images, which the CPU computes; the batch repeats them


class Found(NamedTuple):
    """The first run that differs: a description, and its words of spikes."""

    text: str
    words: dict[str, np.ndarray]


class Check(NamedTuple):
    """The result for one kind of weights: the number of runs that differ from the CPU, and of differing words of spikes
    in the worst of them; whether all these runs are equal, which means that it is no race condition; and the first of
    them."""

    weights: str
    wrong: int
    repeats: int
    words: int
    alike: bool = True
    found: Found | None = None

    def __str__(self) -> str:
        alike = f", {'all alike' if self.alike else 'not alike'}, {self.words} words in the worst" if self.wrong else ""
        return f"{self.weights}: {self.wrong} of {self.repeats} runs differ{alike}"


@torch.no_grad()
def checks(device: torch.device, shape: tuple[int, int, int, int], repeats: int) -> Iterator[Check]:
    """A check of each kind of weights; ``shape``: T, N, channels in and out, height and width.

    Raises:
        RuntimeError: the data fire nothing or all, or their sums are not exact: the check could not fail.
    """
    with _sums_as_they_are(device):
        yield from _checks(device, shape, repeats)


def _checks(device: torch.device, shape: tuple[int, int, int, int], repeats: int) -> Iterator[Check]:
    T, N, C, size = shape
    generator = torch.Generator().manual_seed(0)
    distinct = min(DISTINCT, N)
    N = -(-N // distinct) * distinct
    few = (torch.rand(T, distinct, C, size, size, generator=generator) < RATE).to(torch.uint8)
    many = pk.pack(few.to(device).repeat(1, N // distinct, 1, 1, 1))
    few = pk.pack(few)
    for kind, bits in BITS.items():
        weight = _weights(C, bits, generator)
        expected, v_expected = layer(kind, weight)(few)
        _must_be_able_to_fail(expected.dense().mean().item(), v_expected, bits)
        words = pk.pack(expected.dense().to(torch.uint8).to(device).repeat(1, N // distinct, 1, 1, 1))._words
        v_expected = v_expected.to(device).repeat(N // distinct, 1, 1, 1)
        run, wrong, most, alike = layer(kind, weight.to(device)), 0, 0, True
        found, first = None, None
        for _ in range(repeats):
            spikes, v = run(many)
            differing = int((spikes._words != words).sum())
            if not differing and torch.equal(v, v_expected):
                continue
            wrong, most = wrong + 1, max(most, differing)
            if found is None:
                first = spikes._words
                found = Found(described(first, words, v, v_expected), _of_difference(first, words))
            alike = alike and torch.equal(spikes._words, first)
        yield Check(kind, wrong, repeats, most, alike, found)


@contextmanager
def _sums_as_they_are(device: torch.device) -> Iterator[None]:
    """Without cuDNN on a GPU whose convolutions are torch's."""
    from proxykernels.kernels.gpu import backend  # needs Triton

    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.enabled
    cudnn.enabled = before and backend.has_tensor_cores(backend.architecture(device))
    try:
        yield
    finally:
        cudnn.enabled = before


def _of_difference(found: Tensor, expected: Tensor) -> dict[str, np.ndarray]:
    """Places [n, 4] of words that differ, and both words [n]."""
    found, expected = found.cpu(), expected.cpu()
    places = (found != expected).nonzero()
    index = tuple(places.t())
    arrays = {"places": places, "found": found[index], "expected": expected[index]}
    return {name: values.numpy() for name, values in arrays.items()}


def _weights(C: int, bits: int, generator: torch.Generator) -> Tensor:
    """Whole multiples of 2**(2 - bits) below 2, the largest of each channel among them; [C, C, 3, 3]."""
    largest = 2 ** (bits - 1) - 1
    whole = torch.randint(-largest, largest + 1, (C, C, 3, 3), generator=generator)
    whole[:, 0, 0, 0] = largest  # so that precision= rounds to these very multiples
    return whole * 2.0 ** (2 - bits)


def layer(kind: str, weight: Tensor) -> Callable[[pk.Spikes], tuple[pk.Spikes, Tensor]]:
    """Spikes to spikes and last potentials, by the kernels of a kind of weights."""
    if kind in ("float32", "float16"):
        weight = weight.to(getattr(torch, kind))
        return lambda x: pk.if_conv2d(x, weight, v_threshold=THRESHOLD, padding=1)
    C = len(weight)
    net = nn.Sequential(pk.FusedIFConv2d(C, C, 3, padding=1, bias=False, v_threshold=THRESHOLD)).to(weight.device)
    net[0].weight = nn.Parameter(weight)

    def simulated(x: pk.Spikes) -> tuple[pk.Spikes, Tensor]:
        result = pk.simulate(net.eval(), x, x.shape[0], precision=kind)
        return result.spikes, result.state["0"][0]

    return simulated


def _must_be_able_to_fail(rate: float, v: Tensor, bits: int) -> None:
    if not 0.02 < rate < 0.98:
        raise RuntimeError(f"the self-check's neurons fire at {rate:.0%}: it would compare next to nothing")
    if v.abs().max() >= 2.0 ** (26 - bits):  # 2**24 multiples
        raise RuntimeError("the self-check's sums are not exact in float32")
