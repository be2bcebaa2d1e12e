"""Encodings of values as packed :class:`Spikes`, without a dense tensor [T, N, ...].

Each function takes values x [N, ...] from 0 to 1 and returns Spikes (T, N, ...) on the same device. A constant input,
``simulate(net, x, T)``, needs no encoding.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import checks
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
