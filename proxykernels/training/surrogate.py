"""Training with a surrogate derivative: backpropagation through time."""

from typing import TypeVar

from torch import Tensor, nn

from .. import checks, surrogates
from ..calls import neuron_ops
from ..checks import chunked_passes
from ..layers import Neurons
from ..neurons import IFNeuron
from ..surrogates import Surrogate, Triangle

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


def if_scan_surrogate(current: Tensor, *, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0) -> Tensor:
    """Spikes of IF neurons on given currents, with a surrogate gradient (equations: :mod:`proxykernels.functional`).

    Backward, the derivative of a spike by its neuron's potential h is a triangle around the threshold theta,

        ds/dh = max(0, theta - |h - theta|) / theta^2          (Esser et al., PNAS 2016, arXiv:1603.08270)

    and gradients do not pass through the reset: ``Triangle(1.0, detach_reset=True)``. One launch runs all steps
    forward, and one all steps back.

    Args:
        current: [T, N, ...] of any float dtype; the neurons start at rest.
        v_threshold, v_reset: as in :func:`proxykernels.if_scan`.

    Returns:
        Spikes of 0 and 1, float32 [T, N, ...].

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    chunked_passes.check_function("if_scan_surrogate", "IF", takes_state=False)
    checks.no_gradient("v_threshold", v_threshold)
    neuron = IFNeuron(v_threshold=v_threshold, v_reset=v_reset)
    return neuron_ops.scan(current, None, neuron, Triangle(detach_reset=True))[0].dense()
