"""Nodes of NIR as modules of torch and as neurons. Values are copied, so a change of a graph changes no network.

NIR has differential equations. A step of length dt solves them by Euler's method, here as in snnTorch, Norse and
SpikingJelly, and the current i of a step is the one that its potential takes:

    nir.IF        dv/dt = r I                            h = v + r dt I, I is multiplied by r dt
    nir.LIF       tau dv/dt = v_leak - v + r I           decay = 1 - dt / tau, I is multiplied by r dt / tau
    nir.CubaLIF   tau_mem dv/dt = v_leak - v + r i       the same with tau_mem, and
                  tau_syn di/dt = w_in I - i             current_decay = 1 - dt / tau_syn, I times w_in dt / tau_syn too
    nir.I, LI     as IF and LIF, and never fire          readouts
    nir.Threshold fires where I >= threshold             decay = 0

The factor of a current divides the threshold, reset and rest here (:meth:`LIFNeuron.scaled`), so that weights stay
what they are. to_nir writes the forms that most others read: r = 1 / dt of an IF, r = 1 of a LIF, whose potentials are
then tau / dt times smaller than here, and of a CubaLIF, whose are not, r = tau_mem / dt and w_in = tau_syn / dt.
A resting or reset potential that differs by channel, or that lies above the threshold, is a shift of potentials and a
constant current. Values that are computed are float64, from which float32's come back bit by bit. A readout's
potentials are its result, so its weights are multiplied instead; to_nir writes a factor of 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ... import checks, layers
from ...neurons import AnyNeuron, CubaLIFNeuron, IFNeuron, IntegerLIFNeuron, LIFNeuron, LINeuron, Value, neuron_checks
from ..graph.rewrites import NEGLIGIBLE

Shape = tuple[int, ...]  # of one sample and step: (C, H, W) or (features,)
MOST_VALUES = 2**28  # of one sample and step: a gigabyte
FIELDS = "v_threshold", "v_reset", "v_leak", "r", "tau", "tau_mem", "tau_syn", "w_in", "threshold"  # by neuron
RESET, SUBTRACT, TO_V_RESET = "reset", "subtract", "v_reset"  # in the metadata of a node
FAR = 100.0  # times 1


def is_neuron(nir, node) -> bool:
    return isinstance(node, nir.IF | nir.LIF | nir.CubaLIF | nir.I | nir.LI | nir.Threshold)


def is_filtered(nir, node) -> bool:
    """Whether neurons filter their current."""
    return isinstance(node, (nir.CubaLIF, getattr(nir, "CubaLI", nir.CubaLIF)))  # older ones have no CubaLI


def fires(nir, node) -> bool:
    return not isinstance(node, nir.I | nir.LI)


class Made(NamedTuple):
    """Neurons of a node in terms of this package.

    Attributes:
        neuron: the neuron model. gain: factor of the currents in front of them.
        current: an added constant current, one or one a channel. v_init: the initial potential; None: at rest.
    """

    neuron: AnyNeuron
    gain: Value = 1.0
    current: Value = 0.0
    v_init: Value | None = None


def neuron(nir, node, dt: float, reset: str | None = None, most: int | None = None) -> Made:
    """The neurons of a node. ``reset``: replaces the node's reset; None: the node's own. ``most``: how often they fire
    in a step, see from_nir's max_spike_count."""
    if most is not None and fires(nir, node):
        return _integer(nir, node, dt, most)
    factor: Value = 1.0  # the divisor of a current
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
        decays["decay"] = _decay("tau_mem", _positive("tau_mem", node.tau_mem), dt)
        decays["current_decay"] = _decay("tau_syn", _positive("tau_syn", node.tau_syn), dt)
        factor = _filtered_factor(node, dt)
    if isinstance(node, nir.I | nir.LI):
        v_rest = _by_channel("v_leak", node.v_leak) if isinstance(node, nir.LI) else 0.0
        if (shared := _shared(v_rest)) is not None:
            return Made(_made(LINeuron, decays | {"v_rest": shared}), 1 / factor)
        return Made(_made(LINeuron, decays), 1 / factor, (1 - decays["decay"]) * v_rest, v_rest)
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


