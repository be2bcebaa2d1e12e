"""Forks: a child inherits the OpenMP runtime without its threads, and would wait for them for ever.

So the parent lets its threads go before it forks, torch's with ours, for the runtime is one; the next parallel loop
starts new ones.
"""

import ctypes
import os

import torch  # noqa: F401  brings the OpenMP runtime

SOFT = 1  # omp_pause_soft: settings such as torch.set_num_threads stay


def _release_threads() -> None:
    # The threads of this OS thread alone, which is the only one that lives on in the child.
    if pause := getattr(ctypes.CDLL(None), "omp_pause_resource_all", None):
        pause(SOFT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_release_threads)
