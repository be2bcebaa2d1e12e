"""What the functions of functional.py accept: each check names the argument, what was expected and what it got."""

import ctypes
import math
import numbers
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import known
from .kernels import constants
from .kernels.weight_layouts import is_finite, refuse_infinite
from .spikes import Spikes, is_binary, pack

if TYPE_CHECKING:
    from typing_extensions import TypeIs

MOST_STEPS = 2**31 - 1  # counts are int32
LARGEST_WINDOW = 2**15  # strides, paddings and dilations: no sum or product of theirs leaves 32 bits


@contextmanager
def at(place: str) -> Iterator[None]:
    """Errors say where: "node 'conv1': ..."."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error


def steps(T: int) -> int:
    """A number of time steps."""
    if not _is_integer(T):
        raise TypeError(f"T must be an integer number of steps, got {T!r}")
    if T < 1:
        raise ValueError(f"T must be at least 1 step, got {T}")
    if T > MOST_STEPS:
        raise ValueError(f"T must be at most 2**31 - 1 steps, got {T}")
    return int(T)


def neuron(v_threshold: float | Tensor, v_reset: float | None) -> float | None:
    """The threshold (positive) and the reset potential (below it, or None), as float32 has them; returns the latter."""
    if isinstance(v_threshold, Tensor):
        if not v_threshold.is_floating_point() or v_threshold.ndim > 1 or not v_threshold.numel():
            raise TypeError(
                "v_threshold must be a number or a float tensor [C] of one threshold a channel, got "
                f"{v_threshold.dtype} {list(v_threshold.shape)}"
            )
    elif not _is_number(v_threshold):
        raise TypeError(f"v_threshold must be a number or a tensor [C], got {v_threshold!r}")
    if v_reset is not None and not _is_number(v_reset):
        raise TypeError(f"v_reset must be a number (hard reset) or None (soft reset), got {v_reset!r}")
    if isinstance(v_threshold, Tensor) and not _values_can_be_read(v_threshold):
        return v_reset
    lowest, highest = _limits(v_threshold)
    if not (lowest > 0 and highest < math.inf):  # comparisons, which a compiled graph can guard
        wrong = v_threshold
        if isinstance(v_threshold, Tensor):
            wrong = lowest if not lowest > 0 else highest
        raise ValueError(f"v_threshold must be positive and finite in float32, got {wrong}")
    if v_reset is not None and not -math.inf < _float32(v_reset) < lowest:
        raise ValueError(
            f"v_reset must be finite and, in float32, below v_threshold = {lowest:g}, or a neuron would fire for ever; "
            f"got {v_reset}"
        )
    return v_reset if v_reset is None or torch.compiler.is_compiling() else float(v_reset)


def resting(v_rest: float, v_threshold: float | Tensor) -> float:
    """The potential at rest, below the threshold."""
    start("v_rest", v_rest)
    if torch.compiler.is_compiling() or (isinstance(v_threshold, Tensor) and not _values_can_be_read(v_threshold)):
        return v_rest
    lowest, _ = _limits(v_threshold)
    if not _float32(v_rest) < lowest:
        raise ValueError(
            f"v_rest must be below v_threshold = {lowest:g}, or neurons would fire without input; got {v_rest}"
        )
    return float(v_rest)


def share(name: str, value: float | Tensor) -> None:
    """What is left after a step: from 0 to 1."""
    _within(name, value, "from 0 to 1", lambda low, high: low >= 0 and high <= 1)


def not_below_zero(name: str, value: float | Tensor) -> None:
    _within(name, value, "at least 0 and finite in float32", lambda low, high: low >= 0 and high < math.inf)


def above_zero(name: str, value: float | Tensor) -> None:
    _within(name, value, "above 0 and finite in float32", lambda low, high: low > 0 and high < math.inf)


def at_least_one(name: str, value: float | Tensor) -> None:
    """A time constant in steps."""
    _within(name, value, "at least 1 step and finite in float32", lambda low, high: low >= 1 and high < math.inf)


def whole_steps(name: str, value: int) -> None:
    """A number of steps that may be 0."""
    if not _is_integer(value):
        raise TypeError(f"{name} must be an integer number of steps, got {value!r}")
    if not 0 <= value < 2**24:
        raise ValueError(f"{name} must be at least 0 steps and below 2**24, got {value}")


def _within(name: str, value: float | Tensor, wanted: str, holds: Callable[[float, float], bool]) -> None:
    """A parameter of neurons, a number or one value a channel, of which the lowest and the highest are looked at."""
    if isinstance(value, Tensor):
        if not value.is_floating_point() or value.ndim > 1 or not value.numel():
            raise TypeError(
                f"{name} must be a number or a float tensor [C] of one value a channel, got {value.dtype} "
                f"{list(value.shape)}"
            )
        if not _values_can_be_read(value):
            return
    elif not _is_number(value):
        raise TypeError(f"{name} must be a number or a tensor [C], got {value!r}")
    lowest, highest = _limits(value)
    if not holds(lowest, highest):  # also of NaN
        wrong = value if not isinstance(value, Tensor) else lowest if not holds(lowest, lowest) else highest
        raise ValueError(f"{name} must be {wanted}, got {wrong}")


def per_channel(name: str, value: float | Tensor, channels: int, device: torch.device) -> Tensor:
    """The value of each channel: float32 [channels]."""
    if not isinstance(value, Tensor):
        return torch.full((channels,), float(value), device=device)
    if value.ndim == 1:
        same_device(name, value, device)
        if len(value) != channels:
            raise ValueError(f"{name} must have one value for each of {channels} channels, got {len(value)}")
    return value.to(device, torch.float32).expand(channels)


def no_gradient(name: str, value: float | Tensor) -> None:
    """A tensor that nothing here would give a gradient must not ask for one."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} requires a gradient, and nothing gives thresholds one; pass {name}.detach()")