def _integer(nir, node, dt: float, most: int) -> Made:
    """Neurons that fire several times in a step and subtract; a constant current keeps up the potential they rest at.

    That rest is their start, where it is below the threshold.
    """
    if not isinstance(node, nir.IF | nir.LIF):
        raise TypeError(f"max_spike_count is for IF and LIF, and this is a {type(node).__name__}; leave it out")
    made = neuron(nir, node, dt, SUBTRACT)
    plain: Any = made.neuron
    decay, rest = getattr(plain, "decay", 1.0), getattr(plain, "v_rest", 0.0)
    counting = _made(IntegerLIFNeuron, {"v_threshold": plain.v_threshold, "decay": decay, "max_spike_count": most})
    return made._replace(neuron=counting, current=made.current + (1 - decay) * rest, v_init=rest or made.v_init)


def _filtered_factor(node, dt: float) -> Value:
    """The divisor of the current of a nir.CubaLIF."""
    tau, tau_syn = _positive("tau_mem", node.tau_mem), _positive("tau_syn", node.tau_syn)
    return tau / (_positive("r", node.r) * dt) * (tau_syn / (_positive("w_in", node.w_in) * dt))


def shares_potentials(nir, node, dt: float, reset: str | None) -> bool:
    """Whether neurons with a filtered current all reset to one potential and rest at one below their thresholds."""
    factor = _filtered_factor(node, dt)
    v_rest = _by_channel("v_leak", node.v_leak) * factor
    v_reset = None if reset == SUBTRACT else _reset(node, factor)
    theta = _by_channel("v_threshold", node.v_threshold) * factor
    shared = _shared(v_rest) is not None and (v_reset is None or _shared(v_reset) is not None)
    return shared and (_all_below(v_rest, theta) or not _all_below(0.0 if v_reset is None else v_reset, theta))


def _shifted(kind, theta: Value, v_reset: Value | None, v_rest: Value, decays: dict[str, Value]) -> Made:
    """Neurons whose potentials are counted from their reset potential; a constant current replaces the rest.

    Neurons that rest below their threshold start at rest; others, which fire by themselves, start as after a spike.
    """
    base: Value = 0.0 if v_reset is None else v_reset
    theta, rest = theta - base, v_rest - base
    if not _all_below(0.0, theta):
        raise ValueError(f"v_reset must be below v_threshold, got thresholds {_some(theta)} above it")
    zero = torch.zeros((), dtype=torch.float64)
    start = torch.where(torch.as_tensor(rest) < torch.as_tensor(theta), torch.as_tensor(rest), zero)
    current = 0.0 if kind is IFNeuron else (1 - decays["decay"]) * rest
    potentials: dict[str, Any] = {"v_threshold": theta, "v_reset": None if v_reset is None else 0.0}
    return Made(_made(kind, potentials | decays), 1.0, current, start.item() if not start.ndim else start)


def _all_below(low: Value, high: Value) -> bool:
    return bool((torch.as_tensor(low, dtype=torch.float32) < torch.as_tensor(high, dtype=torch.float32)).all())


def _some(value: Value) -> list[float]:
    return torch.as_tensor(value).reshape(-1)[:3].tolist()


def _integrators_factor(node, dt: float) -> Value:
    """1 / (r dt) of a nir.IF, exactly 1 where it differs by rounding only. Far from 1, dt must be wrong."""
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
    """Check that a node's values are one for all neurons, one a channel, or one a neuron."""
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
    """The reset potential; None: the threshold is subtracted. Graphs of a nir older than 1.0.6 reset to 0."""
    note = (node.metadata or {}).get(RESET)
    note = note.decode() if isinstance(note, bytes) else note
    if note == SUBTRACT:
        return None
    if note not in (None, TO_V_RESET):
        raise ValueError(f"metadata[{RESET!r}] must be {SUBTRACT!r}, {TO_V_RESET!r} or not be there, got {note!r}")
    value = getattr(node, "v_reset", None)
    return 0.0 if value is None else _by_channel("v_reset", value) * factor


