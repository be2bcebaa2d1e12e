"""The states after a run. They stay where the library has them until somebody asks: most results are only counted."""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from ..plan.library import Session

MOST_SAMPLES = 64  # that go through a network at a time if no states are kept: kernels/cpu/src/engine/run.h
MOST_BYTES = 64 << 20  # more would keep much memory from other runs
_lock = threading.Lock()  # held by who reads states


def can_be_read_later(samples: int, sample_bytes: int) -> bool:
    """Whether the states of so many samples may stay where they are."""
    return samples <= MOST_SAMPLES and samples * sample_bytes <= MOST_BYTES


class KeptStates(Mapping[int, Tensor]):
    """By the numbers of operations, as the library has them."""

    def __init__(self, session: Session, numbers: Sequence[int], room: Callable[[int, int], Tensor], N: int):
        """``session``: that ran. ``room``: memory for the states of an operation, of N samples."""
        self._session, self._numbers, self._room, self._N = session, numbers, room, N
        self._read: dict[int, Tensor] = {}
        session.kept = weakref.ref(self)

    def __getitem__(self, number: int) -> Tensor:
        if number not in self._numbers:
            raise KeyError(number)
        with _lock:
            if number not in self._read:
                states = self._room(number, self._N)
                self._session.read(number, states)
                self._read[number] = states
            return self._read[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def read_before_it_runs(session: Session) -> None:
    """Read what a session keeps of its last run, if somebody may still ask for it."""
    kept, session.kept = session.kept(), Session.kept
    if kept is not None:
        dict(kept)
