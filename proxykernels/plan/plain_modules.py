"""Modules of torch in a network: those without time steps raise an error that names what to use instead."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from .. import checks
from ..layers.parametrized import shallow_copy
from ..spikes import COUNTERPARTS, Spikes

FUNCTIONS = {  # module -> the function of torch whose counterpart stands in its place
    nn.Conv2d: "conv2d",
    nn.Conv1d: "conv1d",
    nn.Linear: "linear",
    nn.BatchNorm2d: "batch_norm",
    nn.ReLU: "relu",
    nn.MaxPool2d: "max_pool2d",
    nn.MaxPool1d: "max_pool1d",
    nn.AvgPool1d: "avg_pool1d",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool1d",
    nn.AvgPool2d: "avg_pool2d",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.Flatten: "flatten",
    nn.Dropout: "dropout",
    nn.Dropout2d: "dropout",
}
IMAGES = nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d  # take no [T, N, C, H, W]
ROWS = nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d  # take no [T, N, C, L]


def with_path(name: str, module: nn.Module, seen: Callable[[Any], None] | None = None) -> nn.Module:
    """A copy of a module without children, whose errors say where it is in the network: ``name``.

    ``seen``: is shown what it gives.
    """
    clone = shallow_copy(module)
    clone.__dict__["forward"] = partial(_forward, name, module, seen)  # also of a scripted module
    return clone


def is_replaced(module: nn.Module, kind: type[nn.Module] | None = None) -> bool:
    """Whether another forward pass than its class's was set on a module, or on the one that ``module`` is a copy of; or
    on ``kind``, a class of torch or of this package."""
    if kind is not None and not kind.forward.__module__.startswith(("proxykernels.", "torch.")):
        return True
    forward = module.__dict__.get("forward")
    while isinstance(forward, partial) and forward.func is _forward:
        forward = forward.args[1].__dict__.get("forward")
    return forward is not None


def own_forward(module: nn.Module) -> bool:
    """Whether a module of this package has another forward pass: a subclass's, or one that was set on it."""
    defined = getattr(type(module).forward, "__module__", None) or ""
    return is_replaced(module) or not defined.startswith("proxykernels.")


def check_forward(name: str, layer: nn.Module) -> None:
    """A layer that is replaced must not have a forward pass of its own, which would not run.

    Raises:
        TypeError: it has, by its class or as an attribute.
    """
    if own_forward(layer):
        where = f"layer {name} ({type(layer).__name__})" if name else f"net ({type(layer).__name__})"
        raise TypeError(
            f"{where} has a forward pass of its own, which simulations would not run: put what it computes into a "
            "module of its own before or after the layer"
        )


def _forward(name: str, module: nn.Module, seen: Callable[[Any], None] | None, *inputs, **options):
    function = FUNCTIONS.get(type(module))
    if function and any(_has_steps(module, x) for x in inputs):
        raise TypeError(
            f"layer {name} is an nn.{type(module).__name__}, which takes a tensor of one step; use "
            f"{COUNTERPARTS[function]}"
        )
    try:
        with checks.at(f"layer {name}"):
            y = module.forward(*inputs, **options)
    except TypeError as error:
        if function is None and any(isinstance(x, Spikes) for x in inputs):
            _refuse_derived(name, module, error)
        raise
    if seen is not None:
        seen(y)
    return y


def _refuse_derived(name: str, module: nn.Module, error: TypeError) -> None:
    """Refuse modules derived from torch's, such as layers of other libraries, that fail on Spikes."""
    kind = next((kind for kind in type(module).__mro__ if kind in FUNCTIONS), None)
    library = type(module).__module__.split(".")[0]
    if kind is not None and library != "proxykernels":
        raise TypeError(
            f"layer {name} is a {type(module).__name__} of {library}, which takes no Spikes; use "
            f"{COUNTERPARTS[FUNCTIONS[kind]]}"
        ) from error


def _has_steps(module: nn.Module, x: Spikes | Tensor) -> bool:
    """Whether x has steps that the module would take for something else."""
    if not isinstance(x, Tensor):
        return isinstance(x, Spikes)
    if isinstance(module, nn.Flatten):
        return x.ndim in (3, 5) and module.start_dim in (0, 1)
    return (isinstance(module, IMAGES) and x.ndim == 5) or (isinstance(module, ROWS) and x.ndim == 4)
