"""The operators of torch that a network's own forward pass may use between its layers.

Each has a function for Spikes (spikes.py), and one for what stands for Spikes while a forward pass is followed
(plan/followed_values.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OPERATORS: dict[str, tuple[Callable, ...]] = {
    "add": (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    "sub": (torch.sub, Tensor.sub, Tensor.__sub__),
    "rsub": (torch.rsub, Tensor.__rsub__),
    "mul": (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    "div": (torch.div, Tensor.div, Tensor.__truediv__),
    "cat": (torch.cat, torch.concat, torch.concatenate),
    "flatten": (torch.flatten, Tensor.flatten),
    "reshape": (torch.reshape, Tensor.reshape, Tensor.view),
}


def by_torch(**functions: Callable) -> dict[Callable, Callable]:
    """torch's functions -> the one of their operator, by its name in OPERATORS."""
    return {spelled: function for name, function in functions.items() for spelled in OPERATORS[name]}


class Arithmetic:
    """Python's operators as torch's functions."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]  # which __torch_function__ takes

    def __radd__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    def __sub__(self, other: Any) -> Any:
        return torch.sub(self, other)  # type: ignore[call-overload]

    def __rsub__(self, other: Any) -> Any:
        return torch.rsub(self, other)  # type: ignore[call-overload]

    def __mul__(self, factor: Any) -> Any:
        return torch.mul(self, factor)  # type: ignore[arg-type]

    def __rmul__(self, factor: Any) -> Any:
        return torch.mul(self, factor)  # type: ignore[arg-type]

    def __truediv__(self, divisor: Any) -> Any:
        return torch.div(self, divisor)  # type: ignore[arg-type]

    def __neg__(self) -> Any:
        return torch.mul(self, -1)  # type: ignore[arg-type]


def no_tensor(name: str) -> str:
    """The error for a torch function that does not take spikes; it names what does."""
    use = COUNTERPARTS.get(name, "a layer of this package, or .dense(), which is a tensor of 0 and 1")
    return f"torch's {name} takes tensors, and got Spikes; use {use}"


COUNTERPARTS = {  # torch function -> its counterpart for spikes
    "conv2d": "FusedIFConv2d",
    "conv1d": "FusedIFConv1d",
    "linear": "FusedIFLinear",
    "flatten": "proxykernels.Flatten",
    "max_pool2d": "proxykernels.MaxPool2d",
    "max_pool1d": "proxykernels.layers.MaxPool1d",
    "avg_pool1d": "proxykernels.layers.AvgPool1d",
    "adaptive_avg_pool1d": "proxykernels.layers.AdaptiveAvgPool1d",
    "avg_pool2d": "proxykernels.AvgPool2d",
    "adaptive_avg_pool2d": "proxykernels.AdaptiveAvgPool2d",
    "relu": "no ReLU at all: neurons stand in its place, and convert makes a spiking network of a ReLU network",
    "dim": "len(spikes.shape), or the layer of this package in place of the module that asks: FusedIFConv2d(..., "
    "batch_norm=True) of an nn.BatchNorm2d, MaxPool2d of another library's",
    "batch_norm": "FusedIFConv2d(..., batch_norm=True)",
    "dropout": "proxykernels.Dropout, which drops the same units at every step",
}
