"""Camera events as packed spikes, without dense frames."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from .. import checks
from ..checks.window_checks import pair
from ..kernels import heap
from ..spikes import Spikes

FIELDS = "t", "x", "y", "p"
MOST_INTEGER = 2**53  # up to which float64 has all integers


def events(t: Any, x: Any = None, y: Any = None, p: Any = None, *, size, dt=None, T: int | None = None) -> Spikes:
    """Pack camera events into spikes: one bit per pixel, polarity and step, 1 if there was at least one event.

    Steps are counted from the first event. With both ``dt`` and ``T`` they are counted from t = 0. Every packet of a
    live camera then becomes T steps, if its times are relative to the start of the packet.

    Args:
        t, x, y, p: time in any unit, column, row and polarity (above 0: ON) of each event, as tensors, arrays or lists
            [events] in any order. Or t alone: a structured array with these fields, as of tonic and expelliarmus, a
            dictionary, or an object with these attributes, as of evt3.
        size: height and width of the sensor.
        dt: length of a step, in the unit of t. None: T steps of equal length that cover all events.
        T: number of steps. None: as many steps of length ``dt`` as cover all events.

    Returns:
        Spikes (T, 1, 2, H, W) of one sample, on the CPU; channel 0 is OFF, 1 is ON.

    Raises:
        TypeError, ValueError: an argument has the wrong type, length or value, or an event lies outside of the sensor
            or of the steps; the message names it.
    """
    t, x, y, p = _arrays(t, x, y, p)
    height, width = pair("size", size, 1)
    step, T = _steps(t, dt, T)
    needed, there = T * height * width, checks.memory(heap.CPU)
    if needed > there:
        raise ValueError(
            f"T = {T} steps of a sensor of {height} x {width} take {needed / 2**30:.3g} GiB, and this machine has "
            f"{there / 2**30:.3g} GiB; take a longer dt, or fewer events at a time"
        )
    for name, values, end in (("x", x, width), ("y", y, height)):
        if len(values) and not 0 <= values.min() <= values.max() < end:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"{name} must lie from 0 to {end - 1} for a sensor of {height} x {width}, got {wrong}")
    place = torch.from_numpy((step * height + y) * width + x)
    on = torch.from_numpy(p > 0)
    words = heap.zeros(1, T, height * width, 1, dtype=torch.uint8)
    bits = words.view(-1)
    bits[place[~on]] = 1
    bits[place[on]] |= 2
    return Spikes(words, (T, 1, 2, height, width))


def _fields_of(given: Any) -> dict[str, Any]:
    """Those of a structured array, of a dictionary, or of an object that has them as attributes."""
    names = getattr(getattr(given, "dtype", None), "names", None)  # a record array has them as attributes, too
    if names is not None or isinstance(given, Mapping):
        fields = {name: given[name] for name in FIELDS if name in (given if names is None else names)}
    else:
        fields = {name: getattr(given, name) for name in FIELDS if hasattr(given, name)}
    if missing := [name for name in FIELDS if name not in fields]:
        raise TypeError(
            f"events takes t, x, y and p, or one argument that has them as fields of a structured array, keys or "
            f"attributes; got a {type(given).__name__} without {', '.join(missing)}"
        )
    return fields


def _arrays(t: Any, x: Any, y: Any, p: Any) -> list[np.ndarray]:
    """t in int64, uint64 or float64; the others in int64."""
    fields = _fields_of(t) if x is None and y is None and p is None else dict(zip(FIELDS, (t, x, y, p), strict=True))
    arrays = []
    for name, values in fields.items():
        if values is None:
            raise TypeError(f"{name} is missing: events takes t, x, y and p, or one argument that has all four")
        if isinstance(values, torch.Tensor):
            checks.strided(name, values)
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
        array = np.asarray(values)
        array = array.astype(np.int64) if array.size == 0 and array.ndim == 1 else array
        if array.ndim != 1:
            raise ValueError(f"{name} must have the shape [events], got {list(array.shape)}")
        if array.dtype.kind not in ("biu" if name != "t" else "iuf"):
            numbers = "integers" if name in "xy" else "bool or integers" if name == "p" else "numbers"
            raise TypeError(f"{name} must be {numbers}, got {array.dtype}")
        kind = array.dtype.kind if name == "t" else "i"
        arrays.append(array.astype({"f": np.float64, "u": np.uint64, "i": np.int64}[kind]))
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"t, x, y and p must have the same length, got {', '.join(map(str, lengths))}")
    if not np.isfinite(arrays[0]).all():
        raise ValueError("t must be finite, and holds NaN or infinite values")
    if lengths[0] and not -1 <= arrays[3].min() <= arrays[3].max() <= 1:
        raise ValueError(f"p must be 0 or 1, or -1 or 1, got values from {arrays[3].min()} to {arrays[3].max()}")
    return arrays


def _steps(t: np.ndarray, dt: Any, T: Any) -> tuple[np.ndarray, int]:
    """The step of each event, int64, and their number."""
    if dt is not None:
        if isinstance(dt, bool) or not isinstance(dt, int | float | np.integer | np.floating):
            raise TypeError(f"dt must be a number, got {type(dt).__name__}")
        dt = int(dt) if isinstance(dt, int | np.integer) else float(dt)
        if not 0 < dt < math.inf:
            raise ValueError(f"dt must be above 0 and finite, got {dt}")
        dt = int(dt) if dt == int(dt) else dt
    if T is not None:
        T = checks.steps(T)
    if dt is None and T is None:
        raise ValueError("events takes dt, the duration of a step, or T, the number of steps; got neither")
    if not len(t):
        if T is None:
            raise ValueError("t holds no events, so T is needed: the number of steps")
        return t.astype(np.int64), T
    first, last = t.min().item(), t.max().item()
    if dt is not None and T is not None:
        if first < 0 or Fraction(last) // Fraction(dt) >= T:
            raise ValueError(
                f"with dt and T, t must lie from 0 to below {T} steps of {dt}, got {first if first < 0 else last}; "
                "subtract the time at which the steps begin"
            )
        first = 0
    span = last - first
    if span == math.inf:
        raise ValueError(f"t must cover a time that float64 holds, got {first} to {last}; take another unit")
    since = t if t.dtype.kind == "f" else t.view(np.uint64)
    if first:  # unsigned differences of integers are right even where they leave int64
        since = since - (first if t.dtype.kind == "f" else np.uint64(first % 2**64))
    if dt is None:
        return _share(since, span, T).astype(np.int64, copy=False), T
    steps = Fraction(span) // Fraction(dt) + 1
    if steps > checks.MOST_STEPS:
        raise ValueError(f"dt must be so long that all of t, {first} to {last}, is at most 2**31 - 1 steps, got {dt}")
    return _quotient(since, span, dt).astype(np.int64, copy=False), T or steps


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
