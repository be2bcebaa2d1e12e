"""Groups of neurons that a forward pass adds up, ``spikes.view(N, classes, k).sum(-1)``, as a layer with weights."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ..graph.sample_runs import called
from .time_loops import over_time

REDUCED = "sum", "mean"
LAST = -1, 2, [-1], [2], (-1,), (2,)


def as_weights(traced: fx.GraphModule, is_neuron: Callable[[nn.Module], bool]) -> fx.GraphModule:
    """Replace sums and means over the last axis of [N, groups, k], a view of [N, features], by Linears, in place.

    Others stay, and are refused: also those of neurons that do not stand behind a Linear.
    """
    graph = traced.graph
    for node in list(graph.nodes):
        view: Any = node.args[0] if called(node) in REDUCED and node.args else None
        source = view.args[0] if isinstance(view, fx.Node) and view.args and list(view.users) == [node] else None
        linear = _linear(source, traced, is_neuron)
        groups = None if linear is None else _groups(view, linear.out_features)
        axes = [*node.args[1:], *node.kwargs.values()]
        if groups is None or linear is None or len(axes) != 1 or axes[0] not in LAST:
            continue
        weight = torch.eye(groups[0]).to(linear.weight).repeat_interleave(groups[1], 1)
        summed = nn.Linear(linear.out_features, groups[0], bias=False)
        summed.weight = nn.Parameter(weight if called(node) == "sum" else weight / groups[1], False)
        name = f"{node.name}_of_groups"
        traced.add_submodule(name, summed)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.call_module(name, (source,)))
        graph.erase_node(node)
        graph.erase_node(view)
    traced.recompile()
    return traced


def _groups(view: fx.Node, features: int) -> tuple[int, int] | None:
    """The groups and their size, where a node gives [N, groups, size] of [N, features]; None: something else."""
    sizes: list[Any] = list(view.args[1:])
    name = called(view)
    if name == "unflatten" and len(sizes) == 2 and sizes[0] in (1, -1):
        sizes = [None, *sizes[1]]
    elif name not in ("view", "reshape"):
        return None
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = list(sizes[0])
    if len(sizes) != 3 or not all(isinstance(size, int) for size in sizes[1:]):
        return None
    groups, size = sizes[1:]
    groups, size = (features // size if groups == -1 else groups), (features // groups if size == -1 else size)
    return (groups, size) if groups > 0 and groups * size == features else None


def _linear(node: Any, traced: fx.GraphModule, is_neuron: Callable[[nn.Module], bool]) -> nn.Linear | None:
    """The layer in front of neurons, of which a node gives the spikes, or their sum over time."""
    while isinstance(node, fx.Node) and node.args:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            if isinstance(module, nn.Linear):
                return module
            if not is_neuron(module) and not isinstance(module, nn.Dropout | nn.Identity):
                return None
        elif not (node.target is over_time or (node.target is operator.getitem and node.args[1] == 0)):
            return None
        node = node.args[0]
    return None
