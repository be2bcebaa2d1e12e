"""How much memory a piece of work needs at its peak, beyond what was in use before."""

import ctypes
import gc
import re
from pathlib import Path

import torch

PROC = Path("/proc/self")


class PeakMemory:
    """Context manager; afterwards ``growth_bytes`` is the growth at the peak, None where it cannot be known.

    On a GPU: torch's own count. On Linux: the peak of the resident set, which the kernel keeps and which can
    be set back. Freed memory that the C library holds ready is returned first, or the work would reuse it
    unseen.
    """

    growth_bytes: int | None = None

    def __init__(self, device: torch.device):
        self.device = device

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _reset_resident_peak()
        return self

    def __exit__(self, *exception) -> None:
        if self.device.type == "cuda":
            self.growth_bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        elif self._before is not None:
            self.growth_bytes = max(_status_bytes("VmHWM") - self._before, 0)


def resident_bytes() -> int:
    """Resident memory of this process, now (Linux only)."""
    return _status_bytes("VmRSS")


def _reset_resident_peak() -> int | None:
    """Bytes resident now, after the peak was set back to them."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (PROC / "clear_refs").write_text("5")  # "5" sets VmHWM back to VmRSS, see proc(5)
        return resident_bytes()
    except (AttributeError, OSError):  # another C library, another system, or not permitted
        return None


def _status_bytes(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", (PROC / "status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024
