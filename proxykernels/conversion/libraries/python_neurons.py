"""Neurons of SpikingJelly whose steps are written in Python here: the reference code runs them, and no kernel."""

import math
from dataclasses import dataclass, make_dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch

from ...neurons import AnyNeuron, CubaLIFNeuron, LIFNeuron, Value
from ...surrogates import Surrogate
from .library_neurons import Described

SLIDING = "SlidingNeuron"  # begins the names of classes, which end in a number


@dataclass(frozen=True)
class KLIFNeuron(AnyNeuron):
    """h = relu(k (decay v + (1 - decay) v_reset + gain I)), arXiv:2302.09238; ``scaled``: the rest is divided by k."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    decay: Value = 0.5
    gain: Value = 1.0
    k: Value = 1.0
    scaled: float = 0.0

    scalars: ClassVar[tuple[str, ...]] = ("scaled",)

    def step(self, state, current, fire):
        v = state[0] + (1 - self.decay) * ((self.v_reset or 0.0) - state[0])
        spikes, v = fire(torch.relu(self.k * (v + self.gain * current)), self.v_threshold, self.v_reset)
        if not self.scaled:
            return spikes, (v,)
        return spikes, (v / self.k if self.v_reset is None else torch.where(spikes > 0, v, v / self.k),)


@dataclass(frozen=True)
class QIFNeuron(AnyNeuron):
    """h = v + (I + a0 (v - v_rest) (v - v_c)) / tau."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    tau: Value = 2.0
    v_rest: Value = 0.0
    v_c: Value = 0.8
    a0: Value = 1.0

    def step(self, state, current, fire):
        (v,) = state
        h = v + (current + self.a0 * (v - self.v_rest) * (v - self.v_c)) / self.tau
        spikes, v = fire(h, self.v_threshold, self.v_reset)
        return spikes, (v,)


@dataclass(frozen=True)
class EIFNeuron(AnyNeuron):
    """h = v + (I + v_rest - v + delta_T exp((v - theta_rh) / delta_T)) / tau."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    tau: Value = 2.0
    v_rest: Value = 0.0
    theta_rh: Value = 0.8
    delta_T: Value = 1.0

    def step(self, state, current, fire):
        (v,) = state
        grown = self.delta_T * torch.exp((v - self.theta_rh) / self.delta_T)
        spikes, v = fire(v + (current + self.v_rest - v + grown) / self.tau, self.v_threshold, self.v_reset)
        return spikes, (v,)


@dataclass(frozen=True)
class IzhikevichNeuron(AnyNeuron):
    """h = v + (I + a0 (v - v_rest) (v - v_c) - w) / tau; w follows a (h - v_rest) by tau_w, and a spike adds b."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    tau: Value = 2.0
    v_rest: Value = 0.0
    v_c: Value = 0.8
    a0: Value = 1.0
    tau_w: Value = 2.0
    a: Value = 0.0
    b: Value = 0.0

    states: ClassVar[int] = 2

    def step(self, state, current, fire):
        v, w = state
        h = v + (current + self.a0 * (v - self.v_rest) * (v - self.v_c) - w) / self.tau
        w = w + (self.a * (h - self.v_rest) - w) / self.tau_w
        spikes, v = fire(h, self.v_threshold, self.v_reset)
        return spikes, (v, w + self.b * spikes)


@dataclass(frozen=True)
class ComplementaryLIFNeuron(AnyNeuron):
    """h = v - v / tau + I; m = m sigmoid(h / tau) + s; a spike takes off v_threshold + sigmoid(m), arXiv:2402.04663."""

    v_threshold: Value = 1.0
    tau: Value = 2.0

    states: ClassVar[int] = 2

    def step(self, state, current, fire):
        v, m = state
        h = v - v / self.tau + current
        spikes = fire(h, self.v_threshold, None)[0].to(h)
        m = m * torch.sigmoid(h / self.tau) + spikes
        return spikes, (h - spikes * (self.v_threshold + torch.sigmoid(m)), m)


