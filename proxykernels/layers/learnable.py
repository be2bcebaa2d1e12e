"""Learnable parameters of neurons, which stay valid whatever the optimizer does to them."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import checks
from ..neurons import LoihiNeuron
from .base import Neurons

Net = TypeVar("Net", bound=nn.Module)


class Positive(nn.Module):
    """A value above 0: the softplus log(1 + e^x) of the learned value x, plus a little."""

    LEAST = 1e-6  # always added, since the softplus itself can round to 0

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x) + self.LEAST

    def right_inverse(self, value: Tensor) -> Tensor:
        above = (value - self.LEAST).clamp(min=self.LEAST)
        return above + torch.log(-torch.expm1(-above))


class Share(nn.Module):
    """A value within 0 .. 1: the sigmoid of the learned value."""

    LEAST = 1e-4  # least distance of the start from 0 and 1, where the sigmoid has no slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def right_inverse(self, value: Tensor) -> Tensor:
        return torch.logit(value, self.LEAST)


def learn_neurons(net: Net, *names: str) -> Net:
    """Make parameters of neurons learnable: thresholds, decays.

    Each becomes an nn.Parameter of its layer, one number or one a channel as it is now, with a parametrization
    (torch.nn.utils.parametrize) that keeps it valid: thresholds above 0 by the softplus, decays within 0 .. 1 by the
    sigmoid, of which a decay of 0 or 1 starts 1e-4 away. Their gradient needs a surrogate derivative
    (:func:`use_surrogate`, :class:`SurrogateNet`); ``v_reset`` and ``v_rest`` must stay below the threshold.

    Args:
        net: a network of layers (T, N, ...), or a layer; layers whose neurons have no such parameter are passed over.
        names: such as "decay" or "v_threshold".

    Returns:
        ``net`` itself.

    Raises:
        TypeError: ``net`` is no module, or there are no names. ValueError: no layer has a parameter of that name, it
            is learned already, it is an integer of a LoihiNeuron, or of a neuron in Python and not above 0.
    """
    checks.module("net", net)
    if not names:
        raise TypeError('names must say what is learned, got none; write learn_neurons(net, "decay"), for example')
    layers = [layer for layer in net.modules() if isinstance(layer, Neurons)]
    for name in names:
        having = [layer for layer in layers if name in layer.neuron.channelwise]
        if not having:
            known = sorted({field for layer in layers for field in layer.neuron.channelwise})
            raise ValueError(f"names must be parameters that channels have, of {known} here, got {name!r}")
        for layer in having:
            _learn(layer, name)
    return net


def _learn(layer: Neurons, name: str) -> None:
    if parametrize.is_parametrized(layer, name) or isinstance(layer._parameters.get(name), nn.Parameter):
        raise ValueError(f"{name} is learned already")
    if isinstance(layer.neuron, LoihiNeuron):
        raise ValueError(f"{name} of a LoihiNeuron is an integer of 12 or 24 bits, which no gradient can learn")
    value = getattr(layer, name)
    device = next((parameter.device for parameter in layer.parameters()), None)
    if layer.neuron.in_python and not name.endswith("decay") and not _is_above_zero(value):
        raise ValueError(f"{name} must be above 0 to be learned, for its parametrization keeps it so; got {value}")
    start = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float32, device=device)
    layer._forget(name)
    layer.register_parameter(name, nn.Parameter(start.detach().clone()))
    parametrize.register_parametrization(layer, name, Share() if name.endswith("decay") else Positive())


def _is_above_zero(value: float | Tensor) -> bool:
    return bool((value > 0).all()) if isinstance(value, Tensor) else value > 0