def module(name: str, module: nn.Module) -> None:
    """A model of torch."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")


def neurons(name: str, layers: Collection[str]) -> None:
    """A network must have layers of neurons: the names of those that it has."""
    if not layers:
        raise ValueError(
            f"{name} must have at least one layer of neurons, such as FusedIFConv2d; proxykernels.convert makes a "
            "spiking network of a ReLU network"
        )


def not_traced() -> None:
    """torch.jit.trace would keep what holds for one input only: whether it is held, and whether it is spikes."""
    if torch.jit.is_tracing():
        raise TypeError("torch.jit.trace cannot follow a simulation of spikes; use torch.export or torch.compile")


def values(name: str, x: Spikes | Tensor) -> None:
    """What is simulated has values, which neither the meta device nor torch.jit.trace lets anyone look at."""
    not_traced()
    if x.device.type == "meta":
        raise TypeError(
            f"{name} is on meta, which holds no spikes to simulate; for the shapes call the layers, "
            "net(x.expand(T, *x.shape))"
        )


def start(name: str, v: float | Tensor, states: int = 1) -> None:
    """The potential that all neurons start from, or one a channel [C], of neurons with no other state."""
    if isinstance(v, Tensor):
        floating(name, v)
        if v.ndim != 1 or not len(v):
            raise ValueError(f"{name} must be a number or one value a channel [C], got {list(v.shape)}")
        if states > 1:
            raise ValueError(f"{name} must be a number for neurons of {states} states, got {list(v.shape)}")
        no_gradient(name, v)
        finite(name, v)
        return
    if not _is_number(v):
        raise TypeError(f"{name} must be a number, got {v!r}")
    if not -math.inf < _float32(v) < math.inf:
        raise ValueError(f"{name} must be finite in float32, got {v}")


def state(v: Tensor | float | None, shape: Sequence[int], states: int, device: torch.device) -> None:
    """What neurons of ``shape`` [N, ...] start from: a potential, or [N, ...], with several states [N, states, ...]."""
    if v is None:
        return
    if _is_number(v):
        start("v", v)
        return
    floating("v", v)
    same_device("v", v, device)
    wanted = tuple(shape) if states == 1 else (shape[0], states, *shape[1:])
    if tuple(v.shape) != wanted:
        raise ValueError(f"v must have the shape of the neurons' state, {list(wanted)}, got {list(v.shape)}")
    finite("v", v)


def sequence(x: Spikes | Tensor, ndim: int, shape: str) -> Spikes | Tensor:
    """A layer's input [T, N, ...]: spikes stay spikes; a tensor of 0 and 1 becomes spikes where a CPU gains by it."""
    not_traced()
    if not isinstance(x, Spikes | Tensor):
        raise TypeError(f"x must be Spikes or a tensor {shape}, got {type(x).__name__}")
    if isinstance(x, Tensor):
        strided("x", x)
    if len(x.shape) != ndim:
        raise ValueError(f"x must have the shape {shape}, got {list(x.shape)}")
    if isinstance(x, Spikes):
        return x
    if x.shape[0] < 1:
        raise ValueError(f"x must have at least one step, shape {shape}, got {list(x.shape)}")
    if not x.is_floating_point():
        return frames(x)
    if not _values_can_be_read(x):  # a tensor is taken as real values
        return x
    if not is_held(x) and x.device.type == "cpu" and is_binary(x):
        return pack(x)
    finite("x", x[0] if is_held(x) else x)
    return x


