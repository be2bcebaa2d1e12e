"""Keyword-only arguments: a number without a name does not say whether it is a decay or a threshold."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

Arguments = ParamSpec("Arguments")


def taken_by_position(init: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Decorate an ``__init__`` to accept its keyword-only arguments by position, with a DeprecationWarning."""
    parameters = list(inspect.signature(init).parameters.values())[1:]
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    positions = 1 + len(parameters) - len(names)

    @wraps(init)
    def named(*args: Any, **kwargs: Any) -> None:
        late = args[positions:]
        if late:
            kind = type(args[0]).__name__
            if len(late) > len(names):
                raise TypeError(f"{kind} takes {', '.join(names)}, got {len(late)} values for them")
            given = dict(zip(names, late, strict=False))
            for name in given:
                if name in kwargs:
                    raise TypeError(f"{kind} got {name} by position and by name; give it by name alone")
            warn_of_positions(kind, names, late)
            kwargs |= given
        init(*args[:positions], **kwargs)  # type: ignore[arg-type]

    return named


OF_NEURONS = frozenset("v_threshold v_reset v_rest decay beta alpha tau".split())


def whole_neuron(init: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Decorate an ``__init__`` that takes ``neuron``: parameters of a neuron are refused with the way to give them."""

    @wraps(init)
    def named(*args: Any, **kwargs: Any) -> None:
        if strange := sorted(OF_NEURONS.intersection(kwargs)):
            kind = type(args[0]).__name__
            raise TypeError(
                f"{kind} got {', '.join(strange)}: give it to the neuron, as in "
                "neuron=proxykernels.neurons.IFNeuron(v_threshold=2.0)"
            )
        init(*args, **kwargs)  # type: ignore[arg-type]

    return named


def warn_of_positions(kind: str, names: Sequence[str], given: Sequence[Any]) -> None:
    """Warn at the caller's caller that arguments should be given by name."""
    shown = ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=False))
    warnings.warn(
        f"{kind} was given {', '.join(names[: len(given)])} by position, which the next version refuses: write {shown}",
        DeprecationWarning,
        stacklevel=3,
    )


def flag(name: str, value: Any, hint: str = "") -> None:
    """Check that an argument is True or False; a number was probably meant for another argument."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}{hint}")
