"""Neurons as nodes of NIR, and nodes as neurons.

NIR has differential equations. A step of length dt solves them by Euler's method, here as in snnTorch, Norse and
SpikingJelly, and the current i of a step is the one that its potential takes:

    nir.IF        dv/dt = r I                            h = v + r dt I, I is multiplied by r dt
    nir.LIF       tau dv/dt = v_leak - v + r I           decay = 1 - dt / tau, I is multiplied by r dt / tau
    nir.CubaLIF   tau_mem dv/dt = v_leak - v + r i       the same with tau_mem, and
                  tau_syn di/dt = w_in I - i             current_decay = 1 - dt / tau_syn, I times w_in dt / tau_syn too
    nir.I, LI     as IF and LIF, and never fire          readouts
    nir.Threshold fires where I >= threshold             decay = 0

What multiplies a current divides the threshold, reset and rest here (:meth:`LIFNeuron.scaled`), so that weights stay
what they are. Written are the forms that most others read: r = 1 / dt of an IF, r = 1 of a LIF, whose potentials are
then tau / dt times smaller than here, and of a CubaLIF, whose are not, r = tau_mem / dt and w_in = tau_syn / dt.
A resting or reset potential that differs by channel, or that lies above the threshold, is a shift of potentials and a
constant current. Values that are computed are float64, from which float32's come back bit by bit. A readout's
potentials are what it is for, so there the weights are multiplied instead; written, by 1.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import layers
from ...checks import neuron_checks
from ...neurons import AnyNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, LINeuron, Value
from ..graph.rewrites import NEGLIGIBLE
from .nodes import Shape, numbers_of

FIELDS = "v_threshold", "v_reset", "v_leak", "r", "tau", "tau_mem", "tau_syn", "w_in", "threshold"  # by neuron
RESET, SUBTRACT, TO_V_RESET = "reset", "subtract", "v_reset"  # in the metadata of a node
FAR = 100.0  # times 1


def is_neuron(nir, node) -> bool:
    return isinstance(node, nir.IF | nir.LIF | nir.CubaLIF | nir.I | nir.LI | nir.Threshold)


def is_filtered(nir, node) -> bool:
    """Whether neurons take a filtered current."""
    return isinstance(node, (nir.CubaLIF, getattr(nir, "CubaLI", nir.CubaLIF)))  # older ones have no CubaLI


def fires(nir, node) -> bool:
    return not isinstance(node, nir.I | nir.LI)


# From layers to nodes


def neuron_node(nir, layer: layers.Neurons, shape: Shape, dt: float):
    """The node of a layer's neurons; ``shape``: of one sample and step."""
    neuron = layer.neuron
    if type(neuron) not in (IFNeuron, LIFNeuron, CubaLIFNeuron, LINeuron):
        raise TypeError(f"NIR has no node for {type(neuron).__name__}; IF, LIF, CubaLIF and LI neurons are written")
    if not layer.at_rest:
        start = f"{layer.v_init:g}" if isinstance(layer.v_init, float) else "one value a channel"
        raise ValueError(f"NIR cannot say a potential to start from, v_init={start}; set it to {neuron.rest:g}")
    make, values, per_step = _dynamics(nir, neuron, shape, dt)
    v_reset = getattr(neuron, "v_reset", 0.0)
    potentials = {"v_threshold": getattr(neuron, "v_threshold", 0.0), "v_reset": v_reset or 0.0, "v_leak": neuron.rest}
    if "v_reset" not in make.__dataclass_fields__ and v_reset:
        raise ValueError(
            f"the {make.__name__} of this version of nir has no v_reset, got {v_reset:g}; pip install 'nir>=1.0.6'"
        )
    for name, value in potentials.items():
        if name in make.__dataclass_fields__:
            values[name] = _array(value, shape) * per_step
    node = make(**values)
    if neuron.fires:
        node.metadata[RESET] = SUBTRACT if v_reset is None else TO_V_RESET
    return node


def _dynamics(nir, neuron: AnyNeuron, shape: Shape, dt: float) -> tuple[Any, dict[str, np.ndarray], Any]:
    """The class of a node, what it needs in addition to potentials, and by what its potentials are multiplied."""
    one = np.float32(1)
    if isinstance(neuron, CubaLIFNeuron):
        tau_mem = _time_constant("decay", neuron.decay, shape, dt)
        tau_syn = _time_constant("current_decay", neuron.current_decay, shape, dt)
        return nir.CubaLIF, {"tau_mem": tau_mem, "tau_syn": tau_syn, "r": tau_mem / dt, "w_in": tau_syn / dt}, one
    decay = getattr(neuron, "decay", 1.0)
    if neuron.rest or _array(decay, shape).min() < 1:
        tau = _time_constant("decay", decay, shape, dt)
        if isinstance(neuron, LINeuron):
            return nir.LI, {"tau": tau, "r": tau / dt}, one
        return nir.LIF, {"tau": tau, "r": np.ones(shape, np.float32)}, dt / tau
    return nir.IF if neuron.fires else nir.I, {"r": np.full(shape, np.float32(1 / dt))}, one


