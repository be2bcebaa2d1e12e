"""What the functions of functional.py accept: each check names the argument, what was expected and what it got."""

import math
import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .kernels import cpu
from .kernels.weight_layouts import is_finite, require_finite
from .spikes import Spikes, is_binary, pack

if TYPE_CHECKING:
    from typing_extensions import TypeIs


@contextmanager
def at(place: str) -> Iterator[None]:
    """Errors say where: "node 'conv1': ..."."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        raise type(error)(f"{place}: {error}") from error


def steps(T: int) -> int:
    """A number of time steps."""
    if not _is_integer(T):
        raise TypeError(f"T must be an integer number of steps, got {T!r}")
    if T < 1:
        raise ValueError(f"T must be at least 1 step, got {T}")
    return int(T)


def neuron(v_threshold: float | Tensor, v_reset: float | None) -> None:
    """The threshold (positive) and the reset potential (below it, or None)."""
    if isinstance(v_threshold, Tensor):
        if not v_threshold.is_floating_point() or v_threshold.ndim > 1 or not v_threshold.numel():
            raise TypeError(
                "v_threshold must be a number or a float tensor [C] of one threshold a channel, got "
                f"{v_threshold.dtype} {list(v_threshold.shape)}"
            )
        if v_threshold.is_meta or torch.compiler.is_compiling():  # a shape without values
            return
        lowest, highest = (float(v) for v in v_threshold.detach().aminmax())
    elif not _is_number(v_threshold):
        raise TypeError(f"v_threshold must be a number or a tensor [C], got {v_threshold!r}")
    else:
        lowest = highest = float(v_threshold)
    if not (lowest > 0 and highest < math.inf):  # comparisons, which a compiled graph can guard
        raise ValueError(f"v_threshold must be positive and finite, got {lowest if not lowest > 0 else highest}")
    if v_reset is None:
        return
    if not _is_number(v_reset):
        raise TypeError(f"v_reset must be a number (hard reset) or None (soft reset), got {v_reset!r}")
    if not -math.inf < v_reset < lowest:
        raise ValueError(
            f"v_reset must be finite and below v_threshold = {lowest:g}, or a neuron would fire for ever; got {v_reset}"
        )


def thresholds(v_threshold: float | Tensor, channels: int, device: torch.device) -> Tensor:
    """The threshold of each channel: float32 [channels]."""
    if not isinstance(v_threshold, Tensor):
        return torch.full((channels,), float(v_threshold), device=device)
    if v_threshold.ndim == 1:
        same_device("v_threshold", v_threshold, device)
        if len(v_threshold) != channels:
            raise ValueError(f"v_threshold must have one value for each of {channels} channels, got {len(v_threshold)}")
    return v_threshold.detach().to(device, torch.float32).expand(channels)


def no_gradient(name: str, value: float | Tensor) -> None:
    """A tensor that nothing here would give a gradient must not ask for one."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} requires a gradient, and nothing gives thresholds one; pass {name}.detach()")


def module(name: str, module: nn.Module) -> None:
    """A model of torch."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")


def start(name: str, v: float) -> None:
    """One potential that all neurons start from."""
    if not _is_number(v):
        raise TypeError(f"{name} must be a number, got {v!r}")
    if not -math.inf < v < math.inf:
        raise ValueError(f"{name} must be finite, got {v}")


def potentials(v: Tensor | float | None, shape: Sequence[int], device: torch.device) -> None:
    """A state: the potentials that the neurons start from."""
    if v is None:
        return
    if _is_number(v):
        start("v", v)
        return
    floating("v", v)
    same_device("v", v, device)
    if tuple(v.shape) != tuple(shape):
        raise ValueError(f"v must have the shape of the neurons, {list(shape)}, got {list(v.shape)}")
    finite("v", v)


def sequence(x: Spikes | Tensor, ndim: int, shape: str) -> Spikes | Tensor:
    """A layer's input [T, N, ...]: spikes stay spikes; a tensor of 0 and 1 becomes spikes where a CPU gains by it."""
    if not isinstance(x, Spikes | Tensor):
        raise TypeError(f"x must be Spikes or a tensor {shape}, got {type(x).__name__}")
    if len(x.shape) != ndim:
        raise ValueError(f"x must have the shape {shape}, got {list(x.shape)}")
    if isinstance(x, Spikes):
        return x
    if x.shape[0] < 1:
        raise ValueError(f"x must have at least one step, shape {shape}, got {list(x.shape)}")
    if not x.is_floating_point():
        if not is_binary(x):
            raise TypeError(f"x of dtype {x.dtype} must be spikes of 0 and 1; real values must be floating point")
        return pack(x)
    if torch.compiler.is_compiling():  # values are not there to see: a tensor is taken as real values
        return x
    if not is_held(x) and x.device.type == "cpu" and is_binary(x):
        return pack(x)
    finite("x", x[0] if is_held(x) else x)
    return x


def is_held(x: Tensor) -> bool:
    """Whether x [T, N, ...] is one step repeated without a copy, as ``image.expand(T, ...)`` makes it.

    Nothing is while a graph is exported: it must be right for other inputs too, and nothing guards their strides.
    """
    if torch.compiler.is_exporting():
        return False
    return x.shape[0] == 1 or x.stride(0) == 0


def currents(current: Tensor, leading: str) -> None:
    """Input currents of neurons, of the shape [T, N, ...] or [N, ...]; ``leading`` names the leading dimensions."""
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
    if bias is None:
        return
    floating("bias", bias)
    same_device("bias", bias, device)
    if tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must have the shape [{weight.shape[0]}], one for each output, got {list(bias.shape)}")
    if device.type == "cpu" and not torch.compiler.is_compiling():  # a GPU would have to be waited for
        require_finite("bias", bias)


def pair(name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    """A window's height and width, each at least ``least``."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(values) != 2 or not all(_is_integer(v) for v in values):
        raise TypeError(f"{name} must be an integer or two of them, got {value!r}")
    if min(values) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
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


def same_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """All tensors of a call live on one device."""
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device} and the input on {device}; move it with .to('{device}')")


def floating(name: str, tensor: Tensor) -> None:
    """A tensor of real numbers."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}; convert it with .float()")


def finite(name: str, tensor: Tensor) -> None:
    """No NaN and no infinity. Not looked at while a graph is captured or traced, where values are not there to see."""
    if torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    if tensor.device.type == "cpu":
        cpu.check_threads()
    if not is_finite(tensor):
        raise ValueError(f"{name} must be finite, and holds NaN or infinite values")


def _is_integer(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value) -> "TypeIs[float]":
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
