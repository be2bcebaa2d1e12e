"""Encodings of values as packed :class:`Spikes`, without a dense tensor [T, N, ...].

Each function takes values x [N, ...] from 0 to 1 and returns Spikes (T, N, ...) on the same device. A constant input,
``simulate(net, x, T)``, needs no encoding.

Below, for ``pk.events``: camera events as packed spikes, without dense frames.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from . import checks
from .calls.window_checks import pair
from .kernels import backends, heap
from .spikes import Spikes, pack_words, storage

__all__ = ["latency", "poisson", "rate"]

STEPS = 32  # packed at a time: one word of a GPU


def poisson(x: Tensor, T: int, generator: torch.Generator | None = None) -> Spikes:
    """Independent random spikes, at every step with probability x.

        s[t] = 1 if u[t] < x else 0,     u[t] uniform in [0, 1)

    A Poisson process in discrete time, with at most one spike per step: 0 never fires, 1 fires at every step. snnTorch
    calls it ``spikegen.rate`` and clips values to 0..1. SpikingJelly calls it ``PoissonEncoder``, with u <= x, so that
    0 fires once in 2**24 steps. Both draw other numbers from the same seed.

    Numbers are drawn step by step. With one generator, 10 steps and then 20 are the same spikes as 30 steps.

    Args:
        x: [N, ...] of any float dtype, values from 0 to 1.
        T: number of steps.
        generator: on the device of x; default: torch's generator of that device. The same state gives the same spikes
            on the same kind of device. For equal spikes on a CPU and a GPU, encode on the CPU, then ``.to("cuda")``.

    Returns:
        Spikes (T, N, ...).

    Raises:
        TypeError, ValueError: an argument has the wrong type, device or value; the message names it.
    """
    x = _intensities(x)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
        if generator.device.type != x.device.type:
            raise ValueError(
                f"generator is on {generator.device} and x on {x.device}; make it with torch.Generator('{x.device}')"
            )
    uniform = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    return _stepwise(x, T, lambda t: uniform.uniform_(generator=generator) < x)


def latency(x: Tensor, T: int) -> Spikes:
    """At most one spike per value: larger values fire earlier, 0 never fires.

        t_f = round((T - 1) (1 - x)),     s[t] = 1 if t = t_f and x > 0 else 0

    1 fires at step 0, the smallest values at step T - 1; halves are rounded to even.

    SpikingJelly's ``LatencyEncoder(T, "linear")`` is the same, except that 0 fires at the last step. snnTorch's
    ``spikegen.latency(x, T, normalize=True, linear=True)`` is the same for values of at least its ``threshold``, 0.01;
    smaller values fire as 0.01 would, or never with ``clip=True``. For a logarithmic code, pass the logarithm of x.

    Args:
        x: [N, ...] of any float dtype, values from 0 to 1.
        T: number of steps.

    Returns:
        Spikes (T, N, ...), at most one for each value.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; the message names it.
    """
    T = checks.steps(T)
    x = _intensities(x)
    when = ((T - 1) * (1 - x)).round().int().clamp_(max=T - 1).masked_fill_(x == 0, -1)
    return _stepwise(x, T, lambda t: when == t)


def rate(x: Tensor, T: int) -> Spikes:
    """Evenly spaced spikes, round(T x) of them, without randomness.

        s[t] = floor((t + 1) x + 1/2) - floor(t x + 1/2)

    After t steps there are floor(t x + 1/2) spikes, at most half a spike from t x. These are the spikes of an IF neuron
    with soft reset, threshold 1 and ``v_init=0.5`` on the current x, computed without rounding. snnTorch's ``rate`` is
    :func:`poisson`. SpikingJelly has no such encoding.

    Args:
        x: [N, ...] of any float dtype, values from 0 to 1.
        T: number of steps.

    Returns:
        Spikes (T, N, ...).

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; the message names it.
    """
    x = _intensities(x).double()  # in which products of a float32 by a step are exact
    before, now = torch.zeros_like(x), torch.empty_like(x)

    def fire(t: int) -> Tensor:
        nonlocal before, now
        torch.mul(x, t + 1, out=now).add_(0.5).floor_()
        fired = now > before
        before, now = now, before
        return fired

    return _stepwise(x, T, fire)


def _stepwise(x: Tensor, T: int, fire: Callable[[int], Tensor]) -> Spikes:
    """Pack the spikes (T, N, ...); ``fire(t)`` returns those of step t, bool [N, ...], and is called in order."""
    T = checks.steps(T)
    checks.room(T, x.shape, x.device)
    words, sizes = [], []
    for start in range(0, T, STEPS):
        steps = torch.stack([fire(t) for t in range(start, min(T, start + STEPS))])
        words.append(pack_words(steps))
        sizes.append(len(steps))
    return Spikes(storage.cat(words, sizes), (T, *x.shape))


def _intensities(x: Tensor) -> Tensor:
    """The values, checked, in float32 (float64 stays)."""
    checks.floating("x", x)
    checks.values("x", x)
    if not x.ndim:
        raise ValueError("x must have the shape [N, ...], got a single number")
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    lowest, highest = x.aminmax() if x.numel() else (0, 1)
    if not (lowest >= 0 and highest <= 1):  # not so of NaN
        raise ValueError(
            f"x must lie from 0 to 1, got values from {lowest:g} to {highest:g}; scale it, as (x - x.min()) / "
            "(x.max() - x.min())"
        )
    return x


FIELDS = "t", "x", "y", "p"
MOST_INTEGER = 2**53  # up to which float64 has all integers


def events(t: Any, x: Any = None, y: Any = None, p: Any = None, *, size, dt=None, T: int | None = None) -> Spikes:
    """Pack camera events into spikes: one bit per pixel, polarity and step, 1 if there was at least one event.

    Steps are counted from the first event. With both ``dt`` and ``T`` they are counted from t = 0. Every packet of a
    live camera then becomes T steps, if its times are relative to the start of the packet.

    Args:
        t, x, y, p: time in any unit, column, row and polarity (above 0: ON) of each event, as tensors, arrays or lists
            [events] in any order. Or t alone: a structured array with these fields (or titles of fields), as of tonic
            and faery, a dictionary, or an object with these attributes, as of evt3.
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
    height, width = map(int, pair("size", size, 1))
    dt, T = _length(dt), None if T is None else checks.steps(T)
    if dt is None and T is None:
        raise ValueError("events takes dt, the duration of a step, or T, the number of steps; got neither")
    kernels: Any = backends.backend_of("cpu")
    times, begin, share, steps = _timing(t, dt, T, kernels)
    room = steps * height * width
    if room > (there := checks.memory(heap.CPU)):
        raise ValueError(
            f"T = {steps} steps of a sensor of {height} x {width} take {room / 2**30:.3g} GiB, and this machine has "
            f"{there / 2**30:.3g} GiB; take a longer dt, or fewer events at a time"
        )
    words = kernels.pack_events([times, x, y, p], begin, share, steps, (height, width))
    if words is None:
        _begin(*_ends(t, kernels), dt, T)  # of times that lie outside
        _refuse(x, y, p, height, width)
    return Spikes(words, (steps, 1, 2, height, width))


