"""Convolution and IF as two passes, a chunk of steps at a time: torch computes the currents, a scan fires the neurons.

For every case without a kernel of its own. Memory does not grow with T beyond the packed spikes.

Also the backward passes that torch computes: of a convolution's input and weights, and of max pooling. Gradients of
currents are [T, N, P, C], as the scan backward gives them. On a GPU they are convolved in the precision that torch's
settings ask for (``torch.backends``, TF32 by default), and in their own type, which is autocast's if the forward pass
was under autocast: unlike currents, gradients decide no spike.
"""

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import heap
from .neuron_models import Neuron
from .recording import Choice, note
from .value_checks_cache import is_plain
from .weight_cache import require_finite_weight
from .weight_layouts import is_finite, refuse_infinite

CONSTANT_INPUT, REAL_INPUT = Choice("dense", "constant input, convolved once"), Choice("dense", "real-valued input")
FEW_INPUTS = 64  # per neuron
CACHED_BYTES = 4 << 20  # float64 currents at a time, before they are rounded
CHUNK_BYTES = 64 << 20  # currents at a time: enough for full speed, and little compared with other memory
GPU_CHUNK_BYTES = 256 << 20
SMALL_BYTES = 32 << 20  # currents of a GPU for which nobody asks what is free
COPIES = 4  # of currents that a convolution needs: its input as floats, channels last, and cuDNN's own memory
_lock = threading.Lock()
_convolving: list[tuple[bool, str, str]] = []  # the original settings, once per thread inside


def output_size(size, kernel_size, stride, padding, dilation) -> tuple[int, int]:
    """Height and width of a convolution's or a pooling's output for an input of ``size`` (H, W)."""
    (H, W), (kernel_h, kernel_w), (dilation_h, dilation_w) = size, kernel_size, dilation
    height = (H + 2 * padding[0] - dilation_h * (kernel_h - 1) - 1) // stride[0] + 1
    return height, (W + 2 * padding[1] - dilation_w * (kernel_w - 1) - 1) // stride[1] + 1