@dataclass(frozen=True)
class ResonateNeuron(AnyNeuron):
    """u and v turn, u + i v times kept (cos + i sin), and u takes the current; v fires."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    kept: Value = 1.0
    cos: Value = 1.0
    sin: Value = 0.0

    states: ClassVar[int] = 2

    def step(self, state, current, fire):
        v, u = state
        h = self.kept * (u * self.sin + v * self.cos)
        u = self.kept * (u * self.cos - v * self.sin) + current
        spikes, v = fire(h, self.v_threshold, self.v_reset)
        return spikes, (v, u)


@dataclass(frozen=True)
class NormalisedLIFNeuron(AnyNeuron):
    """LIF whose potential h becomes times h + plus in each step; ``subtracted``: what a soft reset takes off."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    decay: Value = 0.5
    gain: Value = 1.0
    times: Value = 1.0
    plus: Value = 0.0
    subtracted: Value = 1.0

    def step(self, state, current, fire):
        (v,) = state
        h = v - (1 - self.decay) * (v - (self.v_reset or 0.0)) + self.gain * current
        h = self.times * h + self.plus
        spikes, v = fire(h, self.v_threshold, self.v_reset)
        return spikes, (h - spikes.to(h) * self.subtracted if self.v_reset is None else v,)


@dataclass(frozen=True)
class SubtractingNeuron(AnyNeuron):
    """h = decay v + gain I; a spike takes ``subtracted`` off: DSR, arXiv:2205.00459."""

    v_threshold: Value = 1.0
    decay: Value = 1.0
    gain: Value = 1.0
    subtracted: Value = 1.0

    def step(self, state, current, fire):
        h = self.decay * state[0] + self.gain * current
        spikes = fire(h, self.v_threshold, None)[0]
        return spikes, (h - spikes.to(h) * self.subtracted,)


@dataclass(frozen=True)
class ConnectedNeuron(AnyNeuron):
    """h = decay v + i, i = current_decay i + I; from the second step on with ``later``, a bias of what comes back."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0
    decay: Value = 1.0
    current_decay: Value = 0.0
    later: Value = 0.0

    states: ClassVar[int] = 3

    def step(self, state, current, fire):
        v, i, begun = state
        i = self.current_decay * i + (current + self.later * begun)
        spikes, v = fire(self.decay * v + i, self.v_threshold, self.v_reset)
        return spikes, (v, i, torch.ones_like(begun))


class _Sliding(AnyNeuron):
    """Neurons without a reset, h = w0 I[t] + w1 I[t-1] + ...: arXiv:2304.12760. They keep h and the last currents."""

    def step(self, state, current, fire):
        currents = (current, *state[1:])
        h = sum(getattr(self, f"w{k}") * part for k, part in enumerate(currents))
        return fire(h, self.v_threshold, None)[0], (h, *currents[: self.states - 1])


@lru_cache(None)
def _sliding(k: int) -> Any:
    """The class of such neurons that take k currents."""
    fields: list = [("v_threshold", Value, 1.0), *((f"w{age}", Value, 0.0) for age in range(k))]
    namespace = {"states": k, "__module__": __name__, "__doc__": _Sliding.__doc__}
    return make_dataclass(f"{SLIDING}{k}", fields, bases=(_Sliding,), frozen=True, namespace=namespace)


def __getattr__(name: str) -> Any:
    """These classes, by which pickle finds them."""
    if name.startswith(SLIDING) and name.removeprefix(SLIDING).isdecimal():
        return _sliding(int(name.removeprefix(SLIDING)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def klif(node: Any, surrogate: Surrogate | None) -> Described:
    gain = 1 / node.tau if node.decay_input else 1.0
    neuron = KLIFNeuron(
        v_threshold=node.v_threshold, v_reset=node.v_reset, decay=1 - 1 / node.tau, gain=gain, k=node.k.item(),
        scaled=float(node.scale_reset),
    )  # fmt: skip
    return _started(node, neuron, surrogate)


def _resonate(node: Any, surrogate: Surrogate | None) -> Described:
    angle = node.omega * node.dt
    kept, cos, sin = math.exp(node.b * node.dt), math.cos(angle), math.sin(angle)
    neuron = ResonateNeuron(v_threshold=node.v_threshold, v_reset=node.v_reset, kept=kept, cos=cos, sin=sin)
    return _started(node, neuron, surrogate)


def _normalised(node: Any, surrogate: Surrogate | None) -> Described:
    """MPBN with statistics that stay as they are."""
    if node.fold_bn:
        raise ValueError(
            "MPBNLIFNode after re_parameterize_v_threshold() is not supported; import the network as it was before"
        )
    norm: Any = node.vbn
    scale: Any = 1.0
    offset: Any = 0.0
    if not isinstance(norm, torch.nn.Identity):
        scale = torch.rsqrt(norm.running_var.double() + norm.eps) * norm.weight.detach().double()
        offset = (norm.bias.detach().double() - norm.running_mean.double() * scale).float()
        scale = scale.float()
    threshold = node.a.detach().exp() if node.learnable_vth else node.v_threshold
    gain = 1 / node.tau if node.decay_input else 1.0
    neuron = NormalisedLIFNeuron(
        v_threshold=threshold, v_reset=node.v_reset, decay=1 - 1 / node.tau, gain=gain,
        times=scale, plus=offset, subtracted=node.v_threshold,
    )  # fmt: skip
    return _started(node, neuron, surrogate)


def _sliding_psn(node: Any, surrogate: Surrogate | None) -> Described:
    """The last of its weights is the current's of this step, and it fires at h >= -bias."""
    bias = node.bias.item()
    if bias >= 0:
        raise ValueError(f"SlidingPSN with a bias of {bias:g} fires without input; only biases below 0 are supported")
    weights = {f"w{age}": weight for age, weight in enumerate(reversed(node.weight.tolist()))}
    return Described(_sliding(node.k)(v_threshold=-bias, **weights), 0.0, surrogate)


