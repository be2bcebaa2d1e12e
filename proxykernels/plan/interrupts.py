"""Ctrl-C while the library runs: it asks once in a while whether it may go on."""

import ctypes
import os
from collections.abc import Generator
from threading import get_ident, main_thread
from typing import Any

_main = [main_thread().ident]
if hasattr(os, "register_at_fork"):  # the thread that forks is the main one of the child
    os.register_at_fork(after_in_child=lambda: _main.__setitem__(0, get_ident()))


class Interrupts:
    """The question as the library asks it, in the main thread, where Python handles signals.

    Attributes:
        raised: what signal handlers raised; none of it passes through the library.
    """

    def __init__(self, function: Any):
        """``function``: its type, as engine.h has it."""
        self.raised: list[BaseException] = []
        self._function, self._none = function, function()
        self._begin()

    def _begin(self) -> None:
        self._answers: Any = _handled(self.raised)
        next(self._answers)
        self._ask = self._function(self._answers.send)  # of what it is called with, it takes no notice

    def question(self) -> Any:
        """For a run that begins: none in other threads than the main one."""
        if get_ident() != _main[0]:
            return self._none
        self.raised.clear()
        if self._answers.gi_frame is None:  # closed by a second signal beside the first
            self._begin()
        return self._ask


def _handled(raised: list[BaseException]) -> Generator[int, None, None]:
    """Has Python handle the signals that came, whenever it is asked to go on; 0 if a handler raised something, else 1.

    Python handles them as soon as any code of it runs. A function that the library calls would not have entered its try
    by then; a generator is in it.
    """
    answer = 1
    while True:
        try:
            yield answer
            ctypes.pythonapi.PyErr_CheckSignals()
            answer = 1
        except GeneratorExit:
            return
        except BaseException as error:
            raised.append(error)
            answer = 0
