"""Events of cameras and cochleas as packed spikes, without dense frames: which step each event lies in."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
import torch

from . import checks
from .calls.window_checks import pair, single
from .kernels import backends, heap
from .spikes import Spikes, pack

FIELDS = "t", "x", "y", "p"
MOST_INTEGER = 2**53  # up to which float64 has all integers
MICROSECONDS = {"s": 10**6, "ms": 10**3, "us": 1}  # in each unit
ROUNDING = 1e-6  # microseconds by which a product of a time may be too small


def events(
    t: Any, x: Any = None, y: Any = None, p: Any = None, *, size, dt=None, T: int | None = None,
    count: int | None = None, unit: str | None = None,
) -> Spikes:  # fmt: skip
    """Pack events into spikes, 1 where there was at least one event: one bit per step, pixel and polarity of a camera,
    or per step and position on one axis, such as the channels of a cochlea.

    Steps are counted from the first event. With both ``dt`` and ``T`` they are counted from t = 0. Every packet of a
    live camera then becomes T steps, if its times are relative to the start of the packet.

    Args:
        t, x, y, p: time, column, row and polarity (above 0: ON) of each event, as tensors, arrays or lists [events] in
            any order. Or t alone: a structured array with these fields (or titles of fields), as of tonic and faery, a
            dictionary, or an object with these attributes, as of evt3. On one axis there is no y, and p may be left
            out.
        size: height and width of the sensor; or (W,), the length of the one axis.
        dt: length of a step, in the unit of t. None: T steps of equal length that cover all events, or ``count``.
        T: number of steps. None: as many steps of length ``dt``, or of ``count`` events, as cover all events.
        count: events of a step, in the order of their times; the last step may have fewer. In place of ``dt``.
        unit: "s", "ms" or "us", of t and dt: times become whole microseconds, rounded down, as in tonic. None: of any
            unit, and compared as the numbers that they are: as floats in seconds, 0.25 is just below 25 steps of 0.01.

    Returns:
        Spikes (T, 1, 2, H, W) of one sample, on the CPU; channel 0 is OFF, 1 is ON. On one axis Spikes (T, 1, W).

    Raises:
        TypeError, ValueError: an argument has the wrong type, length or value, or an event lies outside of the sensor
            or of the steps; the message names it.
    """
    one_axis = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 1
    height, width = (1, single("size", size, 1)) if one_axis else map(int, pair("size", size, 1))
    t, x, y, p = _arrays(t, x, y, p, one_axis)
    dt, T = _length(dt), None if T is None else checks.steps(T)
    if unit is not None:
        t, dt = microseconds(t, dt, unit)
    if count is not None:
        t, dt = _ranks(t, dt, count)
    if dt is None and T is None:
        raise ValueError(
            "events takes dt, the duration of a step, T, the number of steps, or count, the events of a step; got "
            "neither"
        )
    kernels: Any = backends.backend_of("cpu")
    times, begin, share, steps = _timing(t, dt, T, kernels)
    room = steps * height * width
    if room > (there := checks.memory(heap.CPU)):
        raise ValueError(
            f"T = {steps} steps of a sensor of {_sensor(height, width, one_axis)} take {room / 2**30:.3g} GiB, and "
            f"this machine has {there / 2**30:.3g} GiB; take a longer dt, or fewer events at a time; dt has "
            "the unit of t"
        )
    words = kernels.pack_events([times, x, y, p], begin, share, steps, (height, width))
    if words is None:
        _begin(*_ends(t, kernels), dt, T)  # of times that lie outside
        _refuse(x, y, p, height, width, one_axis)
    if one_axis:  # a byte of each position, which is 1 where there was an event
        return pack(words.view(torch.bool).view(steps, 1, width))
    return Spikes(words, (steps, 1, 2, height, width))


def _sensor(height: int, width: int, one_axis: bool) -> str:
    return f"{width} positions" if one_axis else f"{height} x {width}"


def _refuse(x: np.ndarray, y: np.ndarray, p: np.ndarray, height: int, width: int, one_axis: bool) -> NoReturn:
    """Say which events lie outside."""
    for name, values, end in (("x", x, width), ("y", y, height)):
        if not 0 <= values.min() <= values.max() < end:
            wrong = values.min() if values.min() < 0 else values.max()
            sensor = _sensor(height, width, one_axis)
            raise ValueError(f"{name} must lie from 0 to {end - 1} for a sensor of {sensor}, got {wrong}")
    raise ValueError(f"p must be 0 or 1, or -1 or 1, got values from {p.min()} to {p.max()}")


def _fields_of(given: Any, one_axis: bool) -> dict[str, Any]:
    """The fields of a structured array, of a dictionary, or of an object that has them as attributes."""
    names = getattr(getattr(given, "dtype", None), "fields", None)  # with titles, such as faery's p of the field "on"
    if names is not None or isinstance(given, Mapping):
        fields = {name: given[name] for name in FIELDS if name in (given if names is None else names)}
    else:
        fields = {name: getattr(given, name) for name in FIELDS if hasattr(given, name)}
    needed = FIELDS[:2] if one_axis else FIELDS
    if missing := [name for name in needed if name not in fields]:
        many = isinstance(given, list | tuple) and len(given) and not isinstance(given[0], int | float)
        raise TypeError(
            f"events takes {'t and x' if one_axis else 't, x, y and p'}, or one argument that has them as fields of a "
            f"structured array, keys or attributes; got a {type(given).__name__} without {', '.join(missing)}"
            f"{'; pk.recordings.batch takes several recordings' if many else ''}"
            f"{'; a sensor of one axis has size=(W,)' if missing[0] == 'y' and not one_axis else ''}"
        )
    return {name: fields.get(name) for name in FIELDS}


def _arrays(t: Any, x: Any, y: Any, p: Any, one_axis: bool) -> list[np.ndarray]:
    """t in float64 or integers, the others in integers of up to 64 bits, all in the machine's order of bytes. On one
    axis y and p are zeros."""
    alone = x is None and y is None and p is None
    fields = _fields_of(t, one_axis) if alone else dict(zip(FIELDS, (t, x, y, p), strict=True))
    if one_axis and fields["y"] is not None:
        raise ValueError("y was given, and size=(W,) is that of one axis: leave y out, or give size=(height, width)")
    arrays = {name: _array(name, values) for name, values in fields.items() if values is not None}
    if missing := [name for name in (FIELDS[:2] if one_axis else FIELDS) if name not in arrays]:
        raise TypeError(
            f"{missing[0]} is missing: events takes t, x, y and p, or one argument that has all four; with size=(W,) t "
            "and x"
        )
    lengths = [len(array) for array in arrays.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"{', '.join(arrays)} must have the same length, got {', '.join(map(str, lengths))}")
    if arrays["t"].dtype.kind == "f" and not np.isfinite(arrays["t"]).all():
        raise ValueError("t must be finite, and holds NaN or infinite values")
    if one_axis:
        if "p" in arrays and len(on := arrays["p"] > 0) and on.any() != on.all():
            raise ValueError(
                "p must be the same for all events of one axis, whose spikes have no polarity; leave p out, or give "
                "y=0 of each event and size=(1, W)"
            )
        arrays["y"] = arrays["p"] = np.zeros(lengths[0], np.uint8)
    return [arrays[name] for name in FIELDS]


def _array(name: str, values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        checks.strided(name, values)
        checks.held(name, values)
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} must have no masked entries, got {np.ma.count_masked(values)}; leave these events out of t, "
            "x, y and p"
        )
    array = np.asarray(values)
    array = array.astype(np.int64) if array.size == 0 and array.ndim == 1 else array
    if array.ndim != 1:
        raise ValueError(f"{name} must have the shape [events], got {list(array.shape)}")
    if array.dtype.kind not in ("biu" if name != "t" else "iuf"):
        numbers = "integers" if name in "xy" else "bool or integers" if name == "p" else "numbers"
        raise TypeError(f"{name} must be {numbers}, got {array.dtype}")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
    elif array.dtype.kind == "b":
        array = array.view(np.uint8)
    elif array.dtype == np.uint64 and name != "t":
        array = np.minimum(array, 2**63 - 1).astype(np.int64)  # no sensor is larger
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def microseconds(t: np.ndarray, dt: int | float | None, unit: str) -> tuple[np.ndarray, int | float | None]:
    """Times and the length of a step in whole microseconds."""
    if unit not in MICROSECONDS:
        raise ValueError(f"unit must be 's', 'ms' or 'us', got {unit!r}; without it t and dt have the same unit, any")
    factor = MICROSECONDS[unit]
    if t.dtype.kind == "f":
        t = np.floor(t * factor + ROUNDING)
        if len(t) and np.abs(t).max() >= 2**63:
            raise ValueError(f"t must be less than 2**63 microseconds, got {np.abs(t).max():g}")
        t = t.astype(np.int64)
    elif factor > 1:
        t = t.astype(np.int64) * factor
    if dt is None:
        return t, None
    length = round(dt * factor)
    if length < 1 or abs(length - dt * factor) > ROUNDING * length:
        raise ValueError(f"dt must be a whole number of microseconds, got {dt} {unit}")
    return t, length


def _ranks(t: np.ndarray, dt: Any, count: int) -> tuple[np.ndarray, int]:
    """The place of each event in the order of times, and the number of events in a step."""
    if dt is not None:
        raise ValueError(f"dt={dt} and count={count} exclude each other: a step has a length, or a number of events")
    if not checks.is_integer(count) or count < 1:
        raise ValueError(f"count must be an integer of at least 1, got {count!r}")
    ranks = np.empty(len(t), np.int64)
    ranks[np.argsort(t, kind="stable")] = np.arange(len(t))
    return ranks, int(count)


def _length(dt: Any) -> int | float | None:
    """That of a step, an integer where it is whole."""
    if dt is None:
        return None
    if isinstance(dt, bool | np.timedelta64) or not isinstance(dt, int | float | np.integer | np.floating):
        raise TypeError(f"dt must be a number, got {type(dt).__name__}")
    dt = int(dt) if isinstance(dt, int | np.integer) else float(dt)
    if not 0 < dt < math.inf:
        raise ValueError(f"dt must be above 0 and finite, got {dt}")
    return int(dt) if dt == int(dt) else dt


def _timing(
    t: np.ndarray, dt: int | float | None, T: int | None, kernels: Any
) -> tuple[np.ndarray, Any, tuple[int, Any], int]:
    """Times, that at which step 0 begins, and the share, as the kernel finds steps by them; the number of steps."""
    is_whole = t.dtype.kind != "f"
    times = t.view(np.int64) if t.dtype == np.uint64 else t  # differences are right, whatever their sign bits say
    if is_whole and T is not None:  # the kernel sees what lies outside: the ends need not be looked for
        if dt is None and T == 1:
            return times, 0, (0, 1), T
        if isinstance(dt, int) and dt * T < 2**63:
            return times, 0, (1, dt), T
    first, last = _ends(t, kernels)
    begin, steps = _begin(first, last, dt, T)
    share: tuple[int, Any] = (1, dt) if dt is not None else (steps, last - begin + 1)
    if not is_whole or not isinstance(share[1], int) or last - begin >= 2**63 or max(share) >= 2**63:
        return _steps_of(t, begin, last - begin, dt, steps), 0, (1, 1), steps
    if t.dtype == np.uint64:
        begin = (begin + 2**63) % 2**64 - 2**63
    return times, begin, share, steps


def _ends(t: np.ndarray, kernels: Any) -> tuple[Any, Any]:
    """The first and the last time; of no events 0 and -1."""
    if not len(t):
        return 0, -1
    if t.dtype.kind == "f" or t.dtype == np.uint64:
        return t.min().item(), t.max().item()
    return kernels.first_and_last(t)


def _begin(first: Any, last: Any, dt: int | float | None, T: int | None) -> tuple[Any, int]:
    """The time at which the steps begin, and their number."""
    if first > last:  # no events
        if T is None:
            raise ValueError("t holds no events, so T is needed: the number of steps")
        return 0, T
    if dt is not None and T is not None:
        if first < 0 or Fraction(last) // Fraction(dt) >= T:
            raise ValueError(
                f"with dt and T, t must lie from 0 to below {T} steps of {dt}, got {first if first < 0 else last}; "
                "subtract the time at which the steps begin"
            )
        return 0, T
    if last - first == math.inf:
        raise ValueError(f"t must cover a time that float64 holds, got {first} to {last}; take another unit")
    if dt is None:
        assert T is not None
        return first, T
    steps = Fraction(last - first) // Fraction(dt) + 1
    if steps > checks.MOST_STEPS:
        raise ValueError(f"dt must be so long that all of t, {first} to {last}, is at most 2**31 - 1 steps, got {dt}")
    return first, steps


def _steps_of(t: np.ndarray, begin: Any, span: Any, dt: int | float | None, T: int) -> np.ndarray:
    """The step of each event, int64: what the kernel does not divide."""
    since = t if t.dtype.kind == "f" else t.astype(np.int64, copy=False).view(np.uint64)
    if begin:  # unsigned differences of integers are right even where they leave int64
        since = since - (begin if t.dtype.kind == "f" else np.uint64(begin % 2**64))
    steps = _share(since, span, T) if dt is None else _quotient(since, span, dt)
    return steps.astype(np.int64, copy=False)


def _share(since: np.ndarray, span: Any, T: int) -> np.ndarray:
    """The one of T equal parts of all the time that each event lies in."""
    if since.dtype.kind == "f":
        if span == 0:
            return np.zeros_like(since)
        parts = since * T / span if span * T < math.inf else since / span * T
        return np.minimum(np.floor(parts), T - 1)
    span += 1  # a last tick of integer time has its length, too
    if span * T < 2**64:
        return since * np.uint64(T) // np.uint64(span)
    return since.astype(object) * T // span


def _quotient(since: np.ndarray, span: Any, dt: int | float) -> np.ndarray:
    """The whole times of dt that have passed."""
    if dt > span:
        return np.zeros_like(since)
    if since.dtype.kind == "u":
        if isinstance(dt, int):
            return since // np.uint64(dt)
        if span > MOST_INTEGER:
            numerator, denominator = dt.as_integer_ratio()
            return since.astype(object) * denominator // numerator
    return np.floor_divide(since, float(dt))
