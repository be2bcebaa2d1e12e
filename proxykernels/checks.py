"""Checks of arguments: types, shapes, devices and values, before any work is done.

Each error names the argument, what was expected and what it got.
"""

import ctypes
import math
import numbers
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .kernels import value_checks_cache
from .kernels.backends import CpuBackend
from .kernels.rounding import PRECISIONS
from .kernels.value_checks_cache import can_be_read
from .kernels.weight_layouts import fault, is_finite, refuse_infinite
from .spikes import Spikes, pack_if_binary
from .spikes.packing import pack_and_look
from .spikes.spike_tensor import SpikeTensor, packed
from .spikes.storage import is_constant as is_constant
from .spikes.storage import is_repeated as is_repeated
from .spikes.storage import repeated as repeated

if TYPE_CHECKING:
    from typing_extensions import TypeIs

MOST_STEPS = 2**31 - 1  # counts are int32
MOST_COUNTED = 2**24  # float32 represents all integers up to here


@contextmanager
def at(place: str) -> Iterator[None]:
    """Prefix errors with a place: "node 'conv1': ..."."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error


def no_gradient(name: str, value: float | Tensor) -> None:
    """Refuse a tensor that requires a gradient, since none is computed for it."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, and gets none here; pass {name}.detach(). Parameters of neurons become "
            "learnable by proxykernels.learn_neurons(layer, name)"
        )


def same_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """A tensor on the device of the input."""
    if tensor.device != device:
        remedy = "it has no values: load them first" if tensor.is_meta else f"move it with .to('{device}')"
        raise ValueError(f"{name} is on {tensor.device} and the input on {device}; {remedy}")


def held(name: str, tensor: Tensor) -> None:
    """A tensor that is not on the meta device."""
    if tensor.is_meta:
        raise TypeError(f"{name} must be a tensor that holds its values, got one on meta")


def floating(name: str, tensor: Tensor) -> None:
    """A floating point tensor."""
    if not isinstance(tensor, Tensor) or tensor.is_complex():
        real(name, tensor)
    strided(name, tensor)
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
    """A tensor that holds all its values, in one block."""
    if tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized:
        return
    if tensor.is_nested:
        got, remedy = "a nested one", f"pad it with torch.nested.to_padded_tensor({name}, 0.0), or pass single parts"
    elif tensor.is_quantized:
        got, remedy = str(tensor.dtype), "convert it with .dequantize()"
    else:
        got, remedy = str(tensor.layout), "convert it with .to_dense()"
    raise TypeError(f"{name} must be a dense tensor, got {got}; {remedy}")


def finite(name: str, tensor: Tensor, *, readable: bool = False) -> None:
    """Neither NaN nor infinity, also in float32, and no values so large that sums overflow.

    Skipped if the values cannot be read; ``readable``: it is known that they can.
    """
    if readable and is_finite(tensor):
        return
    if not can_be_read(tensor):
        return
    plain = value_checks_cache.plain(tensor)
    if not is_finite(plain):
        raise ValueError(f"{name} must be finite in float32, and holds {fault(plain)}")


def spike_counts(name: str, v: Tensor) -> None:
    """Integers from 0 on. The values must be finite; skipped on a GPU, or if they cannot be read."""
    if v.is_cuda or not can_be_read(v):
        return
    plain = value_checks_cache.plain(v).detach()
    are_counts = (plain >= 0) & (plain <= MOST_COUNTED) & (plain == plain.floor())
    if not are_counts.all():
        raise ValueError(
            f"{name} must hold counts of spikes, whole numbers from 0 to 2**24, got {plain[~are_counts][0]:.9g}; take "
            "the state of an earlier result"
        )


def as_float32(value: float) -> float:
    """A number rounded to float32."""
    if torch.compiler.is_compiling():
        return value
    try:
        return ctypes.c_float(value).value
    except OverflowError:  # an integer too large for float64
        return math.inf if value > 0 else -math.inf


def is_integer(value) -> bool:
    return type(value) is int or (isinstance(value, numbers.Integral) and not isinstance(value, bool))


