"""What was found in the values of tensors on a GPU: each version of them is looked at once, as a look waits for it.

A version counter misses what is written past autograd, to ``weight.data`` or a view of numpy: such a write is seen
with the next one that is counted. On a CPU a look is cheap, and nothing is remembered.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .kernels.weight_layouts import is_finite

_sources = WeakTensorKeyDictionary()  # tensor -> those that it was computed from
_found = WeakTensorKeyDictionary()  # first source -> what was asked -> the versions of all sources, and the answer


def made_of(values: Tensor, *sources: Tensor | None) -> Tensor:
    """``values``, which are computed anew at each call: of the same versions of ``sources`` they are the same."""
    if not values.is_cuda or torch.compiler.is_compiling():  # a graph looks at no values
        return values
    if not any(values is source for source in sources):  # which would keep itself alive
        _sources[values] = [
            first for source in sources if source is not None for first in _sources.get(source, [source])
        ]
    return values


def once(look: Callable[[Tensor], Any], values: Tensor) -> Any:
    """``look(values)``."""
    if not values.is_cuda:
        return look(values)
    found = _recall(look, values)
    if found is None:
        found = look(values)
        _remember(look, values, found)
    return found


def look_at_all(parameters: Iterable[Tensor], device: torch.device) -> None:
    """Look for NaN and infinity in all parameters on a GPU at once: it is waited for once, not by each layer."""
    if torch.cuda.is_current_stream_capturing():
        return
    on_gpu = [p for p in parameters if p.is_cuda and p.device == device and p.is_floating_point()]
    new = [p for p in on_gpu if _recall(is_finite, p) is None]
    if new and math.isfinite(torch.stack([p.detach().sum(dtype=torch.float32) for p in new]).sum().item()):
        for parameter in new:
            _remember(is_finite, parameter, True)


def _recall(look: Callable, values: Tensor) -> Any:
    """What the look found at these versions; None if it is not known."""
    sources = _sources.get(values, [values])
    versions, found = _found.get(sources[0], {}).get(look, ([], None))
    same = len(versions) == len(sources) and all(
        known() is source and source._version == version
        for (known, version), source in zip(versions, sources, strict=True)
    )
    return found if same else None


def _remember(look: Callable, values: Tensor, found: Any) -> None:
    sources = _sources.get(values, [values])
    if not any(source.is_inference() for source in sources):  # these count no versions
        versions = [(ref(source), source._version) for source in sources]
        _found.setdefault(sources[0], {})[look] = versions, found
