"""Ctrl-C while the library runs: it asks once in a while whether it is to end."""

import ctypes
import threading
from collections.abc import Iterator
from typing import Any


class Interrupts:
    """The question as the library asks it, in the main thread, where Python handles signals.

    Attributes:
        raised: what signal handlers raised; none of it passes through the library.
    """

    def __init__(self, function: Any):
        """``function``: its type, as engine.h has it."""
        self.raised: list[BaseException] = []
        answers = _handled(self.raised)
        next(answers)
        self._ask = function(answers.send)  # of what it is called with, it takes no notice
        self._none = function()

    def question(self) -> Any:
        """For a run that begins: none in other threads than the main one."""
        self.raised.clear()
        return self._ask if threading.current_thread() is threading.main_thread() else self._none


def _handled(raised: list[BaseException]) -> Iterator[int]:
    """Has Python handle the signals that came, whenever it is asked to go on; 1 if a handler raised something.

    Python handles them as soon as any code of it runs. A function that the library calls would not have entered its try
    by then; a generator is in it.
    """
    answer = 0
    while True:
        try:
            yield answer
            ctypes.pythonapi.PyErr_CheckSignals()
            answer = 0
        except GeneratorExit:
            return
        except BaseException as error:
            raised.append(error)
            answer = 1
