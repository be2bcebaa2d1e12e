"""What flows between the modules of a network that is followed, and how a module that is not taken is refused."""

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


def refuse(path: str, module: nn.Module, why: str) -> NoReturn:
    where = f"module {path} ({type(module).__name__})" if path else f"net ({type(module).__name__})"
    raise CannotFollowError(f"the engine does not take {where}: {why}; proxykernels.simulate may take it")


def refuse_shape(path: str, module: nn.Module, x: Value) -> NoReturn:
    refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