def _time_constant(name: str, decay: Value, shape: Shape, dt: float) -> np.ndarray:
    """dt / (1 - decay); in float64, from which float32's decays come back as they were."""
    share = _array(decay, shape).astype(np.float64)
    if share.max() == 1:
        raise ValueError(f"NIR cannot say {name} = 1, whose time constant is infinite; only nir.IF and nir.I have none")
    return dt / (1 - share)


def _array(value: Value, shape: Shape) -> np.ndarray:
    """The value of each neuron, in float32, of a number or one a channel."""
    tensor = torch.as_tensor(value).detach().cpu().float()
    tensor = tensor.view(-1, *[1] * (len(shape) - 1)) if tensor.ndim else tensor
    return tensor.expand(shape).numpy().copy()


# From nodes to neurons


class Made(NamedTuple):
    """Neurons, as layers here have them.

    Attributes:
        neuron: what they are. gain: what the currents in front of them are multiplied by.
        current: an added constant current, one or one a channel; 0: none. v_init: where they start; None: at rest.
    """

    neuron: AnyNeuron
    gain: Value = 1.0
    current: Value = 0.0
    v_init: Value | None = None


def neuron(nir, node, dt: float, reset: str | None = None) -> Made:
    """The neurons of a node. ``reset``: what they do whatever the node says; None: what it says."""
    factor: Value = 1.0  # what divides a current
    decays: dict[str, Value] = {}
    if isinstance(node, nir.Threshold):
        return Made(
            _made(LIFNeuron, {"v_threshold": _positive("threshold", node.threshold), "v_reset": 0.0, "decay": 0.0})
        )
    if isinstance(node, nir.IF):
        factor = _integrators_factor(node, dt)
    elif isinstance(node, nir.I):
        factor = 1 / (_positive("r", node.r) * dt)
    elif isinstance(node, nir.LIF | nir.LI):
        tau = _positive("tau", node.tau)
        decays["decay"], factor = _decay("tau", tau, dt), tau / (_positive("r", node.r) * dt)
    else:
        tau, tau_syn = _positive("tau_mem", node.tau_mem), _positive("tau_syn", node.tau_syn)
        decays["decay"], decays["current_decay"] = _decay("tau_mem", tau, dt), _decay("tau_syn", tau_syn, dt)
        factor = tau / (_positive("r", node.r) * dt) * (tau_syn / (_positive("w_in", node.w_in) * dt))
    if isinstance(node, nir.I | nir.LI):
        v_rest = _by_channel("v_leak", node.v_leak) if isinstance(node, nir.LI) else 0.0
        if (shared := _shared(v_rest)) is not None:
            return Made(_made(LINeuron, decays | {"v_rest": shared}), 1 / factor)
        return Made(_made(LINeuron, decays), 1 / factor, (1 - _decay_of(decays)) * v_rest, v_rest)
    theta = _by_channel("v_threshold", node.v_threshold) * factor
    v_reset = None if reset == SUBTRACT else _reset(node, factor)
    v_rest = 0.0 if isinstance(node, nir.IF) else _by_channel("v_leak", node.v_leak) * factor
    kind = IFNeuron if isinstance(node, nir.IF) else LIFNeuron if isinstance(node, nir.LIF) else CubaLIFNeuron
    shared_reset, shared_rest = _shared(0.0 if v_reset is None else v_reset), _shared(v_rest)
    fires_alone = not _all_below(v_rest, theta) and _all_below(0.0 if v_reset is None else v_reset, theta)
    if shared_reset is None or shared_rest is None or fires_alone:
        return _shifted(kind, theta, v_reset, v_rest, decays)
    potentials: dict[str, Any] = {"v_threshold": theta, "v_reset": None if v_reset is None else shared_reset}
    rest = {} if kind is IFNeuron else {"v_rest": shared_rest}
    return Made(_made(kind, potentials | rest | decays))


def shares_potentials(nir, node, dt: float, reset: str | None) -> bool:
    """Whether neurons of a filtered current reset and rest at one potential, below their thresholds."""
    tau, tau_syn = _positive("tau_mem", node.tau_mem), _positive("tau_syn", node.tau_syn)
    factor = tau / (_positive("r", node.r) * dt) * (tau_syn / (_positive("w_in", node.w_in) * dt))
    v_rest = _by_channel("v_leak", node.v_leak) * factor
    v_reset = None if reset == SUBTRACT else _reset(node, factor)
    theta = _by_channel("v_threshold", node.v_threshold) * factor
    shared = _shared(v_rest) is not None and (v_reset is None or _shared(v_reset) is not None)
    return shared and (_all_below(v_rest, theta) or not _all_below(0.0 if v_reset is None else v_reset, theta))


