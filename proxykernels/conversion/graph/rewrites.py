"""Modules of torch written as others that spikes have a layer for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import layers
from .graph_values import Affine

ADAPTIVE_MAXIMA: dict[type[nn.Module], Any] = {
    nn.AdaptiveMaxPool1d: nn.MaxPool1d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}


def norm_as_convolution(norm: Any, ndim: int) -> nn.Module:
    """A normalisation by running statistics as a convolution of its own, for inputs of so many dimensions."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps) * (1.0 if norm.weight is None else norm.weight.double())
    shift = -norm.running_mean.double() * scale + (0.0 if norm.bias is None else norm.bias.double())
    learnt = [value is not None and value.requires_grad for value in (norm.weight, norm.bias)]
    module = scaled_identity(len(scale), ndim, norm.running_var, learnt[0])
    with torch.no_grad():
        module.weight.mul_(scale.to(module.weight.dtype).view(-1, *[1] * (module.weight.ndim - 1)))
    module.bias = nn.Parameter(shift.detach().to(module.weight.dtype), learnt[1])
    return module


def scaled_identity(channels: int, ndim: int, like: Tensor, learnt: bool = False) -> Any:
    """A module whose weights of 1 can be scaled, for inputs [N, channels, ...] of ``ndim`` dimensions.

    They are of the type, and on the device, that ``like`` is. ``learnt``: whether they are trained; what stands for a
    constant of the model is not.
    """
    if ndim == 2:
        module: Any = nn.Linear(channels, channels, bias=False)
        weight = torch.eye(channels)
    else:
        module = (nn.Conv1d if ndim == 3 else nn.Conv2d)(channels, channels, 1, groups=channels, bias=False)
        weight = torch.ones_like(module.weight)
    module.weight = nn.Parameter(weight.to(like), learnt)
    return module


def affine(identity: Any, factor: float | Tensor, shift: float | Tensor) -> Any:
    """A scaled identity times a factor, plus a shift: numbers, or one for each channel."""
    weight = identity.weight
    bias = weight.new_zeros(len(weight))
    with torch.no_grad():
        weight.mul_(factor.view(-1, *[1] * (weight.ndim - 1)) if isinstance(factor, Tensor) else factor)
        bias += shift
    if bias.any():
        identity.bias = nn.Parameter(bias, weight.requires_grad)
    return identity


def affine_by(module: Any) -> Affine:
    """What a scaled identity does, with its bias."""
    weight = module.weight.detach().double()
    factor = weight.diagonal().clone() if weight.ndim == 2 else weight.flatten()
    return Affine(factor, torch.zeros_like(factor) if module.bias is None else module.bias.detach().double())


def by_channel(value: float | Tensor, shape: tuple[int, ...], where: str) -> float | Tensor:
    """A constant that is broadcast to results of ``shape`` [N, C, ...]: a number where all are the same, one for each
    channel [C], or one for each value [C, ...], float32."""
    if not isinstance(value, Tensor):
        return float(value)
    values = value.detach().float().expand(shape)
    if not bool((values == values[:1]).all()):
        raise TypeError(f"{where} has another constant for each sample")
    values = values[0]
    if not values.ndim:
        return values.item()
    channels = values.flatten(1)[:, 0] if values.ndim > 1 else values
    if values.numel() and bool((values == channels[0]).all()):
        return channels[0].item()
    if bool((values == channels.view(-1, *[1] * (values.ndim - 1))).all()):
        return channels.clone()
    return values.clone()


def product_as_convolution(product: nn.Linear) -> Any:
    """A matrix product of the channels at each place of [N, features, L]."""
    convolution: Any = nn.Conv1d(product.in_features, product.out_features, 1, bias=product.bias is not None)
    convolution.weight = _parameter(product.weight.detach().unsqueeze(-1), product.weight)
    if product.bias is not None:
        convolution.bias = _parameter(product.bias.detach(), product.bias)
    return convolution


