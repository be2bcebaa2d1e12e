"""Memory of large tensors. The system clears every page that it hands out, which takes longer than most passes.

So memory that simulations and training free is kept for the next call, and large tensors use huge pages. Only with
glibc on Linux, which otherwise returns the top of its heap to the system as soon as a few MB of it are free.
"""

import ctypes
import platform
from functools import cache

import torch
from torch import Tensor

CPU = torch.device("cpu")
KEPT = 512 << 20  # bytes
LARGEST = 32 << 20  # block on the heap, glibc's limit; larger ones are mapped and unmapped each time
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)
HUGE_PAGE, ADVISE_HUGE_PAGES = 2 << 20, 14  # madvise(2)
LARGE = 2 * HUGE_PAGE  # contains a whole huge page, wherever it starts


@cache
def keep_freed() -> bool:
    """Let the process keep up to KEPT bytes of freed memory from now on; return whether that was possible."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(MMAP_THRESHOLD, LARGEST)) and bool(libc.mallopt(TRIM_THRESHOLD, KEPT))


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.empty for compiled code: on the CPU and of ``dtype``, whatever torch's defaults; in huge pages if large."""
    fresh = torch.empty(shape, dtype=dtype, device=CPU)
    return fresh if fresh.nbytes < LARGE else in_huge_pages(fresh)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.zeros for compiled code, likewise."""
    return torch.zeros(shape, dtype=dtype, device=CPU)


def in_huge_pages(fresh: Tensor) -> Tensor:
    """Asks the system for huge pages if a tensor, not yet written to, is large; returns it."""
    size = fresh.nbytes
    if size >= LARGE and (libc := _glibc()):
        start = -(-fresh.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        stop = (fresh.data_ptr() + size) // HUGE_PAGE * HUGE_PAGE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ADVISE_HUGE_PAGES)
    return fresh


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
