"""What a forked child finds: locks that are free, and no threads of OpenMP that it would wait for.

Whoever held a lock in the parent is not in the child, to let go of it. And a child inherits the OpenMP runtime without
its threads, and would wait for them for ever. So the parent lets its threads go before it forks, torch's with ours, for
the runtime is one; the next parallel loop starts new ones.
"""

import ctypes
import os
from threading import RLock
from typing import Any
from weakref import WeakSet

import torch  # noqa: F401  brings the OpenMP runtime

SOFT = 1  # omp_pause_soft: settings such as torch.set_num_threads stay
_locks: WeakSet[Any] = WeakSet()


def lock() -> Any:
    """A new lock, which a thread may take more than once."""
    made = RLock()
    _locks.add(made)
    return made


def _free_locks() -> None:
    for held in _locks:
        held._at_fork_reinit()  # as Python's own modules do


def _release_threads() -> None:
    # The threads of this OS thread alone, which is the only one that lives on in the child.
    if pause := getattr(ctypes.CDLL(None), "omp_pause_resource_all", None):
        pause(SOFT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_release_threads, after_in_child=_free_locks)
