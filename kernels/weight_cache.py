"""Caches of what kernels take instead of parameters: of a simulation, and of weights for as long as they live.

Within a block of :func:`unchanging`, what does not change while a network is simulated, and what is made of it once:
folded weights, their parts and neurons as kernels take them are made by the first chunk of steps and kept to the end of
the simulation. Nothing outlives it, so a change of parameters between two simulations is never missed.

:class:`PackedWeights` keeps weights in the layout of a kernel. They are packed again when their values change.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, UntypedStorage

from . import forks, heap
from .weight_layouts import is_finite, refuse_infinite, require_finite


@dataclass
class _Block:
    """The cache of a block of :func:`unchanging`.

    Attributes:
        memory: addresses of the inputs. made: key -> what was made, and of what. looked_at: whether all values were.
    """

    memory: set[int]
    made: dict[Hashable, tuple[Any, tuple]] = field(default_factory=dict)
    looked_at: bool = False


_block: ContextVar[_Block | None] = ContextVar("block", default=None)


@contextmanager
def unchanging(*inputs: Tensor) -> Iterator[_Block]:
    """Open a cache: in this block neither parameters nor ``inputs`` change."""
    block = _Block(set() if _transformed() else {x.untyped_storage().data_ptr() for x in inputs})
    token = _block.set(block)
    try:
        yield block
    finally:
        _block.reset(token)


def _open() -> _Block | None:
    return None if torch.compiler.is_compiling() or _transformed() else _block.get()


def _transformed() -> bool:
    """Whether torch.func transforms this call: its tensors have no memory of their own to be known by."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def hold(x: Tensor) -> None:
    """Note in an open block that x does not change either."""
    block = _open()
    if block is not None:
        block.memory.add(x.untyped_storage().data_ptr())


def include(x: Tensor, *, followed: bool = True) -> bool:
    """Whether x shares its memory with an input of the open block; ``followed``: whether a compiler may trace this."""
    block = _open() if followed else None if _transformed() else _block.get()
    return block is not None and x.untyped_storage().data_ptr() in block.memory


def are_kept() -> bool:
    """Whether :func:`made` caches: a block is open, and no gradient is computed."""
    return _open() is not None and not torch.is_grad_enabled()


def mark() -> Callable[[], None]:
    """A function that forgets what is made in the open block from now on."""
    block = _open()
    before = {} if block is None else dict(block.made)

    def forget() -> None:
        if block is not None:
            block.made = before

    return forget


def looked_at() -> None:
    """Note in an open block that all values were checked for NaN and infinity, so that later checks wait for no GPU."""
    block = _open()
    if block is not None:
        block.looked_at = True


def are_looked_at() -> bool:
    """Whether all values were checked, in an open block."""
    block = _open()
    return block is not None and block.looked_at


def made(make: Callable[..., Any], *operands: Any) -> Any:
    """``make(*operands)``, cached in a block of :func:`unchanging`. Operands are parameters and numbers.

    Tensors are the same if they are the same memory in the same shape. With a gradient nothing is kept.
    """
    return made_as(make, make, *operands)


def made_as(kind: Hashable, make: Callable[..., Any], *operands: Any) -> Any:
    """:func:`made` with ``kind`` as the key instead of ``make``."""
    block = _open()
    if block is None or torch.is_grad_enabled():
        return make(*operands)
    key = kind, *map(_key, operands)
    if key not in block.made:
        block.made[key] = make(*operands), operands  # as long as these live, nothing else has their memory
    return block.made[key][0]


def _key(operand: Any) -> Hashable:
    if not isinstance(operand, Tensor):
        return tuple(operand) if isinstance(operand, list) else operand
    return operand.data_ptr(), operand.dtype, operand.device, operand.shape, operand.stride()


CONSTANTS: WeakSet[UntypedStorage] = WeakSet()  # of internal weights, which are never written to
_FINITE: WeakSet[UntypedStorage] = WeakSet()  # the constants that are known to be finite


# For weights known to be integer multiples of a power of two (at least 2**-126) in each output channel: the bits of a
# multiple, without its sign.
WHOLE_BITS: WeakKeyDictionary[UntypedStorage, int] = WeakKeyDictionary()

# For weights [C_out, C, kernel_h, kernel_w] whose last input channels have weights other than 0 at one tap only: the
# number of the other channels, and the tap (row, column). Such are a convolution and 1x1 convolutions that are added.
BESIDE: WeakKeyDictionary[UntypedStorage, tuple[int, tuple[int, int]]] = WeakKeyDictionary()


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
            return made_as((self, kind), lambda *tensors: pack(*map(_float, tensors)), weight, *others)
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
