"""Torch functions that work on the bits of a SpikeTensor, and their implementations.

An implementation returns NotImplemented if it would need the dense tensor; torch's own function then runs on that.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.cpu.words import PACKABLE
from ..spikes import Spikes, storage
from ..spikes.spike_tensor import WITHOUT_A_LOOK, SpikeTensor, view_of
from . import spike_ops


def _of(x: Any) -> Any:
    """The bits of x, if it has any."""
    return x.packed() if isinstance(x, SpikeTensor) else None


def _new(x: SpikeTensor, spikes: Spikes, dtype: torch.dtype) -> SpikeTensor:
    return SpikeTensor(spikes, type(x._memory)(spikes, dtype))


def _as_it_is(x, *args, **kwargs):
    return x if _of(x) is not None and not args and not kwargs else NotImplemented


def _to_cpu(x, *args, **kwargs):
    return _as_it_is(x, *args, **kwargs) if x.is_cpu else NotImplemented


def _cut(x, index):
    spikes = _of(x)
    if spikes is None or type(index) is not slice or index.step not in (None, 1):
        return NotImplemented
    if not all(end is None or type(end) is int for end in (index.start, index.stop)):
        return NotImplemented
    start, stop, _ = index.indices(spikes.T)
    if stop <= start:
        return NotImplemented
    return view_of(x, spikes[start:stop], lambda dense: dense[start:stop])


def _flatten(x, start_dim=0, end_dim=-1):
    spikes = _of(x)
    if spikes is None or start_dim != 2 or len(spikes.shape) < 4 or end_dim not in (-1, len(spikes.shape) - 1):
        return NotImplemented
    return view_of(x, spike_ops.flatten(spikes), lambda dense: dense.flatten(2))


def _detach(x):
    return x.detached() if isinstance(x, SpikeTensor) else NotImplemented


def _deepcopy(x, memo):
    """Uses the caller's memo, so that tensors that share memory still share it in the copy."""
    return x.dense().__deepcopy__(memo)


def _clone(x, *args, **kwargs):
    spikes = _of(x)
    return NotImplemented if spikes is None or args or kwargs else _new(x, spikes, x._memory.dtype)


def _to_type(dtype: torch.dtype) -> Callable:
    def convert(x, *args, **kwargs):
        spikes = _of(x)
        if spikes is None or args or kwargs:
            return NotImplemented
        if x._memory.dtype == dtype:
            return x
        return _new(x, spikes, dtype) if spikes.scale == 1 else NotImplemented  # which would be rounded

    return convert


def _to(x, *args, **kwargs):
    if kwargs or len(args) != 1 or args[0] not in PACKABLE:
        return NotImplemented
    return _to_type(args[0])(x)


JOINS: dict[int, Callable] = {0: spike_ops.cat_steps, 2: spike_ops.cat_channels}


def _cat(tensors, dim=0, *, axis=None, out=None):
    if not isinstance(tensors, tuple | list) or axis is not None or out is not None:
        return NotImplemented
    parts = [_of(x) for x in tensors]
    if any(part is None for part in parts) or len({x._memory.dtype for x in tensors}) > 1:
        return NotImplemented
    if dim not in JOINS or len(parts[0].shape) < 3:
        return NotImplemented
    if len({(*part.shape[:dim], part.scale, *part.shape[dim + 1 :]) for part in parts}) > 1:
        return NotImplemented
    if dim == 0 and not all(storage.joins_in_time(part._words, part.T) for part in parts[:-1]):
        return NotImplemented
    return _new(tensors[0], JOINS[dim](parts), tensors[0]._memory.dtype)


def _dropout(x, p=0.5, training=True, inplace=False):
    return x if _of(x) is not None and not training else NotImplemented


def _sum_of_steps(x, dim=None, *args, **kwargs):
    spikes = _of(x)
    if spikes is None or dim not in (0, (0,), [0]) or args or kwargs or spikes.scale != 1:
        return NotImplemented
    dtype = x._memory.dtype
    return spikes.count().to(dtype if dtype.is_floating_point else torch.int64)


def _mean_of_steps(x, dim=None, *args, **kwargs):
    if _of(x) is None or x._memory.dtype != torch.float32:
        return NotImplemented
    total = _sum_of_steps(x, dim, *args, **kwargs)
    return total if total is NotImplemented else total.div_(x.shape[0])


WITHOUT_A_LOOK |= {
    Tensor.__getitem__: _cut,
    Tensor.flatten: _flatten, torch.flatten: _flatten,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.detach: _detach, torch.detach: _detach,
    Tensor.clone: _clone, torch.clone: _clone,
    Tensor.contiguous: _as_it_is, Tensor.cpu: _to_cpu,
    Tensor.float: _to_type(torch.float32), Tensor.double: _to_type(torch.float64), Tensor.half: _to_type(torch.float16),
    Tensor.bool: _to_type(torch.bool), Tensor.to: _to,
    torch.cat: _cat, torch.concat: _cat, torch.concatenate: _cat,
    F.dropout: _dropout, F.dropout2d: _dropout,
    Tensor.sum: _sum_of_steps, torch.sum: _sum_of_steps,
    Tensor.mean: _mean_of_steps, torch.mean: _mean_of_steps,
}  # fmt: skip