def _shared(value: Value) -> float | None:
    """The potential that all neurons share; None: they have several."""
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
    """A neuron with float32 values, so that a value written to a node and read again is the same."""
    values = {name: np.float32(value).item() if isinstance(value, float) else value for name, value in values.items()}
    return kind(**{name: value.float() if isinstance(value, Tensor) else value for name, value in values.items()})


def output_shape(layer: nn.Module, shapes: Sequence[Shape | None]) -> Shape | None:
    """The shape of a layer's output for one sample and step, by a run on zeros; None if an input's is not known, or of
    neurons none's.

    Raises:
        TypeError, ValueError: the layer does not take such inputs, or gives more than fits.
    """
    sizes = [shape for shape in shapes if shape is not None]
    if len(sizes) < len(shapes):
        terms = layer.terms(tuple(shapes)) if sizes and isinstance(layer, layers.Neurons) else []  # type: ignore[arg-type]
        known = (one.output_shape((1, 1, *size)) for (one, _), size in zip(terms, shapes, strict=False) if size)
        return next((tuple(shape[2:]) for shape in known), None)
    device = next((parameter.device for parameter in layer.parameters()), None)
    inputs = tuple(torch.zeros(1, 1, *size, device=device) for size in sizes)
    x: Any = inputs if len(inputs) > 1 else inputs[0]
    if isinstance(layer, layers.Neurons):
        for taken, part in layer.terms(x):
            check_size(taken.output_shape(tuple(part.shape))[2:])
    try:
        with torch.no_grad():
            y = layer.spike(x)[0] if isinstance(layer, layers.SpikingLayer) else layer(x)  # no statistics are changed
    except RuntimeError as error:  # of torch's pooling
        raise ValueError(f"{type(layer).__name__} cannot take {sizes[0]}: {error}") from error
    return tuple(y.shape[2:])


def check_size(shape: Shape) -> None:
    """Refuse sizes beyond any network, before memory is allocated."""
    total = math.prod(shape)
    if total > MOST_VALUES:
        raise ValueError(f"a sample of the shape {shape} has {total:.3g} values; at most {MOST_VALUES:.3g} are taken")


def check_dt(dt: float) -> None:
    """Check the length of a step."""
    if not checks.is_number(dt) or not 0 < checks.as_float32(dt) < math.inf:
        raise ValueError(f"dt must be a positive number in float32, got {dt!r}")


def synapse(nir, node) -> nn.Module:
    """A nir.Conv1d, nir.Conv2d, nir.Affine or nir.Linear as a module of torch."""
    axes = 1 if isinstance(node, nir.Conv1d) else 2 if isinstance(node, nir.Conv2d) else 0
    weight = _floats("weight", node.weight)
    kernel = ("kernel_h", "kernel_w") if axes == 2 else ("kernel",)
    dims = ("C_out", "C_in / groups", *kernel) if axes else ("out", "in")
    if weight.ndim != len(dims) or not weight.numel():
        raise ValueError(f"weight must have the shape [{', '.join(dims)}], got {list(weight.shape)}")
    bias = None if isinstance(node, nir.Linear) or node.bias is None else _floats("bias", node.bias)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have the shape [{len(weight)}], one for each output, got {list(bias.shape)}")
    if axes:
        (groups,) = _integers("groups", node.groups, 1, length=1)
        if len(weight) % groups:
            raise ValueError(f"groups must divide the {len(weight)} outputs, got {groups}")
        make: Any = nn.Conv1d if axes == 1 else nn.Conv2d
        module = make(
            weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), _integers("stride", node.stride, 1, axes),
            _padding(node.padding, axes), _integers("dilation", node.dilation, 1, axes), groups, device="meta",
        )  # fmt: skip
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    module.weight = nn.Parameter(weight)
    module.bias = None if bias is None else nn.Parameter(bias)
    return module


@dataclass
class Images:
    """A node that gives features as images (C, H, W) or rows (C, L); NIR has none."""

    shape: Shape


@dataclass
class Before:
    """A node that gives what another one, ``giver``, gave in the step before. ``shape``: of a sample."""

    giver: str
    shape: Shape | None


