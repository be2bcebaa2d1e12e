"""The states after a run, which a second run gives once somebody asks for them: most results are only counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor


class LaterStates(Mapping[int, Tensor]):
    """By the numbers of operations, as the library has them."""

    def __init__(self, numbers: Sequence[int], run: Callable[[], Mapping[int, Tensor]]):
        """``run``: gives them all."""
        self._numbers, self._run = numbers, run
        self._states: Mapping[int, Tensor] | None = None

    def __getitem__(self, number: int) -> Tensor:
        if number not in self._numbers:
            raise KeyError(number)
        if self._states is None:  # threads that ask at once each have a run
            self._states = self._run()
        return self._states[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
