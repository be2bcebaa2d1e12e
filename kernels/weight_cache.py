"""Weights in a kernel's own order, kept as long as the weights live and packed anew whenever their values change."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, UntypedStorage

CONSTANTS: WeakSet[UntypedStorage] = WeakSet()  # of weights of our own, which nobody writes to


class PackedWeights:
    """Remembers what was made of which weights.

    A version counter misses writes that go past autograd (``weight.data``, a numpy view), so every use compares a
    fingerprint of all values: reading them is cheap beside a layer's work, and what is remembered is never stale.

    Args:
        fingerprint: a hash of a contiguous tensor's bytes.
    """

    def __init__(self, fingerprint: Callable[[Tensor], int]):
        self._fingerprint = fingerprint
        self._known: WeakKeyDictionary[UntypedStorage, dict[Any, tuple[int, dict]]] = WeakKeyDictionary()

    def of(self, weight: Tensor) -> "Packed":
        """What is remembered of a weight as its values are now."""
        values = weight.detach().contiguous()
        key = weight.dtype, weight.storage_offset(), weight.shape, weight.stride()
        storage = weight.untyped_storage()
        fingerprint = 0 if storage in CONSTANTS else self._fingerprint(values)
        known = self._known.setdefault(storage, {})
        if key not in known or known[key][0] != fingerprint:
            known[key] = fingerprint, {}
        return Packed(values, known[key][1])


class Packed:
    """A weight, and what was made of it before. Used within a call: it keeps the weight alive."""

    def __init__(self, values: Tensor, made: dict[Any, Any]):
        self._values, self._made = values, made

    def get(self, kind: Any, pack: Callable[[Tensor], Any]) -> Any:
        """``pack(weight as contiguous float32)``, done once for each ``kind``."""
        if kind not in self._made:
            self._made[kind] = pack(self._values.float())
        return self._made[kind]
