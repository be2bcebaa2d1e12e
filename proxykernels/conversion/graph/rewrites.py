"""Rewrites modules of torch as others that have a layer here, and builds layers with the same parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import layers
from ...layers.synapses import synapse_of
from ...neurons import AnyNeuron, IFNeuron, LIFNeuron, LINeuron, Value
from .graph_values import Affine

ADAPTIVE_MAXIMA: dict[type[nn.Module], Any] = {nn.AdaptiveMaxPool1d: nn.MaxPool1d, nn.AdaptiveMaxPool2d: nn.MaxPool2d}
GENERAL: tuple[Any, ...] = (
    layers.Population, layers.FusedConv1d, layers.FusedConv2d, layers.FusedLinear, layers.FusedSum,
)  # fmt: skip
NAMED: dict[type[AnyNeuron], tuple[Any, ...]] = {  # for neurons that have layers of their own name
    IFNeuron: (layers.IF, layers.FusedIFConv1d, layers.FusedIFConv2d, layers.FusedIFLinear, layers.FusedIFSum),
    LIFNeuron: (layers.LIF, layers.FusedLIFConv1d, layers.FusedLIFConv2d, layers.FusedLIFLinear, layers.FusedLIFSum),
}
SHAPED: dict[type[nn.Module], tuple[Any, str]] = {  # layers that do the same, and the attributes that they take
    nn.AvgPool1d: (layers.AvgPool1d, "kernel_size stride padding ceil_mode count_include_pad"),
    nn.AvgPool2d: (layers.AvgPool2d, "kernel_size stride padding ceil_mode count_include_pad divisor_override"),
    nn.AdaptiveAvgPool1d: (layers.AdaptiveAvgPool1d, "output_size"),
    nn.AdaptiveAvgPool2d: (layers.AdaptiveAvgPool2d, "output_size"),
    nn.Upsample: (layers.Upsample, "size scale_factor mode align_corners"),
    nn.ZeroPad2d: (layers.ZeroPad2d, "padding"),
}
Pools = tuple[Any, Any]  # along one axis, and of images
MAX_POOLS: Pools = layers.MaxPool1d, layers.MaxPool2d  # of each step
MAX_RATE_POOLS: Pools = layers.MaxRatePool1d, layers.MaxRatePool2d
RUNNING_MAX_POOLS: Pools = layers.RunningMaxPool1d, layers.RunningMaxPool2d
NEGLIGIBLE = 1e-6  # relative rounding error of a factor of 1, or of a decay of 0, in float32
CARRIED = LINeuron(decay=0.0)  # without memory: its potential is the current


def norm_as_convolution(norm: Any, ndim: int) -> nn.Module:
    """A normalisation by running statistics as a convolution, for inputs of ``ndim`` dimensions."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps) * (1.0 if norm.weight is None else norm.weight.double())
    shift = -norm.running_mean.double() * scale + (0.0 if norm.bias is None else norm.bias.double())
    learnt = [value is not None and value.requires_grad for value in (norm.weight, norm.bias)]
    module = scaled_identity(len(scale), ndim, norm.running_var, learnt[0])
    with torch.no_grad():
        module.weight.mul_(scale.to(module.weight.dtype).view(-1, *[1] * (module.weight.ndim - 1)))
    module.bias = nn.Parameter(shift.detach().to(module.weight.dtype), learnt[1])
    return module


def scaled_identity(channels: int, ndim: int, like: Tensor, learnt: bool = False) -> Any:
    """A module with weights of 1, for inputs [N, channels, ...] of ``ndim`` dimensions.

    They have the type and device of ``like``. ``learnt``: whether they are trained; constants of the model are not.
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
    """A scaled identity times a factor, plus a shift, each one number or one for each channel; in place."""
    weight = identity.weight
    bias = weight.new_zeros(len(weight))
    with torch.no_grad():
        weight.mul_(factor.view(-1, *[1] * (weight.ndim - 1)) if isinstance(factor, Tensor) else factor)
        bias += shift
    if bias.any():
        identity.bias = nn.Parameter(bias, weight.requires_grad)
    return identity


def affine_by(module: Any) -> Affine:
    """The factor and shift of a scaled identity with a bias."""
    weight = module.weight.detach().double()
    factor = weight.diagonal().clone() if weight.ndim == 2 else weight.flatten()
    return Affine(factor, torch.zeros_like(factor) if module.bias is None else module.bias.detach().double())


def by_channel(value: float | Tensor, shape: tuple[int, ...], where: str) -> float | Tensor:
    """A constant that is broadcast to results of ``shape`` [N, C, ...], in its smallest form: a number, float32 [C], or
    float32 [C, ...]."""
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
    """A matrix product as a convolution of one tap, for inputs [N, features, L]."""
    convolution: Any = nn.Conv1d(product.in_features, product.out_features, 1, bias=product.bias is not None)
    convolution.weight = _parameter(product.weight.detach().unsqueeze(-1), product.weight)
    if product.bias is not None:
        convolution.bias = _parameter(product.bias.detach(), product.bias)
    return convolution


@dataclass(frozen=True)
class Spread:
    """The zeros that a transposed convolution puts into its input: ``stride - 1`` between the values, and some around.

    Attributes:
        before, after: zeros along each axis. stride: of each axis.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: tuple[int, ...]

    @staticmethod
    def of(transposed: Any, size: Sequence[int] | None, output_size: Sequence[int] | None) -> "Spread":
        """For an nn.ConvTranspose1d or 2d; a call may ask for another output size than the usual one."""
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
        """The layer that spreads images."""
        (top, left), (bottom, right) = self.before, self.after
        return layers.ZeroPad2d((left, right, top, bottom), spread=(self.stride[0], self.stride[1]))

    def places(self, view: Tensor, nothing: int) -> Tensor:
        """The spread places of values [N, C, L] along one axis; ``nothing`` is the place of a zero."""
        N, C, L = view.shape
        length = self.before[0] + (L - 1) * self.stride[0] + 1
        spread = view.new_full((N, C, length + self.after[0]), nothing)
        spread[..., self.before[0] : length : self.stride[0]] = view
        return spread


