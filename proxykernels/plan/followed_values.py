"""What flows between the modules of a network that is followed, and what functions of torch make of it in a forward
pass of a user's own (own_forward.py); how a module that is not taken is refused.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from torch import nn

from .. import layers
from ..calls.spike_ops import max_pool2d
from ..spikes.operators import by_torch
from ..spikes.spikes import reshaped
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


class Run(Protocol):
    """A run of a forward pass (own_forward.py)."""

    follower: Any

    def refuse(self, why: str) -> NoReturn:
        """Raise what says that the engine does not take the forward pass, and why."""


class Extent:
    """The number of steps or of samples, which a plan does not know: it may be handed to a reshape."""

    def __init__(self, name: str):
        self.name = name

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        return _refuse_extent(self)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name


def _refuse_extent(self: Extent, *given: Any) -> NoReturn:
    what = "steps" if self is STEPS else "samples"
    raise CannotFollowError(
        f"the engine does not take a forward pass that computes with the number of {what}; proxykernels.simulate may"
    )


for _name in (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow lt le gt ge ne bool int index "
    "float neg abs round"
).split():
    setattr(Extent, f"__{_name}__", _refuse_extent)

STEPS, SAMPLES = Extent("T"), Extent("N")


def _is_value(x: Any) -> bool:
    return isinstance(x, Value | Sum)


def _sum(run: Run, path: str, x: Any, other: Any, *, alpha: float = 1) -> Value | Sum:
    for term, its_other in ((x, other), (other, x)):
        if not _is_value(term):
            if term == 0:  # as sum([x, y]) begins
                return its_other if term is x else x
            run.refuse(f"its forward pass adds the number {term} to a value; give it to the next layer as a bias")
    if x.shape != other.shape:
        run.refuse(f"its forward pass adds values of the shapes (T, N, ...) {x.shape} and {other.shape}")
    return sum_of([*parts_of(x), *((value, alpha * factor) for value, factor in parts_of(other))])


def _difference(run: Run, path: str, x: Any, other: Any, *, alpha: float = 1) -> Value | Sum:
    return _sum(run, path, x, other, alpha=-alpha)


def _difference_from(run: Run, path: str, x: Any, other: Any) -> Value | Sum:
    return _sum(run, path, _product(run, path, x, -1), other)


def _product(run: Run, path: str, x: Any, factor: Any) -> Value | Sum:
    if not _is_value(x):
        x, factor = factor, x
    if _is_value(factor):
        run.refuse("its forward pass multiplies values by one another; a plan has sums only")
    factor = float(factor)
    if not math.isfinite(factor):
        run.refuse(f"its forward pass multiplies by {factor}")
    return sum_of((value, factor * times) for value, times in parts_of(x))


def _quotient(run: Run, path: str, x: Any, divisor: Any) -> Value | Sum:
    if not _is_value(x) or _is_value(divisor) or divisor == 0:
        run.refuse("its forward pass divides by a value; a plan has sums only")
    return _product(run, path, x, 1 / divisor)


def _cat(run: Run, path: str, tensors: Any, dim: int = 0) -> Value | Sum:
    if dim not in (2, -len(tensors[0].shape)):
        run.refuse(f"its forward pass concatenates along dim={dim}, and not along the channels, dim=2")
    return run.follower.module(path, layers.Concatenate(), tuple(tensors))


def _flatten(run: Run, path: str, x: Any, start_dim: int = 0, end_dim: int = -1) -> Value | Sum:
    rank = len(x.shape) + 2
    if start_dim not in (2, 2 - rank) or end_dim not in (-1, rank - 1):
        run.refuse("its forward pass flattens steps or samples; flatten(2) keeps them")
    return run.follower.module(path, layers.Flatten(), x)


def _reshape(run: Run, path: str, x: Any, *shape: Any) -> Value | Sum:
    wanted = [*shape[0]] if len(shape) == 1 and isinstance(shape[0], tuple | list) else [*shape]
    kept = len(wanted) > 2 and wanted[0] is STEPS and wanted[1] is SAMPLES
    size = reshaped((0, 0, *x.shape), [0, 0, *wanted[2:]]) if kept else None
    if size is None or not all(type(n) is int for n in wanted[2:]):
        run.refuse(f"its forward pass reshapes to {wanted}; keep x.shape[0] and x.shape[1], and the number of values")
    if size == x.shape:
        return x
    x = run.follower.module(path, layers.Flatten(), x)
    return x if len(size) == 1 else run.follower.module(path, layers.Unflatten(size), x)


def _max_pool(run: Run, path: str, x: Any, *window: Any) -> Value | Sum:
    return run.follower.module(path, layers.MaxPool2d(*window), x)


FUNCTIONS: dict[Callable, Callable] = by_torch(
    add=_sum, sub=_difference, rsub=_difference_from, mul=_product, div=_quotient, cat=_cat, flatten=_flatten,
    reshape=_reshape,
) | {max_pool2d: _max_pool}  # fmt: skip
