"""What a model returns: one tensor, or several in tuples, lists and dicts, which a network gives side by side."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ...network import Part
from ..graph.fx_calls import arguments

MONOTONE = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)  # of the logits, at the end
MONOTONE_NAMES = frozenset("softmax log_softmax sigmoid logsigmoid".split())


def one_output(traced: fx.GraphModule, model: str) -> None:
    """Make the model return its logits as one tensor: without a softmax or sigmoid at the end, and of several results
    all values [N, features] side by side."""
    graph = traced.graph
    output = list(graph.nodes)[-1]
    leaves: list[fx.Node] = []

    def note(leaf: fx.Node) -> fx.Node:
        leaves.append(leaf)
        return leaf

    fx.map_arg(output.args[0], note)
    if not leaves:
        raise TypeError(f"{model} must return a tensor, its forward returns {output.args[0]}")
    logits = [_logits(leaf, traced, output) for leaf in leaves]
    if len(logits) > 1:
        with graph.inserting_before(output):
            flat = [graph.call_function(torch.flatten, (leaf, 1)) for leaf in logits]
            logits = [graph.call_function(torch.cat, (flat, 1))]
    output.args = (logits[0],)
    traced.recompile()


def parts_of(returned: Any) -> Part | None:
    """Where a network's output has what the model returned; None: it is one tensor, and the output itself."""
    start = 0

    def part(value: Any) -> Any:
        nonlocal start
        if isinstance(value, Tensor):
            start += value[0].numel()
            return Part((start - value[0].numel(), start), tuple(value.shape[1:]))
        if isinstance(value, dict):
            return {key: part(item) for key, item in value.items()}
        if isinstance(value, tuple | list):  # torch.fx's own kind of a list
            return (tuple if isinstance(value, tuple) else list)(map(part, value))
        return None

    return None if isinstance(returned, Tensor) else part(returned)


def _logits(leaf: fx.Node, traced: fx.GraphModule, output: fx.Node) -> fx.Node:
    """What a softmax or the like at the end takes."""
    name = leaf.target if isinstance(leaf.target, str) else getattr(leaf.target, "__name__", "")
    if leaf.op == "call_module":
        ends = isinstance(traced.get_submodule(str(leaf.target)), MONOTONE)
    else:
        ends = leaf.op in ("call_function", "call_method") and name in MONOTONE_NAMES
    return arguments(leaf)[0] if ends and set(leaf.users) == {output} else leaf
