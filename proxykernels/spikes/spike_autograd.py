"""Gradients of packed spikes, for which no dense spikes exist.

In addition to its words, such a Spikes has a handle: a float32 tensor [T, N, P, C], one element repeated without a
copy, that autograd tracks. Its values have no meaning; its gradient is the gradient of the spikes, in the order of the
kernels (channels last). A function from Spikes to Spikes passes the handle on by one of the functions below.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from ..kernels import ops
from ..kernels.value_checks_cache import nobody_follows
from .storage import to_channels_last


def new_handle(shape: Sequence[int], device: torch.device) -> Tensor:
    """A handle [T, N, P, C] without a history."""
    return torch.empty((), dtype=torch.float32, device=device).expand(*shape)


class Function(torch.autograd.Function):
    """An autograd function that also works with torch.func."""

    generate_vmap_rule = True

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]  # torch asks for it at each call

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing to keep."""


def applied(function: type[Function], *operands: Any) -> Any:
    """``function.apply(*operands)``. If no transform of torch.func is active, skips torch's search for one and for
    default values, which takes longer than a small layer."""
    if not nobody_follows():
        return function.apply(*operands)
    return super(torch.autograd.Function, function).apply(*unwrap_dead_wrappers(operands))  # type: ignore[misc]


class _OnHandle(Function):
    """Base of functions of handles. The first argument is a handle, the others are what the backward pass needs.

    Backward passes are linear and made of torch operations, so derivatives of any order pass through them.
    """


class Pack(_OnHandle):
    """The handle of spikes that were packed from a tensor (T, N, ...)."""

    @staticmethod
    def forward(dense: Tensor) -> Tensor:
        return new_handle(to_channels_last(dense, 2).shape, dense.device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        (dense,) = inputs
        ctx.shape, ctx.dtype = dense.shape, dense.dtype

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.transpose(2, 3).reshape(ctx.shape).to(ctx.dtype)


class Dense(_OnHandle):
    """The spikes as a tensor (T, N, ...) of 0 and 1."""

    @staticmethod
    def forward(handle: Tensor, words: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        T, _, _, C = handle.shape
        return ops.unpack(words, T, C, dtype).view(shape)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return to_channels_last(gradient.float(), 2), None, None, None


class Integers(_OnHandle):
    """What neurons that fire several times in a step give, [T, N, P, C]."""

    @staticmethod
    def forward(handle: Tensor, values: Tensor) -> Tensor:
        return values.view(values.shape)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.float(), None


class Count(_OnHandle):
    """The number of spikes of each neuron in the first steps, float32 [N, ...]."""

    @staticmethod
    def forward(handle: Tensor, words: Tensor, shape: tuple[int, ...], until: int) -> Tensor:
        return ops.count(words, handle.shape[3], until).view(shape[1:]).float()

    @staticmethod
    def setup_context(ctx, inputs, output):
        handle, _, _, ctx.until = inputs
        ctx.T = handle.shape[0]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        each = to_channels_last(gradient)
        after = each.new_zeros(()).expand(ctx.T - ctx.until, *each.shape)
        each = each.expand(ctx.until, *each.shape)
        return torch.cat([each, after]) if len(after) else each, None, None, None


class Masked(_OnHandle):
    """The handle after all neurons except those in ``chosen``, bool [N, C, P], were silenced."""

    @staticmethod
    def forward(handle: Tensor, chosen: Tensor) -> Tensor:
        return new_handle(handle.shape, handle.device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.saved_tensors[0].transpose(1, 2), None


class MaxPool(_OnHandle):
    """The handle after max pooling; the gradient of a window goes to the first pixel that fired, or to the first."""

    @staticmethod
    def forward(handle: Tensor, words: Tensor, size, out_size, windows: tuple) -> Tensor:
        T, N, _, C = handle.shape
        return new_handle((T, N, out_size[0] * out_size[1], C), handle.device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, words, ctx.size, _, ctx.windows = inputs
        ctx.save_for_backward(words)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (words,) = ctx.saved_tensors
        return _MaxPoolBack.apply(gradient, words, ctx.size, ctx.windows), None, None, None, None


class _MaxPoolBack(Function):
    """The gradient [T, N, P, C] of max pooling's input, from the gradient of its output."""

    @staticmethod
    def forward(gradient: Tensor, words: Tensor, size, windows: tuple) -> Tensor:
        return ops.max_pool2d_backward(words, gradient, size, *windows)

    @staticmethod
    def setup_context(ctx, inputs, output):
        gradient, words, size, windows = inputs
        ctx.save_for_backward(words)
        ctx.windows, ctx.shape = windows, (*output.shape[:2], output.shape[3], *size)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """For each window, the value at the pixel that its gradient went to. Like torch, the first of the largest."""
        (words,), (T, N, C, *size) = ctx.saved_tensors, ctx.shape
        spikes = ops.unpack(words, T, C, torch.float32).view(T * N, C, *size)
        _, chosen = F.max_pool2d(spikes, *ctx.windows, return_indices=True)
        values = gradient.flatten(0, 1).transpose(1, 2).gather(2, chosen.flatten(2))
        return values.transpose(1, 2).unflatten(0, (T, N)), None, None, None


class Flatten(_OnHandle):
    """The handle after flattening: P pixels of C channels become one pixel of C * P channels, in torch's order."""

    @staticmethod
    def forward(handle: Tensor) -> Tensor:
        T, N, P, C = handle.shape
        return new_handle((T, N, 1, C * P), handle.device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.P = inputs[0].shape[2]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.squeeze(2).unflatten(2, (-1, ctx.P)).transpose(2, 3)


class Chosen(_OnHandle):
    """The handle after a selection of samples (``dim`` 1) or pixels (2), ``index`` int64 [n]."""

    @staticmethod
    def forward(handle: Tensor, dim: int, index: Tensor) -> Tensor:
        shape = list(handle.shape)
        shape[dim] = len(index)
        return new_handle(shape, handle.device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        handle, ctx.dim, index = inputs
        ctx.save_for_backward(index)
        ctx.shape = handle.shape

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.new_zeros(ctx.shape).index_add(ctx.dim, ctx.saved_tensors[0], gradient), None, None


class Placed(_OnHandle):
    """The handle after pixels were placed at ``index``, int64 [p], of an image of P pixels."""

    @staticmethod
    def forward(handle: Tensor, index: Tensor, P: int) -> Tensor:
        return new_handle((*handle.shape[:2], P, handle.shape[3]), handle.device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient.index_select(2, ctx.saved_tensors[0]), None, None


class Cat(_OnHandle):
    """The handle after concatenation along the steps (0), samples (1) or channels (3)."""

    @staticmethod
    def forward(dim: int, *handles: Tensor) -> Tensor:
        shape = list(handles[0].shape)
        shape[dim] = sum(handle.shape[dim] for handle in handles)
        return new_handle(shape, handles[0].device)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dim, *handles = inputs
        ctx.sizes = [handle.shape[ctx.dim] for handle in handles]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return None, *gradient.split(ctx.sizes, ctx.dim)


def joined(dim: int, parts: Sequence[Any]) -> Tensor | None:
    """The handle of Spikes concatenated along steps (0), samples (1) or channels (3); None if none has a gradient."""
    if not any(part.requires_grad for part in parts):
        return None
    return Cat.apply(dim, *(part._handle_or_new() for part in parts))
