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

from . import constants
from .weight_layouts import is_finite

_FAKE = torch._C._TorchDispatchModeKey.FAKE

_sources = WeakTensorKeyDictionary()  # tensor -> those that it was computed from
_found = WeakTensorKeyDictionary()  # first source -> what was asked -> the versions of all sources, and the answer


def can_be_read(tensor: Tensor) -> bool:
    """Not of a graph that is traced or captured, nor on the meta device or of FakeTensorMode; on a GPU not while a
    network is simulated, which has looked at all that it was given."""
    if torch.compiler.is_compiling() or tensor.is_meta or is_fake_mode():
        return False
    return not (tensor.is_cuda and (torch.cuda.is_current_stream_capturing() or constants.are_looked_at()))


def nobody_follows() -> bool:
    """Whether no compiler, tracer, transform or mode follows the operators that are called now, and would miss one."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return False
    return not torch._C._len_torch_dispatch_stack() and torch._C._functorch.peek_interpreter_stack() is None


def is_fake_mode() -> bool:
    """Whether tensors have no values now: in a FakeTensorMode."""
    return torch._C._get_dispatch_mode(_FAKE) is not None


def plain(tensor: Tensor) -> Tensor:
    """What a tensor of torch.func holds, of vmap all samples; another tensor is itself."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def computed_from(values: Tensor, *sources: Tensor | None) -> Tensor:
    """``values``, which are computed anew at each call: of the same versions of ``sources`` they are the same."""
    if not values.is_cuda or torch.compiler.is_compiling():  # a graph looks at no values
        return values
    if not any(values is source for source in sources):  # which would keep itself alive
        _sources[values] = [
            first for source in sources if source is not None for first in _sources.get(source, [source])
        ]
    return values


def look_once(look: Callable[[Tensor], Any], values: Tensor) -> Any:
    """``look(values)``."""
    values = plain(values)
    if not values.is_cuda:
        return look(values)
    found = _recall(look, values)
    if found is None:
        found = look(values)
        _remember(look, values, found)
    return found


def look_at_all(values: Iterable[Tensor], ranges: Iterable[Tensor], device: torch.device) -> bool:
    """Look at all tensors on a GPU at once, which is waited for once, and not by each layer.

    Args:
        values: what must hold neither NaN nor infinity.
        ranges: what :func:`limits` will be asked of.

    Returns:
        Whether the values hold none; if not, a look at each tells which.
    """
    if torch.cuda.is_current_stream_capturing():
        return True
    known, new = _sorted_out(is_finite, values, device)
    _, unread = _sorted_out(limits, ranges, device)
    if new or unread:
        norms = [torch.linalg.vector_norm(value.detach().float()) for value in new]
        ends = [end for value in unread for end in value.detach().float().aminmax()]
        found = torch.stack([*norms, *ends]).tolist()
        for k, value in enumerate(unread):
            _remember(limits, value, tuple(found[len(new) + 2 * k :][:2]))
        if not math.isfinite(sum(found[: len(new)])):
            return False
        for value in new:
            _remember(is_finite, value, True)
    return all(known)


def limits(value: Tensor) -> tuple[float, float]:
    """The lowest and the highest value."""
    lowest, highest = torch.stack(value.detach().float().aminmax()).tolist()
    return lowest, highest


def _sorted_out(look: Callable, values: Iterable[Tensor], device: torch.device) -> tuple[list, list[Tensor]]:
    """What is known of the tensors on a GPU, and those that must be looked at."""
    on_gpu = [value for value in values if value.is_cuda and value.device == device and value.is_floating_point()]
    found = [_recall(look, value) for value in on_gpu]
    new = [value for value, known in zip(on_gpu, found, strict=True) if known is None]
    return [known for known in found if known is not None], new


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