def shaping(nir, node, shape: Shape | None, dt: float) -> list[nn.Module]:
    """Images, or a nir.Delay, nir.AvgPool2d, nir.SumPool2d or nir.Flatten, as layers for samples of ``shape``."""
    if isinstance(node, Images):
        return [layers.Unflatten(node.shape)]
    if isinstance(node, nir.Delay):
        return _delay_layers(node, shape, dt)
    if not isinstance(node, nir.Flatten):
        window, stride = _integers("kernel_size", node.kernel_size, 1), _integers("stride", node.stride, 1)
        pool = layers.AvgPool2d if isinstance(node, nir.AvgPool2d) else layers.SumPool2d
        return [pool(window, stride, _integers("padding", node.padding, 0))]
    (first,), (last,) = (_integers(key, getattr(node, key), -9, length=1) for key in ("start_dim", "end_dim"))
    given = (node.input_type or {}).get("input")
    dims = 3 if given is None else len(given)
    if first != 0 or last not in (-1, dims - 1):
        raise ValueError(f"Flatten must join all dimensions, got {first} to {last} of {dims}")
    return [layers.Flatten()]


def scale_of(node, shape: Shape | None) -> Tensor:
    """The factors of a nir.Scale for samples of ``shape``, float32: one for all, one a channel, or one a value."""
    scale = _floats("scale", node.scale)
    given = tuple(scale.shape)
    if shape is None:
        shape = given
    elif given == shape[:1]:
        scale = scale.view(-1, *[1] * (len(shape) - 1))
    pairs = list(zip(scale.shape[::-1], shape[::-1], strict=False))
    if not shape or scale.ndim > len(shape) or any(a not in (1, b) for a, b in pairs):
        raise ValueError(f"scale must have a value for each of {shape or 'the values it takes'}, got {given}")
    return scale.expand(shape)


def steps_of_delay(node, dt: float) -> Tensor:
    """The delay of a nir.Delay in whole steps, int64, of its shape."""
    delays = numbers_of("delay", node.delay)
    steps = (delays / dt).round()
    if not torch.allclose(steps * dt, delays, rtol=1e-4, atol=1e-4 * dt) or bool((steps < 0).any()):
        raise ValueError(
            f"delay must be whole steps of dt = {dt:g}, at least 0, got {delays.reshape(-1)[:3].tolist()}; "
            "from_nir(graph, dt=...) says how long a step is, in the graph's unit of time"
        )
    return steps.long()


def _delay_layers(node, shape: Shape | None, dt: float) -> list[nn.Module]:
    """A nir.Delay of whole steps as layers, for samples of ``shape``; one delay a value needs flat features."""
    steps = steps_of_delay(node, dt)
    if steps.numel() == 1:
        return [layers.Delay(int(steps))]
    by_channel = steps.flatten(1) if steps.ndim > 1 else steps.view(-1, 1)
    if bool((by_channel == by_channel[:, :1]).all()):
        return [layers.Delay(by_channel[:, 0])]
    if shape is not None and tuple(steps.shape) != shape:
        raise ValueError(f"delay must have the shape of what it takes, {shape}, got {tuple(steps.shape)}")
    return [layers.Flatten(), layers.Delay(steps.flatten()), layers.Unflatten(tuple(steps.shape))]


def numbers_of(name: str, value) -> Tensor:
    """A float64 copy of real numbers that must be finite in float32."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got {'None' if value is None else array.dtype}")
    tensor = torch.from_numpy(array.astype(np.float64))
    checks.finite(name, tensor)
    return tensor


def _floats(name: str, value) -> Tensor:
    return numbers_of(name, value).float()


def _integers(name: str, value, least: int, length: int = 2) -> tuple[int, ...]:
    """``length`` integers; one number stands for all of them."""
    values = np.asarray(value).reshape(-1)
    if values.dtype.kind not in "iuf" or len(values) not in (1, length) or (values != np.floor(values)).any():
        raise TypeError(f"{name} must be {'an integer' if length == 1 else 'an integer or two of them'}, got {value!r}")
    if values.min() < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return tuple(int(v) for v in values) * (length // len(values))


def _padding(value, axes: int) -> str | tuple[int, ...]:
    value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str):
        return _integers("padding", value, 0, axes)
    if value not in ("same", "valid"):
        raise ValueError(f"padding must be a number, two of them, 'same' or 'valid', got {value!r}")
    return value
