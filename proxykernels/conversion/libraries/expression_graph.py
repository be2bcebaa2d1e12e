"""A graph in which layers, or else torch, compute what lies between a model's modules."""

from dataclasses import replace
from typing import Any

from torch import fx, nn

from ...network import Network
from ..graph.fx_calls import arguments, path_of
from ..graph.fx_graph import Graph, Values
from ..graph.graph_values import Current, Signal
from ..graph.sample_runs import called
from .expressions import (
    NO_SIZES,
    Expression,
    formula,
    is_only_a_view,
    is_operation,
    may_be_operation,
    probed,
    seen,
    shape_seen,
)
from .recognised import recognised
from .recognised_layers import RecognisedLayers

OVER_TIME = ("mean", "sum")
VIEWS = frozenset("flatten unflatten reshape view squeeze unsqueeze contiguous".split())  # the same values in order
SHOWN = frozenset("add iadd sub isub cat".split())  # operations that layers do, of values as the model sees them


class ExpressionGraph(Graph):
    """A graph in which layers, or else torch, compute what no module does, in a model whose sizes are known.

    Attributes:
        expressions: of nodes that are no layers yet.
        viewed: populations whose neurons the model sees in another shape.
    """

    def __init__(self, *arguments: Any, **options: Any):
        self.expressions: dict[fx.Node, Expression] = {}
        self.viewed: set[str] = set()
        super().__init__(*arguments, **options)

    def _layer_step(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        """The value of a node as layers give it."""
        return super()._step(node, values)

    def _step(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        """The value of a node; in a model whose sizes are known, of what no layer does, by operations of torch."""
        if not is_operation(node):
            self._compute(node, values)
            if not self._is_of_each_value(node):
                self._show(node, values)
            try:
                return self._layer_step(node, values)
            except TypeError as error:
                if self.axes == 1 or not may_be_operation(node):
                    raise
                why = self.traced.meta.get(NO_SIZES)
                remedy = (
                    "pass one" if why is None else f"pass one whose steps [T, N, ...] it takes, since it raises: {why}"
                )
                raise TypeError(f"{error}; with a sample [N, ...] it is computed by torch: {remedy}") from error
        if not any(argument in self.expressions for argument in arguments(node)) or self._is_mean_of_steps(node):
            self._compute(node, values)
            viewed = self._viewed(node, values)
            if viewed is not None:
                return viewed
            if called(node) in SHOWN or self._is_mean_of_steps(node):
                self._show(node, values)
            if not any(map(_is_viewed, map(values.get, arguments(node)))):
                try:
                    return self._layer_step(node, values)
                except (TypeError, ValueError):
                    if not any(isinstance(values.get(argument), Signal | Current) for argument in arguments(node)):
                        raise
        return self._join(node, values)

    def _is_mean_of_steps(self, node: fx.Node) -> bool:
        axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return called(node) in OVER_TIME and axis in (0, [0], (0,))

    def _is_of_each_value(self, node: fx.Node) -> bool:
        """Whether a node is a module that does the same to each value, in whatever shape."""
        if node.op != "call_module":
            return False
        module = self.traced.get_submodule(str(node.target))
        return self.is_neuron(module) or isinstance(module, nn.Dropout | nn.Identity)

    def _join(self, node: fx.Node, values: Values) -> Any:
        """Make a node a part of an expression. Views are computed again for each that takes them."""
        expression = self.expressions[node] = Expression()
        for argument in arguments(node):
            if argument in self.expressions:
                expression.join(self.expressions[argument])
            elif values.get(argument) is not None:
                expression.signals[argument] = self._carry(argument, self._one(argument, values))
        expression.nodes[node] = None
        computed = self._readers[node] > 1 and not is_only_a_view(node)
        return self._computed(node) if computed else None

    def _compute(self, node: fx.Node, values: Values) -> None:
        """Make layers of the expressions that a node takes."""
        for argument in arguments(node):
            if argument in self.expressions:
                values[argument] = self._computed(argument)

    def _computed(self, node: fx.Node) -> Signal | Current:
        expression = self.expressions.pop(node)
        layer = formula(node, expression, self.traced, self.model)
        known = None if any(map(_has_weights, expression.nodes)) else recognised(*probed(layer, expression))
        if known is not None:
            made = RecognisedLayers(self, node, seen(node))
            return made.of(known, list(expression.signals.values()), expression.shapes())
        name = self._name(node)
        self.order.append(name)
        self.others[name] = layer, tuple(signal.layer for signal in expression.signals.values())
        return Signal(name, Network.INPUT, expression.is_binary, not expression.is_binary)

    def _viewed(self, node: fx.Node, values: Values) -> Signal | None:
        """The same values in another shape, of which a layer is made where one takes them; None: the node does
        something else, or flattens all."""
        first = arguments(node)[0]
        before, after = (shape_seen(each) for each in (first, node))
        if called(node) not in VIEWS or before is None or after is None or len(after) < 4 or before[:2] != after[:2]:
            return None
        x = self._carry(first, self._one(first, values))
        given = x.given or before[2:]
        return replace(x, given=None if given == after[2:] else given)

    def _show(self, node: fx.Node, values: Values) -> None:
        """Make what a node takes as the model sees it, by layers."""
        for argument in arguments(node):
            x = values.get(argument)
            if isinstance(x, Signal | Current) and x.given is not None:
                values[argument] = RecognisedLayers(self, argument, seen(argument)).shown(self._carry(argument, x))

    def _carry(self, node: fx.Node, x: Signal | Current) -> Signal:
        signal = super()._carry(node, x)
        return signal if signal.given == x.given else replace(signal, given=x.given)

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: nn.Module | None) -> Signal:
        signal = super()._fire(node, x, neuron)
        if x.given is None:
            return signal
        self.viewed.add(signal.layer)
        return replace(signal, given=x.given)

    def _one(self, argument: fx.Node, values: Values) -> Signal | Current:
        return super()._taken(argument, values, nn.Identity(), path_of(argument))

    def _end(self, node: fx.Node, values: Values) -> None:
        self._compute(node, values)
        self._show(node, values)
        super()._end(node, values)


def _is_viewed(x: Any) -> bool:
    return isinstance(x, Signal | Current) and x.given is not None


def _has_weights(node: fx.Node) -> bool:
    """Whether an operation takes a parameter, which may be trained."""
    return any(argument.op == "get_attr" for argument in node.all_input_nodes)
