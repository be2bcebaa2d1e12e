"""Checks of tensors and numbers. Each error names the argument, what was expected and what it got."""

import ctypes
import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels import value_checks_cache
from ..kernels.value_checks_cache import can_be_read
from ..kernels.weight_layouts import fault, is_finite

if TYPE_CHECKING:
    from typing_extensions import TypeIs

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
