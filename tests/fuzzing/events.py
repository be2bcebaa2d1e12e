"""Events of cameras and cochleas, packed into spikes of steps."""

from dataclasses import dataclass
from fractions import Fraction
from random import Random

import numpy as np
import torch

import proxykernels as pk

from . import draw, ways
from .case import Case, same

TIMES = ("int64", "int32", "uint32", "uint64", "float64", "float32")
PLACES = ("int64", "int32", "int16", "uint16", "uint8")
POLARITIES = ("bool", "uint8", "int8", "int64")


@dataclass(frozen=True, kw_only=True)
class Events(Case):
    """``pk.events`` sets the bit of each event, which a loop over the events finds by fractions."""

    events: int = 1
    size: tuple[int, ...] = (1, 1)
    dt: int | None = None  # None: T steps of equal length
    T: int = 1
    begins: int = 0  # what is added to all times
    from_zero: bool = False  # dt and T: steps are counted from time 0
    types: tuple[str, str, str] = (TIMES[0], PLACES[0], POLARITIES[0])

    @classmethod
    def draw(cls, random: Random, **common) -> "Events":
        width = random.choice((1, 2, 7, 34, 63, 64, 65, 128))
        return cls(
            **common, events=random.choice((1, 2, 3, 50, 3000)),
            size=random.choice(((width,), (random.choice((1, 5, 34)), width))),
            dt=random.choice((None, 1, 3, 1000)), T=random.choice((1, 2, 63, 64, 65, 100)),
            begins=random.choice((0, 0, 1, 12_345)), from_zero=random.random() < 0.3,
            types=(random.choice(TIMES), random.choice(PLACES), random.choice(POLARITIES)),
        )  # fmt: skip

    def check(self) -> bool:
        g = draw.generator(self.seed)
        times, columns, rows, signs = self.types[0], self.types[1], self.types[1], self.types[2]
        t = (self._integers(self.T * (self.dt or 100), g) + self._begins()).astype(times)
        x, y = self._integers(self.size[-1], g).astype(columns), self._integers(self.size[0], g).astype(rows)
        p = self._integers(2, g)
        p = (2 * p - 1 if signs == "int8" else p).astype(signs)
        zero = 0 if self._counts_from_zero() else int(t.min())
        last = int(t.max())
        ticks = t.dtype.kind != "f"  # of which the last has its length, too
        share = Fraction(1, self.dt) if self.dt else Fraction(self.T, max(last - zero + ticks, 1))
        T = self.T if self._counts_from_zero() or not self.dt else (last - zero) // self.dt + 1
        one_axis = len(self.size) == 1
        expected = torch.zeros(T, 1, *(self.size if one_axis else (2, *self.size)))
        for time, column, row, sign in zip(t, x.tolist(), y.tolist(), p.tolist(), strict=True):
            place = (column,) if one_axis else (int(sign > 0), row, column)
            expected[(min(int((int(time) - zero) * share), T - 1), 0, *place)] = 1
        timing = {"dt": self.dt} if self.dt else {}
        timing |= {"T": self.T} if self._counts_from_zero() or not self.dt else {}
        with ways.use(self.way, self.threads):
            found = pk.events(*((t, x) if one_axis else (t, x, y, p)), size=self.size, **timing)
            same("spikes", found.dense(), expected)
        return True

    def _counts_from_zero(self) -> bool:
        return self.from_zero and self.dt is not None

    def _begins(self) -> int:
        return 0 if self._counts_from_zero() else self.begins

    def _integers(self, end: int, g: torch.Generator) -> np.ndarray:
        return torch.randint(0, end, (self.events,), generator=g).numpy()
