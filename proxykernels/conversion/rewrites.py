"""Modules of torch written as others that spikes have a layer for."""

from typing import Any

import torch
from torch import nn

from .. import layers


def norm_as_convolution(norm: Any, ndim: int) -> nn.Module:
    """A normalisation by running statistics, which no convolution stands before, of inputs of so many dimensions."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps) * (1.0 if norm.weight is None else norm.weight.double())
    shift = -norm.running_mean.double() * scale + (0.0 if norm.bias is None else norm.bias.double())
    module = scaled_identity(len(scale), ndim)
    with torch.no_grad():
        module.weight.mul_(scale.to(module.weight.dtype).view(-1, *[1] * (module.weight.ndim - 1)))
    module.bias = nn.Parameter(shift.detach().float())
    return module


def scaled_identity(channels: int, ndim: int) -> Any:
    """A module whose weights of 1 can be scaled, for inputs [N, channels, ...] of ``ndim`` dimensions."""
    if ndim == 2:
        module: Any = nn.Linear(channels, channels, bias=False)
        weight = torch.eye(channels)
    else:
        module = (nn.Conv1d if ndim == 3 else nn.Conv2d)(channels, channels, 1, groups=channels, bias=False)
        weight = torch.ones_like(module.weight)
    module.weight = nn.Parameter(weight)
    return module


def stuffed(transposed: Any) -> nn.Module:
    """What an nn.ConvTranspose2d does to its input: zeros between the pixels, and around them."""
    spans = [d * (k - 1) for k, d in zip(transposed.kernel_size, transposed.dilation, strict=True)]
    padding = [span - p for span, p in zip(spans, transposed.padding, strict=True)]
    if min(padding) < 0:
        raise ValueError(f"padding must be at most dilation (kernel_size - 1), got {transposed.padding}")
    after = [p + extra for p, extra in zip(padding, transposed.output_padding, strict=True)]
    around = padding[1], after[1], padding[0], after[0]
    return layers.ZeroPad2d(around, (transposed.stride[0], transposed.stride[1]))


def as_convolution(transposed: Any) -> nn.Conv2d:
    """The convolution of what :func:`stuffed` gives."""
    if transposed.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {transposed.padding_mode!r}")
    t, groups = transposed, transposed.groups
    convolution = nn.Conv2d(
        t.in_channels, t.out_channels, t.kernel_size, dilation=t.dilation, groups=groups, bias=t.bias is not None
    )
    weight = t.weight.detach().unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
    convolution.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if t.bias is not None:
        convolution.bias = nn.Parameter(t.bias.detach().clone())
    return convolution