def frames(x: Any) -> Any:
    """Event frames [T, N, ...] of bool or integers: Spikes if they are 0 and 1, else float32; all else as it is.

    One rule for both, since a spike counts 1: an integer is as many events of its pixel and step.
    """
    if not isinstance(x, Tensor) or x.is_floating_point():
        return x
    real("x", x)
    can_be_read = x.dtype == torch.bool or _values_can_be_read(x)
    return pack(x) if x.ndim > 1 and len(x) and can_be_read and is_binary(x) else x.float()


def steps_of(x: Spikes | Tensor, ndim: int | None, shape: str) -> None:
    """The input of a layer that takes spikes and values alike; ``ndim`` None: three dimensions or more."""
    if not isinstance(x, Spikes | Tensor):
        raise TypeError(f"x must be Spikes or a tensor {shape}, got {type(x).__name__}")
    if len(x.shape) < 3 or ndim not in (None, len(x.shape)):
        raise ValueError(f"x must have the shape {shape}, got {list(x.shape)}")


def is_held(x: Tensor) -> bool:
    """Whether x [T, N, ...] is one step repeated without a copy, as ``image.expand(T, ...)`` makes it.

    Nothing is while a graph is exported: it must be right for other inputs too, and nothing guards their strides.
    """
    if torch.compiler.is_exporting():
        return False
    return x.shape[0] == 1 or x.stride(0) == 0


def currents(current: Tensor, leading: str) -> None:
    """Input currents of neurons, of the shape [T, N, ...] or [N, ...]; ``leading`` names the leading dimensions."""
    not_traced()
    if isinstance(current, Spikes):
        raise TypeError("current must be a float tensor, got Spikes; .dense() makes them currents of 0 and 1")
    floating("current", current)
    names = leading.split(", ")
    if current.ndim < len(names) or (names[0] == "T" and current.shape[0] < 1):
        raise ValueError(f"current must have the shape [{leading}, ...] with T >= 1, got {list(current.shape)}")
    finite("current", current)


def parameters(weight: Tensor, bias: Tensor | None, ndim: int, shape: str, device: torch.device) -> None:
    """Weights and biases of a layer."""
    floating("weight", weight)
    same_device("weight", weight, device)
    if weight.ndim != ndim or 0 in weight.shape:
        raise ValueError(f"weight must have the shape {shape}, got {list(weight.shape)}")
    if bias is not None:
        floating("bias", bias)
        same_device("bias", bias, device)
        if tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(
                f"bias must have the shape [{weight.shape[0]}], one for each output, got {list(bias.shape)}"
            )
    if weight.is_cuda:  # a CPU looks when it packs them
        _known_finite("weight", weight)
    if bias is not None:
        _known_finite("bias", bias)


def _known_finite(name: str, values: Tensor) -> None:
    """Parameters without NaN and infinity; those on a GPU are looked at once a version."""
    if _values_can_be_read(values) and not known.once(is_finite, values):
        refuse_infinite(name)


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """A window's height and width, each at least ``least``."""
    height, width = _lengths(name, value, least, 2)
    return height, width


def single(name: str, value: Any, least: int) -> int:
    """A window's length along one axis, at least ``least``."""
    return _lengths(name, value, least, 1)[0]


