"""Spikes that carry a gradient, though no dense spikes exist.

Beside its words such a Spikes has a handle: a float32 tensor [T, N, P, C] of one element, repeated without a copy,
which autograd knows. Its values mean nothing; the gradient that it is given is that of the spikes, in the order of the
kernels (channels last). What takes Spikes and gives Spikes takes the handle on by one of the functions below.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ops
from .channels_last import to_channels_last


def new_handle(shape: Sequence[int], device: torch.device) -> Tensor:
    """A handle [T, N, P, C] without a history."""
    return torch.zeros((), device=device).expand(*shape)


class _OnHandle(torch.autograd.Function):
    """What all functions of handles share: a handle first, then what their backward pass needs besides it."""

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError("spikes have a surrogate gradient in reverse mode only")


class Pack(_OnHandle):
    """The handle of spikes packed of a tensor (T, N, ...)."""

    @staticmethod
    def forward(ctx, dense: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = dense.shape, dense.dtype
        return new_handle(to_channels_last(dense, 2).shape, dense.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient.transpose(2, 3).reshape(ctx.shape).to(ctx.dtype)


class Dense(_OnHandle):
    """The spikes as a tensor (T, N, ...) of 0 and 1."""

    @staticmethod
    def forward(ctx, handle: Tensor, words: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        T, _, _, C = handle.shape
        return ops.unpack(words, T, C).view(shape).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return to_channels_last(gradient.float(), 2), None, None, None


class Count(_OnHandle):
    """Spikes of each neuron before a step, float32 [N, ...]."""

    @staticmethod
    def forward(ctx, handle: Tensor, words: Tensor, shape: tuple[int, ...], until: int) -> Tensor:
        ctx.T, ctx.until = handle.shape[0], until
        return ops.count(words, handle.shape[3], until).view(shape[1:]).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        each = to_channels_last(gradient)
        each = each.expand(ctx.T, *each.shape)
        if ctx.until < ctx.T:
            each = each.clone()
            each[ctx.until :] = 0
        return each, None, None, None


class Masked(_OnHandle):
    """The handle of the spikes of some neurons, bool [N, C, P], alone."""

    @staticmethod
    def forward(ctx, handle: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(chosen)
        return new_handle(handle.shape, handle.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.saved_tensors[0].transpose(1, 2), None


class MaxPool(_OnHandle):
    """The handle after max pooling; the gradient of a window goes to the first pixel that fired, or to the first."""

    @staticmethod
    def forward(ctx, handle: Tensor, words: Tensor, size, out_size, windows: tuple) -> Tensor:
        ctx.save_for_backward(words)
        ctx.size, ctx.windows = size, windows
        T, N, _, C = handle.shape
        return new_handle((T, N, out_size[0] * out_size[1], C), handle.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (words,) = ctx.saved_tensors
        return ops.max_pool2d_backward(words, gradient, ctx.size, *ctx.windows), None, None, None, None


class Flatten(_OnHandle):
    """P pixels of C channels as one pixel of C * P channels, in the order of torch's flatten."""

    @staticmethod
    def forward(ctx, handle: Tensor) -> Tensor:
        T, N, ctx.P, C = handle.shape
        return new_handle((T, N, 1, C * ctx.P), handle.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient.squeeze(2).unflatten(2, (-1, ctx.P)).transpose(2, 3)


class Pixels(_OnHandle):
    """The pixels ``index`` int64 [p]."""

    @staticmethod
    def forward(ctx, handle: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = handle.shape
        return new_handle((*handle.shape[:2], len(index), handle.shape[3]), handle.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient.new_zeros(ctx.shape).index_add_(2, ctx.saved_tensors[0], gradient), None


class Placed(_OnHandle):
    """P pixels, of which those at ``index`` int64 [p] were there before."""

    @staticmethod
    def forward(ctx, handle: Tensor, index: Tensor, P: int) -> Tensor:
        ctx.save_for_backward(index)
        return new_handle((*handle.shape[:2], P, handle.shape[3]), handle.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return gradient.index_select(2, ctx.saved_tensors[0]), None, None


class Cat(_OnHandle):
    """Several handles one after another, along the steps (0) or the channels (3)."""

    @staticmethod
    def forward(ctx, dim: int, *handles: Tensor) -> Tensor:
        ctx.dim, ctx.sizes = dim, [handle.shape[dim] for handle in handles]
        shape = list(handles[0].shape)
        shape[dim] = sum(ctx.sizes)
        return new_handle(shape, handles[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return None, *gradient.split(ctx.sizes, ctx.dim)


def joined(dim: int, parts: Sequence[Any]) -> Tensor | None:
    """The handle of Spikes ``parts`` joined along steps (0) or channels (3); None if none of them has a gradient."""
    if not any(part.requires_grad for part in parts):
        return None
    return Cat.apply(dim, *(part._handle_or_new() for part in parts))
