"""Warns once where the input of a converted network is far from its calibration data, or where no neuron fires.

A look at the input costs as much as a few of the steps of a small network. So inputs of the first calls are looked at,
and later only some; and once a network has fired, its outputs are not checked any more.
"""

import math
import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..kernels.value_checks_cache import nobody_follows
from ..spikes import Spikes

Range = tuple[float, float]  # the least and the largest value of the calibration data

FAR = 10.0  # times the largest absolute value of the calibration data, or a share of it: such an input is far from it
LOOKS = 16  # calls whose inputs are looked at, and then one in as many
STEPS = 8  # of a run without a spike that tells of a silent network; fewer may be too few for small activations
KINDS = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64


class _Watch:
    """What is known of the calls of a network or an engine: their number, and whether it has warned and fired."""

    __slots__ = ("calls", "fired", "warned")

    def __init__(self) -> None:
        self.calls, self.fired, self.warned = 0, False, False


_watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()


def look_at_input(owner: Any, known: Range | None, x: Any, stacklevel: int = 3) -> bool:
    """Warn where x is far from the calibration data. Returns whether silence would be worth a warning; if it is none,
    :func:`has_fired` tells.

    ``owner``: the network or the engine, of which there is one warning. ``known``: the range of its calibration data;
    None: it was not converted.
    """
    if known is None or not isinstance(x, Tensor | Spikes):
        return False
    watch = _watches.get(owner)
    if watch is None:
        watch = _watches[owner] = _Watch()
    watch.calls += 1
    if watch.warned or (watch.calls > LOOKS and watch.calls % LOOKS) or not nobody_follows():
        return False
    found = _range(x) if watch.calls == 1 or x.device.type == "cpu" else None  # a look waits for a GPU
    if found is None:
        return False
    here, there = max(-found[0], found[1]), max(-known[0], known[1])
    if not (here and math.isfinite(here)):
        return False
    if there / FAR <= here <= there * FAR:
        return not watch.fired
    few = "hardly any neuron will fire" if here < there else "neurons will fire at nearly every step"
    _warn(
        owner,
        f"x has values from {found[0]:.4g} to {found[1]:.4g}, and the network was calibrated on values from "
        f"{known[0]:.4g} to {known[1]:.4g}: {few}. Scale x as the calibration samples were scaled",
        stacklevel,
    )
    return False


def has_fired(owner: Any) -> None:
    """Note that a network has fired."""
    _watches[owner].fired = True


def warn_of_silence(owner: Any, T: int, known: Range | None, stacklevel: int) -> None:
    """Warn that no neuron of a network has fired in T steps."""
    assert known is not None
    _warn(
        owner,
        f"no neuron of the network fired in {T} steps. It was calibrated on values from {known[0]:.4g} to "
        f"{known[1]:.4g}: scale x as the calibration samples were scaled, or take more steps",
        stacklevel,
    )


def _warn(owner: Any, message: str, stacklevel: int) -> None:
    _watches[owner].warned = True
    warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


def _range(x: Any) -> Range | None:
    """The least and the largest value; None where they cannot be had."""
    if isinstance(x, Spikes):
        return 0.0, float(x.scale)
    if x.is_nested or x.layout != torch.strided or x.is_meta or not x.ndim or not x.numel():
        return None
    if x.dtype == torch.bool:
        return 0.0, 1.0
    if not x.is_floating_point() and x.dtype not in KINDS:
        return None
    x = x.detach()
    least, largest = torch.aminmax(x[0] if x.stride(0) == 0 else x)  # all steps or samples are the same
    return least.item(), largest.item()
