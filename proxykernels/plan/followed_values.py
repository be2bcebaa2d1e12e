"""What flows between the modules of a network that is followed, and how a module that is not taken is refused."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from torch import nn

from .operations import Shape


class CannotFollowError(TypeError):
    """The engine does not take a network, and the message says which module, and why."""


@dataclass(frozen=True)
class Value:
    """A slot, the shape of its samples, and whether it holds values.

    ``flat``: its pixels are to be read as features, in torch's order, and still lie as images.
    """

    slot: int
    shape: Shape
    real: bool
    flat: bool = False


@dataclass(frozen=True)
class Sum:
    """Values that a forward pass has added up, each times a factor. The neurons behind it read all of them."""

    parts: tuple[tuple[Value, float], ...]

    @property
    def shape(self) -> Shape:
        return self.parts[0][0].shape


def parts_of(x: Value | Sum) -> tuple[tuple[Value, float], ...]:
    return x.parts if isinstance(x, Sum) else ((x, 1.0),)


def sum_of(parts: Iterable[tuple[Value, float]]) -> Value | Sum:
    """Their sum: a value that comes more than once is read once, times all of its factors."""
    factors: dict[Value, float] = {}
    for value, factor in parts:
        factors[value] = factors.get(value, 0.0) + factor
    (first, factor), *others = factors.items()
    return first if not others and factor == 1 else Sum(tuple(factors.items()))


def refuse(path: str, module: nn.Module, why: str) -> NoReturn:
    where = f"module {path} ({type(module).__name__})" if path else f"net ({type(module).__name__})"
    raise CannotFollowError(f"the engine does not take {where}: {why}; proxykernels.simulate may take it")


def refuse_shape(path: str, module: nn.Module, x: Value | Sum) -> NoReturn:
    refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
