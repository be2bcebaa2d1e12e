"""The operators torch.ops.proxykernels.*: schemas and shapes of results; kernels/backends.py says what computes them.

:func:`operator` registers them with torch, and :func:`direct` says when a call needs none of them.

Work on raw words, whose layout is the device's own (a CPU packs over channels, a GPU over time; see
kernels/cpu/words.py and kernels/gpu/words.py). PyTorch's dispatcher picks by device. Arguments are checked in
neuron_ops.py, not here.

Shapes: T steps, N images, C channels, P pixels; states ``v`` float32 [N, P, C], or [N, states, P, C] of several. A
``neuron`` or ``surrogate`` (kernels/neuron_models.py) is one argument here; in a schema, which knows no such thing, its
fields stand one after another.
"""

from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from . import backends
from .backends import backend_of
from .neuron_models import IN_PYTHON, SCHEMA, SURROGATE_SCHEMA, Neuron, Surrogate
from .recording import warn_of_dense_frames
from .unfused import output_size
from .value_checks_cache import is_plain, nobody_follows
from .weight_cache import are_looked_at

VALUES = {"Neuron neuron": (Neuron, SCHEMA), "Surrogate surrogate": (Surrogate, SURROGATE_SCHEMA)}


def operator(schema: str, devices: tuple[str, ...] = ("cpu", "cuda")):
    """Register an operator: the decorated function computes the shapes of its results; each backend has the kernel."""

    arguments = [part.strip() for part in schema[1 : schema.index(") ->")].split(",")]
    values: list = [(k, VALUES[part][0]) for k, part in enumerate(arguments) if part in VALUES]
    neuron = arguments.index("Neuron neuron") if "Neuron neuron" in arguments else -1  # its place; -1: it has none
    for part, (_, fields) in VALUES.items():
        schema = schema.replace(part, fields)

    def grouped(operands: tuple) -> tuple:
        """The dispatcher's flat list of operands, with fields grouped into values such as Neuron."""
        for k, kind in values:
            stop = k + len(kind._fields)
            operands = *operands[:k], kind(*operands[k:stop]), *operands[stop:]
        return operands

    def apart(operands: tuple) -> tuple:
        """The inverse of :func:`grouped`."""
        for k, _ in reversed(values):
            operands = *operands[:k], *operands[k], *operands[k + 1 :]
        return operands

    def chosen(device: str, operands: tuple) -> backends.Backend:
        """The backend for these operands: neurons that are written in Python need the reference code."""
        its: Neuron = operands[neuron]
        return backends.reference_backend(device) if its.model in IN_PYTHON else backend_of(device)

    def register(fake):
        name = fake.__name__
        torch.library.define(f"proxykernels::{name}", schema)
        of_dispatcher = getattr(torch.ops.proxykernels, name)

        def call(device, *operands):  # looks kernels up late, so that registering loads no library and needs no Triton
            operands = grouped(operands)
            backend = backend_of(device) if neuron < 0 else chosen(device, operands)
            return getattr(backend, name)(*operands)

        for device in devices:
            torch.library.impl(f"proxykernels::{name}", device, partial(call, device))
        torch.library.register_fake(f"proxykernels::{name}", lambda *operands: fake(*grouped(operands)))
        if "(a!)" not in schema:
            torch.library.register_vmap(f"proxykernels::{name}", partial(_one_after_another, of_dispatcher))

        @wraps(fake)
        def launch(*operands):
            if is_plain(operands):  # the result is the same, and the dispatcher costs as much as a small layer
                backend = backend_of("cpu") if neuron < 0 else chosen("cpu", operands)
                return getattr(backend, name)(*operands)
            return of_dispatcher(*apart(operands))

        return launch

    return register


def direct(*operands: Any, in_python: bool = False) -> backends.CpuBackend | None:
    """The CPU kernels, for a direct call on plain CPU tensors; None: the call must use the operators.

    A direct call saves torch's dispatcher, which costs as much as a small layer. It is possible if nothing follows
    operators, and no gradient is needed. ``in_python``: whether the neurons are written in Python, which operators run.
    """
    if in_python or not nobody_follows():
        return None
    for x in operands:
        if isinstance(x, Tensor) and (type(x) not in _PLAIN or not x.is_cpu or x.is_neg()):
            return None
    if backends.reference_is_asked():
        return backends.reference_backend("cpu")  # type: ignore[return-value]  # of a CPU
    return backends.cpu_backend()


