"""Memory that was freed, kept for the next call: the system clears every page that it hands out, which costs more than
most passes over it.

Only of glibc, which otherwise gives the top of its heap back as soon as a few MB of it are free.
"""

import ctypes
import platform
from functools import cache

KEPT = 512 << 20  # bytes
LARGEST = 32 << 20  # of a block on the heap, glibc's limit; larger ones are the system's, and come and go
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)


@cache
def keep_freed() -> bool:
    """Let the process keep up to KEPT bytes that it has freed, from now on; whether that could be done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(MMAP_THRESHOLD, LARGEST)) and bool(libc.mallopt(TRIM_THRESHOLD, KEPT))
