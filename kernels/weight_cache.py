"""A cache of weights in the layout of a kernel. They are packed again when their values change."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, UntypedStorage

from . import constant_cache, forks, heap
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
        fingerprint: a hash of some memory of the CPU, of an address and a number of bytes.
    """

    def __init__(self, fingerprint: Callable[[int, int], int]):
        self._fingerprint = fingerprint
        self._known: WeakKeyDictionary[UntypedStorage, dict[Any, tuple[Any, dict]]] = WeakKeyDictionary()
        self._lock = forks.lock()  # of the dictionaries

    def get(
        self, kind: Any, pack: Callable[..., Any], weight: Tensor, *others: Tensor | None, name: str = "weight",
        most: int | None = None,
    ) -> Any:  # fmt: skip
        """``pack(weight, *others)``, from the cache if it was computed before.

        Args:
            kind: key of this packed form.
            pack: called with contiguous float32 tensors. On a GPU it is called once per simulation, and the values are
                not checked for NaN here.
            others: tensors that are packed with the weight: its bias, then weight and bias of each further synapse.
            name: the name of the weights in errors.
            most: how many forms are kept of these weights, of which the oldest give way; None: all.
        """
        if weight.device.type != "cpu":
            return constant_cache.made_as((self, kind), lambda *tensors: pack(*map(_float, tensors)), weight, *others)
        tensors: list[Tensor | None] = []
        fingerprints: list[int | None] = []
        constant = True
        for t in (weight, *others):
            if t is not None:
                t = (t.detach() if t.requires_grad else t).resolve_neg().contiguous()
            tensors.append(t)
            constant = constant and (t is None or t.untyped_storage() in CONSTANTS)
        for t in tensors:  # constants are identified by their addresses
            if t is not None:
                fingerprints.append(t.data_ptr() if constant else self._fingerprint(t.data_ptr(), t.nbytes))
            else:
                fingerprints.append(None)
        key = weight.dtype, weight.storage_offset(), weight.shape, weight.stride(), len(fingerprints)
        with self._lock:
            known = self._known.setdefault(weight.untyped_storage(), {})
            if key not in known or known[key][0] != fingerprints:
                known[key] = fingerprints, {}
            made = known[key][1]
        if kind not in made:
            copies = tensors
            if not constant:  # another thread may write to the tensors at any time
                copies = [t if t is None else heap.in_huge_pages(torch.empty_like(t)).copy_(t) for t in tensors]
                if [t if t is None else self._fingerprint(t.data_ptr(), t.nbytes) for t in copies] != fingerprints:
                    made = {}  # written to after the fingerprint: valid for this call only
            floats = [t if t is None else t.float() for t in copies]
            for index, values in enumerate(floats):
                if values is not None:
                    require_finite("bias" if index % 2 else name, values)
            packed = pack(*floats)
            for oldest in list(made)[: 0 if most is None else 1 - most]:
                made.pop(oldest, None)
            made.setdefault(kind, packed)  # keep the value of another thread: it may be in use
        return made[kind]


def _float(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().contiguous().float()
