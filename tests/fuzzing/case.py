"""A case: plain values that say all of it, so that it can be printed, run again, and made smaller.

The default of each field is its simplest value: shrinking goes towards it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from random import Random

from equality import equal
from torch import Tensor

from proxykernels import Spikes


class Mismatch(AssertionError):
    """The library's result is not the oracle's."""


@dataclass(frozen=True, kw_only=True)
class Case:
    way: str = "portable"  # ways.py
    threads: int = 1
    seed: int = 0  # of the tensors

    @classmethod
    def draw(cls, random: Random, **common) -> "Case":
        """A random case of this kind; ``common``: the fields above."""
        raise NotImplementedError

    def check(self) -> bool:
        """Compare with the oracle, or raise Mismatch; returns whether there were spikes to compare."""
        raise NotImplementedError

    def smaller(self) -> Iterator["Case"]:
        """Simpler cases, the boldest first."""
        for field in fields(self):
            value = getattr(self, field.name)
            for simpler in _simpler(value, field.default):
                yield replace(self, **{field.name: simpler})


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The fields of a case that say what images and what windows a convolution has."""

    T: int = 1
    N: int = 1
    c_in: int = 1  # of a group
    c_out: int = 1  # of a group
    groups: int = 1
    size: tuple[int, int] = (1, 1)
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)


def _simpler(value, default) -> Iterator:
    """Values on the way from ``value`` to ``default``."""
    if value == default and type(value) is type(default):
        return
    yield default
    if isinstance(value, tuple) and isinstance(default, tuple) and len(value) == len(default):
        for k, (item, least) in enumerate(zip(value, default, strict=True)):
            yield from ((*value[:k], simpler, *value[k + 1 :]) for simpler in _simpler(item, least))
    elif isinstance(value, int) and isinstance(default, int) and not isinstance(value, bool):
        away = value - default
        yield from dict.fromkeys(default + part for part in (away // 2, away * 3 // 4, away - 1) if 0 < part < away)


def same(name: str, actual: Tensor, expected: Tensor) -> None:
    """Bit for bit, shape and type included."""
    if actual.dtype != expected.dtype:
        raise Mismatch(f"{name}: {actual.dtype}, expected {expected.dtype}")
    if not (verdict := equal(actual, expected)):
        raise Mismatch(f"{name}: {verdict}")


def dense(found: Tensor | Spikes) -> Tensor:
    return found.dense() if isinstance(found, Spikes) else found
