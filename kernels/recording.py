"""Records which kernels a call used: :func:`recording`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache


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


@contextmanager
def unrecorded() -> Iterator[None]:
    """Hides the choices made by this thread in the block, such as those for the parts of an operation."""
    token = _record.set(None)
    try:
        yield
    finally:
        _record.reset(token)


recorded = _record.get  # the choices that are recorded now; None: nobody asks


def note(choice: Choice) -> None:
    """Add a choice to the record, if there is one."""
    record = _record.get()
    if record is not None:
        record.append(choice)


@cache
def warn_of_dense_frames() -> None:
    """Warn, once, that a compiled or captured graph on a GPU convolves float frames as values."""
    warnings.warn(
        "a graph that is compiled or captured cannot look whether a float tensor holds spikes, so the convolution of "
        "its frames is torch's, of all values, in float32. If they are spikes, give Spikes, proxykernels.pack(x), or "
        "x.bool(): their convolutions are fused with the neurons",
        RuntimeWarning,
        stacklevel=2,
    )
