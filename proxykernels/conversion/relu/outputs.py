"""What a model returns: one tensor, or several in tuples, lists and dicts, which a network gives side by side."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...network import Part
from ..graph.fx_calls import arguments, path_of

MONOTONE = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)  # of the logits, at the end
MONOTONE_NAMES = frozenset("softmax log_softmax sigmoid logsigmoid".split())


def one_output(traced: fx.GraphModule, model: str) -> None:
    """Make the model return its logits as one tensor: without a softmax or sigmoid at the end, and of several results
    all values [N, features] side by side. A run has noted what each node gives (sample_runs.py)."""
    graph = traced.graph
    output = list(graph.nodes)[-1]
    leaves = _leaves(output.args[0])
    if not leaves:
        raise TypeError(f"{model} must return a tensor, its forward returns {output.args[0]}")
    for leaf in leaves:
        if not leaf.meta["shape"]:
            raise TypeError(f"{model} must return tensors [N, ...], and {path_of(leaf)} gives one value of all samples")
    logits = [_logits(leaf, traced, output) for leaf in leaves]
    with graph.inserting_before(output):
        logits = [_with_features(leaf, graph) for leaf in logits]
        if len(logits) > 1:
            flat = [graph.call_function(torch.flatten, (leaf, 1)) for leaf in logits]
            logits = [graph.call_function(torch.cat, (flat, 1))]
    output.args = (logits[0],)
    traced.recompile()


def tensors_of(returned: Any) -> list[Tensor]:
    """All tensors in what a model returned, in order."""
    if isinstance(returned, Tensor):
        return [returned]
    return [tensor for item in _items(returned) for tensor in tensors_of(item)]


def parts_of(returned: Any) -> Part | None:
    """Where a network's output has what the model returned; None: it is one tensor, and the output itself.

    Named tuples become tuples, and dataclasses dicts of their fields. What is no tensor is None.
    """
    start = 0

    def part(value: Any) -> Any:
        nonlocal start
        if isinstance(value, Tensor):
            start += value[0].numel()
            return Part((start - value[0].numel(), start), tuple(value.shape[1:]))
        if isinstance(value, dict) or dataclasses.is_dataclass(value):
            return {key: part(item) for key, item in zip(_keys(value), _items(value), strict=True)}
        if isinstance(value, tuple | list):  # torch.fx's own kind of a list
            return (tuple if isinstance(value, tuple) else list)(map(part, value))
        return None

    return None if isinstance(returned, Tensor) and returned.ndim > 1 else part(returned)


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else [field.name for field in dataclasses.fields(value)]


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if dataclasses.is_dataclass(value):
        return [getattr(value, name) for name in _keys(value)]
    return list(value) if isinstance(value, tuple | list) else []


def _leaves(returned: Any) -> list[fx.Node]:
    """The nodes of the tensors in what the forward pass returns."""
    leaves: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        if node.op == "call_function" and isinstance(node.target, type):  # a named tuple or a dataclass
            fx.map_arg((node.args, node.kwargs), note)
        elif "shape" in node.meta:
            leaves.append(node)
        return node

    fx.map_arg(returned, note)
    return leaves


def _with_features(leaf: fx.Node, graph: fx.Graph) -> fx.Node:
    """One value for each sample [N] as [N, 1]."""
    if len(leaf.meta["shape"]) != 1:
        return leaf
    before = arguments(leaf)[0] if leaf.op != "call_module" and arguments(leaf) else None
    if before is not None and before.meta.get("shape") == (*leaf.meta["shape"], 1):
        return before  # it was but squeezed
    return graph.call_function(torch.unsqueeze, (leaf, 1))


def _logits(leaf: fx.Node, traced: fx.GraphModule, output: fx.Node) -> fx.Node:
    """What a softmax or the like at the end takes."""
    name = leaf.target if isinstance(leaf.target, str) else getattr(leaf.target, "__name__", "")
    if leaf.op == "call_module":
        ends = isinstance(traced.get_submodule(str(leaf.target)), MONOTONE)
    else:
        ends = leaf.op in ("call_function", "call_method") and name in MONOTONE_NAMES
    return arguments(leaf)[0] if ends and set(leaf.users) == {output} else leaf