def is_number(value) -> "TypeIs[float]":
    return type(value) is float or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def known_step(last: int, steps: int) -> None:
    """Check that a network has parameters of the ``last`` step that it runs, counted from 0.

    Raises:
        ValueError: it has fewer, those of ``steps``.
    """
    if last >= steps:
        raise ValueError(
            f"x goes on to step {last}, counted from 0, and the network has parameters of {steps} steps: run it for "
            f"{steps} at most"
        )


def steps(T: int) -> int:
    """A number of time steps."""
    if type(T) is not int and not is_integer(T):
        raise TypeError(f"T must be an integer number of steps, got {T!r}")
    if T < 1:
        raise ValueError(f"T must be at least 1 step, got {T}")
    if T > MOST_STEPS:
        raise ValueError(f"T must be at most 2**31 - 1 steps, got {T}")
    return int(T)


def precision(precision: str | None) -> None:
    """A name of rounded weights, or None."""
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision must be None, 'int16' or 'int8', got {precision!r}")


def module(name: str, module: nn.Module) -> None:
    """A model of torch."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")


def channels_last(name: str, shape: tuple[int, ...], channels: int) -> str:
    """Advice for images [..., H, W, C] where a layer takes [..., C, H, W] of ``channels`` channels; "" for others."""
    if len(shape) not in (4, 5) or shape[-3] == channels or shape[-1] != channels:
        return ""
    if channels > 4 and shape[-3] != shape[-2]:  # neither an image of colours nor a square one
        return ""
    axes = ", ".join(map(str, (*range(len(shape) - 3), len(shape) - 1, len(shape) - 3, len(shape) - 2)))
    return (
        f"{name} {list(shape)} has its {channels} channels last, and they must be before H and W: "
        f"{name}.permute({axes})"
    )


def labels(name: str, labels: Tensor, N: int, classes: int) -> None:
    """The classes of N samples, int64 [N]."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(labels).__name__}; torch.as_tensor({name}) makes one")
    if labels.shape != (N,) or labels.dtype != torch.int64:
        raise ValueError(f"{name} must be int64 [{N}], one for each sample; got {labels.dtype} {list(labels.shape)}")
    if N and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{name} must be within 0 .. {classes - 1}, got {labels.min()} to {labels.max()}")


def neurons(name: str, layers: Collection[Any]) -> None:
    """A network must have layers of neurons, ``layers``."""
    if not layers:
        raise ValueError(
            f"{name} must have at least one layer of neurons, such as FusedIFConv2d; proxykernels.convert makes a "
            "spiking network of a ReLU network. Sigma-delta neurons are for proxykernels.simulate alone"
        )


def not_traced() -> None:
    """Refuse torch.jit.trace: it would record what is true for one input only (constant or not, spikes or not)."""
    if torch.jit.is_tracing():
        raise TypeError("torch.jit.trace cannot follow a simulation of spikes; use torch.export or torch.compile")


def values(name: str, x: Spikes | Tensor) -> None:
    """Refuse inputs without values: on the meta device, and under torch.jit.trace."""
    not_traced()
    place = "on meta" if x.device.type == "meta" else "a FakeTensor" if value_checks_cache.is_fake_mode() else None
    if place:
        raise TypeError(
            f"{name} is {place}, which holds no spikes to simulate; for the shapes call the layers, "
            "net(x.expand(T, *x.shape))"
        )


def start(name: str, v: float | Tensor, states: int = 1) -> None:
    """An initial potential: a number, or one per channel [C] for neurons with no other state."""
    if isinstance(v, Tensor):
        floating(name, v)
        if v.ndim != 1 or not len(v):
            raise ValueError(f"{name} must be a number or one value a channel [C], got {list(v.shape)}")
        if states > 1:
            raise ValueError(f"{name} must be a number for neurons of {states} states, got {list(v.shape)}")
        no_gradient(name, v)
        finite(name, v)
        return
    if not is_number(v):
        raise TypeError(f"{name} must be a number, got {v!r}")
    if not -math.inf < as_float32(v) < math.inf:
        raise ValueError(f"{name} must be finite in float32, got {v}")


