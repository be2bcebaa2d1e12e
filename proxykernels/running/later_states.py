"""The states after a run, which a second run gives once somebody asks for them: most results are only counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from ..kernels import locks


class LaterStates(Mapping[int, Tensor]):
    """By the numbers of operations, as the library has them."""

    def __init__(self, numbers: Sequence[int], run: Callable[[], Mapping[int, Tensor]]):
        """``run``: gives them all."""
        self._numbers, self._run, self._lock = numbers, run, locks.lock()
        self._states: Mapping[int, Tensor] | None = None

    def __getitem__(self, number: int) -> Tensor:
        if number not in self._numbers:
            raise KeyError(number)
        with self._lock:
            if self._states is None:
                self._states = self._run()
        return self._states[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
