"""Random events against their definition: of every type, stride, order and length of a step."""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from equality import equal

import proxykernels as pk
from proxykernels.kernels import backends, cpu

INTEGERS = [np.dtype(kind + size) for kind in "iu" for size in "1248"]


def column(rng: random.Random, values: list[int], kinds: list[np.dtype]) -> np.ndarray:
    """With gaps or backwards, and in either order of bytes."""
    fits = [kind for kind in kinds if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max]
    array = np.zeros((len(values), 3), rng.choice(fits).newbyteorder(rng.choice("<>")))
    array[:, 1] = values
    return rng.choice((array[:, 1].copy(), array[:, 1], array[::-1, 1][::-1]))


@pytest.mark.parametrize("seed", range(150))
def test_random_events(seed):
    rng = random.Random(seed)
    n, size = rng.choice((1, 5, 511, 512, 513, 1500)), (rng.randint(1, 9), rng.randint(1, 300))
    first, span = rng.choice((0, 1, 10**6, 2**40, 2**62)), rng.choice((1, 9, 1000, 10**6, 2**33))
    t = [first + rng.randrange(span) for _ in range(n)]
    if rng.random() < 0.5:
        t.sort()
    kind = rng.choice(("dt", "T", "both"))
    if kind == "both":
        t = [time - first for time in t]
    dt = max(1, rng.choice((1, 7, span // 3, 2 * span, span // 50)), span // 60)
    if rng.random() < 0.2:
        dt += 0.5
    T = rng.choice((1, 2, 31)) if kind == "T" else int(Fraction(max(t)) // Fraction(dt)) + 1 if kind == "both" else None
    x, y = ([rng.randrange(end) for _ in range(n)] for end in size[::-1])
    p = [rng.choice((0, 1) if rng.random() < 0.5 else (-1, 0, 1)) for _ in range(n)]
    fields = column(rng, t, INTEGERS), *(column(rng, values, INTEGERS) for values in (x, y, p))
    if rng.random() < 0.2 and kind != "T":  # which rounds
        fields = fields[0].astype(np.float64), *fields[1:]
    got = pk.events(*fields, size=size, dt=None if kind == "T" else dt, T=T)
    begin = 0 if kind == "both" else min(t)
    dense = torch.zeros(got.shape)
    for time, column_, row, polarity in zip(t, x, y, p, strict=True):
        if kind == "T":
            length = Fraction(max(t) - begin + 1, T)
            step = int((time - begin) / length)
        else:
            step = int(Fraction(time - begin) // Fraction(dt))
        dense[step, 0, int(polarity > 0), row, column_] = 1
    assert dense.any() and equal(got.dense(), dense)


@pytest.mark.parametrize("seed", range(20))
def test_one_that_lies_outside(seed):
    """In any place, by any field: nothing is packed, and both implementations say so."""
    rng = np.random.default_rng(seed)
    n, size, T = 1200, (40, 50), 6
    fields = [rng.integers(0, end, n) for end in (600, 50, 40, 2)]
    kernels = [cpu.load(), backends.Fallback()]
    whole = [kernel.pack_events(fields, 0, (1, 100), T, size) for kernel in kernels]
    assert whole[0].any() and equal(*whole)
    field, place = seed % 4, rng.integers(n)
    fields[field][place] = (rng.choice([-1, 600]), rng.choice([-1, 50]), rng.choice([-1, 40]), rng.choice([-2, 2]))[
        field
    ]
    assert [kernel.pack_events(fields, 0, (1, 100), T, size) for kernel in kernels] == [None, None]
