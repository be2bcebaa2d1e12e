"""Neurons of a NIR graph whose spikes come back to them: a cycle neurons -> weights -> the same neurons.

A spike comes back one step later, as in :class:`proxykernels.FusedRecurrentLinear`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import checks
from ...neurons import AnyNeuron, Value
from ..graph.build_layers import build_recurrent
from .neuron_nodes import is_neuron
from .nodes import numbers_of, synapse

ONLY = "only neurons -> weights -> the same neurons, with a Linear, Affine or Scale for weights, may be a cycle"


def take_out(nir, nodes: Mapping[str, Any], senders: dict[str, list[str]]) -> dict[str, list[str]]:
    """Take such cycles out of ``senders``: neurons -> the nodes that their spikes come back through, or their own name
    where an edge leads straight back."""
    returning: dict[str, list[str]] = {}
    for name, node in nodes.items():
        if not is_neuron(nir, node):
            continue
        for sender in list(senders[name]):
            through = isinstance(nodes[sender], nir.Linear | nir.Affine | nir.Scale)
            if sender != name and not (through and senders.get(sender) == [name]):
                continue
            if sum(sender in others for others in senders.values()) > 1 and sender != name:
                continue  # others take what comes back, too
            senders[name].remove(sender)
            returning.setdefault(name, []).append(sender)
            if sender != name:
                del senders[sender]
    return returning


def layer_of(
    nir, nodes: Mapping[str, Any], names: Sequence[str], name: str, modules: list[nn.Module], neuron: AnyNeuron,
    v_init: Value | None,
) -> nn.Module:  # fmt: skip
    """The layer of recurrent neurons.

    Args:
        names: what their spikes come back through. modules: what they take.
    """
    if len(modules) > 1:
        raise TypeError(
            "recurrent neurons take one input, by a Linear, an Affine or nothing between; add them up before"
        )
    pairs = [_weight_of(nir, nodes, back, name) for back in names]
    biases = [bias for _, bias in pairs if bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return build_recurrent(modules[0], neuron, _joined([weight for weight, _ in pairs]), bias, v_init)


def returned(nir, nodes: Mapping[str, Any], names: Sequence[str], name: str, before: Tensor) -> Tensor:
    """What comes back to neurons, of the spikes [T, N, C] of the steps before each, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for back in names:
        weight, bias = _weight_of(nir, nodes, back, name)
        weight = weight.double()
        total = total + (before * weight if weight.ndim < 2 else before @ weight.t())
        total = total if bias is None else total + bias.double()
    return total


def _weight_of(nir, nodes: Mapping[str, Any], back: str, name: str) -> tuple[Tensor, Tensor | None]:
    """A matrix [C, C], one value a neuron [C] or one for all []; and a bias."""
    node = nodes[back]
    if back == name:
        return torch.ones(()), None
    with checks.at(f"node '{back}'"):
        if isinstance(node, nir.Scale):
            scale = numbers_of("scale", node.scale).float()
            if scale.numel() != 1 and scale.ndim != 1:
                raise ValueError(f"scale must have one value for each neuron, got {list(scale.shape)}")
            return scale.reshape(()) if scale.numel() == 1 else scale, None
        module: Any = synapse(nir, node)
        weight, bias = module.weight.detach(), module.bias
        if weight.shape[0] != weight.shape[1]:
            raise ValueError(f"weight must be square, for spikes come back to the neurons, got {list(weight.shape)}")
        return weight, None if bias is None else bias.detach()


def _joined(weights: Sequence[Tensor]) -> Tensor:
    """The sum of weights, in the smallest form that has them all."""
    C = max((len(weight) for weight in weights if weight.ndim), default=1)
    if all(weight.ndim < 2 for weight in weights):
        return sum(weights, torch.zeros(()))
    full = torch.zeros(C, C)
    for weight in weights:
        full = full + (weight if weight.ndim == 2 else torch.diag(weight.expand(C)))
    return full
