"""Synapses compute the currents of a layer from its inputs: a convolution, a matrix product, or the input itself.

``terms`` of a layer lists its synapses. Code that sums, counts, converts or exports uses these instead of testing the
layer's class. A new kind needs a class here and an entry in KINDS.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..calls import window_checks
from ..calls.currents import currents_of
from ..kernels import heap, unfused
from ..spikes import Spikes

Shape = tuple[int, ...]


class Synapse:
    """The input itself, nn.Identity: every spike adds 1 to the potential of its neuron.

    Attributes:
        module: the nn.Conv2d, nn.Linear or nn.Identity, or a layer that is one.
        fan_in: weights of one neuron; 0 if the input is taken as it is.
    """

    plain_class: type[nn.Module] = nn.Identity  # the torch module that it corresponds to
    fan_in = 0
    inputs = ""  # the shape of its input, for error messages

    def __init__(self, module: nn.Module):
        self.module: Any = module

    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias; here none."""
        return None, None

    def check(self, device: torch.device) -> None:
        """Check that dtype, shape and device of the parameters fit inputs on ``device``; values are not looked at.

        Raises:
            TypeError, ValueError: one is not; the message names it.
        """

    def output_shape(self, shape: Shape) -> Shape:
        """The shape (T, N, ...) of the currents for an input of ``shape`` (T, N, ...).

        Raises:
            ValueError: the weights do not take such an input.
        """
        return shape

    def currents(self, x: Spikes | Tensor) -> Tensor:
        """The currents [T, N, ...], float32, of x (T, N, ...), Spikes or a float32 tensor."""
        return x.dense() if isinstance(x, Spikes) else x

    def accumulates(self, x: Spikes) -> Tensor:
        """How many weights the spikes x add to potentials, on a CPU: int64 without dimensions.

        On a GPU, running/stateful_layer.py counts them for all layers together.
        """
        reach = self.reach(x)
        totals = x._total_of_pixels()
        return (totals if reach is None else totals * reach).sum() * self.fan_out

    @property
    def fan_out(self) -> int:
        """Number of neurons that a spike reaches, per output pixel (see :meth:`reach`)."""
        return 1

    def reach(self, x: Spikes) -> Tensor | None:
        """The number of output pixels that a spike of each pixel of x reaches, int32 [P]; None: one."""
        return None

    def products(self, shape: Shape) -> int:
        """Multiplications by a weight in one step if all values of an input of ``shape`` (T, N, ...) are used, without
        padding."""
        return 0

    def into(self, module: type[nn.Module], **options) -> Any:
        """A module of another class with the same parameters: a torch module, or a layer with ``options``."""
        return module(**options)

    def plain(self) -> Any:
        """The synapses as a torch module."""
        return self.into(self.plain_class)


class _Weighted(Synapse):
    """Synapses with a weight [outputs, inputs, ...] and a bias.

    Attributes:
        weights: the weight's number of dimensions, and its shape for error messages.
    """

    weights: tuple[int, str]

    def check(self, device: torch.device) -> None:
        checks.parameters(*self.parameters(), *self.weights, device, look=False)

    @property
    def fan_in(self) -> int:  # type: ignore[override]
        return self.module.weight[0].numel()

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, with a layer's normalisation folded in."""
        folded = getattr(self.module, "folded", None)
        return folded() if folded else (self.module.weight, self.module.bias)

    def arguments(self) -> tuple:
        """The arguments to construct ``plain_class``."""
        raise NotImplementedError

    def into(self, module: type[nn.Module], **options) -> Any:
        made: Any = module(*self.arguments(), device="meta", **options)
        made.weight, made.bias = (
            p if p is None or isinstance(p, nn.Parameter) else nn.Parameter(p.detach()) for p in self.parameters()
        )
        return made


