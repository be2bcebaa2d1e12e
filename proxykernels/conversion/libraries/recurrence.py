"""Modules of other libraries whose neurons take their own spikes of the step before.

A network is compared without its feedback (:func:`cut`), layer by layer like any other; the feedback is compared by
itself (port_proof.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .spikingjelly_neurons import is_kind

CONTAINERS = ("LinearRecurrentContainer", "ElementWiseRecurrentContainer")


class Recurrence(NamedTuple):
    """What comes back to the neurons of a module.

    Attributes:
        module: the library's. neuron: the one whose spikes these are: itself, or one in it.
        weight: [C, C], of which row i has what neuron i receives; one value a neuron [C]; or one for all []. bias: [C].
        synapse: what the module puts in front of its neurons; None: nothing.
        learnt: whether the weights are trained.
    """

    module: nn.Module
    neuron: Any
    weight: Tensor
    bias: Tensor | None = None
    synapse: nn.Linear | None = None
    learnt: bool = True


Find = Callable[[nn.Module], Recurrence | None]  # None: nothing comes back to a module


def of_snntorch(module: Any) -> Recurrence | None:
    """Of RLeaky and RSynaptic."""
    back = getattr(module, "recurrent", None)
    if not type(module).__module__.startswith("snntorch.") or back is None:
        return None
    kind = type(module).__name__
    if isinstance(back, nn.Linear):
        bias = None if back.bias is None else back.bias.detach()
        return Recurrence(module, module, back.weight.detach(), bias, learnt=back.weight.requires_grad)
    if type(back).__name__ != "RecurrentOneToOne":
        raise TypeError(
            f"{kind} with a recurrent {type(back).__name__} has no counterpart here; use linear_features, or "
            "all_to_all=False"
        )
    V = torch.as_tensor(back.V)
    return Recurrence(module, module, V.detach().squeeze(), learnt=V.requires_grad)


def of_spikingjelly(module: Any) -> Recurrence | None:
    """Of the containers around neurons."""
    if not is_container(module):
        return None
    kind, neuron = type(module).__name__, module.sub_module
    if not is_kind(type(neuron)):
        raise TypeError(
            f"{kind} must hold neurons alone, such as IFNode, got {type(neuron).__name__}; put others outside"
        )
    if kind == CONTAINERS[1]:
        return Recurrence(module, neuron, _factor(module.element_wise_function), learnt=False)
    split, rc = module.rc.in_features - module.sub_module_out_features, module.rc
    synapse = nn.Linear(split, rc.out_features, rc.bias is not None, device="meta")
    synapse.weight = nn.Parameter(rc.weight.detach()[:, :split].clone(), rc.weight.requires_grad)
    if rc.bias is not None:
        synapse.bias = nn.Parameter(rc.bias.detach().clone(), rc.bias.requires_grad)
    weight = rc.weight.detach()[:, split:].clone()
    return Recurrence(module, neuron, weight, synapse=synapse, learnt=rc.weight.requires_grad)


def is_container(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's recurrent containers."""
    return type(module).__module__.startswith("spikingjelly.") and type(module).__name__ in CONTAINERS


def _factor(function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """r, of a function r y + x of spikes y and an input x."""
    x = torch.linspace(-2, 2, 9)
    silent, fired = (function(torch.full_like(x, y), x) for y in (0.0, 1.0))
    known = isinstance(silent, Tensor) and isinstance(fired, Tensor) and silent.shape == fired.shape == x.shape
    r = (fired - x)[0] if known else x[0]
    if not known or not torch.allclose(silent, x) or not torch.allclose(fired, x + r):
        raise TypeError(
            "ElementWiseRecurrentContainer's element_wise_function must add the spikes to the input, or a multiple of "
            "them, such as lambda x, y: x + y"
        )
    return r


def cut(net: nn.Module) -> nn.Module:
    """The network itself, whose neurons now receive nothing of their own."""
    for module in net.modules():
        recurrent: Any = module
        if is_container(module) and type(module).__name__ == CONTAINERS[1]:
            recurrent.element_wise_function = _input_alone
        elif is_container(module):
            with torch.no_grad():
                recurrent.rc.weight[:, recurrent.rc.in_features - recurrent.sub_module_out_features :] = 0
        elif type(module).__module__.startswith("snntorch.") and hasattr(module, "recurrent"):
            recurrent.recurrent = BiasAlone(getattr(recurrent.recurrent, "bias", None))
    return net


def _input_alone(y: Tensor, x: Tensor) -> Tensor:
    return x


class BiasAlone(nn.Module):
    """In the place of a matrix product: its bias, which no spike has to bring."""

    def __init__(self, bias: Tensor | None):
        super().__init__()
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.bias is None else self.bias.expand(x.shape)
