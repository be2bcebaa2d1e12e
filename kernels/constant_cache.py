"""What does not change while a network is simulated, and what is made of it once.

Folded weights, their parts and neurons as kernels take them are made by the first chunk of steps and kept to the end of
the simulation. Nothing outlives it, so a change of parameters between two simulations is never missed.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


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
