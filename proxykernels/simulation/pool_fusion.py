"""Which convolutions of a network a 2 x 2 max pooling follows: a GPU then pools in the convolution's own launch."""

from itertools import pairwise

from torch import nn

from ..layers import FusedConv2d, MaxPool2d
from ..network import Network


def layers_before_pools(net: nn.Module) -> set[nn.Module]:
    """The convolutions of a network that :class:`MaxPool2d` by 2 x 2 follows, where it is written down what follows: in
    an nn.Sequential or a :class:`Network`."""
    pairs: list[tuple[nn.Module | None, nn.Module]] = []
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            pairs += pairwise(module)
        elif isinstance(module, Network):
            layers = {name: layer for name, layer, _ in module.layers()}
            pairs += [(layers.get(source), layer) for _, layer, sources in module.layers() for source in sources]
    return {layer for layer, following in pairs if isinstance(layer, FusedConv2d) and _is_two_by_two(following)}


def _is_two_by_two(layer: nn.Module) -> bool:
    if not isinstance(layer, MaxPool2d):
        return False
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return all(size in (2, (2, 2), [2, 2]) for size in (layer.kernel_size, stride)) and layer.padding in (0, (0, 0))
