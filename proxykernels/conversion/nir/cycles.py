"""Cycles of a graph of NIR.

Neurons -> weights -> the same neurons are recurrent neurons: a spike comes back one step later, as in
:class:`proxykernels.FusedRecurrentLinear`. Any other cycle must have a Delay, and a spike comes back as many steps
later as the Delays in it say. The cycle is cut there: the Delay takes what its sender gave in the step before, and is
one step shorter.
"""

import copy
import graphlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import checks
from ...network import free_name
from ...neurons import AnyNeuron, Value
from ..graph.rewrites import build_recurrent
from .nodes import Before, is_neuron, numbers_of, steps_of_delay, synapse

ONLY = (
    "only neurons -> weights -> the same neurons, with a Linear, Affine or Scale for weights, may be a cycle without a "
    "Delay of a step or more: put one where spikes are to come back later"
)


def leave_out_single_steps(nir, nodes: dict[str, Any], senders: dict[str, list[str]], dt: float) -> None:
    """Take Delays of one step out of cycles neurons -> weights -> the same neurons, which have one without them."""
    for name, node in list(nodes.items()):
        if not isinstance(node, nir.Delay) or len(senders[name]) != 1:
            continue
        receivers = [receiver for receiver, its_senders in senders.items() if name in its_senders]
        (giver,) = senders[name]
        if len(receivers) != 1 or not _is_cycle(nir, nodes, senders, giver, receivers[0]):
            continue
        with checks.at(f"node '{name}'"):
            if bool((steps_of_delay(node, dt) != 1).any()):
                continue
        senders[receivers[0]][senders[receivers[0]].index(name)] = giver
        del senders[name], nodes[name]


def _is_cycle(nir, nodes: Mapping[str, Any], senders: Mapping[str, list[str]], giver: str, receiver: str) -> bool:
    """Whether neurons and weights around a Delay are a cycle with it."""
    neurons, weights = (giver, receiver) if is_neuron(nir, nodes[giver]) else (receiver, giver)
    is_weight = isinstance(nodes[weights], nir.Linear | nir.Affine | nir.Scale)
    if weights == neurons or not (is_weight and is_neuron(nir, nodes[neurons])):
        return weights == neurons
    return weights in senders[neurons] if weights == receiver else senders[weights] == [neurons]


def cut_at_delays(nir, nodes: dict[str, Any], senders: dict[str, list[str]], dt: float) -> None:
    """Cut all cycles, in place, each at a Delay: it takes a :class:`Before` instead of its sender.

    Raises:
        ValueError: a cycle has no Delay of a step or more.
    """
    while True:
        try:
            list(graphlib.TopologicalSorter(senders).static_order())
            return
        except graphlib.CycleError as error:
            around = error.args[1]
        for name in sorted({name for name in around if isinstance(nodes[name], nir.Delay)}):
            with checks.at(f"node '{name}'"):
                steps = steps_of_delay(nodes[name], dt)
            if len(senders[name]) == 1 and bool((steps >= 1).all()):
                break
        else:
            raise ValueError(f"the graph has a cycle, {' -> '.join(around)}; {ONLY}")
        (giver,) = senders[name]
        before = Before(giver, tuple(steps.shape) if steps.numel() > 1 else None)
        if bool((steps == 1).all()):
            nodes[name], senders[name] = before, []
            continue
        shorter = copy.copy(nodes[name])
        shorter.delay = (steps - 1).double().numpy() * dt
        key = free_name(f"{giver}_before", nodes)
        nodes[name], nodes[key], senders[key], senders[name] = shorter, before, [], [key]


def take_out(nir, nodes: Mapping[str, Any], senders: dict[str, list[str]]) -> dict[str, list[str]]:
    """Take cycles of recurrent neurons out of ``senders``. Returns neurons -> the nodes that their spikes come back
    through, which is their own name where an edge leads straight back."""
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
    """The layer of recurrent neurons behind ``modules``; ``names``: the nodes that spikes come back through."""

    if len(modules) > 1:
        raise TypeError(
            "recurrent neurons take one input, by a Linear, an Affine or nothing between; add them up before"
        )
    pairs = [_weight_of(nir, nodes, back, name) for back in names]
    biases = [bias for _, bias in pairs if bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return build_recurrent(modules[0], neuron, _joined([weight for weight, _ in pairs]), bias, v_init)


def returned(nir, nodes: Mapping[str, Any], names: Sequence[str], name: str, before: Tensor) -> Tensor:
    """The recurrent current of neurons for their spikes [T, N, C] of the step before, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for back in names:
        weight, bias = _weight_of(nir, nodes, back, name)
        weight = weight.double()
        total = total + (before * weight if weight.ndim < 2 else before @ weight.t())
        total = total if bias is None else total + bias.double()
    return total


def _weight_of(nir, nodes: Mapping[str, Any], back: str, name: str) -> tuple[Tensor, Tensor | None]:
    """Recurrent weights [C, C], one a neuron [C] or one for all []; and a bias, or None."""
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
    """The sum of weights, in the smallest form that can hold it."""
    C = max((len(weight) for weight in weights if weight.ndim), default=1)
    if all(weight.ndim < 2 for weight in weights):
        return sum(weights, torch.zeros(()))
    full = torch.zeros(C, C)
    for weight in weights:
        full = full + (weight if weight.ndim == 2 else torch.diag(weight.expand(C)))
    return full
