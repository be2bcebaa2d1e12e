"""Keyword arguments of layers: accepted by position for one more release, and their names in other libraries."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from ..neurons.base import warn_of_positions

Arguments = ParamSpec("Arguments")
LAYERS = "proxykernels.layers."
OF_NEURONS = frozenset("v_threshold v_reset v_rest decay beta alpha tau".split())
BY_TAU = (
    "decay is the share of the potential that a step leaves, 1 - 1 / tau. Where the current is divided by tau too, as "
    "in SpikingJelly's LIFNode, give neuron=proxykernels.neurons.LIFNeuron.from_tau(tau) to {base}"
)
LEAKS = {
    "decay": "",
    "v_rest": "",
    "tau": BY_TAU,
    "decay_input": BY_TAU,
    "beta": "decay is what snnTorch calls beta",
    "tau_mem": "give neuron=proxykernels.neurons.LIFNeuron.from_tau_mem(tau_mem) to {base}",
    "tau_mem_inv": "decay is 1 - dt * tau_mem_inv",
}
OTHERS = {
    "threshold": "it is called v_threshold",
    "surrogate_function": "proxykernels.use_surrogate(net, proxykernels.ATan()) gives the layers of a network one",
    "detach_reset": "a surrogate derivative has it, proxykernels.ATan(detach_reset=True)",
    "step_mode": "a layer takes all steps at once, (T, N, ...)",
}


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
                    raise TypeError(f"{kind} got {name} by position and by name; give it only by name")
            warn_of_positions(kind, names, late)
            kwargs |= given
        init(*args[:positions], **kwargs)  # type: ignore[arg-type]

    return named


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


def flag(name: str, value: Any, hint: str = "") -> None:
    """Check that an argument is True or False; a number was probably meant for another argument."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}{hint}")


def explain_other_names(init: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Decorate a layer's ``__init__`` so that the error for an unknown argument says what to use instead."""
    names = list(inspect.signature(init).parameters)[1:]

    @wraps(init)
    def explained(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        for name in kwargs:
            if name not in names:
                layer = next(kind for kind in type(args[0]).__mro__ if kind.__module__.startswith(LAYERS)).__name__
                raise TypeError(f"{layer} has no argument {name!r}: {_remedy(layer, name, names)}")
        init(*args, **kwargs)

    return explained


def _remedy(layer: str, name: str, names: list[str]) -> str:
    if name in LEAKS and "decay" not in names:
        return f"its neurons do not leak; those of {layer.replace('IF', 'LIF')}(..., decay=0.5) do"
    base = layer.replace("LIF", "").replace("LI", "") or "Population"
    hint = {**LEAKS, **OTHERS}.get(name)
    return hint.format(base=base) if hint else f"it has {', '.join(names)}"
