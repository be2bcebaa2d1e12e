"""Layers of this package made of torch's modules, with the same parameters."""

from torch import nn

from .. import layers
from ..layers import MaxRatePool2d
from ..layers.sums import FusedIFSum


def build_layer(modules: list[nn.Module], neuron: dict) -> nn.Module:
    """The layer of neurons that take the sum of ``modules`` (Conv2d, Linear or Identity), whose parameters it holds.

    ``neuron``: v_threshold, v_reset and v_init.
    """
    if len(modules) > 1:
        return FusedIFSum(*(_with_parameters(module, nn.Conv2d, nn.Linear) for module in modules), **neuron)
    (module,) = modules
    if isinstance(module, nn.Identity):
        return layers.IF(**neuron)
    return _with_parameters(module, layers.FusedIFConv2d, layers.FusedIFLinear, **neuron)


def _with_parameters(module: nn.Module, convolution: type, linear: type, **neuron) -> nn.Module:
    """A module of one of two types that computes what ``module`` does; its class may be another library's."""
    if isinstance(module, nn.Identity):
        return nn.Identity()
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        layer = linear(module.in_features, module.out_features, bias, device="meta", **neuron)
    else:
        layer = convolution(
            module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding,
            module.dilation, module.groups, bias, device="meta", **neuron,
        )  # fmt: skip
    layer.weight, layer.bias = module.weight, module.bias
    return layer


def shaping_layer(module: nn.Module, of_rates: bool, where: str) -> nn.Module:
    """The layer for a pooling or flattening of torch; ``of_rates``: max pooling takes the highest rate, not the OR."""
    if isinstance(module, nn.MaxPool2d):
        if module.dilation not in (1, (1, 1)) or module.ceil_mode or module.return_indices:
            raise ValueError(f"{where}: max pooling with dilation, ceil_mode or return_indices is not supported")
        pool = MaxRatePool2d if of_rates else layers.MaxPool2d
        return pool(module.kernel_size, module.stride, module.padding)
    if isinstance(module, nn.AvgPool2d):
        return layers.AvgPool2d(
            module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad,
            module.divisor_override,
        )  # fmt: skip
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return layers.AdaptiveAvgPool2d(module.output_size)
    if (module.start_dim, module.end_dim) not in ((1, -1), (1, 3)):
        raise ValueError(
            f"{where}: only flattening of [N, C, H, W] to [N, C * H * W] is supported, got start_dim="
            f"{module.start_dim}, end_dim={module.end_dim}"
        )
    return layers.Flatten()