def state(v: Tensor | float | None, shape: Sequence[int], states: int, device: torch.device) -> None:
    """An initial state of neurons of ``shape`` [N, ...]: a potential, or a tensor [N, ...], or [N, states, ...]."""
    if v is None:
        return
    if is_number(v):
        start("v", v)
        return
    floating("v", v)
    same_device("v", v, device)
    wanted = tuple(shape) if states == 1 else (shape[0], states, *shape[1:])
    if tuple(v.shape) != wanted:
        raise ValueError(f"v must have the shape of the neurons' state, {list(wanted)}, got {list(v.shape)}")
    if not (v.is_cuda and can_be_read(v) and value_checks_cache.look_once(is_finite, v)):
        finite("v", v)


def recurrent(weight: Tensor, channels: int, device: torch.device) -> None:
    """Recurrent weights of ``channels`` neurons: [C, C], or one value per neuron [C]."""
    floating("recurrent_weight", weight)
    same_device("recurrent_weight", weight, device)
    if tuple(weight.shape) not in ((channels, channels), (channels,)):
        raise ValueError(
            f"recurrent_weight must have the shape [{channels}, {channels}], or [{channels}] with one value for each "
            f"neuron, got {list(weight.shape)}"
        )
    if weight.is_cuda:  # on a CPU, packing checks the values
        _known_finite("recurrent_weight", weight)


def recurrent_state(v: Tensor | float | None, shape: Sequence[int], states: int, device: torch.device) -> None:
    """An initial state of recurrent neurons of ``shape`` [N, C]: a potential, or [N, states + 1, C], whose last entry
    is the spikes of the step before."""
    state(v, shape, states + 1, device)
    if isinstance(v, Tensor) and can_be_read(v):
        spikes = value_checks_cache.plain(v).detach()[..., -1, :]
        if not bool(((spikes == 0) | (spikes == 1)).all()):
            raise ValueError(
                f"v[:, {states}] must be the spikes of the step before, 0 or 1, which come back to the neurons; got "
                f"values from {spikes.min():.3g} to {spikes.max():.3g}"
            )


def sequence(x: Spikes | Tensor, ndim: int, shape: str, kernels: CpuBackend | None = None) -> Spikes | Tensor:
    """A layer's input [T, N, ...]: spikes stay spikes; a tensor of 0 and 1 becomes spikes.

    ``kernels``: what :func:`proxykernels.kernels.ops.direct` returned.
    """
    if kernels is None:
        not_traced()
        x = packed(x)
    if not isinstance(x, Spikes | Tensor):
        raise TypeError(f"x must be Spikes or a tensor {shape}, got {type(x).__name__}")
    if isinstance(x, Tensor):
        strided("x", x)
    if len(x.shape) != ndim:
        raise ValueError(f"x must have the shape {shape}, got {list(x.shape)}{_held(x, ndim)}")
    if isinstance(x, Spikes):
        return x
    if x.shape[0] < 1:
        raise ValueError(f"x must have at least one step, shape {shape}, got {list(x.shape)}")
    if not x.is_floating_point():
        return frames(x)
    if kernels is None and not can_be_read(x):  # a tensor is taken as real values
        return x
    if is_constant(x) if kernels is None else x.shape[0] == 1 or x.stride(0) == 0:
        finite("x", x[0], readable=kernels is not None)
        return x
    if x.is_cuda and value_checks_cache.is_noted(x):
        return x
    spikes, seen_finite = pack_and_look(x, kernels)
    if spikes is None and not seen_finite:
        finite("x", x, readable=kernels is not None)
    return x if spikes is None else spikes


def frames(x: Any) -> Any:
    """Event frames [T, N, ...] of bool or integers become Spikes if they are 0 and 1, otherwise float32.

    An integer is the number of events of its pixel and step. Inputs of any other kind are returned as they are.
    """
    x = packed(x)
    if not isinstance(x, Tensor):
        return x
    strided("x", x)
    if x.is_floating_point():
        return x
    real("x", x)
    looked_at = x.dtype == torch.bool or can_be_read(x)
    spikes = pack_if_binary(x) if x.ndim > 1 and len(x) and looked_at else None
    return counts(x) if spikes is None else spikes


def counts(x: Tensor) -> Tensor:
    """Event counts [T, N, ...], or values of float16, as float32; constant ones stay constant."""
    return repeated(x[0].float(), len(x)) if x.ndim > 1 and is_repeated(x) else x.float()


