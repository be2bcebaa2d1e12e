"""A cache of weights in the layout of a kernel. They are packed again when their values change."""

from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, UntypedStorage

from . import constant_cache, heap, locks
from .weight_layouts import is_finite, refuse_infinite, require_finite

CONSTANTS: WeakSet[UntypedStorage] = WeakSet()  # of internal weights, which are never written to
_FINITE: WeakSet[UntypedStorage] = WeakSet()  # the constants that are known to be finite


# For weights known to be integer multiples of a power of two (at least 2**-126) in each output channel: the bits of a
# multiple, without its sign.
WHOLE_BITS: WeakKeyDictionary[UntypedStorage, int] = WeakKeyDictionary()


def can_be_kept(values: Tensor) -> bool:
    """Whether results computed from these values may be cached: float32 tensors of a CPU, no wrappers or subclasses."""
    if type(values) not in (Tensor, torch.nn.Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(values):
        return False
    return (values.device.type, values.dtype) == ("cpu", torch.float32)


def require_finite_weight(weight: Tensor) -> None:
    """Refuse NaN and infinity, like :func:`require_finite`; constants are checked once."""
    storage = weight.untyped_storage()
    if storage in _FINITE:
        return
    if not is_finite(weight):
        refuse_infinite("weight", weight)
    if storage in CONSTANTS and weight.numel() * weight.element_size() == storage.nbytes():
        _FINITE.add(storage)


class PackedWeights:
    """A cache of packed weights.

    A version counter misses writes past autograd (``weight.data``, a numpy view). So every use compares a
    fingerprint of all values, which is cheap compared with a layer's work. A cached value is therefore never stale.
    Threads may share the cache, even while one of them writes to the weights.

    Args:
        fingerprint: a hash of a contiguous tensor's bytes.
    """

    def __init__(self, fingerprint: Callable[[Tensor], int]):
        self._fingerprint = fingerprint
        self._known: WeakKeyDictionary[UntypedStorage, dict[Any, tuple[Any, dict]]] = WeakKeyDictionary()
        self._lock = locks.lock()  # of the dictionaries

    def of(self, weight: Tensor, *others: Tensor | None, name: str = "weight") -> "Packed":
        """The cache entry of a weight.

        Args:
            weight: the weight.
            others: tensors that are packed with it: its bias, then weight and bias of each further synapse.
            name: the name of the weights in errors.
        """
        return Packed(self, weight, *others, name=name)

    def known(self, weight: Tensor, fingerprints: Any) -> dict[Any, Any]:
        """The packed forms, by kind, of a weight with these fingerprints."""
        key = weight.dtype, weight.storage_offset(), weight.shape, weight.stride(), len(fingerprints)
        with self._lock:
            known = self._known.setdefault(weight.untyped_storage(), {})
            if key not in known or known[key][0] != fingerprints:
                known[key] = fingerprints, {}
            return known[key][1]

    def fingerprints(self, tensors: list[Tensor | None]) -> list[int | None]:
        found: list[int | None] = []
        for t in tensors:
            found.append(t if t is None else self._fingerprint(t))  # noqa: PERF401 - a comprehension is a call more
        return found


class Packed:
    """The cache entry of a weight and of the tensors that are packed with it, for the duration of a call.

    The packed values are those at the time of the first :meth:`get`.
    """

    def __init__(self, weights: PackedWeights, weight: Tensor, *others: Tensor | None, name: str = "weight"):
        self._weights, self._weight, self._name = weights, weight, name
        self._given = weight, *others
        self._tensors: list[Tensor | None] = []
        self._fingerprints: list[int | None] = []
        self._constant = True
        for t in self._given:
            self._tensors.append(t if t is None else t.detach().resolve_neg().contiguous())
            self._constant = self._constant and (t is None or t.untyped_storage() in CONSTANTS)
        self._made: dict[Any, Any] | None = None

    def get(self, kind: Any, pack: Callable[..., Any], most: int | None = None) -> Any:
        """``pack(weight, *others)``, from the cache if it was computed before.

        Args:
            kind: key of this packed form.
            most: how many forms are kept of these weights, of which the oldest give way; None: all.
            pack: called with contiguous float32 tensors. On a GPU it is called once per simulation, and the values are
                not checked for NaN here.
        """
        if self._weight.device.type != "cpu":
            return constant_cache.made_as(
                (self._weights, kind), lambda *tensors: pack(*map(_float, tensors)), *self._given
            )
        if self._made is None:
            # Constants are identified by their addresses.
            self._fingerprints = (
                [None if t is None else t.data_ptr() for t in self._tensors[1:]]
                if self._constant
                else self._weights.fingerprints(self._tensors)
            )
            self._made = self._weights.known(self._weight, self._fingerprints)
        if kind not in self._made:
            packed = pack(*self._copies)
            for oldest in list(self._made)[: 0 if most is None else 1 - most]:
                self._made.pop(oldest, None)
            self._made.setdefault(kind, packed)  # keep the value of another thread: it may be in use
        return self._made[kind]

    @cached_property
    def _copies(self) -> list[Tensor | None]:
        """Copies of the tensors to pack, since another thread may write to the tensors at any time."""
        copies = self._tensors
        if not self._constant:
            copies = [t if t is None else heap.in_huge_pages(torch.empty_like(t)).copy_(t) for t in copies]
            if self._weights.fingerprints(copies) != self._fingerprints:
                self._made = {}  # written to after the fingerprint: valid for this call only
        floats = [t if t is None else t.float() for t in copies]
        for index, values in enumerate(floats):
            if values is not None:
                require_finite("bias" if index % 2 else self._name, values)
        return floats


def _float(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().contiguous().float()
