"""The backward passes that torch computes: of a convolution's input and weights, and of max pooling.

Gradients of currents are [T, N, P, C], as the scan backward gives them. On a GPU they are convolved in the precision
that torch's settings ask for (``torch.backends``, TF32 by default), and in their own type, which is autocast's where
the forward pass was under it: unlike currents, gradients decide no spike.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .unfused import output_size, pad_beyond_kernel


def _images(x: Tensor, size: Sequence[int]) -> Tensor:
    """[T, N, P, C] as images [T * N, C, H, W] of ``size`` (H, W), channels last in memory."""
    return x.flatten(0, 1).unflatten(1, tuple(size)).movedim(-1, 1)


def _pixels(images: Tensor, steps: int) -> Tensor:
    """The inverse of :func:`_images`."""
    return images.movedim(1, -1).flatten(1, 2).unflatten(0, (steps, -1))


def conv2d_input_gradient(grad_current: Tensor, weight: Tensor, size, stride, padding, dilation, groups) -> Tensor:
    """The gradient of a convolution's input, [T, N, P_in, C_in], in the type of that of its currents.

    Args:
        grad_current: [T, N, P_out, C_out]. weight: [C_out, C_in / groups, kernel_h, kernel_w]. size: (H, W) of the
            input. stride, padding, dilation: pairs.
    """
    T, N, P, _ = grad_current.shape
    weight, kernel, C_in = weight.detach().to(grad_current.dtype), weight.shape[2:], weight.shape[1] * groups
    if not grad_current.numel():
        return grad_current.new_zeros(T, N, size[0] * size[1], C_in)
    if groups == P == size[0] * size[1] == kernel[0] * kernel[1] == 1:
        return grad_current @ weight.flatten(1)
    beyond = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    if min(beyond) < 0:  # windows in the padding alone, where oneDNN reads and writes memory that is not its own
        padded = [n + 2 * p for n, p in zip(size, padding, strict=True)]
        whole = conv2d_input_gradient(grad_current, weight, padded, stride, (0, 0), dilation, groups)
        inside = whole.unflatten(2, padded)[:, :, padding[0] :, padding[1] :]
        return inside[:, :, : size[0], : size[1]].flatten(2, 3)
    images = _images(grad_current, output_size(size, kernel, stride, padding, dilation))
    with torch.autocast(grad_current.device.type, enabled=False):
        if groups == 1 and tuple(stride) == (1, 1) and grad_current.is_cpu:
            # The convolution by the turned kernel: oneDNN's passes forward are faster than those back.
            turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            return _pixels(F.conv2d(images, turned, None, 1, beyond, dilation), T).contiguous()
        x = grad_current.new_empty(1).expand(T * N, C_in, *size)
        weight = weight.contiguous(memory_format=torch.channels_last)
        gradients = torch.ops.aten.convolution_backward(
            images, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )
    return _pixels(gradients[0], T).contiguous()


def conv2d_weight_gradient(x: Tensor, grad_current: Tensor, weight_shape, stride, padding, dilation, groups) -> Tensor:
    """The gradient of a convolution's weights, of dense inputs x [T, N, C_in, H, W], in the type of that of its
    currents."""
    if not x.numel() or not grad_current.numel():
        return grad_current.new_zeros(weight_shape)
    size, kernel, x = x.shape[3:], weight_shape[2:], x.to(grad_current.dtype)
    if groups == size[0] * size[1] == kernel[0] * kernel[1] == grad_current.shape[2] == 1:
        return (grad_current.flatten(0, 2).t() @ x.flatten(2).flatten(0, 1))[..., None, None]
    images = _images(grad_current, output_size(size, kernel, stride, padding, dilation))
    with torch.autocast(x.device.type, enabled=False):
        x, padding = pad_beyond_kernel(x.flatten(0, 1), kernel, padding, dilation)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = x.new_empty(1).expand(*weight_shape)
        return torch.ops.aten.convolution_backward(
            images, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False]
        )[1].contiguous()


def max_pool2d_backward(spikes: Tensor, grad: Tensor, kernel_size, stride, padding) -> Tensor:
    """The gradient of max pooling's input, float32 [T, N, P, C], of dense spikes [T, N, C, H, W].

    It goes to the first pixel of a window that fired; if none did, to the first.

    Args:
        grad: of the pooled spikes, [T, N, P_out, C].
    """
    T, N = grad.shape[:2]
    if not spikes.numel():
        return grad.new_zeros(T, N, spikes.shape[3] * spikes.shape[4], spikes.shape[2])
    images, windows = spikes.flatten(0, 1).float(), (kernel_size, stride, padding, (1, 1), False)
    pooled, indices = torch.ops.aten.max_pool2d_with_indices(images, *windows)
    grad = _images(grad, pooled.shape[2:]).contiguous()
    gradient = torch.ops.aten.max_pool2d_with_indices_backward(grad, images, *windows, indices)
    return _pixels(gradient, T).contiguous()