class Product(_Weighted):
    """nn.Linear."""

    plain_class = nn.Linear
    inputs, weights = "[N, features]", (2, "[out, in]")

    def arguments(self) -> tuple:
        return self.module.in_features, self.module.out_features, self.module.bias is not None

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ValueError(f"the input of a matrix product must have the shape (T, N, features), got {shape}")
        checks.features(shape, self.module.weight)
        return *shape[:2], self.module.out_features

    def currents(self, x: Spikes | Tensor) -> Tensor:
        weight, bias = map(_float, self.parameters())
        one_pixel = weight[..., None, None], bias, (1, 1), (0, 0), (1, 1), 1
        if isinstance(x, Spikes):
            return currents_of(x._sized(1, 1), *one_pixel).flatten(2)
        return unfused.conv2d(x[..., None, None], *one_pixel).squeeze(2)

    @property
    def fan_out(self) -> int:
        return self.module.out_features

    def products(self, shape: Shape) -> int:
        return math.prod(shape[1:]) * self.fan_out


class Returning(Synapse):
    """The recurrent synapses of a layer: weights [C, C], or one per neuron [C]."""

    @property
    def fan_out(self) -> int:
        weight = self.module.recurrent_weight
        return len(weight) if weight.ndim == 2 else 1

    def plain(self) -> nn.Linear:
        """A matrix product, also for one weight per neuron."""
        weight = self.module.recurrent_weight.detach()
        weight = weight if weight.ndim == 2 else torch.diag(weight)
        made = nn.Linear(len(weight), len(weight), bias=False, device="meta")
        made.weight = nn.Parameter(weight)
        return made

    def products(self, shape: Shape) -> int:
        return math.prod(shape[1:]) * self.fan_out


class Convolution(_Weighted):
    """nn.Conv2d with zero padding."""

    plain_class: type[nn.Module] = nn.Conv2d
    inputs, weights = "[N, C, H, W]", (4, "[C_out, C_in / groups, kernel_h, kernel_w]")

    def __init__(self, module: nn.Module):
        super().__init__(module)
        if self.module.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {module.padding_mode!r}; pad the input instead")
        self.stride = _window(self.module, "stride", 1)

    def arguments(self) -> tuple:
        m = self.module
        bias = m.bias is not None or getattr(m, "bn", None) is not None
        return m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.dilation, m.groups, bias

    def window(self, weight: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """The weight with two spatial dimensions, padding in numbers, and dilation."""
        m = self.module
        padding = m.padding if isinstance(m.padding, str) else _window(m, "padding", 0)
        weight = weight.view(*weight.shape[:2], *_pair(weight.shape[2:]))
        return window_checks.symmetric(weight, padding, self.stride, _window(m, "dilation", 1))

    def placed(self, weight: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, int]]:
        """The weight with two spatial dimensions, padding on the left, right, top and bottom, and dilation."""
        m = self.module
        return weight.view(*weight.shape[:2], *_pair(weight.shape[2:])), both_sides(m), _window(m, "dilation", 1)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != self.module.weight.ndim + 1:
            wanted = self.inputs.strip("[]")
            raise ValueError(f"the input of a convolution must have the shape (T, {wanted}), got {shape}")
        window_checks.groups(self.module.groups, shape[2], self.module.weight)
        weight, padding, dilation = self.window(self.module.weight)
        window_checks.fits(_pair(shape[3:]), weight.shape[2:], padding, dilation)
        size = unfused.output_size(_pair(shape[3:]), weight.shape[2:], self.stride, padding, dilation)
        return *shape[:2], len(weight), *size[5 - len(shape) :]

    def currents(self, x: Spikes | Tensor) -> Tensor:
        weight, bias = map(_float, self.parameters())
        weight, padding, dilation = self.window(weight)
        window = self.stride, padding, dilation, self.module.groups
        shape = self.output_shape(tuple(x.shape))[3:]
        if isinstance(x, Spikes):
            images = x._sized(*_pair(x.shape[3:]))
            return currents_of(images, weight, bias, *window).flatten(3).unflatten(3, shape)
        current = unfused.conv2d(x.unflatten(3, _pair(x.shape[3:])) if x.ndim == 4 else x, weight, bias, *window)
        return current.transpose(2, 3).unflatten(3, shape)

    @property
    def fan_out(self) -> int:
        return self.module.out_channels // self.module.groups

    def reach(self, x: Spikes) -> Tensor | None:
        return self.reach_of(x.shape[3:], x.device)

    def products(self, shape: Shape) -> int:
        return math.prod(shape[1:3]) * int(self.reach_of(shape[3:], heap.CPU).sum()) * self.fan_out

    def reach_of(self, size: Shape, device: torch.device) -> Tensor:
        """The number of output pixels that each pixel of an image of ``size`` reaches, int32 [P]."""
        weight, both_sides, dilation = self.placed(self.module.weight)
        return _reach_of_pixels(tuple(weight.shape[2:]), self.stride, dilation, both_sides, _pair(size), device)


