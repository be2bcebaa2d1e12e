"""Cached checks of tensor values on a GPU, such as "all values are finite".

Reading values waits for the GPU, so each version of a tensor is checked once. The version counter does not count writes
past autograd, to ``weight.data`` or a numpy view. The next counted write makes them visible. On a CPU checks are cheap
and are not cached.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils.weak import WeakTensorKeyDictionary

from . import weight_cache
from .weight_layouts import is_finite

_FAKE = torch._C._TorchDispatchModeKey.FAKE

_is_tracing, _dispatch_modes = torch._C._is_tracing, torch._C._len_torch_dispatch_stack
_functorch_level = torch._C._functorch.peek_interpreter_stack

_sources = WeakTensorKeyDictionary()  # tensor -> the tensors that it was computed from
_found = WeakTensorKeyDictionary()  # first source -> check -> (versions of all sources, result)


def can_be_read(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read now.

    They cannot in a graph that is traced or captured, on the meta device or in FakeTensorMode. On a GPU they are not
    read during a simulation, which has checked all its inputs at the start.
    """
    if torch.compiler.is_compiling() or tensor.is_meta or torch._C._get_dispatch_mode(_FAKE) is not None:
        return False
    return not (tensor.is_cuda and (torch.cuda.is_current_stream_capturing() or weight_cache.are_looked_at()))


def nobody_follows() -> bool:
    """Whether no compiler, tracer, torch.func transform or dispatch mode records the operators that are called now."""
    if torch.compiler.is_dynamo_compiling() or _is_tracing():  # any other export has a dispatch mode
        return False
    return not _dispatch_modes() and _functorch_level() is None


def is_within_vmap() -> bool:
    """Whether this runs within torch.vmap, where a tensor may stand for one per sample."""
    if torch.compiler.is_compiling():
        return False
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)


def can_be_kept_on(device: torch.device) -> bool:
    """Whether a tensor that is made on a device now may be cached: not while operators are traced or a CUDA graph is
    captured, which would own it."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or is_fake_mode():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return device.type == "cpu" or not torch.cuda.is_current_stream_capturing()


def is_plain(operands: Sequence) -> bool:
    """Whether operands are plain CPU tensors without a gradient, and nothing follows the operators on them.

    The memory of plain tensors holds their values: torch's negative bit, which the dispatcher resolves, is not set.
    """
    if not nobody_follows():
        return False
    for x in operands:
        if isinstance(x, Tensor) and (type(x) is not Tensor or x.requires_grad or not x.is_cpu or x.is_neg()):
            return False
    return isinstance(operands[0], Tensor)


def is_fake_mode() -> bool:
    """Whether a FakeTensorMode is active, in which tensors have no values."""
    return torch._C._get_dispatch_mode(_FAKE) is not None


def plain(tensor: Tensor) -> Tensor:
    """The tensor inside a torch.func wrapper (for vmap with all samples); other tensors are returned as they are."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def computed_from(values: Tensor, *sources: Tensor | None) -> Tensor:
    """Register that ``values`` were computed from ``sources``, and return ``values``.

    A check of ``values`` is then cached under the versions of ``sources``. So it stays valid when the same values are
    computed again as a new tensor.
    """
    if not values.is_cuda or torch.compiler.is_compiling():  # a graph looks at no values
        return values
    if not any(values is source for source in sources):  # an entry for itself would keep it alive
        _sources[values] = [
            first for source in sources if source is not None for first in _sources.get(source, [source])
        ]
    return values


def look_once(look: Callable[[Tensor], Any], values: Tensor) -> Any:
    """``look(values)``; on a GPU cached for the current version of ``values``."""
    values = plain(values)
    if not values.is_cuda:
        return look(values)
    found = _recall(look, values)
    if found is None:
        found = look(values)
        _remember(look, values, found)
    return found


def is_noted(values: Tensor) -> bool:
    """Whether values are known to be real and finite from how they were made, so that no check is needed."""
    return bool(values.is_cuda and not torch.compiler.is_compiling() and _recall(is_noted, values))


def note(values: Tensor) -> Tensor:
    """Note that values on a GPU are real and finite, such as averages of spikes. Valid until they are written to."""
    if values.is_cuda and not torch.compiler.is_compiling():
        _remember(is_noted, values, True)
    return values


def look_at_all(values: Iterable[Tensor], ranges: Iterable[Tensor], device: torch.device) -> bool:
    """Check all tensors on a GPU together, so that the GPU is waited for once and not once per layer.

    Args:
        values: tensors that must be finite.
        ranges: tensors whose :func:`limits` will be needed.

    Returns:
        Whether all values are finite. If not, check each tensor to find out which is not.
    """
    if torch.cuda.is_current_stream_capturing():
        return True
    known, new = _sorted_out(is_finite, values, device)
    _, unread = _sorted_out(limits, ranges, device)
    if new or unread:
        norm = [get_total_norm([value.detach().float() for value in new], foreach=True)] if new else []
        ends = [end for value in unread for end in value.detach().float().aminmax()]
        together = [*norm, *ends]
        found = together[0].view(1).tolist() if len(together) == 1 else torch.stack(together).tolist()
        for k, value in enumerate(unread):
            _remember(limits, value, tuple(found[len(norm) + 2 * k :][:2]))
        if new and not math.isfinite(found[0]):
            return False
        for value in new:
            _remember(is_finite, value, True)
    return all(known)


def limits(value: Tensor) -> tuple[float, float]:
    """The lowest and the highest value of a tensor."""
    lowest, highest = torch.stack(value.detach().float().aminmax()).tolist()
    return lowest, highest


def _sorted_out(look: Callable, values: Iterable[Tensor], device: torch.device) -> tuple[list, list[Tensor]]:
    """The cached results of ``look`` for the tensors on ``device``, and the tensors that have none."""
    on_gpu = [value for value in values if value.is_cuda and value.device == device and value.is_floating_point()]
    found = [_recall(look, value) for value in on_gpu]
    new = [value for value, known in zip(on_gpu, found, strict=True) if known is None]
    return [known for known in found if known is not None], new


def _recall(look: Callable, values: Tensor) -> Any:
    """The cached result of ``look`` for the current versions; None if there is none."""
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
