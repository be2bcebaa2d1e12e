"""Refuses what no run takes, in sentences that say what to pass instead."""

from torch import nn

from .. import checks
from ..layers import SpikingLayer
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons


def check_runnable(net: nn.Module) -> None:
    """``net`` must be a network of layers of neurons that has its weights.

    Raises:
        TypeError: it trains a network. ValueError: it has no layer of neurons, such as a ReLU network, or no weights.
    """
    if getattr(type(net), "trains_its_net", False):
        kind = type(net).__name__
        raise TypeError(f"net is a {kind}, which trains a network: pass that network, the {kind}'s .net")
    checks.neurons("net", [module for module in net.modules() if isinstance(module, SpikingLayer | SigmaDeltaNeurons)])
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"net is on the meta device: its {name} has no values; load the network's weights first")
