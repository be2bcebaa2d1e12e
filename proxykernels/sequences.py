"""Inputs over time: sequences (T, N, ...), constant inputs, and the frames [N, T, ...] of loaders."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .layers import (
    AdaptiveAvgPool1d,
    AvgPool1d,
    Channels,
    Concatenate,
    Delay,
    Dropout,
    FusedSum,
    MaxPool1d,
    MaxRatePool1d,
    Population,
    RunningMaxPool1d,
)
from .layers.layer_graph import LayerGraph, check_sample
from .spikes import Spikes

ONE_AXIS = nn.Conv1d, MaxPool1d, MaxRatePool1d, RunningMaxPool1d, AvgPool1d, AdaptiveAvgPool1d
DECIDING = nn.Conv2d, nn.Linear
ANY_SHAPE = Population, Dropout, Channels, Concatenate, Delay, nn.Identity
SAMPLES = {2: "features", 3: "C, L", 4: "C, H, W"}


def time_first(frames: Tensor) -> Tensor:
    """Event frames as loaders give them, [N, T, ...], as networks here take them, [T, N, ...]: a view, no copy.

    ``DataLoader`` stacks samples along a new first dimension, so recordings [T, C, H, W] (of tonic's ``ToFrame``, for
    example) come as [N, T, C, H, W]:

        for frames, labels in loader:
            counts = model(pk.time_first(frames))

    Args:
        frames: [N, T, C, H, W], [N, T, features] or any other [N, T, ...], of any dtype. In ``simulate``, ``ProxyNet``
            and layers, a bool is a spike, and an integer is as many events of its pixel and step: a current of that
            many times the weight, as if it were a float. (So frames of 0 and 1 are spikes in any dtype.)

    Returns:
        ``frames.transpose(0, 1)``, which shares its memory.

    Raises:
        TypeError: ``frames`` is no tensor; Spikes are (T, N, ...) already.
        ValueError: it has fewer than three dimensions.
    """
    if isinstance(frames, Spikes):
        raise TypeError(f"frames must be a tensor [N, T, ...], got Spikes, which are (T, N, ...) already: {frames}")
    if not isinstance(frames, Tensor):
        raise TypeError(
            f"frames must be a torch.Tensor [N, T, ...], got {type(frames).__name__}; torch.as_tensor makes one of an "
            "array"
        )
    checks.strided("frames", frames)
    if frames.ndim < 3:
        raise ValueError(f"frames must have the shape [N, T, features] or [N, T, C, H, W], got {list(frames.shape)}")
    return frames.transpose(0, 1)


def is_sequence(net: nn.Module, x: Tensor | Spikes, T: int) -> bool:
    """Whether x is a sequence of T steps, rather than a constant input.

    Of three and of four dimensions it may be either: a network whose first layer is a convolution or pooling along one
    axis takes [N, C, L], and one that was converted what it was calibrated with.
    """
    if not isinstance(x, Spikes):
        checks.real("x", x)
    dims, constant = len(x.shape), constant_dims(net)
    if dims in constant or dims - 1 in constant:
        check_sample(net, tuple(x.shape[1 if dims in constant and isinstance(x, Tensor) else 2 :]))
    if dims in (4, 5) and 4 in constant and (first := _first_convolution(net)) is not None:
        if wrong := checks.channels_last("x", tuple(x.shape), first.in_channels):
            raise ValueError(wrong)
    if dims in constant and isinstance(x, Tensor):
        if not x.is_floating_point():
            raise TypeError(
                f"x must be floating point, got {x.dtype} {list(x.shape)}, which is a constant input: convert it "
                f"with .float(). Integers are spikes and event counts in a sequence, {_shapes('T, N', constant)}"
            )
        return False
    if dims - 1 not in constant:
        raise ValueError(
            f"x must be a constant input, {_shapes('N', constant)}, or a sequence, {_shapes('T, N', constant)}; "
            f"got {list(x.shape)}"
        )
    if x.shape[0] != T:
        loader = isinstance(x, Tensor) and x.shape[1] == T
        remedy = "; if it is [N, T, ...], as a DataLoader gives it, pass proxykernels.time_first(x)" if loader else ""
        raise ValueError(f"x is a sequence of {x.shape[0]} steps, and T is {T}{remedy}")
    if isinstance(x, Tensor) and x.shape[1] == T > 1 and x.stride(0) >= x.stride(1) > 0:  # no view by time_first
        warnings.warn(
            f"x {list(x.shape)} has as many steps as samples, {T}, and is taken for [T, N, ...]; if it is [N, T, ...], "
            "as a DataLoader gives it, pass proxykernels.time_first(x)",
            stacklevel=3,
        )
    return True


def constant_dims(net: nn.Module) -> tuple[int, ...]:
    """How many dimensions a constant input of a network may have: [N, features], [N, C, L] or [N, C, H, W]."""
    if getattr(net, "input_dims", None):
        return (net.input_dims,)  # type: ignore[return-value]  # torch's modules are annotated as full of modules
    for module in _first(net):
        module = module.synapses[0] if isinstance(module, FusedSum) else module
        if isinstance(module, ONE_AXIS):
            return 2, 3
        if isinstance(module, DECIDING) or (not module._modules and not isinstance(module, ANY_SHAPE)):
            break
    return 2, 4


def _first_convolution(net: nn.Module) -> nn.Conv2d | None:
    """What takes a network's images, if it is a convolution."""
    for module in _first(net):
        module = module.synapses[0] if isinstance(module, FusedSum) else module
        if isinstance(module, nn.Conv2d):
            return module
        if isinstance(module, DECIDING) or (not module._modules and not isinstance(module, ANY_SHAPE)):
            break
    return None


def _first(net: nn.Module) -> Iterator[Any]:
    """The layers that may take a network's input, or what others that take any shape make of it, in order."""
    if not isinstance(net, LayerGraph):
        yield from net.modules()  # in the order in which they were made, mostly that of the forward pass
        return
    taken = {LayerGraph.INPUT}
    for name, layer, sources in net.layers():
        if taken.intersection(sources):
            yield from layer.modules()
            taken |= {name} if isinstance(layer, ANY_SHAPE) else set()


def _shapes(leading: str, constant: tuple[int, ...]) -> str:
    return " or ".join(f"[{leading}, {SAMPLES.get(dims, '...')}]" for dims in constant)


def mean_over_time(x: Tensor) -> Tensor:
    """The mean over the steps of x [T, N, ...], float32 for integers and bool."""
    if checks.is_constant(x):
        return x[0] if x.is_floating_point() else x[0].float()
    if x.is_floating_point():
        return x.mean(0, dtype=torch.float32).to(x.dtype)
    total = torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device)
    for step in x:  # torch's mean would convert all steps at once
        total += step
    return total / len(x)
