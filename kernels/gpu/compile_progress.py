"""Says on stderr that a first call compiles kernels, if that takes longer than a moment.

Triton compiles a kernel for a GPU when it is first launched, in about a second each, and keeps it in a folder for later
processes. A network of several kinds of layers waits for ten and more kernels, in a rehearsal side by side
(../rehearsal.py). The environment variable PROXYKERNELS_PROGRESS=0 silences this.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

import triton

from .. import rehearsal

QUIET_S, EVERY_S = 2.0, 5.0  # of compiling, before the first line; and between two lines


class Progress:
    """What this process has compiled so far, and what is under way."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock, self._lock = clock, threading.Lock()
        self.kernels, self.wanted, self.seconds, self.next = 0, 0, 0.0, QUIET_S
        self._at_a_time, self._start = 0, 0.0  # compilations under way, and when the first of them began

    def follow(self, kernels: Iterable[Any]) -> None:
        """Compile these kernels in rehearsals, and count what is compiled; Triton's interpreter compiles nothing."""
        for kernel in kernels:
            compile_kernel = getattr(kernel, "_do_compile", None)
            if compile_kernel is not None:
                kernel._do_compile = self._followed(kernel.__name__, compile_kernel)

    def _followed(self, name: str, compile_kernel: Callable) -> Callable:
        @wraps(compile_kernel)
        def followed(key, *operands, **options):
            compile_it = partial(self._counted, name, partial(compile_kernel, key, *operands, **options))
            now = rehearsal.under_way()
            if now is not None:
                self._want(now.compile((name, key), compile_it))
                return None  # for which Triton launches nothing
            self._want(1)
            return compile_it()

        return followed

    def _want(self, kernels: int) -> None:
        with self._lock:
            self.wanted += kernels

    def _counted(self, name: str, compile_kernel: Callable[[], Any]) -> Any:
        with self._lock:
            self._start = self._start if self._at_a_time else self.clock()
            self._at_a_time += 1
        try:
            compiled = compile_kernel()
        except Exception as error:
            self._want(-1)
            self._end(0)
            raise RuntimeError(f"Triton cannot compile the kernel {name} for this GPU: {error}") from error
        self._end(1)
        return compiled

    def _end(self, kernels: int) -> None:
        with self._lock:
            now = self.clock()
            self.seconds, self._start = self.seconds + now - self._start, now
            self.kernels, self._at_a_time = self.kernels + kernels, self._at_a_time - 1
            if self.seconds < self.next or os.environ.get("PROXYKERNELS_PROGRESS") == "0":
                return
            self.next = self.seconds + EVERY_S
            count = f"{self.kernels}" if self.kernels == self.wanted else f"{self.kernels} of {self.wanted}"
            text = f"proxykernels: {count} GPU kernels compiled in {self.seconds:.0f} s, for first calls"
        print(f"{text}; kept in {triton.knobs.cache.dir}", file=sys.stderr, flush=True)


def kernels_of(*modules: Any) -> list[Any]:
    """The Triton kernels of modules of this folder, by their names."""
    return [value for module in modules for name, value in vars(module).items() if name.endswith("_kernel")]
