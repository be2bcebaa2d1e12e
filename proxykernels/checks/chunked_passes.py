"""Guards passes in which a simulation runs a network a chunk of steps at a time.

Such a pass replaces the network's layers by others that keep their state from chunk to chunk. A function with neurons,
or a layer that was not replaced, would start at rest in each chunk, so it is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import torch
from torch import nn

_net: ContextVar[nn.Module | None] = ContextVar("net", default=None)


@contextmanager
def of(net: nn.Module) -> Iterator[None]:
    """A block in which ``net`` runs with its layers replaced."""
    token = _net.set(net)
    try:
        yield
    finally:
        _net.reset(token)


def is_within() -> bool:
    """Whether the caller is within such a block."""
    return _net.get() is not None


def check_layer(layer: nn.Module) -> None:
    """Refuse a call of a layer from rest within such a block.

    Raises:
        ValueError: within such a block; the message names the layer.
    """
    if torch.compiler.is_compiling():  # simulations run no compiled modules, see uncompiled()
        return
    if (net := _net.get()) is not None:
        _refuse_layer(layer, net)


def check_function(name: str, layer: str, v: Any = None, *, takes_state: bool = True) -> None:
    """Refuse a call of a function with neurons without a state ``v`` within such a block.

    Raises:
        ValueError: there is no state; the message names the function, and the ``layer`` to use instead.
    """
    if v is None and not torch.compiler.is_compiling() and _net.get() is not None:
        passed_on = ", or keep its potentials in your module and pass them as v, 0.0 at the start" * takes_state
        raise ValueError(
            f"{name} was called without a state in a network that is simulated a chunk of steps at a time, and its "
            f"neurons would start at rest in every chunk: use the layer {layer}{passed_on}"
        )


def _refuse_layer(layer: nn.Module, net: nn.Module) -> NoReturn:
    kind = type(layer).__name__
    name = next((name for name, module in net.named_modules() if module is layer), None)
    who = f"a {kind} that is no submodule of the network" if name is None else f"layer {name or kind} ({kind})"
    raise ValueError(
        f"{who} was called past its attribute, from a plain list for example: a simulation runs a chunk of steps at a "
        "time, keeps the state of the layers that are attributes, and this one would start again in every chunk; call "
        "it as self.name, or keep it in an nn.ModuleList"
    )