@dataclass(frozen=True)
class Spread:
    """What a transposed convolution does to its input: ``stride - 1`` zeros between the values, and some around them.

    Attributes:
        before, after: zeros along each axis. stride: of each axis.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: tuple[int, ...]

    @staticmethod
    def of(transposed: Any, size: Sequence[int] | None, output_size: Sequence[int] | None) -> "Spread":
        """That of an nn.ConvTranspose1d or 2d, whose call may have asked for an output of another size than usual."""
        t = transposed
        spans = [d * (k - 1) for k, d in zip(t.kernel_size, t.dilation, strict=True)]
        before = [span - p for span, p in zip(spans, t.padding, strict=True)]
        if min(before) < 0:
            raise ValueError(f"padding must be at most dilation (kernel_size - 1), got {t.padding}")
        extra = t.output_padding
        if size is not None and output_size is not None:
            axes = zip(output_size, size, t.stride, before, spans, strict=True)
            extra = [out - ((n - 1) * stride + 1 + 2 * b - span) for out, n, stride, b, span in axes]
        return Spread(tuple(before), tuple(b + e for b, e in zip(before, extra, strict=True)), t.stride)

    def layer(self) -> nn.Module:
        """What does it to images."""
        (top, left), (bottom, right) = self.before, self.after
        return layers.ZeroPad2d((left, right, top, bottom), spread=(self.stride[0], self.stride[1]))

    def places(self, view: Tensor, nothing: int) -> Tensor:
        """What it makes of the places of values [N, C, L] along one axis; ``nothing``: of zeros."""
        N, C, L = view.shape
        length = self.before[0] + (L - 1) * self.stride[0] + 1
        spread = view.new_full((N, C, length + self.after[0]), nothing)
        spread[..., self.before[0] : length : self.stride[0]] = view
        return spread


def as_convolution(transposed: Any) -> nn.Module:
    """The convolution of what is spread, of an nn.ConvTranspose1d or 2d."""
    if transposed.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {transposed.padding_mode!r}")
    t, groups = transposed, transposed.groups
    kind: Any = nn.Conv1d if len(t.kernel_size) == 1 else nn.Conv2d
    convolution = kind(
        t.in_channels, t.out_channels, t.kernel_size, dilation=t.dilation, groups=groups, bias=t.bias is not None
    )
    weight = t.weight.detach().unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    weight = weight.flip(tuple(range(2, weight.ndim)))
    convolution.weight = _parameter(weight, t.weight)
    if t.bias is not None:
        convolution.bias = _parameter(t.bias.detach(), t.bias)
    return convolution


def _parameter(values: Tensor, of: Tensor) -> nn.Parameter:
    """A copy of ``values`` of a parameter, which is learnt where that is."""
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format), of.requires_grad)


def limited(neuron: nn.Module) -> bool:
    return isinstance(neuron, nn.Hardtanh)  # and ReLU6, which is one


def blends(module: nn.Module) -> bool:
    """Whether an upsampling interpolates between values."""
    return isinstance(module, nn.Upsample) and not module.mode.startswith("nearest")


def overshoots(module: nn.Module) -> bool:
    """Whether an upsampling can give values outside the range of its inputs."""
    return isinstance(module, nn.Upsample) and module.mode == "bicubic"


def taps(module: nn.Module) -> int:
    """Weights from one input channel to one output channel; 0 for an identity."""
    weight = getattr(module, "weight", None)
    return 0 if weight is None else weight[0, 0].numel()


def windows_of(module: Any, shape: tuple[int, ...] | None, where: str) -> nn.Module:
    """A max pooling to a given size as one by windows."""
    size = (shape or ())[2:]
    wanted = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * len(size)
    wanted = tuple(n if w is None else w for n, w in zip(size, wanted, strict=True))
    if any(n % w for n, w in zip(size, wanted, strict=True)) or module.return_indices:
        raise TypeError(f"{where} takes windows of several sizes, of {list(size)}; use a size that divides it")
    window = tuple(n // w for n, w in zip(size, wanted, strict=True))
    return ADAPTIVE_MAXIMA[type(module)](window if len(window) > 1 else window[0])
