"""Finds the layers that do what operations of torch between a model's layers do: attention, products, channels that are
selected or added up, sums and means over tokens.

They are found by what they compute, not by how they are written: unit vectors tell the weights of a function if it has
one of these forms, and then both must give the same for random numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import permutations
from math import gcd, prod

import torch
from torch import Tensor

from ...kernels import reference

SAMPLES = 2
MOST_HEADS = 64
AT_ONCE = 2**24  # values of unit vectors that are given at once
ORDERS = tuple(permutations(range(3)))
Function = Callable[..., Tensor]  # of [N, C, tokens] for each input; gives [N, values]


@dataclass(frozen=True)
class View:
    """The same values in the same order."""


@dataclass(frozen=True)
class Attended:
    """Attention of the inputs side by side; ``order``: which third of their channels has queries, keys and values."""

    heads: int
    order: tuple[int, ...]
    scale: float


@dataclass(frozen=True)
class Selected:
    """Channels of one input, int64 [C]; ``summed``: the sums of their tokens."""

    channels: Tensor
    summed: bool
    scale: float


@dataclass(frozen=True)
class Multiplied:
    """Channels of the input ``first`` times channels of the other one, each of which counts for several neighbouring
    ones; ``summed``: the sums of all tokens."""

    first: int
    channels: tuple[Tensor, Tensor]
    summed: bool
    scale: float


@dataclass(frozen=True)
class Mixed:
    """Sums of channels, at each token: weights [C_out, C]."""

    weight: Tensor


Known = View | Attended | Selected | Multiplied | Mixed
Candidates = Iterator[tuple[Known, Tensor]]  # and the values that it gives


@torch.no_grad()
def recognised(function: Function, shapes: Sequence[tuple[int, ...]]) -> Known | None:
    """The layers that compute ``function``; None: there are none. ``shapes``: of a sample of each input, (C, ...)."""
    generator = torch.Generator().manual_seed(0)
    x = [torch.randint(-2, 4, (SAMPLES, s[0], prod(s[1:])), generator=generator).float() for s in shapes]
    y = function(*x)
    found = (of(function, x, y) for of in (_attention, _of_one, _of_two))
    return next((known for candidates in found for known, same in candidates if _is_equal(same, y)), None)


def _attention(function: Function, x: list[Tensor], y: Tensor) -> Candidates:
    if len({part.shape[2] for part in x}) > 1:
        return
    joined = torch.cat(x, 1)
    C = joined.shape[1] // 3
    if joined.shape[1] != 3 * C or y.shape[1] != C * joined.shape[2]:
        return
    for order in ORDERS:
        ordered = joined.unflatten(1, (3, C))[:, order].flatten(1, 2)
        for heads in (n for n in range(1, min(C, MOST_HEADS) + 1) if C % n == 0):
            same = reference.attention(ordered, heads)
            scale = (y.abs().sum() / same.abs().sum()).item()
            yield Attended(heads, order, scale), scale * same


def _of_one(function: Function, x: list[Tensor], y: Tensor) -> Candidates:
    if len(x) > 1:
        return
    (x0,) = x
    tokens = x0.shape[2]
    yield View(), x0
    mixing = _by_unit(function, x0)
    for summed, weight in _of_tokens(mixing, tokens):
        selected = _selection(weight)
        given = x0.sum(2) if summed else x0
        if selected is not None:
            yield Selected(selected[0], summed, selected[1]), selected[1] * given[:, selected[0]]
        if not summed:
            yield Mixed(weight.contiguous()), weight @ x0


def _of_two(function: Function, x: list[Tensor], y: Tensor) -> Candidates:
    if len(x) != 2:
        return
    for first in sorted(range(2), key=lambda k: -x[k].shape[1:].numel()):
        a, b = x[first], x[1 - first]
        if b.shape[2] not in (1, a.shape[2]):
            continue

        def of(a: Tensor, b: Tensor, first: int = first) -> Tensor:
            pair = (a.expand(len(b), -1, -1), b) if len(a) == 1 else (a, b.expand(len(a), -1, -1))
            return function(*(pair if first == 0 else pair[::-1]))

        ones = torch.ones_like(a[:1]), torch.ones_like(b[:1])
        weights = _by_unit(partial(of, b=ones[1]), a), _by_unit(partial(of, ones[0]), b)
        for (summed, of_a), (_, of_b) in zip(*(_of_tokens(weight, a.shape[2]) for weight in weights), strict=True):
            in_a, in_b = _selection(of_a), _selection(of_b)
            if in_a is None or in_b is None or in_a[1] != in_b[1]:
                continue
            left, right, scale = in_a[0], in_b[0], in_a[1]
            product = scale * a[:, left] * b[:, right]
            channels = left, right[:: _neighbours(right)]
            yield Multiplied(first, channels, summed, scale), product.sum(2) if summed else product


def _by_unit(function: Function, like: Tensor) -> Tensor:
    """What a function gives for 1 in the first token of one channel, for each channel: [C, values]."""
    C, tokens = like.shape[1:]
    parts = []
    for channels in torch.arange(C).split(max(1, AT_ONCE // (C * tokens))):
        units = like.new_zeros(len(channels), C, tokens)
        units[torch.arange(len(channels)), channels, 0] = 1
        parts.append(function(units))
    return torch.cat(parts)


def _of_tokens(weight: Tensor, tokens: int) -> list[tuple[bool, Tensor]]:
    """Weights [C, values] as those of values at the first token, and of sums over all tokens: whether these, and
    [C_out, C]."""
    at_first = weight.unflatten(1, (-1, tokens))[:, :, 0] if weight.shape[1] % tokens == 0 else weight[:, :0]
    return [(False, at_first.t()), (True, weight.t())]


def _selection(weight: Tensor) -> tuple[Tensor, float] | None:
    """The one channel that each row of weights takes, and the factor of all; None: they take others."""
    if not weight.numel():
        return None
    scale = weight.amax().item()
    one = (weight != 0).sum(1) == 1
    if scale <= 0 or not bool(one.all()) or not bool((weight.amax(1) == scale).all()):
        return None
    return weight.argmax(1), scale


def _neighbours(channels: Tensor) -> int:
    """How many neighbouring values are the same, everywhere."""
    runs = torch.unique_consecutive(channels, return_counts=True)[1]
    return reduce(gcd, runs.tolist())


def _is_equal(one: Tensor, other: Tensor) -> bool:
    one = one.flatten(1)
    return one.shape == other.shape and torch.allclose(one, other, 1e-5, 1e-5)
