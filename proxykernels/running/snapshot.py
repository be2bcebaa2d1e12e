"""A network as it was: whether its modules, their attributes and its weights have changed since.

What modules hold is compared one by one. The values of tensors are compared by a hash of all their bytes, at each look:
NumPy, other processes and ``tensor.data`` write to memory without any count of it.
"""

from collections.abc import Callable
from itertools import chain, repeat
from numbers import Number
from operator import attrgetter, call, is_, itemgetter
from types import FunctionType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from ..neurons import AnyNeuron
from ..plan.library import Memory
from ..plan.own_forward import KEPT, has_own_forward

UNREAD = {  # attributes of torch's modules that a run without gradients does not read, or only beside other hooks
    KEPT, "_non_persistent_buffers_set", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
}  # fmt: skip
PLAIN = Number, str, bytes, type(None), torch.dtype, torch.device, type, FunctionType  # NumPy's numbers, too


class CannotWatchError(Exception):
    """A network holds a tensor whose bytes are not its values, or are not on a CPU."""


class Snapshot:
    """The modules, attributes and tensors of a network.

    It holds all of them but the network itself, so that a network that holds its snapshot is freed like any other.

    Attributes:
        memory: the bytes of all tensors.

    Raises:
        CannotWatchError: the network cannot be watched.
    """

    def __init__(self, net: nn.Module):
        self._net = ref(net)
        self._objects: list[Any] = []
        self._dicts: list[dict] = []  # without that of the network, which would hold this snapshot
        self._known: list[Callable[[dict], tuple]] = []  # what gives the values of a dict that are of known kinds
        self._lists: list[tuple[list, tuple]] = []
        self._empty: list[Any] = []
        self._tensors: list[Tensor] = []
        self._seen = {id(net)}
        # Code of the user's own may read attributes of any kind.
        self._all = any(has_own_forward(module) for module in net.modules())
        self._follow_dict(vars(net))
        assert self._dicts.pop(0) is vars(net)
        self._kinds = [type(net), *map(type, self._objects)]
        self._classes = [kind for kind in dict.fromkeys(self._kinds) if issubclass(kind, nn.Module)]
        self._forwards = [*map(_forward, self._classes)]
        dicts = [vars(net), *self._dicts]
        self._keys = [*map(tuple, dicts)]
        self._were = [*chain.from_iterable(map(call, self._known, dicts))]
        self._layout = self._layout_now()
        self._storages = [t.untyped_storage() for t in self._tensors]  # the memory stays until the next look
        self.memory = Memory([(t.data_ptr(), _extent(t)) for t in self._tensors])

    def holds(self, net: nn.Module) -> bool:
        """Whether this is the network, and all of it but the values of tensors is as it was."""
        if self._net() is not net or any(self._empty):
            return False
        dicts = [vars(net), *self._dicts]
        if [type(net), *map(type, self._objects)] != self._kinds or [*map(tuple, dicts)] != self._keys:
            return False
        if not all(map(is_, chain.from_iterable(map(call, self._known, dicts)), self._were)):
            return False
        for listed, were in self._lists:
            if len(listed) != len(were) or not all(map(is_, listed, were)):
                return False
        return [*map(_forward, self._classes)] == self._forwards and self._layout_now() == self._layout

    def _layout_now(self) -> list[Any]:
        """How each tensor lies in memory."""
        return [*chain.from_iterable(map(map, _LAYOUT, repeat(self._tensors)))]

    def _follow(self, thing: Any) -> bool:
        """Whether it is of a kind that is known: others are not what layers compute with."""
        if isinstance(thing, PLAIN):
            return not isinstance(thing, FunctionType) or not thing.__closure__
        if isinstance(thing, AnyNeuron) and not thing.tensors():  # frozen
            return True
        if id(thing) in self._seen:
            return True
        self._seen.add(id(thing))
        if isinstance(thing, Tensor):
            self._follow_tensor(thing)
        elif isinstance(thing, dict):
            self._follow_dict(thing)
        elif isinstance(thing, list | tuple):
            known = [self._follow(part) for part in thing]
            if isinstance(thing, list):
                self._lists.append((thing, tuple(thing)))
            return all(known)
        elif isinstance(thing, set | frozenset) and not thing:
            self._empty.append(thing)
        elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("proxykernels."):
            self._objects.append(thing)
            self._follow_dict(vars(thing))
        else:
            return False
        return True

    def _follow_dict(self, things: dict) -> None:
        if not things:
            self._empty.append(things)
            return
        k = len(self._dicts)
        self._dicts.append(things)
        self._known.append(_no_values)
        known = [key for key, thing in things.items() if key not in UNREAD and (self._follow(thing) or self._all)]
        if known:
            self._known[k] = itemgetter(*known, known[0])  # with one key only it would give no tuple

    def _follow_tensor(self, t: Tensor) -> None:
        plain = type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and t.is_cpu
        if not plain or t.is_neg() or torch._C._functorch.is_functorch_wrapped_tensor(t):
            raise CannotWatchError
        self._tensors.append(t)


def _extent(t: Tensor) -> int:
    """Bytes from a tensor's first value to its last one; values between them, of other tensors, are hashed too."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.element_size() * (last + 1) if t.numel() else 0


def _no_values(things: dict) -> tuple:
    return ()


_forward = attrgetter("forward")
_LAYOUT: tuple[Any, ...] = Tensor.data_ptr, Tensor.stride, attrgetter("shape", "dtype"), Tensor.is_neg
