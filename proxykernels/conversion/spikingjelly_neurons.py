"""SpikingJelly's neurons as this package describes them."""

from collections.abc import Callable
from typing import Any

from ..neurons import CubaLIFNeuron, IFNeuron, LIFNeuron

Described = tuple[IFNeuron, float | None]  # neurons, and the potential that they start from; None: at rest


def described(node: Any, axes: int | None) -> Described:
    """What fires as ``node`` does, step by step, but for rounding.

    Raises:
        TypeError, ValueError: there is no such neuron here; the message says what to do.
    """
    kind = type(node).__name__
    if kind not in _KINDS:
        raise TypeError(
            f"{kind} has no counterpart here, only {', '.join(_KINDS)} have; put one of them in its place and train on"
        )
    if not getattr(node.surrogate_function, "spiking", True):
        raise ValueError(f"{kind} gives values, not spikes: set its surrogate_function's spiking=True")
    return _KINDS[kind](node)


def _integrate_and_fire(node: Any) -> Described:
    return IFNeuron(node.v_threshold, node.v_reset), node.v_reset or 0.0


def _leaky(node: Any) -> Described:
    return _of_tau(node, node.tau), None


def _parametric(node: Any) -> Described:
    return _of_tau(node, 1 / node.w.detach().float().sigmoid().item()), None


def _current_based(node: Any) -> Described:
    decays = {"decay": node.v_decay, "current_decay": node.c_decay}
    return CubaLIFNeuron(node.v_threshold, node.v_reset, **decays), node.v_reset or 0.0


def _of_tau(node: Any, tau: float) -> LIFNeuron:
    """It decays towards v_reset, from which it starts; both are 0 with soft reset."""
    return LIFNeuron.from_tau(
        tau,
        decay_input=node.decay_input,
        v_threshold=node.v_threshold,
        v_reset=node.v_reset,
        v_rest=node.v_reset or 0.0,
    )


_KINDS: dict[str, Callable[[Any], Described]] = {
    "IFNode": _integrate_and_fire,
    "LIFNode": _leaky,
    "ParametricLIFNode": _parametric,
    "CUBALIFNode": _current_based,
}
