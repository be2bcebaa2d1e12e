"""Rehearses work on a GPU, so that the Triton kernels that it lacks are compiled side by side.

Triton compiles a kernel when it is first launched, so the kernels of a network would be compiled one after another. A
rehearsal runs the work as usual up to the first launch whose kernel is not compiled. From there on nothing is launched:
each missing kernel goes to a pool of threads, and results are zeros. When all are compiled, the work is done from its
beginning. Where no kernel is missing, the rehearsal was the work itself.

Triton's compiler holds Python's lock for a part of its time only.
"""

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from . import weight_cache

T = TypeVar("T")


class Rehearsal:
    """The kernels that were found missing; each is compiled in a thread as soon as it is found."""

    def __init__(self) -> None:
        self._compiling: dict[Hashable, Future] = {}
        self._pool: ThreadPoolExecutor | None = None

    @property
    def lacks_kernels(self) -> bool:
        return bool(self._compiling)

    def compile(self, key: Hashable, compile_kernel: Callable[[], Any]) -> bool:
        """Compile a kernel in a thread; whether it is new here."""
        if key in self._compiling:
            return False
        if self._pool is None:
            self._pool = ThreadPoolExecutor(torch.get_num_threads(), "proxykernels-compile")
        self._compiling[key] = self._pool.submit(compile_kernel)
        return True

    def end(self) -> None:
        """Wait until all are compiled; raises the error of the first that fails, and compiles no further one."""
        try:
            for compiling in self._compiling.values():
                compiling.result()
        finally:
            self.stop()

    def stop(self) -> None:
        """Begin to compile no further kernel, and wait for those that were begun."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_under_way: ContextVar[Rehearsal | None] = ContextVar("rehearsal", default=None)


def under_way() -> Rehearsal | None:
    """The rehearsal in which this is called."""
    return _under_way.get()


@contextmanager
def _within(rehearsal: Rehearsal | None) -> Iterator[None]:
    token = _under_way.set(rehearsal)
    try:
        yield
    finally:
        _under_way.reset(token)


def interrupted() -> Any:
    """A context in which launches are real, also within a rehearsal: of kernels whose results the CPU looks at."""
    return _within(None)


def rehearsed(work: Callable[[], T], undo: Callable[[], None], rest: Callable[[], None] = lambda: None) -> T:
    """What ``work()`` returns, after the kernels that it lacks were compiled side by side.

    Args:
        work: launches kernels, possibly twice. What it makes of weights in the rehearsal is forgotten; an error of a
            rehearsal that lacks kernels is no error, since its values are not those of the work.
        undo: puts back what the rehearsal has changed.
        rest: what is done after the work; its kernels are compiled with those of the work.
    """
    rehearsal, forget = Rehearsal(), weight_cache.mark()
    try:
        with _within(rehearsal):
            result = work()
            if rehearsal.lacks_kernels:
                rest()
    except Exception:
        if not rehearsal.lacks_kernels:
            raise
    except BaseException:
        rehearsal.stop()
        raise
    if not rehearsal.lacks_kernels:
        return result
    rehearsal.end()
    forget()
    undo()
    return work()