def _shifted(kind, theta: Value, v_reset: Value | None, v_rest: Value, decays: dict[str, Value]) -> Made:
    """Potentials counted from where they are reset to, so that all reset to 0: a constant current makes them rest.

    Neurons that rest below their threshold start there, and others, which fire by themselves, as after a spike.
    """
    base: Value = 0.0 if v_reset is None else v_reset
    theta, rest = theta - base, v_rest - base
    if not _all_below(0.0, theta):
        raise ValueError(f"v_reset must be below v_threshold, got thresholds {_some(theta)} above it")
    zero = torch.zeros((), dtype=torch.float64)
    start = torch.where(torch.as_tensor(rest) < torch.as_tensor(theta), torch.as_tensor(rest), zero)
    current = 0.0 if kind is IFNeuron else (1 - _decay_of(decays)) * rest
    potentials: dict[str, Any] = {"v_threshold": theta, "v_reset": None if v_reset is None else 0.0}
    return Made(_made(kind, potentials | decays), 1.0, current, start.item() if not start.ndim else start)


def _decay_of(decays: dict[str, Value]) -> Value:
    return decays["decay"]


def _all_below(low: Value, high: Value) -> bool:
    return bool((torch.as_tensor(low, dtype=torch.float32) < torch.as_tensor(high, dtype=torch.float32)).all())


def _some(value: Value) -> list[float]:
    return torch.as_tensor(value).reshape(-1)[:3].tolist()


def _integrators_factor(node, dt: float) -> Value:
    """1 / (r dt) of a nir.IF: 1 where it is 1 except for rounding. Far from it dt is another."""
    r = _positive("r", node.r)
    share = torch.as_tensor(r, dtype=torch.float64) * dt
    if bool(torch.isclose(share, torch.ones_like(share), rtol=1e-5).all()):
        return 1.0
    if share.max() >= FAR or share.min() <= 1 / FAR:
        raise ValueError(
            f"r * dt must be 1, or near it: r is {share.div(dt).reshape(-1)[:3].tolist()} and dt is {dt}; "
            "from_nir(graph, dt=...) says how long a step is, in the graph's unit of time"
        )
    return 1 / (r * dt)


def check_shape(node, neurons: Shape) -> None:
    """A node's values are one for all neurons [C, H, W] or [features], one a channel or one a neuron."""
    for name in FIELDS:
        shape = tuple(np.shape(getattr(node, name, 0.0)))
        if math.prod(shape) > 1 and shape not in (neurons, neurons[:1], neurons[:1] + (1,) * len(neurons[1:])):
            raise ValueError(f"{name} must have the shape of the neurons, {neurons}, got {shape}")


def _positive(name: str, value) -> Value:
    values = _by_channel(name, value)
    neuron_checks.above_zero(name, values)
    return values


def _decay(name: str, tau: Value, dt: float) -> Value:
    decay = 1 - dt / tau
    lowest = decay.min().item() if isinstance(decay, Tensor) else decay
    if lowest < -NEGLIGIBLE:
        raise ValueError(
            f"{name} must be at least a step, dt = {dt:g}, got {dt / (1 - lowest):g}; from_nir(graph, dt=...) says how "
            "long a step is, in the graph's unit of time"
        )
    return decay.clamp(min=0) if isinstance(decay, Tensor) else max(decay, 0.0)


def _reset(node, factor: Value) -> Value | None:
    """v_reset, which a nir older than 1.0.6 does not have: newer ones then read 0."""
    note = (node.metadata or {}).get(RESET)
    note = note.decode() if isinstance(note, bytes) else note
    if note == SUBTRACT:
        return None
    if note not in (None, TO_V_RESET):
        raise ValueError(f"metadata[{RESET!r}] must be {SUBTRACT!r}, {TO_V_RESET!r} or not be there, got {note!r}")
    value = getattr(node, "v_reset", None)
    return 0.0 if value is None else _by_channel("v_reset", value) * factor


def _shared(value: Value) -> float | None:
    """A potential that all neurons have in common; None: they have several."""
    values = torch.as_tensor(value, dtype=torch.float64).flatten()
    return values[0].item() if bool(torch.isclose(values, values[0], rtol=NEGLIGIBLE).all()) else None


def _by_channel(name: str, value) -> Value:
    """One number, or float64 [C] of one value a channel."""
    values = numbers_of(name, value)
    if not values.numel():
        raise ValueError(f"{name} must have a value for each neuron, got none")
    by_channel = values.flatten(1) if values.ndim > 1 else values.view(-1, 1)
    if not bool((by_channel.float() == by_channel[:, :1].float()).all()):
        raise ValueError(f"{name} must be the same for all neurons of a channel")
    first = by_channel[:, 0].clone()
    return first[0].item() if bool((first.float() == first[0].float()).all()) else first


def _made(kind: type[AnyNeuron], values: dict[str, Any]) -> AnyNeuron:
    """With values as the kernels have them, so that what was computed for a node and back is what it was."""
    values = {name: np.float32(value).item() if isinstance(value, float) else value for name, value in values.items()}
    return kind(**{name: value.float() if isinstance(value, Tensor) else value for name, value in values.items()})
