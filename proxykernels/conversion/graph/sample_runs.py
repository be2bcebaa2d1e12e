"""A sample that runs beside a torch.fx trace.

While a model is traced, the run answers questions about sizes: a forward pass may branch on them and loop over them.
Afterwards it notes shapes, numbers, and the tensors that do not depend on the sample.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

NUMBERS = ("size", "dim", "ndimension", "numel", "nelement", "len")
ABOUT = ("shape", "ndim", "device", "dtype")  # attributes of a tensor
SAMPLES = 2  # so that the axis of samples can be told from axes of size 1
FILLED = frozenset("zeros_like ones_like full_like new_zeros new_ones new_full".split())  # from a tensor's shape only


def of_sizes(node: fx.Node) -> bool:
    """Whether a node computes numbers, from shapes, and no values of the input."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in NUMBERS or (name == "getattr" and node.args[1] in ABOUT):
        return True
    return bool(node.all_input_nodes) and all(map(of_sizes, node.all_input_nodes))


def is_asked(node: fx.Node) -> type | None:
    """What Python asked a node's number for in a trace: bool, where it branched by it, int, or None."""
    return node.meta.get("asked")


class _Sized:
    """What a traced value answers where Python wants a number."""

    node: fx.Node
    tracer: Any

    def __index__(self) -> int:
        if not of_sizes(self.node):
            raise fx.proxy.TraceError("a value of the input cannot be used as a number")
        self.node.meta.setdefault("asked", int)
        return int(self.tracer.value(self.node))

    __int__ = __index__

    def __len__(self) -> int:
        value = self.tracer.value(self.node)
        if isinstance(value, Tensor):
            raise fx.proxy.TraceError("len() of a tensor cannot be followed; use .shape[0]")
        return len(value)


class SizedAttribute(_Sized, fx.proxy.Attribute):
    """An attribute of a traced value, such as its shape."""


class SizedProxy(_Sized, fx.Proxy):
    """A traced value."""

    def __getattr__(self, name: str) -> SizedAttribute:
        return SizedAttribute(self, name)


def sized(x: Tensor) -> type[fx.Tracer]:
    """A tracer of models whose input is like ``x`` [N, ...]. What depends on the values of the input is an error."""

    class SizedTracer(fx.Tracer):
        def __init__(self) -> None:
            super().__init__()
            self._values: dict[fx.Node, Any] = {}
            self._runs = False

        def proxy(self, node: fx.Node) -> fx.Proxy:
            return SizedProxy(node, self)

        def to_bool(self, obj: fx.Proxy) -> bool:
            if not of_sizes(obj.node):
                return super().to_bool(obj)
            obj.node.meta["asked"] = bool
            return bool(self.value(obj.node))

        def iter(self, obj: Any) -> Iterator:
            value = self.value(obj.node)
            return iter([obj[k] for k in range(len(value))]) if isinstance(value, tuple | list) else super().iter(obj)

        def call_module(self, m, forward, args, kwargs):
            return forward(*args, **kwargs) if self._runs else super().call_module(m, forward, args, kwargs)

        def getattr(self, attr, attr_val, parameter_proxy_cache):
            return attr_val if self._runs else super().getattr(attr, attr_val, parameter_proxy_cache)

        @torch.no_grad()
        def value(self, node: fx.Node) -> Any:
            """What a node gives for x; all before it are run, in order, since some change others in place."""
            self._runs = True
            try:
                for other in self.graph.nodes:
                    if other not in self._values:
                        self._values[other] = self._run(other)
                    if other is node:
                        break
            finally:
                self._runs = False
            return self._values[node]

        def _run(self, node: fx.Node) -> Any:
            arguments, options = fx.map_arg((node.args, node.kwargs), self._values.__getitem__)
            if node.op == "placeholder":
                return x.clone()
            if node.op == "call_function":
                return node.target(*arguments, **options)  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
            owner, _, name = str(node.target).rpartition(".")
            attribute = getattr(self.root.get_submodule(owner), name)
            return attribute(*arguments, **options) if node.op == "call_module" else attribute

    return SizedTracer


class Notes(fx.Interpreter):
    """Runs the network, and notes of each node in ``node.meta``:

    - "shape" and "type", if it gives a tensor;
    - "constant", that tensor, if it is made only of parameters, buffers and numbers;
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
