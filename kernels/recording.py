"""Records which kernels a call used: :func:`recording`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A kernel that took an operation.

    Attributes:
        kernel: its name.
        reason: why, where it was not chosen by the expected time.
    """

    kernel: str
    reason: str = ""


SCAN = Choice("scan", "neurons alone")

_record: ContextVar[list[Choice] | None] = ContextVar("record", default=None)


@contextmanager
def recording() -> Iterator[list[Choice]]:
    """The choices made by this thread in the block, in their order; an inner block keeps its own to itself."""
    choices: list[Choice] = []
    token = _record.set(choices)
    try:
        yield choices
    finally:
        _record.reset(token)


recorded = _record.get  # the choices that are recorded now; None: nobody asks


def note(choice: Choice) -> None:
    """Add a choice to the record, if there is one."""
    record = _record.get()
    if record is not None:
        record.append(choice)