def _refuse(x: np.ndarray, y: np.ndarray, p: np.ndarray, height: int, width: int) -> NoReturn:
    """Say which events lie outside."""
    for name, values, end in (("x", x, width), ("y", y, height)):
        if not 0 <= values.min() <= values.max() < end:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"{name} must lie from 0 to {end - 1} for a sensor of {height} x {width}, got {wrong}")
    raise ValueError(f"p must be 0 or 1, or -1 or 1, got values from {p.min()} to {p.max()}")


def _fields_of(given: Any) -> dict[str, Any]:
    """The fields of a structured array, of a dictionary, or of an object that has them as attributes."""
    names = getattr(getattr(given, "dtype", None), "fields", None)  # with titles, such as faery's p of the field "on"
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
    """t in float64 or integers, the others in integers of up to 64 bits, all in the machine's order of bytes."""
    fields = _fields_of(t) if x is None and y is None and p is None else dict(zip(FIELDS, (t, x, y, p), strict=True))
    arrays = []
    for name, values in fields.items():
        if values is None:
            raise TypeError(f"{name} is missing: events takes t, x, y and p, or one argument that has all four")
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
        arrays.append(array.astype(array.dtype.newbyteorder("="), copy=False))
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"t, x, y and p must have the same length, got {', '.join(map(str, lengths))}")
    if arrays[0].dtype.kind == "f" and not np.isfinite(arrays[0]).all():
        raise ValueError("t must be finite, and holds NaN or infinite values")
    return arrays


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
