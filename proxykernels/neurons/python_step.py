"""Neurons whose step is written in Python: each class is a model of its own, which the reference code runs."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels import backends
from ..kernels.neuron_models import IN_PYTHON, Model
from ..kernels.value_checks_cache import nobody_follows

_warned: set[str] = set()  # families of which it was said that they are slow


def add(kind: Any) -> None:
    """Make a class of neurons, whose method ``step`` is its own, a family of models: with and without ``v_reset``.

    Raises:
        TypeError: the class is no dataclass, has a field that is no parameter, or no states, or never fires.
    """
    fields = [name for name, note in inspect.get_annotations(kind).items() if "ClassVar" not in str(note)]
    if fields and "__dataclass_fields__" not in vars(kind):
        raise TypeError(f"{kind.__name__} has the fields {', '.join(fields)}: write @dataclass(frozen=True) above it")
    unknown = sorted({*kind.channelwise, *kind.scalars, "v_reset"} ^ {*kind.names(), "v_reset"})
    if unknown:
        raise TypeError(f"channelwise and scalars of {kind.__name__} must have its fields, got {unknown} in one only")
    if not isinstance(kind.states, int) or kind.states < 1:
        raise TypeError(f"states of {kind.__name__} must be a number of states, at least 1, got {kind.states!r}")
    if not kind.fires:
        raise TypeError(f"{kind.__name__} has a step, which must fire; LINeuron is the only readout")
    name = family = f"{kind.__module__}.{kind.__qualname__}"
    count = 1
    while f"{family}SoftReset" in IN_PYTHON:  # a class of that name which was defined before, as notebooks do
        count += 1
        family = f"{name}#{count}"
    step = _step_of(kind)
    IN_PYTHON[f"{family}SoftReset"] = Model(kind.states, kind.channelwise, kind.scalars, step)
    IN_PYTHON[f"{family}HardReset"] = Model(kind.states, kind.channelwise, ("v_reset", *kind.scalars), step)
    kind.family, kind._added = family, kind
    kind.channelwise = kind.channelwise  # as a value of its own: torch.compile guards it by identity


def warn_once(kind: Any) -> None:
    """Say that a class of neurons is slow, unless its caller has asked for the reference code."""
    if kind.family in _warned or torch.compiler.is_compiling() or backends.reference_is_asked():
        return
    _warned.add(kind.family)
    warnings.warn(
        f"{kind.__name__} is written in Python, and no kernel knows it: its layers run by the reference code, one time "
        "step after another, which is slow. CONTRIBUTING.md, 'Add a neuron', says how kernels learn it; within "
        "pk.use_reference() this warning is not given",
        UserWarning,
        stacklevel=3,
    )


def _step_of(kind: Any) -> Callable:
    """``kind.step`` as the reference code calls it."""
    channels: tuple[str, ...] = kind.channelwise

    def step(state: tuple[Tensor, ...], current: Tensor, *values: Tensor, fire: Callable, **scalars: float):
        neuron = object.__new__(kind)  # its parameters are of all channels here: nothing is checked again
        without = {"v_reset": None} if "v_reset" in kind.names() else {}
        vars(neuron).update(without, **dict(zip(channels, values, strict=True)), **scalars)

        def compare(h: Tensor, threshold: Any, v_reset: Any) -> tuple[Tensor, Tensor]:
            return fire(h, torch.as_tensor(threshold, dtype=torch.float32, device=h.device), v_reset)

        # Copies: a step that changes its arguments in place would change what the caller of the layer has.
        return _checked(kind, neuron.step(tuple(v.clone() for v in state), current.clone(), compare), current)

    return step


def _checked(kind: Any, found: Any, current: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a step has returned, spikes and states, in float32.

    Raises:
        TypeError, ValueError: it is something else.
    """
    states = "(v,)" if kind.states == 1 else f"{kind.states} states"
    where = f"{kind.__name__}.step must return (spikes, {states})"
    spike, after = found if isinstance(found, tuple | list) and len(found) == 2 else (None, None)
    after = (after,) if isinstance(after, Tensor) and kind.states == 1 else after
    if not isinstance(spike, Tensor) or not isinstance(after, tuple | list) or len(after) != kind.states:
        raise TypeError(f"{where}, got {_described(found)}")
    for value in (spike, *after):
        if not isinstance(value, Tensor) or value.shape != current.shape:
            raise ValueError(f"{where}, all of the current's shape {list(current.shape)}; got {_described(found)}")
    can_look = spike.dtype != torch.bool and spike.is_cpu and nobody_follows()
    if can_look and not torch.equal(spike, spike.bool().to(spike.dtype)):
        raise ValueError(f"{where}, and spikes of 0 and 1; got {spike.min().item():g} to {spike.max().item():g}")
    return spike, tuple(v.float() for v in after)


def _described(found: Any) -> str:
    """A result of a step: its tensors by their shapes."""
    if isinstance(found, Tensor):
        return str(list(found.shape))
    return f"({', '.join(map(_described, found))})" if isinstance(found, tuple | list) else type(found).__name__
