"""Forks: a child has its parent's OpenMP runtime and not its threads, so it would wait for them for ever.

Only the thread that forked lives on in the child, and each thread has OpenMP threads of its own.
"""

import os
from threading import get_ident

import torch

_used: set[int] = set()  # threads that may have OpenMP threads
_bereft: int | None = None  # the thread of this process whose OpenMP threads stayed behind


def check_threads() -> None:
    """Called before the work of a kernel.

    Raises:
        RuntimeError: it would wait for threads that stayed behind in a fork.
    """
    if torch.compiler.is_compiling() or torch.get_num_threads() == 1:
        return
    thread = get_ident()
    if thread == _bereft:
        raise RuntimeError(
            f"this process was forked from one that had used proxykernels with {torch.get_num_threads()} threads, "
            "which a fork leaves behind: start processes by the method 'spawn' "
            "(multiprocessing.get_context('spawn')), or call torch.set_num_threads(1) first"
        )
    _used.add(thread)


def _after_fork() -> None:
    global _bereft
    thread = get_ident()
    _bereft = thread if thread == _bereft or thread in _used else None
    _used.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
