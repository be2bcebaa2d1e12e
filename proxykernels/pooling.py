"""Max pooling: of firing rates, for converted networks; and which convolutions of a network it follows."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checks, functional
from .layers import FusedIFConv2d, MaxPool2d, Neurons
from .network import Network
from .spikes import Spikes, pack


class MaxRatePool2d(Neurons):
    """Max pooling of spike counts: at every step its output has fired as often as the busiest input of its window.

    :class:`MaxPool2d`, the OR of spikes, fires more often than any of its inputs where they fire at different steps. In
    a network that stands for a ReLU network by its rates that is an error which no number of steps removes; this layer
    makes none. With c_i[t] the spikes of input i so far, the output fires when max_i c_i grows:

        s[t] = max_i c_i[t] - max_i c_i[t-1]      (0 or 1, as no count grows by more than 1)

    Args:
        kernel_size, stride, padding: as in nn.MaxPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), Spikes or a tensor of 0 and 1; y (T, N, C, H_out, W_out); state v [N, C, H, W]:
    the counts.

    Raises:
        TypeError, ValueError: x holds other values, or a window does not fit.
    """

    v_threshold, v_reset, v_init = 1.0, None, 0.0  # of the class: constants, which no state_dict saves

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size = checks.pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else checks.pair("stride", stride, 1)
        self.padding = checks.pair("padding", padding, 0)

    def _fire(self, x, v, batch_statistics):
        x = x if isinstance(x, Spikes) else pack(x)
        counts = torch.zeros(x.shape[1:], device=x.device) if v is None else v
        return functional.max_rate_pool2d(x, counts, self.kernel_size, self.stride, self.padding)

    def affine(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)

    def terms(self, x: Spikes | Tensor) -> list:
        return []  # no synapse

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


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
    return {layer for layer, following in pairs if isinstance(layer, FusedIFConv2d) and _is_two_by_two(following)}


def _is_two_by_two(layer: nn.Module) -> bool:
    if not isinstance(layer, MaxPool2d):
        return False
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return all(size in (2, (2, 2), [2, 2]) for size in (layer.kernel_size, stride)) and layer.padding in (0, (0, 0))
