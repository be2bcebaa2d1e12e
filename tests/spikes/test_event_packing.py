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


def packed(t, x, y, p, first: int, share: tuple[int, int], T: int, size: tuple[int, int]) -> torch.Tensor:
    """By the definition, in integers of any size for the steps."""
    steps = np.array([(int(time) - first) * share[0] // share[1] for time in t.tolist()])
    words = np.zeros((T, *size), np.uint8)
    np.bitwise_or.at(words, (steps, y.astype(np.int64), x.astype(np.int64)), np.where(p > 0, 2, 1).astype(np.uint8))
    return torch.from_numpy(words).view(1, T, -1, 1)


ORDERS = {
    "ordered": lambda t, rng: np.sort(t),
    "any": lambda t, rng: t,
    "backwards": lambda t, rng: np.sort(t)[::-1].copy(),
    "some late": lambda t, rng: np.concatenate([np.sort(t)[5:], np.sort(t)[:5]]),
    "one late in the second half": lambda t, rng: np.insert(np.sort(t)[1:], 3 * len(t) // 4, t.min()),
    "many at once": lambda t, rng: np.sort(np.where(rng.random(len(t)) < 0.6, np.median(t).astype(t.dtype), t)),
}


@pytest.mark.parametrize("target", [target for target in cpu.TARGETS if cpu.load(target)])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
def test_threads_share_events(order, threads, target):
    """Those that come in order; all others are right, too. Memory is not new, and pixels have many events."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for T, share, n in ((1, (0, 1), 40000), (1, (1, 1000), 33000), (2, (2, 1000), 40000), (77, (77, 1000), 70001)):
            rng, size = np.random.default_rng(T + n), (13, 17)
            t = ORDERS[order](rng.integers(0, 1000, n), rng)
            x, y = rng.integers(0, 17, n).astype(np.uint16), rng.integers(0, 13, n).astype(np.int8)
            p = rng.integers(0, 2, n) * (rng.random(n) < 0.01)  # ON is rare: what is there is seen
            torch.full((T * 13 * 17,), 255, dtype=torch.uint8)
            got = cpu.load(target).pack_events([t + 7, x, y, p], 7, share, T, size)
            wanted = packed(t + 7, x, y, p, 7, share, T, size)
            assert equal(got, wanted) and (wanted == 3).any() and (wanted == 1).any()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "share",
    [
        *((1, 1), (1, 7), (31, 1000), (3, 2**62), (1000003, 999983), (7, 2**63 - 1), (1, 2**61), (2**31 - 1, 2**40)),
        (1, 2**48),  # the last time of a step is rounded to the next step as a float
    ],
)
@pytest.mark.parametrize("first", [0, -(2**62), 2**62 - 1])
def test_boundaries_of_steps(share, first):
    """The first and the last time of steps, also where products have more than 64 bits."""
    numerator, denominator = share
    T = 2000 if numerator > 1000 else numerator if numerator > 1 else min(2000, 2**62 // denominator + 1)
    begins = [-(-k * denominator // numerator) for k in range(T + 1)]
    since = sorted({time for begin in begins for time in (begin - 1, begin) if 0 <= time < min(begins[-1], 2**63)})
    since = [time for time in since if first + time < 2**63]
    t, n = np.array([first + time for time in since], np.int64), len(since)
    for order in (slice(None), slice(None, None, -1)):
        x, y, p = np.arange(n) % 5, np.zeros(n, np.uint8), np.arange(n) % 2
        got = cpu.load().pack_events([t[order], x, y, p], first, share, T, (1, 5))
        wanted = packed(t[order], x, y, p, first, share, T, (1, 5))
        assert equal(got, wanted) and wanted.count_nonzero() > n // 8
    if first + begins[-1] < 2**63:
        t[n // 2] = first + begins[-1]
        assert cpu.load().pack_events([t, x, y, p], first, share, T, (1, 5)) is None


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
@pytest.mark.parametrize("field", range(4))
def test_the_ends_of_types_lie_outside(field, kind):
    """Values that, with other signs or fewer bits, were inside."""
    fields = [np.zeros(700, kind if field == k else np.uint8) for k in range(4)]
    pk.events(*fields, size=(3, 2), dt=2, T=1)
    for value in (np.iinfo(kind).max, np.iinfo(kind).min):
        if value == 0:
            continue
        fields[field][300] = value
        with pytest.raises(ValueError, match=f"{'txyp'[field]} must"):
            pk.events(*fields, size=(3, 2), dt=2, T=1)
        if field:
            with pytest.raises(ValueError, match=f"{'txyp'[field]} must"):
                pk.events(*fields, size=(3, 2), T=1)


def test_times_do_not_matter_to_one_step():
    t, x, y, p = np.array([2**63 + 5, 0, 7], np.uint64), [0, 1, 2], [0, 0, 1], [0, 1, 1]
    for times in (t, t.view(np.int64), t.astype(np.float64)):
        found = pk.events(times, x, y, p, size=(2, 3), T=1).dense().nonzero()
        assert found.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 1, 1, 2]]
