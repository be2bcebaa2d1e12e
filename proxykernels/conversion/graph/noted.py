"""What a forward pass did on two samples: shapes, numbers, and the tensors that do not depend on the sample."""

from typing import Any

import torch
from torch import Tensor, fx

SAMPLES = 2  # of one, an axis of samples could not be told from others of size 1
FILLED = frozenset("zeros_like ones_like full_like new_zeros new_ones new_full".split())  # of a tensor's shape alone


class Notes(fx.Interpreter):
    """Runs the network, and notes of each node in ``node.meta``:

    - "shape" and "type", if it gives a tensor;
    - "constant", that tensor, if it is made of parameters, buffers and numbers alone;
    - "value", what else it gives, such as a size or the parts of a split.
    """

    def __init__(self, traced: fx.GraphModule):
        super().__init__(traced)
        self._of_input: set[fx.Node] = set()

    @torch.no_grad()
    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        if not isinstance(value, Tensor):
            node.meta["value"] = value
        else:
            node.meta["shape"], node.meta["type"] = tuple(value.shape), (value.dtype, value.device)
        if _holds_tensors(value):
            if node.op == "placeholder" or (self._of_input.intersection(node.all_input_nodes) and not _filled(node)):
                self._of_input.add(node)
            elif isinstance(value, Tensor):
                node.meta["constant"] = _learnt(value) if any(map(_is_learnt, node.all_input_nodes)) else value
        return value


def is_constant(node: fx.Node) -> bool:
    """Whether a node computes numbers, from shapes, or tensors that no sample changes."""
    return "constant" in node.meta or ("value" in node.meta and not _holds_tensors(node.meta["value"]))


def constant_of(argument: Any) -> Any:
    """The number or tensor that a node gives at every call; of a sample's values the node itself."""
    if not isinstance(argument, fx.Node):
        return argument
    return argument.meta["constant"] if "constant" in argument.meta else argument.meta.get("value", argument)


def _is_learnt(node: fx.Node) -> bool:
    return "constant" in node.meta and node.meta["constant"].requires_grad


def _learnt(value: Tensor) -> Tensor:
    """A constant that is computed from parameters, which is trained as they are."""
    return value.detach().requires_grad_() if value.is_floating_point() else value


def _filled(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op != "call_module" and name in FILLED


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(_holds_tensors, value)))
