"""A network as it was: whether something that it computes with has changed since.

Attributes, and the versions and addresses of tensors, are compared one by one. Torch counts each write in the version
of a tensor, unless it goes through ``tensor.data`` or NumPy. Where such a write may hide, a hash of all values is
compared: where a layer was asked for one of its tensors since the last look, and where somebody else holds a tensor or
its memory. Elsewhere a hash of small tensors and of LINES lines of each larger one is compared.

So one kind of write is not seen: one through ``.data`` or NumPy to some values of a tensor of more than 64 LINES bytes,
that was had from ``net.parameters()`` or another such iterator, and was let go since.
"""

import sys
from collections.abc import Callable
from operator import is_, itemgetter
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.attributes import READS, NeuronAttributes, count_reads
from ..plan import library

LINES = 512  # of 64 bytes
WHOLE = 64 * LINES
EVERY_LINE = 1 << 56
PLAIN = bool, int, float, str, bytes, type(None), torch.dtype, torch.device, type, FunctionType


class CannotWatchError(Exception):
    """A network has something whose changes nobody would see."""


class Snapshot:
    """Of a network whose tensors are on a CPU.

    Raises:
        CannotWatchError: the network cannot be watched.
    """

    def __init__(self, net: nn.Module):
        self._kind, self._net = type(net), id(net)  # not the network itself, which is to be let go
        self._objects: list[tuple[Any, type]] = []
        self._dicts: list[tuple[dict, int, Callable[[dict], tuple], tuple]] = []  # with length, and what is known
        self._lists: list[tuple[list, tuple]] = []
        self._empty: list[Any] = []
        self._times: dict[int, int] = {}  # id of a tensor -> how many of these hold it
        self._tensors: list[Tensor] = []
        self._counted: list[list[int]] = []  # reads of layers
        self._seen = {id(net)}
        self._count_reads(net)
        self._follow_dict(vars(net))
        self._sources = self._tensors_now()
        self._large = [t for t in self._tensors if t.nbytes > WHOLE]
        self._references = [_IN_A_LIST + 1 + 2 * self._times[id(t)] for t in self._large]
        self._pieces = (library.Piece * len(self._tensors))()
        for piece, t in zip(self._pieces, self._tensors, strict=True):
            piece.bytes, piece.size = t.data_ptr(), t.nbytes
        self._reads = sum(reads for (reads,) in self._counted)
        self._hash, self._sample = self._hashed(EVERY_LINE), self._hashed(LINES)

    def holds(self, net: nn.Module) -> bool:
        """Whether all is as it was."""
        if type(net) is not self._kind or any(self._empty):
            return False
        if not all(type(thing) is kind for thing, kind in self._objects):
            return False
        try:
            for things, length, known, were in self._dicts:
                if len(things) != length or not all(map(is_, known(things), were)):
                    return False
        except KeyError:
            return False
        for listed, were in self._lists:
            if len(listed) != len(were) or not all(map(is_, listed, were)):
                return False
        return self._tensors_now() == self._sources and self._values_hold()

    def _values_hold(self) -> bool:
        reads = sum(reads for (reads,) in self._counted)
        if reads == self._reads and not self._are_shared():
            return self._hashed(LINES) == self._sample
        self._reads = reads
        return self._hashed(EVERY_LINE) == self._hash

    def _are_shared(self) -> bool:
        """Whether somebody else holds a large tensor, or another tensor or an array with its memory."""
        if [sys.getrefcount(t) for t in self._large] != self._references:
            return True
        return any(_memory_references(t) > _ALONE for t in self._large)

    def _hashed(self, lines: int) -> int:
        return library.sample(self._pieces, lines)

    def _tensors_now(self) -> list[tuple[int, int]]:
        return [(t._version, t.data_ptr()) for t in self._tensors]

    def _follow(self, thing: Any) -> bool:
        """Whether it is of a kind that is known: others are not what layers compute with."""
        if isinstance(thing, PLAIN):
            return not isinstance(thing, FunctionType) or not thing.__closure__
        if id(thing) == self._net:
            raise CannotWatchError  # it would hold itself, and never be let go
        if isinstance(thing, Tensor):
            self._times[id(thing)] = self._times.get(id(thing), 0) + 1
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
            self._objects.append((thing, type(thing)))
            self._count_reads(thing)
            self._follow_dict(vars(thing))
        else:
            return False
        return True

    def _count_reads(self, thing: Any) -> None:
        if isinstance(thing, NeuronAttributes):
            self._counted.append(count_reads(thing))

    def _follow_dict(self, things: dict) -> None:
        if not things:
            self._empty.append(things)
            return
        known = [key for key, thing in things.items() if key != READS and self._follow(thing)]
        get = _getter(known)
        self._dicts.append((things, len(things), get, get(things)))

    def _follow_tensor(self, t: Tensor) -> None:
        plain = type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and t.is_cpu and not t.is_inference()
        dense = t.is_contiguous() or (t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last))
        if not (plain and dense) or t.is_neg() or torch._C._functorch.is_functorch_wrapped_tensor(t):
            raise CannotWatchError
        self._tensors.append(t)


def _getter(keys: list) -> Callable[[dict], tuple]:
    """What gives the values of keys."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda things: tuple(things[key] for key in keys)


def _memory_references(t: Tensor) -> int:
    return torch._C._storage_Use_Count(t.untyped_storage()._cdata)


_IN_A_LIST = [sys.getrefcount(thing) for thing in [object()]][0]
_ALONE = _memory_references(torch.empty(1, dtype=torch.uint8, device="cpu"))
