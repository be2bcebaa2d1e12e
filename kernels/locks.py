"""Locks that a forked child finds free. Whoever held one in the parent is not in the child, to let go of it."""

import os
from threading import RLock
from typing import Any
from weakref import WeakSet

_locks: WeakSet[Any] = WeakSet()


def lock() -> Any:
    """A new one, which a thread may take more than once."""
    made = RLock()
    _locks.add(made)
    return made


def _free() -> None:
    for held in _locks:
        held._at_fork_reinit()  # as Python's own modules do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