def as_convolution(transposed: Any) -> nn.Module:
    """The convolution that follows the spreading, for an nn.ConvTranspose1d or 2d."""
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
    """A copy of ``values`` as a parameter, trainable if ``of`` is."""
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
    """A max pooling to a given output size as one with windows."""
    size = (shape or ())[2:]
    wanted = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * len(size)
    wanted = tuple(n if w is None else w for n, w in zip(size, wanted, strict=True))
    if any(n % w for n, w in zip(size, wanted, strict=True)) or module.return_indices:
        raise TypeError(f"{where} takes windows of several sizes, of {list(size)}; use a size that divides it")
    window = tuple(n // w for n, w in zip(size, wanted, strict=True))
    return ADAPTIVE_MAXIMA[type(module)](window if len(window) > 1 else window[0])


def build_layer(modules: list[nn.Module], neuron: AnyNeuron, v_init: Value | None = None) -> nn.Module:
    """The layer of neurons that take the sum of ``modules`` (Conv2d, Linear or Identity); it holds their parameters."""
    synapses = [synapse_of(module) for module in modules]
    *of_one_input, of_several = NAMED.get(type(neuron), GENERAL)
    options = {"neuron": neuron} if type(neuron) not in NAMED else {n: getattr(neuron, n) for n in neuron.names()}
    if len(synapses) > 1:  # their classes may be another library's
        return of_several(*(synapse.plain() for synapse in synapses), **options, v_init=v_init)
    (synapse,) = synapses
    layer = next(layer for layer in of_one_input if layer.synapse is type(synapse))
    return synapse.into(layer, **options, v_init=v_init)


def build_recurrent(
    module: nn.Module, neuron: AnyNeuron, recurrent: Tensor, bias: Tensor | None = None, v_init: Value | None = None
) -> nn.Module:
    """The layer of recurrent neurons behind ``module``, a Linear or Identity.

    Args:
        recurrent: recurrent weights [C, C], one a neuron [C], or one for all []. bias: [C], of the recurrent product.
    """
    if isinstance(module, nn.Identity):
        if not recurrent.ndim:
            raise TypeError("recurrent neurons need a Linear in front of them, which tells how many there are")
        module = nn.Linear(len(recurrent), len(recurrent), False, device="meta")
        module.weight = nn.Parameter(torch.eye(len(recurrent)))
    if not isinstance(module, nn.Linear):
        raise TypeError(f"recurrent neurons take a Linear or an Identity, got {type(module).__name__}")
    C = module.out_features
    if recurrent.shape not in ((), (C,), (C, C)) or (bias is not None and bias.shape != (C,)):
        raise ValueError(f"{C} neurons cannot take what comes back through weights {list(recurrent.shape)}")
    recurrence = "full" if recurrent.ndim == 2 else "elementwise"
    options = {"neuron": neuron, "recurrence": recurrence, "v_init": v_init}
    layer: Any = synapse_of(module).into(layers.FusedRecurrentLinear, **options)
    if bias is not None:
        own = 0.0 if layer.bias is None else layer.bias.detach()
        layer.bias = nn.Parameter(own + bias.to(layer.weight))
    values = recurrent.detach().to(layer.weight)
    layer.recurrent_weight = nn.Parameter((values if recurrent.ndim else values.expand(C)).clone())
    return layer


def shaping_layer(module: nn.Module, maxima: Pools, where: str) -> nn.Module:
    """The layer for a pooling, flattening or the like of torch; ``maxima``: those for max pooling."""
    if isinstance(module, nn.MaxPool2d | nn.MaxPool1d):
        if module.dilation not in (1, (1, 1), (1,)) or module.return_indices:
            raise ValueError(f"{where}: max pooling with dilation or return_indices is not supported")
        pool = maxima[isinstance(module, nn.MaxPool2d)]
        return pool(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
    if isinstance(module, nn.Upsample) and module.recompute_scale_factor:
        raise ValueError(f"{where}: recompute_scale_factor must be False; give the size instead")
    for kind, (layer, names) in SHAPED.items():
        if isinstance(module, kind):
            return layer(*(getattr(module, name) for name in names.split()))
    if (module.start_dim, module.end_dim) not in ((1, -1), (1, 3)):
        raise ValueError(
            f"{where}: only flattening of [N, C, H, W] to [N, C * H * W] is supported, got start_dim="
            f"{module.start_dim}, end_dim={module.end_dim}"
        )
    return layers.Flatten()


def multiply(modules: Sequence[nn.Module], scale: Value) -> None:
    """Multiply the currents of synapses, by a number or one a channel, in place.

    Raises:
        ValueError: one of them has no weights.
    """
    by_channel = torch.as_tensor(scale, dtype=torch.float64).reshape(-1)
    if bool(torch.isclose(by_channel, torch.ones_like(by_channel), rtol=NEGLIGIBLE).all()):
        return
    for module in modules:
        if isinstance(module, nn.Identity):
            raise ValueError(
                f"a readout multiplies what it takes by {by_channel.tolist()}, and has no weights to do it"
            )
        for parameter in module.parameters():
            scaled = parameter.detach().double() * by_channel.view(-1, *[1] * (parameter.ndim - 1))
            parameter.data = scaled.to(parameter.dtype)