def _dsr(node: Any, surrogate: Surrogate | None) -> Described:
    """A spike counts the threshold, by which the next weights are multiplied."""
    threshold = threshold_of_dsr(node)
    kept = math.exp(-node.delta_t / node.tau) if hasattr(node, "tau") else 1.0
    neuron = SubtractingNeuron(
        v_threshold=(node.alpha * threshold).item(), decay=kept, gain=1 - kept if kept < 1 else 1.0,
        subtracted=threshold.item(),
    )  # fmt: skip
    return Described(neuron, 0.0, surrogate)


def threshold_of_dsr(node: Any) -> torch.Tensor:
    return node.v_threshold.detach().clamp(min=node.v_threshold_lower_bound)


def _connected(node: Any, surrogate: Surrogate | None) -> Described:
    """Inter-layer connections, whose bias comes with the spikes of the step before, and not in the first step."""
    decay = getattr(node, "v_decay", 1.0)
    potentials = {"v_threshold": node.v_threshold, "v_reset": node.v_reset}
    bias = node.conn.bias.detach()
    neuron: AnyNeuron
    if bool(bias.any()):
        kept = getattr(node, "c_decay", 0.0)
        neuron = ConnectedNeuron(**potentials, decay=decay, current_decay=kept, later=bias.clone())
    elif hasattr(node, "c_decay"):
        neuron = CubaLIFNeuron(**potentials, decay=decay, current_decay=node.c_decay)
    else:
        neuron = LIFNeuron(**potentials, decay=decay)
    return Described(neuron, node.v_reset or 0.0, surrogate)


def of_fields(kind: type[AnyNeuron]):
    """What describes neurons that have the fields of a class here as attributes."""

    def described(node: Any, surrogate: Surrogate | None) -> Described:
        if getattr(node, "w_rest", 0):
            raise ValueError(f"{type(node).__name__} starts with w_rest={node.w_rest}; only 0 is supported")
        return _started(node, kind(**{name: getattr(node, name) for name in kind.names()}), surrogate)

    return described


def _started(node: Any, neuron: AnyNeuron, surrogate: Surrogate | None) -> Described:
    return Described(neuron, node.v_reset or 0.0, surrogate)


KINDS = {
    "KLIFNode": klif,
    "QIFNode": of_fields(QIFNeuron),
    "EIFNode": of_fields(EIFNeuron),
    "IzhikevichNode": of_fields(IzhikevichNeuron),
    "ComplementaryLIFNode": of_fields(ComplementaryLIFNeuron),
    "RAFNode": _resonate,
    "MPBNLIFNode": _normalised,
    "SlidingPSN": _sliding_psn,
    "DSRIFNode": _dsr,
    "DSRLIFNode": _dsr,
    "ILCIFNode": _connected,
    "ILCLIFNode": _connected,
    "ILCCUBALIFNode": _connected,
    "NoisyILCCUBALIFNode": _connected,
}
