"""A ReLU network in one pass whose small activations are set to 0, without training (FATReLU, Kurtz et al. 2020).

The threshold of a layer is a share of a high quantile of its activations on the images of calibration.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

SHARE, QUANTILE = 0.1, 0.99  # a tenth of the 99th percentile
SAMPLED = 20_000  # activations of a layer and batch, of which the quantile is taken
AT_ONCE = 100  # images


class Cut(nn.Module):
    """Passes on what is at least the threshold, and 0 otherwise."""

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= self.threshold, x, 0.0)


@torch.no_grad()
def cut(net: nn.Module, images: Tensor) -> nn.Module:
    """A copy of the network with a Cut behind each nn.ReLU and nn.Hardtanh."""
    net = copy.deepcopy(net).eval()
    activations = {path: module for path, module in net.named_modules() if isinstance(module, nn.ReLU | nn.Hardtanh)}
    seen: dict[str, list[Tensor]] = {path: [] for path in activations}

    def note(path: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            values = output.flatten()
            seen[path].append(values[:: max(1, len(values) // SAMPLED)].clone())

        return hook

    hooks = [module.register_forward_hook(note(path)) for path, module in activations.items()]
    for batch in images.split(AT_ONCE):
        net(batch)
    for hook in hooks:
        hook.remove()
    for path, module in activations.items():
        values = torch.cat(seen[path]).numpy()
        net.set_submodule(path, nn.Sequential(module, Cut(SHARE * float(np.quantile(values, QUANTILE)))))
    return net
