"""Neurons of SpikingJelly with parameters for each of T steps: the reference code runs them, in Python, for T steps.

Their fields are as many as they have such parameters, so there is a class for each number of steps.
"""

from dataclasses import make_dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import checks
from ...neurons import AnyNeuron, Value
from ...surrogates import Surrogate
from .library_neurons import Described


class OfSteps(AnyNeuron):
    """Neurons that know the number of the step, which their second state is."""

    T: ClassVar[int]  # the steps that they have parameters of

    def of_step(self, name: str, t: Tensor) -> Tensor:
        """The parameter of a step, for each neuron: ``name0`` in step 0."""
        values = torch.stack([getattr(self, f"{name}{k}") for k in range(self.T)])
        if t.numel():
            checks.known_step(int(t.max()), self.T)
        return values.expand(self.T, *t.shape[1:]).gather(0, t.long())


class _Gated(OfSteps):
    """GLIF: alpha weighs exponential and linear decay, beta the conductance of a step, gamma hard and soft reset."""

    def step(self, state, current, fire):
        v, t, before = state
        kept = 1 - self.alpha * (1 - self.tau)
        current = current * (1 - self.beta * (1 - self.of_step("conduct", t)))
        h = (kept * v - (1 - self.alpha) * self.linear_decay) + current
        h = h - kept * v * self.gamma * before - (1 - self.gamma) * self.v_subreset * before
        spikes = fire(h, self.v_threshold, None)[0]
        return spikes, (h, t + 1, spikes.to(h))


class _Masked(OfSteps):
    """Neurons without a reset, h[t] = w[t, 0] I[t] + w[t, 1] I[t-1] + ..., that fire at h >= theta[t]."""

    def step(self, state, current, fire):
        t, currents = state[1], (current, *state[2:])
        h = sum(self.of_step(f"w{age}_", t) * part for age, part in enumerate(currents))
        return fire(h, self.of_step("theta", t), None)[0], (h, t + 1, *currents[: self.states - 2])


@lru_cache(None)
def _kind(name: str) -> Any:
    """The class of a name, "Gated_T" or "Masked_T_k"."""
    base, *numbers = name.split("_")
    T, *order = map(int, numbers)
    kind: type[OfSteps]
    if base == "Gated":
        names = ["v_threshold", "alpha", "beta", "gamma", "tau", "linear_decay", "v_subreset"]
        names, states, kind = [*names, *(f"conduct{t}" for t in range(T))], 3, _Gated
    else:
        names = [f"w{age}_{t}" for age in range(order[0]) for t in range(T)]
        names, states, kind = [*names, *(f"theta{t}" for t in range(T))], 1 + order[0], _Masked
    fields: list = [(field, Value, 1.0) for field in names]
    namespace = {"states": states, "T": T, "__module__": __name__, "__doc__": kind.__doc__}
    return make_dataclass(name, fields, bases=(kind,), frozen=True, namespace=namespace)


def __getattr__(name: str) -> Any:
    """These classes, by which pickle finds them."""
    base, *numbers = name.split("_")
    if (base, len(numbers)) in (("Gated", 1), ("Masked", 2)) and all(map(str.isdecimal, numbers)):
        return _kind(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@torch.no_grad()
def gated(node: Any, surrogate: Surrogate | None) -> Described:
    names = "v_threshold", "alpha", "beta", "gamma", "tau", "linear_decay", "v_subreset"
    values = {name: _value(getattr(node, name).sigmoid()) for name in names}
    values |= {f"conduct{t}": _value(conduct.sigmoid()) for t, conduct in enumerate(node.conduct)}
    return Described(_kind(f"Gated_{node.T}")(**values), 0.0, surrogate)


def _value(values: Tensor) -> Value:
    return values.flatten().clone() if values.ndim else values.item()


@torch.no_grad()
def mixture(node: Any) -> Tensor | None:
    """The weights [T, T] of PSN and MaskedPSN whose steps take later ones too; None: other neurons."""
    if type(node).__name__ not in ("PSN", "MaskedPSN") or not type(node).__module__.startswith("spikingjelly."):
        return None
    weight = _weight(node)
    return weight.detach().requires_grad_(node.weight.requires_grad) if bool(weight.triu(1).any()) else None


def _weight(node: Any) -> Tensor:
    return node.masked_weight() if hasattr(node, "masked_weight") else node.weight


@torch.no_grad()
def masked(node: Any, surrogate: Surrogate | None) -> Described:
    """PSN and MaskedPSN; behind a layer that adds up their steps, if they take later ones."""
    T, weight, bias = node.T, _weight(node), node.bias.flatten()
    if bool((bias >= 0).any()):
        raise ValueError(
            f"{type(node).__name__} with a bias of {bias.max():g} fires without input; only biases below 0 are "
            "supported: continue training with bias.clamp_(max=-0.01)"
        )
    weight = weight if mixture(node) is None else torch.eye(T, dtype=torch.float32, device=weight.device)
    k = next(k for k in range(1, T + 1) if not weight.tril(-k).any())
    values = {f"w{age}_{t}": weight[t, t - age].item() if age <= t else 0.0 for age in range(k) for t in range(T)}
    values |= {f"theta{t}": -value for t, value in enumerate(bias.tolist())}
    return Described(_kind(f"Masked_{T}_{k}")(**values), 0.0, surrogate)


KINDS = {"GatedLIFNode": gated, "PSN": masked, "MaskedPSN": masked}