def both_sides(module: Any) -> tuple[int, int, int, int]:
    """The current padding of a torch convolution: on the left, right, top and bottom."""
    height, width = _pair(module.weight.shape[2:])
    if isinstance(module.padding, str):
        down, across = (0, 0) if module.padding == "valid" else _window(module, "dilation", 1)
        down, across = down * (height - 1), across * (width - 1)
        return across // 2, across - across // 2, down // 2, down - down // 2
    top, left = _window(module, "padding", 0)
    return left, left, top, top


class Convolution1d(Convolution):
    """nn.Conv1d with zero padding: a convolution of images of one row."""

    plain_class = nn.Conv1d
    inputs, weights = "[N, C, L]", (3, "[C_out, C_in / groups, kernel]")


KINDS = (Convolution, Convolution1d, Product, Synapse)
WEIGHTED = tuple(kind.plain_class for kind in KINDS if kind is not Synapse)  # torch modules


def synapse_of(module: nn.Module) -> Synapse:
    """The synapse of a torch module.

    Raises:
        TypeError: the module is of another kind. ValueError: it has a padding that is not of zeros.
    """
    for kind in KINDS:
        if isinstance(module, kind.plain_class):
            return kind(module)
    raise TypeError(f"a synapse must be nn.Conv2d, nn.Conv1d, nn.Linear or nn.Identity, got {type(module).__name__}")


def _pair(values: Sequence[int], before: int = 1) -> tuple[int, int]:
    """A size or a window of one or two dimensions as two; ``before`` is the first if there is one."""
    return (before, values[0]) if len(values) == 1 else (values[0], values[1])


def _window(module: Any, name: str, least: int) -> tuple[int, int]:
    """A window attribute of a convolution in two dimensions, at least ``least``; for Conv1d the first is ``least``."""
    value = getattr(module, name)
    if isinstance(module, nn.Conv1d):
        return least, window_checks.single(name, value, least)
    return window_checks.pair(name, value, least)


def _float(parameter: Tensor | None) -> Any:
    return None if parameter is None else parameter.detach().float()


@lru_cache(maxsize=256)
def _reach_of_pixels(kernel, stride, dilation, padding, size, device) -> Tensor:
    """The number of outputs of one channel that each pixel of an image reaches: int32 [P].

    ``padding``: left, right, top, bottom.
    """
    height, width = (
        _reach(kernel[axis], stride[axis], dilation[axis], before, after, size[axis])
        for axis, before, after in ((0, *padding[2:]), (1, *padding[:2]))
    )
    return (height.unsqueeze(1) * width).flatten().int().to(device)


def _reach(kernel: int, stride: int, dilation: int, left: int, right: int, size: int) -> Tensor:
    """The number of outputs along one axis that each of ``size`` input pixels reaches: int64 [size]."""
    outputs = (size + left + right - dilation * (kernel - 1) - 1) // stride + 1
    first, tap = (
        torch.arange(outputs, device=heap.CPU) * stride - left,
        torch.arange(kernel, device=heap.CPU) * dilation,
    )
    read = (first.unsqueeze(1) + tap).flatten()
    return torch.bincount(read[(read >= 0) & (read < size)], minlength=size)
