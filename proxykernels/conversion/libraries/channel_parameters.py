"""Products and sums of a layer's currents with parameters, one value a channel: its weights and bias take them in."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ..graph.sample_runs import called

AXES = (
    (nn.Linear, 0),
    (nn.BatchNorm1d, 0),
    (nn.Conv2d, 2),
    (nn.BatchNorm2d, 2),
)  # behind the channels of what they give
PRODUCTS, SUMS = ("mul", "multiply", "imul"), ("add", "iadd")


@torch.no_grad()
def into_weights(traced: fx.GraphModule) -> fx.GraphModule:
    """Replace ``fc(x) * gain`` and ``fc(x) + offset`` by ``fc(x)`` with other weights, in place.

    Others stay, and are refused: values for each place of an image, and what takes spikes or a layer with other users.
    """
    graph = traced.graph
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        name = called(node).strip("_")
        if name not in (*PRODUCTS, *SUMS) or len(node.args) != 2 or node.kwargs:
            continue
        pairs = [(node.args[k], _tensor(node.args[1 - k], traced)) for k in range(2)]
        given, values = next((pair for pair in pairs if pair[1] is not None), (None, None))
        current: Any = given
        while _is_identity(current, traced):
            current = current.args[0]
        if not isinstance(current, fx.Node) or current.op != "call_module" or values is None:
            continue
        module: Any = traced.get_submodule(str(current.target))
        axes = next((axes for kind, axes in AXES if isinstance(module, kind)), None)
        is_own = len(current.users) == 1 and calls.count(str(current.target)) == 1
        if axes is None or module.weight is None or not is_own or not _is_of_channels(values, axes, len(module.weight)):
            continue
        values = values.flatten().to(module.weight)
        bias = torch.zeros_like(values) if module.bias is None else module.bias
        if name in PRODUCTS:
            factors = values.view(-1, *[1] * (module.weight.ndim - 1))
            module.weight = nn.Parameter(module.weight * factors, module.weight.requires_grad)
        if name in SUMS or module.bias is not None:
            changed = bias * values if name in PRODUCTS else bias + values
            module.bias = nn.Parameter(changed, module.weight.requires_grad)
        node.replace_all_uses_with(given)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _is_identity(node: Any, traced: fx.GraphModule) -> bool:
    """Whether a node gives what another gives, and has one user."""
    is_module = isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1
    return is_module and type(traced.get_submodule(str(node.target))) is nn.Identity


def _tensor(node: Any, traced: fx.GraphModule) -> Tensor | None:
    """A parameter or buffer that a node stands for."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = traced
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def _is_of_channels(values: Tensor, axes: int, channels: int) -> bool:
    """Whether a tensor has one value a channel, and no axis that meets samples, steps or places."""
    shape = list(values.shape)
    at = len(shape) - axes - 1
    return at >= 0 and shape[at] == channels and values.numel() == channels > 1
