"""Arguments of neurons in other libraries, and what to use instead of them here."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

Arguments = ParamSpec("Arguments")

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


def explain_other_names(init: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Decorate a layer's ``__init__`` so that the error for an unknown argument says what to use instead."""
    names = list(inspect.signature(init).parameters)[1:]

    @wraps(init)
    def explained(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        for name in kwargs:
            if name not in names:
                layer = next(kind for kind in type(args[0]).__mro__ if kind.__module__.startswith(__package__)).__name__
                raise TypeError(f"{layer} has no argument {name!r}: {_remedy(layer, name, names)}")
        init(*args, **kwargs)

    return explained


def _remedy(layer: str, name: str, names: list[str]) -> str:
    if name in LEAKS and "decay" not in names:
        return f"its neurons do not leak; those of {layer.replace('IF', 'LIF')}(..., decay=0.5) do"
    base = layer.replace("LIF", "").replace("LI", "") or "Population"
    hint = {**LEAKS, **OTHERS}.get(name)
    return hint.format(base=base) if hint else f"it has {', '.join(names)}"
