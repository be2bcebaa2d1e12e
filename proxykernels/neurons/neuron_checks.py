"""Checks of neuron parameters. Each error names the argument and what it got."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..checks import as_float32, is_integer, is_number, same_device, start, strided
from ..kernels import value_checks_cache


def neuron(v_threshold: float | Tensor, v_reset: float | None) -> float | None:
    """Check the threshold (positive) and the reset potential (below it, or None); return the latter in float32."""
    if isinstance(v_threshold, Tensor):
        strided("v_threshold", v_threshold)
        if not v_threshold.is_floating_point() or v_threshold.ndim > 1 or not v_threshold.numel():
            raise TypeError(
                "v_threshold must be a number or a float tensor [C] of one threshold a channel, got "
                f"{v_threshold.dtype} {list(v_threshold.shape)}"
            )
    elif not is_number(v_threshold):
        raise TypeError(f"v_threshold must be a number or a tensor [C], got {v_threshold!r}")
    if v_reset is not None and not is_number(v_reset):
        raise TypeError(f"v_reset must be a number (hard reset) or None (soft reset), got {v_reset!r}")
    if isinstance(v_threshold, Tensor) and not value_checks_cache.can_be_read(v_threshold):
        return v_reset
    lowest, highest = _limits(v_threshold)
    if not (lowest > 0 and highest < math.inf):  # comparisons, which a compiled graph can guard
        wrong = v_threshold
        if isinstance(v_threshold, Tensor):
            wrong = lowest if not lowest > 0 else highest
        raise ValueError(f"v_threshold must be positive and finite in float32, got {wrong}")
    if v_reset is not None and not -math.inf < as_float32(v_reset) < lowest:
        raise ValueError(
            f"v_reset must be finite and, in float32, below v_threshold = {lowest:g}, or a neuron would fire for ever; "
            f"got {v_reset}"
        )
    return v_reset if v_reset is None or torch.compiler.is_compiling() else float(v_reset)


def resting(v_rest: float, v_threshold: float | Tensor) -> float:
    """The potential at rest, below the threshold."""
    start("v_rest", v_rest)
    if torch.compiler.is_compiling() or (
        isinstance(v_threshold, Tensor) and not value_checks_cache.can_be_read(v_threshold)
    ):
        return v_rest
    lowest, _ = _limits(v_threshold)
    if not as_float32(v_rest) < lowest:
        raise ValueError(
            f"v_rest must be below v_threshold = {lowest:g}, or neurons would fire without input; got {v_rest}"
        )
    return float(v_rest)


def share(name: str, value: float | Tensor) -> None:
    """A factor per step, from 0 to 1."""
    _within(name, value, "from 0 to 1", lambda low, high: low >= 0 and high <= 1)


def not_below_zero(name: str, value: float | Tensor) -> None:
    _within(name, value, "at least 0 and finite in float32", lambda low, high: low >= 0 and high < math.inf)


def finite(name: str, value: float | Tensor) -> None:
    _within(name, value, "finite in float32", lambda low, high: low > -math.inf and high < math.inf)


def number(name: str, value: float) -> None:
    """A finite number that all channels share."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, the same for all channels, got {value!r}")
    start(name, value)


def above_zero(name: str, value: float | Tensor) -> None:
    _within(name, value, "above 0 and finite in float32", lambda low, high: low > 0 and high < math.inf)


def at_least_one(name: str, value: float | Tensor) -> None:
    """A time constant in steps."""
    _within(name, value, "at least 1 step and finite in float32", lambda low, high: low >= 1 and high < math.inf)


def whole_steps(name: str, value: int) -> None:
    """A number of steps that may be 0."""
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer number of steps, got {value!r}")
    if not 0 <= value < 2**24:
        raise ValueError(f"{name} must be at least 0 steps and below 2**24, got {value}")


def most_spikes(name: str, value: int) -> None:
    """The most spikes of a neuron in a step."""
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer number of spikes, got {value!r}")
    if not 1 <= value <= 255:
        raise ValueError(f"{name} must be from 1 to 255 spikes, got {value}")


def bias_of_loihi(name: str, value: float | Tensor) -> None:
    """A whole number that a potential of 24 bits can be."""
    _within(name, value, "from -2**23 to 2**23", lambda low, high: low >= -(2**23) and high <= 2**23)
    multiple(name, value, 1.0, "a whole number")


def multiple(name: str, value: float | Tensor, unit: float, wanted: str) -> None:
    """A whole multiple of ``unit``, a power of two; ``wanted``: what the error calls that."""
    if not isinstance(value, Tensor):
        if value / unit != round(value / unit):
            raise ValueError(f"{name} must be {wanted}, got {value}")
        return
    if not value_checks_cache.can_be_read(value):
        return
    wrong = value_checks_cache.look_once(_NOT_MULTIPLES[unit], value)
    if wrong is not None:
        raise ValueError(f"{name} must be {wanted}, got {wrong:g}")


def _not_multiple(unit: float, value: Tensor) -> float | None:
    """A value that is not a multiple of ``unit``, or None."""
    units = value.detach().double() / unit
    wrong = units != units.round()
    return value.detach()[wrong][0].item() if wrong.any() else None


DECAY_UNIT = 1 / 4096  # of 12-bit decays
_NOT_MULTIPLES = {unit: partial(_not_multiple, unit) for unit in (1.0, DECAY_UNIT)}  # made once, as cache keys


def _within(name: str, value: float | Tensor, wanted: str, holds: Callable[[float, float], bool]) -> None:
    """Check the lowest and the highest value of a neuron parameter, a number or one value a channel."""
    if isinstance(value, Tensor):
        strided(name, value)
        if not value.is_floating_point() or value.ndim > 1 or not value.numel():
            raise TypeError(
                f"{name} must be a number or a float tensor [C] of one value a channel, got {value.dtype} "
                f"{list(value.shape)}"
            )
        if not value_checks_cache.can_be_read(value):
            return
    elif not is_number(value):
        raise TypeError(f"{name} must be a number or a tensor [C], got {value!r}")
    lowest, highest = _limits(value)
    if not holds(lowest, highest):  # true for NaN, too
        wrong = value if not isinstance(value, Tensor) else lowest if not holds(lowest, lowest) else highest
        raise ValueError(f"{name} must be {wanted}, got {wrong}")


def per_channel(name: str, value: float | Tensor, channels: int, device: torch.device) -> Tensor:
    """The value of each channel: float32 [channels]."""
    if not isinstance(value, Tensor):
        return torch.full((channels,), float(value), dtype=torch.float32, device=device)
    if value.ndim == 1:
        same_device(name, value, device)
        if len(value) != channels:
            raise ValueError(f"{name} must have one value for each of {channels} channels, got {len(value)}")
    return value.to(device, torch.float32).expand(channels)


def _limits(value: float | Tensor) -> tuple[float, float]:
    """The lowest and the highest value, read once per version of a tensor."""
    if not isinstance(value, Tensor):
        return (as_float32(value),) * 2
    return value_checks_cache.look_once(value_checks_cache.limits, value)
