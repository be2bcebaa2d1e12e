"""A network as it was: whether something that it computes with has changed since.

Attributes, and the versions and addresses of tensors, are compared one by one. Torch counts each write in the version
of a tensor, unless it goes through ``tensor.data`` or NumPy. To write so one must have the tensor. Layers of neurons
count who asks for their parameters, one by one or by an iterator, and Python and torch count who has them and their
memory. Where somebody asked since the last look, or had one then or has one now, a hash of all values is compared.

Tensors of other modules, such as a BatchNorm within a layer, can be had without being counted. A hash of them is
compared at each look; of one of more than 64 LINES bytes, of LINES lines of it. So one kind of write is not seen: one
through ``.data`` or NumPy to some values of such a large tensor, that was had and let go since the last look.
"""

import sys
from collections import Counter
from collections.abc import Callable
from itertools import chain
from numbers import Number
from operator import attrgetter, call, is_, itemgetter
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.attributes import READS, NeuronAttributes, count_reads
from ..neurons import AnyNeuron
from ..plan import library

LINES = 512  # of 64 bytes
WHOLE = 64 * LINES
EVERY_LINE = 1 << 56
UNREAD = {  # of torch's modules: what a run without gradients does not look at, or only beside a forward hook
    READS, "_non_persistent_buffers_set", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
}  # fmt: skip
PLAIN = Number, str, bytes, type(None), torch.dtype, torch.device, type, FunctionType  # NumPy's numbers, too


class CannotWatchError(Exception):
    """A network has something whose changes nobody would see."""


class Snapshot:
    """Of a network whose tensors are on a CPU.

    Raises:
        CannotWatchError: the network cannot be watched.
    """

    def __init__(self, net: nn.Module):
        self._kind, self._net = type(net), id(net)  # not the network itself, which is to be let go
        self._objects: list[Any] = []
        self._dicts: list[dict] = []
        self._known: list[Callable[[dict], tuple]] = []  # what gives the values of a dict that are of known kinds
        self._were: list[Any] = []  # these values, of one dict after the other
        self._lists: list[tuple[list, tuple]] = []
        self._empty: list[Any] = []
        self._times = Counter[int]()  # id of a tensor -> how many of these hold it
        self._guards = Counter[int]()  # the same of those that count who asks for it
        self._tensors: list[Tensor] = []
        self._counted: list[list[int]] = []  # reads of layers
        self._seen = {id(net)}
        self._count_reads(net)
        self._follow_dict(vars(net))
        self._kinds, self._lengths = [*map(type, self._objects)], [*map(len, self._dicts)]
        self._sources = self._sources_now()
        self._guarded = [t for t in self._tensors if self._times[id(t)] == self._guards[id(t)]]
        self._memory = [t.untyped_storage() for t in self._guarded]
        self._addresses = [memory._cdata for memory in self._memory]
        held = self._times + Counter(map(id, self._were))
        self._references = [_IN_A_LIST + 1 + held[id(t)] for t in self._guarded]
        guarded = set(map(id, self._guarded))
        self._all, self._others = _Pieces(self._tensors), _Pieces([t for t in self._tensors if id(t) not in guarded])
        self._reads, self._were_shared = self._reads_now(), self._are_shared()
        self._hash, self._sample = self._all.hashed(EVERY_LINE), self._others.hashed(LINES)

    def holds(self, net: nn.Module) -> bool:
        """Whether all is as it was."""
        if type(net) is not self._kind or any(self._empty) or [*map(len, self._dicts)] != self._lengths:
            return False
        if [*map(type, self._objects)] != self._kinds:
            return False
        try:
            if not all(map(is_, chain.from_iterable(map(call, self._known, self._dicts)), self._were)):
                return False
        except KeyError:
            return False
        for listed, were in self._lists:
            if len(listed) != len(were) or not all(map(is_, listed, were)):
                return False
        return self._sources_now() == self._sources and self._values_hold()

    def _values_hold(self) -> bool:
        reads, shared = self._reads_now(), self._are_shared()
        if reads == self._reads and not (shared or self._were_shared):
            return self._others.hashed(LINES) == self._sample
        self._reads, self._were_shared = reads, shared
        return self._all.hashed(EVERY_LINE) == self._hash

    def _reads_now(self) -> int:
        return sum(map(_reads, self._counted))

    def _are_shared(self) -> bool:
        """Whether somebody else holds a guarded tensor, or another tensor or an array with its memory."""
        return (
            any(map(_ALONE.__ne__, map(_memory_references, self._addresses)))
            or any(map(_OBJECT.__ne__, map(sys.getrefcount, self._memory)))
            or [*map(sys.getrefcount, self._guarded)] != self._references
        )

    def _sources_now(self) -> list[int]:
        return [*map(_version, self._tensors), *map(Tensor.data_ptr, self._tensors)]

    def _follow(self, thing: Any) -> bool:
        """Whether it is of a kind that is known: others are not what layers compute with."""
        if isinstance(thing, PLAIN):
            return not isinstance(thing, FunctionType) or not thing.__closure__
        if isinstance(thing, AnyNeuron) and not thing.tensors():  # frozen
            return True
        if id(thing) == self._net:
            raise CannotWatchError  # it would hold itself, and never be let go
        if isinstance(thing, Tensor):
            self._times[id(thing)] += 1
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
            self._count_reads(thing)
            self._follow_dict(vars(thing))
        else:
            return False
        return True

    def _count_reads(self, thing: Any) -> None:
        if isinstance(thing, NeuronAttributes):
            self._counted.append(count_reads(thing))
            self._guards.update(id(t) for t in vars(thing)["_parameters"].values() if t is not None)

    def _follow_dict(self, things: dict) -> None:
        if not things:
            self._empty.append(things)
            return
        known = [key for key, thing in things.items() if key not in UNREAD and self._follow(thing)]
        get = itemgetter(*known, known[0]) if known else _no_values  # of one key alone it would give no tuple
        self._dicts.append(things)
        self._known.append(get)
        self._were += get(things)

    def _follow_tensor(self, t: Tensor) -> None:
        plain = type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and t.is_cpu and not t.is_inference()
        dense = t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))
        if not (plain and dense) or t.is_neg() or torch._C._functorch.is_functorch_wrapped_tensor(t):
            raise CannotWatchError
        self._tensors.append(t)


class _Pieces:
    """The memory of tensors, to be hashed."""

    def __init__(self, tensors: list[Tensor]):
        self._sample, self._count = library.sampler(), len(tensors)
        self._pieces = (library.Piece * len(tensors))()
        for piece, t in zip(self._pieces, tensors, strict=True):
            piece.bytes, piece.size = t.data_ptr(), t.nbytes

    def hashed(self, lines: int) -> int:
        return self._sample(self._pieces, self._count, lines) if self._count else 0


def _no_values(things: dict) -> tuple:
    return ()


_version, _reads = attrgetter("_version"), itemgetter(0)
_memory_references = torch._C._storage_Use_Count  # of the address of a storage


def _alone() -> tuple[int, int]:
    """The references to the memory of a tensor that is not shared, and to Python's object for it."""
    t = torch.empty(1, dtype=torch.uint8, device="cpu")
    memory = [t.untyped_storage()]
    return _memory_references(memory[0]._cdata), next(map(sys.getrefcount, memory))


(_ALONE, _OBJECT), _IN_A_LIST = _alone(), next(map(sys.getrefcount, [object()]))