def chunk_steps(neurons: int, device: torch.device) -> int:
    """The number of steps in a chunk of ``neurons`` float32 values per step; on a GPU a multiple of 32."""
    steps = max(1, CHUNK_BYTES // (4 * max(neurons, 1)))
    return steps if device.type == "cpu" else -(-steps // 32) * 32


def _samples_at_once(N: int, values: int, device: torch.device) -> int:
    """How many of N samples are convolved together, of ``values`` float32 values in a step of all: on a GPU as many as
    stay within GPU_CHUNK_BYTES, and within what is free, for 32 steps, which are the fewest of a chunk."""
    needed = 4 * 32 * values
    if device.type == "cpu" or needed <= SMALL_BYTES:
        return max(1, N)
    return max(1, min(N, int(N * min(GPU_CHUNK_BYTES, free_bytes(device) / COPIES) / needed)))


def free_bytes(device: torch.device) -> float:
    """What a GPU has free, with what torch keeps of it for later; infinity while a graph is captured."""
    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return math.inf
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def by_samples(run: Callable[[slice], Any], N: int, values: int, device: torch.device) -> list:
    """What ``run`` gives for all N samples, some at a time on a GPU: from where its memory is too small for them half
    as many, after a warning. ``values``: float32 values in a step of all samples."""
    first, parts = 0, list[Any]()
    some = at_first = _samples_at_once(N, values, device)
    while first < N or not parts:
        try:
            parts.append(run(slice(first, first + some) if some < N else slice(None)))
            first += some
        except torch.OutOfMemoryError:
            if some < at_first or some == 1:
                raise
            some = -(-some // 2)
            warnings.warn(
                f"{device} has no memory for a layer of {at_first} samples at a time, so it takes {some} at a time; "
                "a call with fewer samples needs less",
                RuntimeWarning,
                stacklevel=2,
            )
    return parts


def _of_all_samples(run: Callable[[slice], tuple[Tensor, Tensor]], v: Tensor, values: int) -> tuple[Tensor, Tensor]:
    """The words and states of all samples of ``v``, by :func:`by_samples`."""
    parts = by_samples(run, len(v), values, v.device)
    if len(parts) == 1:
        return parts[0]
    spikes, states = zip(*parts, strict=True)
    return torch.cat(spikes, 1), torch.cat(states)


def scan_chunks(backend, currents: Iterable[Tensor], v: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """Scan the chunks [t, N, P, C] one after another, passing on the states."""
    words, steps = [], []
    for current in currents:
        spikes, v = backend.if_scan(current, v, neuron)
        words.append(spikes)
        steps.append(current.shape[0])
        del current  # before the next one is made
    return backend.cat(words, steps), v


def if_conv2d(
    backend, words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups, shortcut=None
) -> tuple[Tensor, Tensor]:
    """Any convolution of packed spikes; arguments as in the backends' own if_conv2d."""
    weight, C_in = weight.float(), weight.shape[1] * groups
    values = max(v.numel(), len(v) * C_in * size[0] * size[1])

    def run(which: slice) -> tuple[Tensor, Tensor]:
        spikes, state = words[:, which], v[which]
        steps = chunk_steps(values * len(state) // max(len(v), 1), v.device)

        def currents(start: int) -> Tensor:
            stop = min(start + steps, T)
            x = backend.unpack(backend.cut(spikes, T, start, stop), stop - start, C_in)
            current = conv2d(x.unflatten(3, size), weight, bias, stride, padding, dilation, groups)
            if shortcut is not None:
                part = backend.cut(shortcut[:, which], T, start, stop)
                current += backend.unpack(part, stop - start, v.shape[-1]).transpose(2, 3)
            return current

        return scan_chunks(backend, map(currents, range(0, max(T, 1), steps)), state, neuron)

    return _of_all_samples(run, v, values)


def conv2d_currents(backend, words, T, N, size, weight, bias, stride, padding, dilation, groups) -> Tensor:
    """The currents [T, N, P_out, C_out] of any convolution of packed spikes of N images."""
    weight, C_in = weight.float(), weight.shape[1] * groups
    height, width = output_size(size, weight.shape[2:], stride, padding, dilation)
    currents = torch.empty(T, N, height * width, len(weight), dtype=torch.float32, device=words.device)
    values = N * max(C_in * size[0] * size[1], height * width * len(weight))

    def run(which: slice) -> None:
        spikes, filled = words[:, which], currents[:, which]
        steps = chunk_steps(values * filled.shape[1] // max(N, 1), words.device)
        for start in range(0, T, steps):
            stop = min(start + steps, T)
            x = backend.unpack(backend.cut(spikes, T, start, stop), stop - start, C_in).unflatten(3, size)
            filled[start:stop] = conv2d(x, weight, bias, stride, padding, dilation, groups)

    by_samples(run, N, values, words.device)
    return currents


def if_conv2d_real(backend, x, weight, bias, v, neuron, stride, padding, dilation, groups) -> tuple[Tensor, Tensor]:
    """Any convolution of real values x [T, N, C_in, H, W]; done once if x is one step repeated without a copy."""
    window = stride, padding, dilation, groups
    if x.stride(0) == 0:
        return backend.if_scan(conv2d(x[:1], weight, bias, *window)[0], v, neuron, x.shape[0])
    values = max(v.numel(), x[0].numel())

    def run(which: slice) -> tuple[Tensor, Tensor]:
        state = v[which]
        parts = x[:, which].split(chunk_steps(values * len(state) // max(len(v), 1), x.device))
        return scan_chunks(backend, (conv2d(part, weight, bias, *window) for part in parts), state, neuron)

    return _of_all_samples(run, v, values)


def _shaped(x, weight, bias, stride, padding, dilation, groups) -> Tensor:
    height, width = output_size(x.shape[3:], weight.shape[2:], stride, padding, dilation)
    return x.new_empty(*x.shape[:2], height * width, weight.shape[0], dtype=torch.float32)


def _operator(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make it an operator, since torch.compile cannot trace _full_float32. Not by torch.library.custom_op, since its
    first call imports torch._dynamo, which takes a second."""
    name, window = "proxykernels::conv2d", "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
    torch.library.define(name, f"(Tensor x, Tensor weight, Tensor? bias, {window}) -> Tensor")
    torch.library.impl(name, ("cpu", "cuda"), convolve)
    torch.library.register_fake(name, _shaped)

    @wraps(convolve)
    def launch(*operands):
        return convolve(*operands) if is_plain(operands) else torch.ops.proxykernels.conv2d(*operands)

    return launch


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Currents [T, N, P_out, C_out] of dense inputs [T, N, C_in, H, W]; channels last, which is a scan's order.

    They are computed in float32, or in float64 if the weights are float64; the result is float32, without a gradient.
    """
    note(CONSTANT_INPUT if x.shape[0] == 1 else REAL_INPUT)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if x.is_cpu:  # on a GPU this would have to wait
        require_finite_weight(weight)
        if bias is not None and not is_finite(bias):
            refuse_infinite("bias", bias)
        if not torch.is_autocast_enabled("cpu"):
            return _convolved(x, weight, bias, stride, padding, dilation, groups)
    with exact(x.device):
        return _convolved(x, weight, bias, stride, padding, dilation, groups)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int) -> Tensor:
    T, N, *_, height, width = x.shape
    if x.is_cpu and height == width == 1 and weight.shape[2:] == (1, 1) and groups == 1 and not any(padding):
        # oneDNN's convolution would copy all weights at each call.
        currents = F.linear(x.flatten(2).to(weight.dtype), weight.flatten(1), bias)
        return currents.float().unsqueeze(2)
    images, padding = pad_beyond_kernel(x.flatten(0, 1), weight.shape[2:], padding, dilation)
    if x.is_cpu and groups == 1 and weight[0].numel() <= FEW_INPUTS:
        return _matmul(images.to(weight.dtype), weight, bias, stride, padding, dilation).unflatten(0, (T, N))
    images = images.to(weight.dtype, memory_format=torch.channels_last)
    y = F.conv2d(images, weight, bias, stride, padding, dilation, groups)
    return y.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (T, N)).float().contiguous()


conv2d = _operator(convolve)


def _matmul(images: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation) -> Tensor:
    """The convolution as a matrix product, float32 [M, P_out, C_out]. With few inputs per neuron, as in a first layer,
    that is the fastest way to the order of a scan. In float64 it takes some images at a time, to stay in the cache."""
    size, columns = output_size(images.shape[2:], weight.shape[2:], stride, padding, dilation), weight.flatten(1).t()

    def multiply(part: Tensor) -> Tensor:
        windows = F.unfold(part, weight.shape[2:], dilation, padding, stride)  # [M, inputs, P_out]
        y = torch.matmul(windows.transpose(1, 2), columns)
        return y if bias is None else y.add_(bias)

    if images.dtype == torch.float32:
        return multiply(images)
    y = heap.empty(len(images), math.prod(size), len(weight))
    step = max(1, CACHED_BYTES // (8 * max(1, y[:1].numel())))
    for part, rounded in zip(images.split(step), y.split(step), strict=True):
        rounded.copy_(multiply(part))
    return y


def pad_beyond_kernel(images: Tensor, kernel_size, padding, dilation) -> tuple[Tensor, Sequence[int]]:
    """Pads images explicitly if windows may lie entirely in the padding; returns images, and the padding that is left.

    For such windows oneDNN, which torch's convolution uses on a CPU, reads and writes out of bounds. Images without
    pixels are padded too, since torch does not take them.
    """
    beyond = any(p > d * (k - 1) for p, d, k in zip(padding, dilation, kernel_size, strict=True))
    if not beyond and 0 not in images.shape[2:]:
        return images, padding
    return F.pad(images, (padding[1], padding[1], padding[0], padding[0])), (0, 0)


def exact(device: torch.device) -> AbstractContextManager:
    """Convolve float32 in float32, regardless of autocast and of the settings of a GPU."""
    return _full_float32() if device.type == "cuda" else torch.autocast(device.type, enabled=False)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Convolve float32 in float32.

    By default (``torch.backends.cudnn.allow_tf32``) PyTorch lets cuDNN round float32 weights to TF32 with its 10 bits,
    which changes sums and with them spikes. The setting is the process's: the last thread to leave restores it.

    ``allow_tf32`` stands for the newer settings of convolutions and of recurrent networks together: a thread that reads
    it while they differ gets an error, so all three are set.
    """
    cudnn: Any = torch.backends.cudnn  # its settings are made when torch is imported
    convolution, recurrent = cudnn.conv, cudnn.rnn
    with _lock:
        if _convolving:
            _convolving.append(_convolving[0])
        else:
            _convolving.append((_allows_tf32(), convolution.fp32_precision, recurrent.fp32_precision))
            if _convolving[0][0]:
                cudnn.allow_tf32 = False
                recurrent.fp32_precision = "ieee"
            convolution.fp32_precision = "ieee"
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _lock:
            allowed, of_convolution, of_recurrent = _convolving.pop()
            if not _convolving:
                if allowed:
                    cudnn.allow_tf32 = True
                    recurrent.fp32_precision = of_recurrent
                convolution.fp32_precision = of_convolution


def _allows_tf32() -> bool:
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the newer settings differ, so this one cannot be read
        return False


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
    if min(beyond) < 0:  # windows only in the padding, where oneDNN reads and writes memory that is not its own
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
