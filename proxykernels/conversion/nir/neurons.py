"""Neurons as nodes of NIR, and nodes as neurons.

NIR has differential equations. A step of length dt solves them by Euler's method, here as in snnTorch, Norse and
SpikingJelly, and the current i of a step is the one that its potential takes:

    nir.IF        dv/dt = r I                            h = v + r dt I, I is multiplied by r dt
    nir.LIF       tau dv/dt = v_leak - v + r I           decay = 1 - dt / tau, I is multiplied by r dt / tau
    nir.CubaLIF   tau_mem dv/dt = v_leak - v + r i       the same with tau_mem, and
                  tau_syn di/dt = w_in I - i             current_decay = 1 - dt / tau_syn, I times w_in dt / tau_syn too
    nir.I, LI     as IF and LIF, and never fire          readouts

What multiplies a current divides the threshold, reset and rest here (:meth:`LIFNeuron.scaled`), so that weights stay
what they are. Written are the forms that most others read: r = 1 / dt of an IF, r = 1 of a LIF, whose potentials are
then tau / dt times smaller than here, and of a CubaLIF, whose are not, r = tau_mem / dt and w_in = tau_syn / dt.
Values that are computed are float64, from which float32's come back bit by bit. A readout's potentials are what it is
for, so there the weights are multiplied instead; written, by 1.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import layers
from ...checks import neuron_checks
from ...neurons import AnyNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, LINeuron, Value
from ..graph.build_layers import NEGLIGIBLE
from .nodes import Shape, numbers_of

RESET, SUBTRACT, TO_V_RESET = "reset", "subtract", "v_reset"  # in the metadata of a node
FAR = 100.0  # times 1


def is_neuron(nir, node) -> bool:
    return isinstance(node, nir.IF | nir.LIF | nir.CubaLIF | nir.I | nir.LI)


# From layers to nodes


def neuron_node(nir, layer: layers.Neurons, shape: Shape, dt: float):
    """The node of a layer's neurons, whose ``shape`` is that of one sample and step."""
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
    """The class of a node, what it needs besides potentials, and by what its potentials are multiplied."""
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


def neuron(nir, node, dt: float, reset: str | None = None) -> tuple[AnyNeuron, Value]:
    """The neurons of a node, and by what the weights before them are multiplied.

    ``reset``: what they do whatever the node says; None: what it says.
    """
    factor: Value = 1.0  # what divides a current
    decays: dict[str, Value] = {}
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
        v_rest = _shared("v_leak", node.v_leak, 1.0) if isinstance(node, nir.LI) else 0.0
        return _made(LINeuron, decays | {"v_rest": v_rest}), 1 / factor
    potentials = {
        "v_threshold": _by_channel("v_threshold", node.v_threshold) * factor,
        "v_reset": None if reset == SUBTRACT else _reset(node, factor),
    }
    if isinstance(node, nir.IF):
        return _made(IFNeuron, potentials), 1.0
    potentials["v_rest"] = _shared("v_leak", node.v_leak, factor)
    return _made(LIFNeuron if isinstance(node, nir.LIF) else CubaLIFNeuron, potentials | decays), 1.0


def _integrators_factor(node, dt: float) -> Value:
    """1 / (r dt) of a nir.IF: 1 where it is 1 but for rounding. Far from it dt is another."""
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
    for name in ("v_threshold", "r", "tau", "tau_mem", "tau_syn", "w_in", "v_leak"):
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


def _reset(node, factor: Value) -> float | None:
    """v_reset, which a nir older than 1.0.6 does not have: newer ones then read 0."""
    note = (node.metadata or {}).get(RESET)
    note = note.decode() if isinstance(note, bytes) else note
    if note == SUBTRACT:
        return None
    if note not in (None, TO_V_RESET):
        raise ValueError(f"metadata[{RESET!r}] must be {SUBTRACT!r}, {TO_V_RESET!r} or not be there, got {note!r}")
    value = getattr(node, "v_reset", None)
    return 0.0 if value is None else _shared("v_reset", value, factor)


def _shared(name: str, value, factor: Value) -> float:
    """A potential in the units of this package, which all neurons must have in common."""
    values = torch.as_tensor(_by_channel(name, value) * factor, dtype=torch.float64).flatten()
    if not bool(torch.isclose(values, values[0], rtol=NEGLIGIBLE).all()):
        raise ValueError(f"{name} must be the same for all neurons, got {values.float().unique().tolist()}")
    return values[0].item()


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
