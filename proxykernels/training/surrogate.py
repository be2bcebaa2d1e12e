"""Training with a surrogate derivative: backpropagation through time."""

from typing import TypeVar

from torch import nn

from .. import checks, surrogates
from ..layers import Neurons
from ..surrogates import Surrogate

Net = TypeVar("Net", bound=nn.Module)


def use_surrogate(net: Net, surrogate: Surrogate | None) -> Net:
    """Make all layers with neurons differentiable, by a surrogate derivative for their spikes.

    The output of such a layer, :class:`Spikes` or a tensor, carries a gradient if gradients are enabled: with respect
    to the input, the weights, a state that is passed in, and learnable parameters of neurons. The backward pass keeps
    the packed spikes only, and recomputes the currents.

    Args:
        net: a network of the layers of this package (T, N, ...), or a layer: its attribute ``surrogate`` is set.
        surrogate: for example ``ATan(2.0)``; None: no gradient, the default.

    Returns:
        ``net`` itself.

    Raises:
        TypeError: ``net`` is no module, or ``surrogate`` no surrogate derivative. ValueError: it has no neurons.
    """
    checks.module("net", net)
    surrogates.check(surrogate)
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, Neurons)}
    checks.neurons("net", layers)
    for layer in layers.values():
        layer.surrogate = surrogate
    return net
