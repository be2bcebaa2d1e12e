"""Layers of this package made of torch's modules, with the same parameters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import layers
from ...layers.synapses import synapse_of
from ...neurons import AnyNeuron, IFNeuron, LIFNeuron, LINeuron, Value

GENERAL: tuple[Any, ...] = (
    layers.Population,
    layers.FusedConv1d,
    layers.FusedConv2d,
    layers.FusedLinear,
    layers.FusedSum,
)
NAMED: dict[type[AnyNeuron], tuple[Any, ...]] = {  # for neurons that have layers of their own name
    IFNeuron: (layers.IF, layers.FusedIFConv1d, layers.FusedIFConv2d, layers.FusedIFLinear, layers.FusedIFSum),
    LIFNeuron: (layers.LIF, layers.FusedLIFConv1d, layers.FusedLIFConv2d, layers.FusedLIFLinear, layers.FusedLIFSum),
}

Pools = tuple[Any, Any]  # along one axis, and of images
MAX_POOLS: Pools = layers.MaxPool1d, layers.MaxPool2d  # of each step
MAX_RATE_POOLS: Pools = layers.MaxRatePool1d, layers.MaxRatePool2d
RUNNING_MAX_POOLS: Pools = layers.RunningMaxPool1d, layers.RunningMaxPool2d

NEGLIGIBLE = 1e-6  # relative: what float32 leaves of a factor of 1, or of a decay of 0
CARRIED = LINeuron(decay=0.0)  # forgets all at each step: its potential is the current


def build_layer(modules: list[nn.Module], neuron: AnyNeuron, v_init: Value | None = None) -> nn.Module:
    """The layer of neurons that take the sum of ``modules`` (Conv2d, Linear or Identity), whose parameters it holds."""
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
    """The layer of neurons that take ``module``, a Linear or Identity, and what their spikes bring back.

    Args:
        recurrent: [C, C], one value a neuron [C], or one for all []. bias: [C], of what comes back.
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
    if isinstance(module, nn.AvgPool2d):
        return layers.AvgPool2d(
            module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad,
            module.divisor_override,
        )  # fmt: skip
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return layers.AdaptiveAvgPool2d(module.output_size)
    if isinstance(module, nn.AvgPool1d):
        return layers.AvgPool1d(
            module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad
        )
    if isinstance(module, nn.AdaptiveAvgPool1d):
        return layers.AdaptiveAvgPool1d(module.output_size)
    if isinstance(module, nn.Upsample):
        if module.recompute_scale_factor:
            raise ValueError(f"{where}: recompute_scale_factor must be False; give the size instead")
        return layers.Upsample(module.size, module.scale_factor, module.mode, module.align_corners)
    if isinstance(module, nn.ZeroPad2d):
        return layers.ZeroPad2d(module.padding)
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
