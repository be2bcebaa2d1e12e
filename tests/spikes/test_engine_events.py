"""Events of a camera as packed spikes, against their definition."""

import random
from fractions import Fraction
from types import SimpleNamespace

import layerwise
import numpy as np
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels import checks
from proxykernels.kernels import backends, cpu

SIZE = 5, 7
T_, X, Y, P = [0, 3, 3, 9, 10, 19, 19], [0, 6, 6, 2, 2, 1, 1], [0, 4, 4, 3, 3, 1, 1], [1, 0, 1, 1, 1, 0, 0]


def frames(steps: list[int], T: int) -> torch.Tensor:
    """By the definition, one event after the other."""
    dense = torch.zeros(T, 1, 2, *SIZE)
    for step, x, y, p in zip(steps, X, Y, P, strict=True):
        dense[step, 0, p, y, x] = 1
    return dense


@pytest.mark.parametrize(
    ("options", "steps", "T"),
    [
        ({"dt": 5}, [0, 0, 0, 1, 2, 3, 3], 4),
        ({"dt": 2.5}, [0, 1, 1, 3, 4, 7, 7], 8),
        ({"T": 2}, [0, 0, 0, 0, 1, 1, 1], 2),
        ({"dt": 5, "T": 6}, [1, 2, 2, 3, 3, 5, 5], 6),
    ],
)
@pytest.mark.parametrize("kind", ["lists", "tensors", "array", "signed", "seconds"])
def test_events(options, steps, T, kind):
    first = 7 if len(options) == 2 else 1_000_000
    t = np.array(T_, dtype=np.int64) + first
    fields = t, np.array(X, dtype=np.uint16), np.array(Y, dtype=np.uint16), np.array(P)
    if kind == "array":
        array = np.zeros(len(X), dtype=[("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "?")])
        for name, values in zip("txyp", fields, strict=True):
            array[name] = values
        spikes = pk.events(array, size=SIZE, **options)
    elif kind == "tensors":
        spikes = pk.events(*(torch.from_numpy(field.astype(np.int64)) for field in fields), size=SIZE, **options)
    elif kind == "signed":
        spikes = pk.events(*fields[:3], 2 * fields[3] - 1, size=SIZE, **options)
    elif kind == "seconds":
        options = {**options, "dt": options["dt"] / 64} if "dt" in options else options
        spikes = pk.events(t / 64, *fields[1:], size=SIZE, **options)
    else:
        spikes = pk.events(*(field.tolist() for field in fields), size=SIZE, **options)
    assert spikes.shape == (T, 1, 2, *SIZE) and equal(spikes.dense(), frames(steps, T))


class Attributes:
    """As the Events of evt3, and with its types."""

    t = np.array(T_, dtype=np.uint64)
    x, y, p = np.array(X, dtype=np.uint16), np.array(Y, dtype=np.uint16), np.array(P, dtype=np.uint8)


def test_one_argument_that_has_all_four():
    records = np.rec.fromarrays([T_, X, Y, P], names="t, x, y, p")
    expected = pk.events(T_, X, Y, P, size=SIZE, dt=5).dense()
    named = SimpleNamespace(t=T_, x=torch.tensor(X), y=Y, p=P)
    titled = np.zeros(len(X), [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), (("p", "on"), "?")])  # as of faery and aedat
    for name, values in zip("txyp", (T_, X, Y, P), strict=True):
        titled[name] = values
    for given in (
        titled,
        records,
        records.view(np.ndarray),
        {"t": T_, "x": X, "y": Y, "p": P, "q": 3},
        Attributes(),
        named,
    ):
        assert equal(pk.events(given, size=SIZE, dt=5).dense(), expected) and expected.any()
    for given in (torch.tensor(T_), np.array(T_), {"t": T_, "x": X, "p": P}, SimpleNamespace(t=T_), None):
        with pytest.raises(TypeError, match=f"got a {type(given).__name__} without (t, x, )?.*y"):
            pk.events(given, size=SIZE, dt=5)


def test_events_of_evt3():
    evt3 = pytest.importorskip("evt3")
    arrays = {"t": Attributes.t, "x": Attributes.x, "y": Attributes.y, "p": Attributes.p}
    decoded = evt3.Events.from_arrays(**arrays, geometry=(7, 5))
    expected = pk.events(T_, X, Y, P, size=SIZE, dt=5).dense()
    assert equal(pk.events(decoded, size=SIZE, dt=5).dense(), expected) and expected.any()


@pytest.fixture
def recorded(tmp_path):
    """The events as a file of faery's: path -> the file, by its name and options."""
    faery = pytest.importorskip("faery")
    events = np.zeros(len(X), faery.EVENTS_DTYPE)
    for name, values in zip("txyp", (T_, X, Y, P), strict=True):
        events[name] = values

    def write(name: str, **options: str):
        faery.events_stream_from_array(events, dimensions=SIZE[::-1]).to_file(tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["a.aedat4", "a.dat", "a.es", "a.csv", "evt2.raw", "evt3.raw"])
def test_files_read_by_faery(recorded, name):
    import faery

    path = recorded(name, **({"version": name[:4]} if name.endswith(".raw") else {}))
    packets = list(faery.events_stream_from_file(path, dimensions_fallback=SIZE[::-1]))
    expected = pk.events(T_, X, Y, P, size=SIZE, dt=5).dense()
    assert equal(pk.events(np.concatenate(packets), size=SIZE, dt=5).dense(), expected) and expected.any()


def test_packets_of_aedat(recorded):
    aedat = pytest.importorskip("aedat")
    packets = [packet["events"] for packet in aedat.Decoder(recorded("a.aedat4")) if len(packet.get("events", ()))]
    expected = pk.events(T_, X, Y, P, size=SIZE, dt=5).dense()
    assert equal(pk.events(*packets, size=SIZE, dt=5).dense(), expected) and expected.any()


def test_steps_that_memory_does_not_hold_are_refused(monkeypatch):
    """A byte a pixel and step; before any of it is asked for."""
    monkeypatch.setattr(checks, "memory", lambda device: 100 * 35)
    events = [0, 99], [0, 6], [0, 4], [1, 0]
    assert pk.events(*events, size=SIZE, dt=1)._words.nbytes == 100 * 35
    with pytest.raises(ValueError, match=r"T = 101 steps of a sensor of 5 x 7 take .* GiB; take a longer dt, or fewer"):
        pk.events(*events, size=SIZE, T=101)


FAR = [-(2**63), -(2**62), 0, 1, 10**18, 2**62 + 2**61, 2**63 - 1]
TIMES = {
    "far": FAR,
    "near": [10**18 + t for t in T_],
    "unsigned": np.array([t + 2**63 for t in FAR], dtype=np.uint64),
    "ticks": [0, 5 * 10**14 - 1, 5 * 10**14, 5 * 10**14 + 1, 10**15 - 1, 10**15, 10**15],
    "floats": [0.0, 0.5, 3.0, 2.0**30, 2.0**31, 2.0**32, 2.0**33],
    "large": [0.0, 1e300, 2.0**1000, 2.0**1020, 2.0**1021, 2.0**1022, 2.0**1023],
    "small": [0.0, 5e-324, 1e-323, 1e-310, 1e-309, 2e-309, 3e-309],
}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("options", [{"T": 1}, {"T": 16}, {"T": 20000}, {"dt": 3}, {"dt": 0.7}], ids=str)
def test_times_of_any_size_are_exact(times, options):
    """Against fractions, whose integers have no limit."""
    t = [Fraction(v) for v in np.asarray(TIMES[times]).tolist()]
    span = max(t) - min(t)
    if "dt" in options:  # as many steps
        options = {"dt": type(options["dt"])(options["dt"] * max(1, int(span / 1000))) if times != "small" else 1e-312}
        steps = [(v - min(t)) // Fraction(options["dt"]) for v in t]
    else:
        length = span + (0 if isinstance(TIMES[times][0], float) else 1)
        steps = [min((v - min(t)) * options["T"] // length, options["T"] - 1) for v in t]
    spikes = pk.events(TIMES[times], range(7), [0] * 7, [1] * 7, size=(1, 7), **options)
    assert spikes.T == options.get("T", steps[-1] + 1)
    assert spikes.dense()[:, 0, 1, 0].nonzero().tolist() == [[step, x] for x, step in enumerate(steps)]


def test_a_stream_takes_them():
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, v_threshold=0.05), pk.Flatten(), pk.FusedIFLinear(120, 4, v_threshold=0.05)
    ).eval()
    whole = pk.events(T_, X, Y, P, size=SIZE, dt=5, T=4)
    stream = pk.compile(net, whole).stream()
    for k in range(4):
        packet = [(t - 5 * k, x, y, p) for t, x, y, p in zip(T_, X, Y, P, strict=True) if t // 5 == k]
        stream(pk.events(*zip(*packet, strict=True), size=SIZE, dt=5, T=1))
    stream(pk.events([], [], [], [], size=SIZE, T=3))
    expected = layerwise.simulate(net, torch.cat([whole.dense(), torch.zeros(3, 1, 2, *SIZE)]), 7)
    assert equal(stream.count(), expected.count()) and stream.count().any()


def test_times_in_a_type_that_numpy_lacks():
    given = (X, Y, P)
    times = torch.tensor(T_, dtype=torch.bfloat16)
    found, expected = (pk.events(t, *given, size=SIZE, dt=5).dense() for t in (times, T_))
    assert equal(found, expected) and found.any()


def test_masked_events_are_refused():
    """Those of an array whose mask hides some, in any field; not an array that could hide some."""
    fields = {"t": T_, "x": X, "y": Y, "p": P}
    table = np.ma.array([*zip(*fields.values(), strict=True)], dtype=[(name, np.int64) for name in fields])
    expected = pk.events(**fields, size=SIZE, dt=5).dense()
    assert equal(pk.events(table, size=SIZE, dt=5).dense(), expected) and expected.any()
    for name, values in fields.items():
        masked = np.ma.array(values, mask=[False, True, True, False, False, False, False])
        with pytest.raises(ValueError, match=f"{name} must have no masked entries, got 2; leave these events out"):
            pk.events(**fields | {name: masked}, size=SIZE, dt=5)
    table[3] = np.ma.masked
    with pytest.raises(ValueError, match="t must have no masked entries, got 1"):
        pk.events(table, size=SIZE, dt=5)


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"x": [7] * 7}, ValueError, "x must lie from 0 to 6 for a sensor of 5 x 7, got 7"),
        ({"y": [-1] * 7}, ValueError, "y must lie from 0 to 4 .* got -1"),
        ({"p": [2] * 7}, ValueError, "p must be 0 or 1, or -1 or 1"),
        ({"p": [0.5] * 7}, TypeError, "p must be bool or integers, got float64"),
        ({"t": [0.0] * 6 + [float("nan")]}, ValueError, "t must be finite"),
        ({"t": [0]}, ValueError, "same length, got 1, 7, 7, 7"),
        ({"t": [[0]]}, ValueError, r"t must have the shape \[events\]"),
        ({"y": None}, TypeError, "y is missing"),
        ({"x": None, "y": None, "p": None}, TypeError, "got a list without t, x, y, p"),
        ({"dt": None}, ValueError, "got neither"),
        ({"dt": 0}, ValueError, "dt must be above 0 and finite, got 0"),
        ({"dt": float("inf")}, ValueError, "dt must be above 0 and finite, got inf"),
        (
            {"dt": 1e-10},
            ValueError,
            r"dt must be so long that all of t, 0 to 19, is at most 2\*\*31 - 1 steps, got 1e-10",
        ),
        ({"t": [-1e308] * 6 + [1e308]}, ValueError, r"t must cover a time that float64 holds, got -1e\+308 to 1e\+308"),
        ({"T": 2, "dt": 1e-300}, ValueError, "t must lie from 0 to below 2 steps of 1e-300, got 19"),
        ({"dt": "5"}, TypeError, "dt must be a number"),
        ({"dt": np.timedelta64(5, "ms")}, TypeError, "dt must be a number, got timedelta64"),
        ({"t": torch.tensor(T_, device="meta")}, TypeError, "t must be a tensor that holds its values"),
        ({"T": 2}, ValueError, "t must lie from 0 to below 2 steps of 5, got 19; subtract the time"),
        ({"T": 0}, ValueError, "T must"),
        ({"size": (0, 7)}, ValueError, "size"),
        ({"t": [], "x": [], "y": [], "p": []}, ValueError, "t holds no events, so T is needed"),
    ],
)
def test_bad_events(changed, error, text):
    with pytest.raises(error, match=text):
        pk.events(**{"t": T_, "x": X, "y": Y, "p": P, "size": SIZE, "dt": 5} | changed)


INTEGERS = [np.dtype(kind + size) for kind in "iu" for size in "1248"]


def column(rng: random.Random, values: list[int], kinds: list[np.dtype]) -> np.ndarray:
    """With gaps or backwards, and in either order of bytes."""
    fits = [kind for kind in kinds if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max]
    array = np.zeros((len(values), 3), rng.choice(fits).newbyteorder(rng.choice("<>")))
    array[:, 1] = values
    return rng.choice((array[:, 1].copy(), array[:, 1], array[::-1, 1][::-1]))


@pytest.mark.parametrize("seed", range(60))
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


@pytest.mark.alike
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