_PLAIN = Tensor, nn.Parameter


def _one_after_another(operator, info, dims: tuple, *operands):
    """torch.vmap of an operator: a call for each of the samples, along ``dims`` of the operands."""
    pairs = [(x, dim if isinstance(x, Tensor) else None) for x, dim in zip(operands, dims, strict=True)]
    calls = [operator(*(x if dim is None else x.select(dim, k) for x, dim in pairs)) for k in range(info.batch_size)]
    if isinstance(calls[0], Tensor):
        return torch.stack(calls), 0
    return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * len(calls[0])


def _words(like: Tensor, T: int, N: int, P: int, C: int) -> Tensor:
    if like.device.type == "cpu":
        return like.new_empty(N, T, P, (C + 7) // 8, dtype=torch.uint8)
    return like.new_empty((T + 31) // 32, N, P, C, dtype=torch.int32)


def _layer(like: Tensor, T: int, v: Tensor) -> tuple[Tensor, Tensor]:
    return _words(like, T, v.shape[0], *v.shape[-2:]), torch.empty_like(v, memory_format=torch.contiguous_format)


@operator("(Tensor dense) -> Tensor")
def pack(dense):
    """Bool [T, N, C, P] to words."""
    T, N, C, P = dense.shape
    return _words(dense, T, N, P, C)


@operator("(Tensor dense) -> (Tensor, bool)", devices=("cpu",))
def pack_binary(dense):
    """Values [T, N, C, H, W], of a type in cpu.words.PACKABLE, to words, and whether they are all 0 and 1."""
    T, N, C, H, W = dense.shape
    return _words(dense, T, N, H * W, C), True


@operator("(Tensor words, SymInt T, SymInt C, ScalarType dtype) -> Tensor")
def unpack(words, T, C, dtype):
    """Words to 0 and 1 [T, N, C, P]."""
    N = words.shape[0 if words.device.type == "cpu" else 1]
    return words.new_empty(T, N, C, words.shape[2], dtype=dtype)


@operator("(Tensor words, SymInt C, SymInt until) -> Tensor")
def count(words, C, until):
    """Spikes of each neuron before step ``until``: int32 [N, C, P]."""
    N = words.shape[0 if words.device.type == "cpu" else 1]
    return words.new_empty(N, C, words.shape[2], dtype=torch.int32)


@operator("(Tensor words) -> Tensor", devices=("cuda",))
def total(words):
    """All spikes: int64, no dimensions."""
    return words.new_empty((), dtype=torch.int64)


@operator("(Tensor words) -> Tensor")
def total_of_pixels(words):
    """Spikes of each pixel, of all samples, steps and channels: int64 [P]."""
    return words.new_empty(words.shape[2], dtype=torch.int64)


@operator("(Tensor[] words, Tensor?[] reaches, Tensor(a!) counts) -> ()")
def add_counts(words, reaches, counts):
    """Add the spikes of words over time, and how many neurons they reach (int32 [P], or None), to packed.new_counts."""


@operator("(Tensor words, SymInt C) -> Tensor")
def flatten(words, C):
    """P pixels of C channels to one pixel of C * P channels, in the order of torch's flatten."""
    if words.device.type == "cpu":
        return _words(words, words.shape[1], words.shape[0], 1, C * words.shape[2])
    return words.new_empty(*words.shape[:2], 1, C * words.shape[2])


@operator("(Tensor words, SymInt C, SymInt[] size, int[] kernel_size, int[] stride, int[] padding) -> Tensor")
def max_pool2d(words, C, size, kernel_size, stride, padding):
    """The OR over each window of images of ``size`` (H, W)."""
    height, width = output_size(size, kernel_size, stride, padding, (1, 1))
    return words.new_empty(*words.shape[:2], height * width, words.shape[3])


@operator(
    "(Tensor words, SymInt T, Tensor counts, SymInt[] size, int[] kernel_size, int[] stride, int[] padding)"
    " -> (Tensor, Tensor)"
)
def max_rate_pool2d(words, T, counts, size, kernel_size, stride, padding):
    """Max pooling of spike counts, float32 [N, P, C] so far, and the counts after all steps."""
    N, _, C = counts.shape
    height, width = output_size(size, kernel_size, stride, padding, (1, 1))
    return _words(words, T, N, height * width, C), torch.empty_like(counts, memory_format=torch.contiguous_format)


@operator("(Tensor current, Tensor v, Neuron neuron, SymInt? T=None) -> (Tensor, Tensor)")
def if_scan(current, v, neuron, T=None):
    """Neurons on currents [T, N, P, C], or for T steps on a constant current [N, P, C]: words, or float32 [T, N, P, C]
    of neurons that fire several times in a step."""
    T = current.shape[0] if T is None else T
    words, after = _layer(current, T, v)
    return v.new_empty(T, *v.shape) if neuron.counts else words, after


@operator("(Tensor current, Tensor v, Neuron neuron) -> Tensor", devices=("cuda",))
def potentials(current, v, neuron):
    """The potentials, float32 [T, N, P, C], of leaky neurons that never fire."""
    return torch.empty_like(current, dtype=torch.float32, memory_format=torch.contiguous_format)


@operator(
    "(Tensor grad_spikes, Tensor? grad_v, Tensor current, Tensor v, Neuron neuron, Surrogate surrogate)"
    " -> (Tensor, Tensor, Tensor)"
)
def scan_backward(grad_spikes, grad_v, current, v, neuron, surrogate):
    """The gradients of currents, of the state before the first step, and of a bias and the parameters of a channel."""
    sums = v.new_empty(1 + len(neuron.channels), v.shape[-1], dtype=torch.float64)
    options = {"dtype": torch.float32, "memory_format": torch.contiguous_format}
    return torch.empty_like(current, **options), torch.empty_like(v, **options), sums


@operator("(Tensor current, Tensor v, Neuron neuron, Tensor recurrent) -> (Tensor, Tensor)")
def recurrent_scan(current, v, neuron, recurrent):
    """Recurrent neurons on currents [T, N, 1, C]; v [N, states + 1, 1, C], by_reference.py has the rest."""
    return _layer(current, current.shape[0], v)


@operator(
    "(Tensor grad_spikes, Tensor? grad_v, Tensor current, Tensor v, Neuron neuron, Surrogate surrogate,"
    " Tensor recurrent) -> (Tensor, Tensor, Tensor)"
)
def recurrent_scan_backward(grad_spikes, grad_v, current, v, neuron, surrogate, recurrent):
    """As scan_backward; the gradient of what comes back is part of the currents' gradient."""
    sums = v.new_empty(1 + len(neuron.channels), v.shape[-1], dtype=torch.float64)
    options = {"dtype": torch.float32, "memory_format": torch.contiguous_format}
    return torch.empty_like(current, **options), torch.empty_like(v, **options), sums


@operator(
    "(Tensor words, SymInt T, SymInt[] size, Tensor weight, Tensor? bias, Tensor v, Neuron neuron,"
    " int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
)
def conv2d_currents(words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups):
    """The currents [T, N, P, C] of if_conv2d."""
    return v.new_empty(T, v.shape[0], *v.shape[-2:])


@operator(
    "(Tensor words, SymInt[] size, Tensor grad_current, SymInt[] weight_shape, int[] stride, int[] padding,"
    " int[] dilation, int groups) -> Tensor"
)
def conv2d_weight_gradient(words, size, grad_current, weight_shape, stride, padding, dilation, groups):
    """The gradient of the weights of if_conv2d, from its currents' gradient [T, N, P, C]."""
    return grad_current.new_empty(weight_shape)


@operator("(Tensor words, Tensor grad, SymInt[] size, int[] kernel_size, int[] stride, int[] padding) -> Tensor")
def max_pool2d_backward(words, grad, size, kernel_size, stride, padding):
    """The gradient [T, N, P, C] of max pooling's input, from its output's."""
    return grad.new_empty(*grad.shape[:2], size[0] * size[1], grad.shape[3], dtype=torch.float32)


@operator(
    "(Tensor words, SymInt T, SymInt[] size, Tensor weight, Tensor? bias, Tensor v, Neuron neuron,"
    " int[] stride, int[] padding, int[] dilation, int groups, Tensor? shortcut=None) -> (Tensor, Tensor)"
)
def if_conv2d(words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups, shortcut=None):
    """Convolution of images of ``size`` (H, W) by ``weight`` [C_out, C_in / groups, kh, kw], then IF."""
    return _layer(words, T, v)


@operator(
    "(Tensor x, Tensor weight, Tensor? bias, Tensor v, Neuron neuron,"
    " int[] stride, int[] padding, int[] dilation, int groups) -> (Tensor, Tensor)",
)
def if_conv2d_real(x, weight, bias, v, neuron, stride, padding, dilation, groups):
    """Convolution of real values [T, N, C_in, H, W], then IF."""
    if x.device.type == "cuda" and not are_looked_at():
        warn_of_dense_frames()
    return _layer(x, x.shape[0], v)


@operator(
    "(Tensor words, SymInt T, SymInt[] size, Tensor weight, Tensor? bias, Tensor v, Neuron neuron,"
    " int[] stride, int[] padding, int[] dilation, int groups) -> (Tensor, Tensor, Tensor)",
)
def if_conv2d_pooled(words, T, size, weight, bias, v, neuron, stride, padding, dilation, groups):
    """if_conv2d on words over time: its words, their OR over windows of 2 x 2 (of an even output), its potentials."""
    N, P, C = v.shape[0], v.shape[-2], v.shape[-1]
    spikes, pooled = (words.new_empty(-(-T // 32), N, pixels, C) for pixels in (P, P // 4))
    return spikes, pooled, torch.empty_like(v, memory_format=torch.contiguous_format)


@operator(
    "(Tensor words, SymInt T, SymInt[] size, Tensor weight, Tensor bias, int[] stride, int[] padding, int[] dilation,"
    " int groups) -> Tensor"
)
def conv2d_current_sums(words, T, size, weight, bias, stride, padding, dilation, groups):
    """Sums of the currents of if_conv2d in each channel, and of their squares, float64 [2, C]."""
    return weight.new_empty(2, weight.shape[0], dtype=torch.float64)


@operator("(Tensor current, SymInt T, Neuron neuron) -> (Tensor, Tensor)", devices=("cpu",))
def find_periods(current, T, neuron):
    """Neurons from v_reset, with hard reset, on a constant current [N, P, C]: int16 periods, and potentials."""
    return torch.empty_like(current, dtype=torch.int16), torch.empty_like(current, dtype=torch.float32)


@operator("(Tensor periods, SymInt start, SymInt T) -> Tensor", devices=("cpu",))
def expand_periods(periods, start, T):
    """Periods to the words of the steps start .. start + T - 1."""
    N, P, C = periods.shape
    return _words(periods, T, N, P, C)


@operator("(Tensor periods, SymInt start, SymInt T) -> Tensor", devices=("cpu",))
def total_periods(periods, start, T):
    """Spikes of each pixel in the steps start .. start + T - 1: int64 [P]."""
    return periods.new_empty(periods.shape[1], dtype=torch.int64)


@operator(
    "(Tensor periods, SymInt start, SymInt T, SymInt[] size, Tensor weight, Tensor? bias, Tensor v, Neuron neuron,"
    " int[] stride, int[] padding, int[] dilation) -> (Tensor, Tensor)",
    devices=("cpu",),
)
def if_period_conv2d(periods, start, T, size, weight, bias, v, neuron, stride, padding, dilation):
    """if_conv2d of the spikes that periods stand for, in the steps from ``start``."""
    return _layer(periods, T, v)


@operator(
    "(Tensor periods, SymInt start, SymInt T, SymInt[] size, Tensor weight, Tensor? bias, Tensor v, Neuron neuron,"
    " int[] stride, int[] padding, int[] dilation) -> Tensor",
    devices=("cpu",),
)
def period_conv2d_currents(periods, start, T, size, weight, bias, v, neuron, stride, padding, dilation):
    """The currents [T, N, P, C] of if_period_conv2d."""
    return v.new_empty(T, v.shape[0], *v.shape[-2:])