def steps_of(x: Spikes | Tensor, ndim: int | None, shape: str) -> None:
    """The input of a layer that takes spikes and values; ``ndim`` None: three dimensions or more."""
    if not isinstance(x, Spikes | Tensor):
        raise TypeError(f"x must be Spikes or a tensor {shape}, got {type(x).__name__}")
    whole("x", x)
    if len(x.shape) < 3 or ndim not in (None, len(x.shape)):
        raise ValueError(f"x must have the shape {shape}, got {list(x.shape)}{_held(x, ndim or 3)}")


def whole(name: str, x: Spikes | Tensor) -> None:
    """Spikes, or a tensor that holds all its values. Packed ones are not unpacked for the check."""
    if isinstance(x, Tensor) and not isinstance(x, SpikeTensor):
        strided(name, x)


def _held(x: Spikes | Tensor, ndim: int) -> str:
    """The hint for an input that lacks the dimension of steps, or has more than features; else an empty string."""
    if ndim == 3 < len(x.shape):
        return "; proxykernels.Flatten() in front of the layer, or x.flatten(2), makes features of the last dimensions"
    if isinstance(x, Spikes) or x.ndim != ndim - 1:
        return ""
    return (
        "; without steps it is a constant input: proxykernels.simulate(net, x, T) runs a network on it for T "
        "steps, and x.expand(T, *x.shape) repeats it"
    )


def currents(current: Tensor, leading: str) -> None:
    """Input currents of neurons, of the shape [T, N, ...] or [N, ...]; ``leading`` names the leading dimensions."""
    not_traced()
    if isinstance(current, Spikes):
        raise TypeError("current must be a float tensor, got Spikes; .dense() makes them currents of 0 and 1")
    floating("current", current)
    names = leading.split(", ")
    if current.ndim < len(names) or (names[0] == "T" and current.shape[0] < 1):
        raise ValueError(f"current must have the shape [{leading}, ...] with T >= 1, got {list(current.shape)}")
    if not value_checks_cache.is_noted(current):
        finite("current", current)


def parameters(
    weight: Tensor, bias: Tensor | None, ndim: int, shape: str, device: torch.device, *, look: bool = True
) -> None:  # fmt: skip
    """Weights and biases of a layer; ``look``: also at their values, on a GPU. A CPU checks them when it packs them."""
    given = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    for name, values in given.items():
        plain = type(values) in (Tensor, nn.Parameter) and values.layout == torch.strided and not values.is_nested
        if not (plain and values.dtype == torch.float32 and values.device == device):  # skipped in the usual case
            floating(name, values)
            same_device(name, values, device)
    if weight.ndim != ndim or 0 in weight.shape:
        raise ValueError(f"weight must have the shape {shape}, got {list(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must have the shape [{weight.shape[0]}], one for each output, got {list(bias.shape)}")
    if look and weight.is_cuda:
        _known_finite("weight", weight)
        if bias is not None:
            _known_finite("bias", bias)


def features(shape: Sequence[int], weight: Tensor) -> None:
    """Check the shape [T, N, features] of the inputs of a matrix product by weights [out, in]."""
    if shape[2] != weight.shape[1]:
        raise ValueError(
            f"x must have {weight.shape[1]} features, as weights {list(weight.shape)} take them, got {shape[2]}"
        )


def _known_finite(name: str, values: Tensor) -> None:
    """Parameters without NaN and infinity, checked once per version of a tensor."""
    if can_be_read(values) and not value_checks_cache.look_once(is_finite, values):
        refuse_infinite(name, values)


def room(T: int, shape: Sequence[int], device: torch.device) -> None:
    """The spikes and potentials of neurons of ``shape`` [N, ...] must fit the memory."""
    if torch.compiler.is_compiling():
        return
    channels = shape[1] if len(shape) > 1 else 1
    bits = T * math.ceil(channels / 8) * 8 / max(channels, 1) if device.type == "cpu" else math.ceil(T / 32) * 32
    needed, there = math.prod(shape) * (4 + bits / 8), memory(device)
    if needed > there:
        raise ValueError(
            f"T = {T} steps of {list(shape)} neurons take {needed / 2**30:.3g} GiB for spikes and potentials, and "
            f"{device} has {there / 2**30:.3g} GiB; take fewer steps or samples at a time"
        )


@cache
def memory(device: torch.device) -> float:
    """Bytes of memory that a device has; infinity where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    known = device.type == "cpu" and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else math.inf
