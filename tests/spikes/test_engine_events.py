"""Events of a camera as packed spikes."""

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