def _lengths(name: str, value: Any, least: int, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * axes
    if len(values) != axes or not all(_is_integer(v) for v in values):
        raise TypeError(f"{name} must be an integer{' or two of them' if axes == 2 else ''}, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if max(values) > LARGEST_WINDOW:
        raise ValueError(f"{name} must be at most {LARGEST_WINDOW}, got {value}")
    return values


def groups(groups: int, channels: int, weight: Tensor) -> int:
    """Groups that divide the channels, and weights [C_out, channels / groups, ...] to match."""
    if not _is_integer(groups):
        raise TypeError(f"groups must be an integer, got {groups!r}")
    if groups < 1 or channels % groups or weight.shape[0] % groups:
        raise ValueError(
            f"groups must be at least 1 and divide {channels} inputs and {weight.shape[0]} outputs, got {groups}"
        )
    if weight.shape[1] != channels // groups:
        raise ValueError(
            f"weight must have the shape [C_out, {channels // groups}, kernel_h, kernel_w] for {channels} input "
            f"channels in {groups} group(s), got {list(weight.shape)}"
        )
    return int(groups)


def fits(size, kernel_size, padding, dilation) -> None:
    """A window must lie inside the padded image."""
    for n, k, p, d in zip(size, kernel_size, padding, dilation, strict=True):
        if d * (k - 1) + 1 > n + 2 * p:
            raise ValueError(
                f"kernel_size {tuple(kernel_size)} with dilation {tuple(dilation)} is larger than the input "
                f"{tuple(size)} padded by {tuple(padding)}"
            )


def pooling(kernel_size, stride, padding) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The windows of a pooling, in pairs; without a stride they lie side by side."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None else pair("stride", stride, 1)
    padding = pair("padding", padding, 0)
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        raise ValueError(f"padding must be at most half of kernel_size {kernel_size}, got {padding}")
    return kernel_size, stride, padding


def room(T: int, shape: Sequence[int], device: torch.device) -> None:
    """The spikes and potentials of neurons of ``shape`` [N, ...] must fit the memory."""
    if torch.compiler.is_compiling():
        return
    needed, there = math.prod(shape) * (4 + T / 8), _memory(device)
    if needed > there:
        raise ValueError(
            f"T = {T} steps of {list(shape)} neurons take {needed / 2**30:.3g} GiB for spikes and potentials, and "
            f"{device} has {there / 2**30:.3g} GiB; take fewer steps or samples at a time"
        )


def same_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """All tensors of a call live on one device."""
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device} and the input on {device}; move it with .to('{device}')")


def floating(name: str, tensor: Tensor) -> None:
    """A tensor of floating point."""
    real(name, tensor)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}; convert it with .float()")


def real(name: str, tensor: Tensor) -> None:
    """A tensor of real numbers of any type: floating point, integers or bool."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.is_complex():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}; convert it with .real or .abs()")
    strided(name, tensor)


def strided(name: str, tensor: Tensor) -> None:
    """A tensor that holds all its values."""
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}; convert it with .to_dense()")


def finite(name: str, tensor: Tensor) -> None:
    """No NaN and no infinity, also in float32. Not looked at where the values cannot be read."""
    if not _values_can_be_read(tensor):
        return
    if not is_finite(tensor):
        raise ValueError(f"{name} must be finite in float32, and holds NaN or infinite values")


def _values_can_be_read(tensor: Tensor) -> bool:
    """Not of a graph that is traced or captured, nor on the meta device; on a GPU not while a network is simulated,
    which has looked at all that it was given."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    return not (tensor.is_cuda and (torch.cuda.is_current_stream_capturing() or constants.are_looked_at()))


def _limits(value: float | Tensor) -> tuple[float, float]:
    """The lowest and the highest value; those of a tensor on a GPU are read once a version."""
    if not isinstance(value, Tensor):
        return (_float32(value),) * 2
    return known.once(known.limits, value)


def _float32(value: float) -> float:
    """A number as float32 has it."""
    if torch.compiler.is_compiling():
        return value
    try:
        return ctypes.c_float(value).value
    except OverflowError:  # an integer that not even float64 holds
        return math.inf if value > 0 else -math.inf


@cache
def _memory(device: torch.device) -> float:
    """Bytes of memory that a device has; infinity where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    known = device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else math.inf


def _is_integer(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value) -> "TypeIs[float]":
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
