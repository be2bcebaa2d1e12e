"""Says on stderr that a first call compiles kernels, if that takes longer than a moment.

Triton compiles a kernel for a GPU when it is first launched, in about a second each, and keeps it in a folder for later
processes. A network of several kinds of layers waits for ten and more kernels. The environment variable
PROXYKERNELS_PROGRESS=0 silences this.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import triton

QUIET_S, EVERY_S = 2.0, 5.0  # of compiling, before the first line; and between two lines


class Progress:
    """What this process has compiled so far."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock, self._lock = clock, threading.Lock()
        self.kernels, self.seconds, self.next = 0, 0.0, QUIET_S

    def follow(self, kernels: Iterable[Any]) -> None:
        """Count what Triton compiles for these kernels; those of its interpreter compile nothing."""
        for kernel in kernels:
            compile_kernel = getattr(kernel, "_do_compile", None)
            if compile_kernel is not None:
                kernel._do_compile = self._counted(compile_kernel)

    def _counted(self, compile_kernel: Callable) -> Callable:
        @wraps(compile_kernel)
        def counted(*operands, **options):
            start = self.clock()
            compiled = compile_kernel(*operands, **options)
            self._add(self.clock() - start)
            return compiled

        return counted

    def _add(self, seconds: float) -> None:
        with self._lock:
            self.kernels, self.seconds = self.kernels + 1, self.seconds + seconds
            if self.seconds < self.next or os.environ.get("PROXYKERNELS_PROGRESS") == "0":
                return
            self.next = self.seconds + EVERY_S
            text = f"proxykernels: {self.kernels} GPU kernels compiled in {self.seconds:.0f} s, for first calls"
        print(f"{text}; kept in {triton.knobs.cache.dir}", file=sys.stderr, flush=True)


def kernels_of(*modules: Any) -> list[Any]:
    """The Triton kernels of modules of this folder, by their names."""
    return [value for module in modules for name, value in vars(module).items() if name.endswith("_kernel")]
