"""Recordings of NIR (``nir.data_ir``, from nir 1.0.6 on): spikes and potentials as its data, and back.

NIR numbers neurons as torch flattens images: neuron c H W + y W + x is channel c of the pixel y, x.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import checks
from ...kernels import heap
from ...running.result import Result
from ...running.stateful_layer import POTENTIALS
from ...spikes import Spikes, pack
from .nodes import check_dt

NEAR = 1e-6  # rounding error of times, in steps


def from_nir_data(data, *, shape: Sequence[int] | None = None, dt: float | None = None) -> Spikes | Tensor:
    """A recording of NIR as an input of a network, or as what a network is expected to give.

    Args:
        data: nir.EventData, nir.ValuedEventData or nir.TimeGriddedData, of n neurons.
        shape: of a sample at one step, such as (C, H, W); default: (n,).
        dt: length of a step, in the data's unit of time; only for events. A time t lies in step floor(t / dt).

    Returns:
        Spikes (T, N, ...) of events and of boolean data; of others float32 [T, N, ...], where several valued events of
        a neuron in one step add up.

    Raises:
        TypeError: ``data`` is of another kind. ValueError: events without dt, or outside of the recording; a shape of
            another number of neurons. The message names it.
    """
    if hasattr(data, "idx"):
        dense, n = _of_events(data, dt), int(data.n_neurons)
    elif isinstance(getattr(data, "data", None), np.ndarray):
        if dt is not None and not math.isclose(dt, data.dt, rel_tol=NEAR):
            raise ValueError(f"dt must be that of the data, {data.dt:g}, or None, got {dt:g}")
        dense, n = torch.from_numpy(np.ascontiguousarray(data.data)).transpose(0, 1), data.data.shape[2]
    else:
        raise TypeError(f"data must be nir.EventData or nir.TimeGriddedData, got {type(data).__name__}")
    size = (n,) if shape is None else tuple(shape)
    if math.prod(size) != n:
        raise ValueError(f"shape must have the data's {n} neurons, got {size}")
    dense = dense.unflatten(2, size)
    return pack(dense) if dense.dtype == torch.bool else dense.float()


def to_nir_data(x: Spikes | Tensor | Result, *, dt: float = 1.0, names: Mapping[str, str] | None = None):
    """Spikes or values as data of NIR.

    Args:
        x: Spikes (T, N, ...), or a tensor [T, N, ...] of values or bool; or the result of :func:`simulate` with
            ``record``.
        dt: length of a step.
        names: of a result: the graph's node for each layer that was recorded; default: the layers' names.

    Returns:
        nir.TimeGriddedData [N, T, n] of n neurons; of a result nir.NIRGraphData, whose nodes have the observables
        "spikes" and "v". Potentials are in the units of this package (:func:`from_nir`).

    Raises:
        TypeError, ValueError: x is something else, or a result without records.
        ImportError: nir is not installed, or older than 1.0.6.
    """
    from nir import data_ir as nir

    check_dt(dt)
    if not isinstance(x, Result):
        return nir.TimeGriddedData(_gridded(x), float(dt))
    if not x.records:
        raise ValueError("x must have records: simulate(net, x, T, record=['fc', 'fc.v'])")
    observables: dict[str, dict[str, Any]] = {}
    for key, record in x.records.items():
        layer, what = key.removesuffix(POTENTIALS), "v" if key.endswith(POTENTIALS) else "spikes"
        node = (names or {}).get(layer, layer)
        observables.setdefault(node, {})[what] = nir.TimeGriddedData(_gridded(record), float(dt))
    return nir.NIRGraphData({node: nir.NIRNodeData(parts) for node, parts in observables.items()})


def _gridded(x: Spikes | Tensor) -> np.ndarray:
    """Values [N, T, n]."""
    if not isinstance(x, Spikes | Tensor):
        raise TypeError(f"x must be Spikes, a tensor [T, N, ...] or a result, got {type(x).__name__}")
    checks.steps_of(x, None, "(T, N, ...)")
    if isinstance(x, Tensor):
        checks.held("x", x)
    dense = x.dense(torch.bool) if isinstance(x, Spikes) else x.detach()
    return dense.cpu().flatten(2).transpose(0, 1).contiguous().numpy()


def _of_events(data, dt: float | None) -> Tensor:
    """Events [T, N, n]: bool, or their values."""
    if dt is None:
        raise ValueError("dt must be given for events: the length of a step, in their unit of time")
    check_dt(dt)
    idx, time = np.asarray(data.idx), np.asarray(data.time, np.float64)
    kind = torch.bool if getattr(data, "value", None) is None else torch.float32
    room, there = data.t_max / dt * len(idx) * data.n_neurons * kind.itemsize, checks.memory(heap.CPU)
    if not 0 <= room <= there:  # nor NaN
        raise ValueError(
            f"steps of dt = {dt:g} up to t_max = {data.t_max:g} take {room / 2**30:.3g} GiB, and this machine has "
            f"{there / 2**30:.3g} GiB; give dt in the events' unit of time"
        )
    T = math.ceil(data.t_max / dt - NEAR)
    samples, places = np.nonzero(idx >= 0)
    steps, neurons = np.floor(time[samples, places] / dt + NEAR), idx[samples, places]
    if not np.isfinite(steps).all() or (len(steps) and (steps.min() < 0 or steps.max() >= T)):
        raise ValueError(f"time of all events must lie from 0 to t_max = {data.t_max:g}")
    if len(neurons) and neurons.max() >= data.n_neurons:
        raise ValueError(f"idx must be below n_neurons = {data.n_neurons}, got {int(neurons.max())}")
    value = getattr(data, "value", None)
    dense = torch.zeros(T, len(idx), int(data.n_neurons), dtype=kind, device=heap.CPU)
    at = tuple(torch.from_numpy(np.asarray(part, np.int64)) for part in (steps, samples, neurons))
    if value is None:
        dense[at] = True
        return dense
    return dense.index_put_(at, torch.from_numpy(np.asarray(value, np.float32)[samples, places]), accumulate=True)
