"""Values that a model sees in another order or shape than the layers give them (index_ops.py)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..graph import index_ops
from ..graph.fx_calls import arguments, path_of
from ..graph.fx_graph import Graph, Values
from ..graph.graph_values import Current, Signal
from ..graph.noted import constant_of
from ..graph.rewrites import Spread


class ViewedGraph(Graph):
    """What only puts values elsewhere is followed; layers that do it are added where something takes the values."""

    def _restore(self, taken: list[fx.Node], values: Values) -> None:
        """Give values the shape that the model sees, [N, 1, features] for [N, features]."""
        for argument in taken:
            if "ours" in argument.meta:
                x = self._carry(argument, super()._taken(argument, values, nn.Identity(), path_of(argument)))
                del argument.meta["ours"]
                values[argument] = self._seen_as(argument, x, argument.meta["shape"])

    def _moved(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        before = arguments(node)[0]
        value = values[before]
        if isinstance(value, list):  # one part of several, or some
            number: Any = constant_of(node.args[1])
            return value[number]
        seen = None if isinstance(value, Current) else value.view
        view = index_ops.as_given(before.meta["shape"]) if seen is None else seen
        try:
            given = index_ops.moved(node, self.traced, view)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise TypeError(f"{self.model}: {path_of(node)} cannot be followed: {reason}") from error
        if isinstance(value, Current) and isinstance(given, Tensor) and torch.equal(given, view):
            if "ours" in before.meta:
                node.meta["ours"] = before.meta["ours"]
            return value  # as it was: it need not be carried on
        x = self._carry(before, value)
        return [replace(x, view=part) for part in given] if isinstance(given, tuple | list) else replace(x, view=given)

    def _taken(self, argument: fx.Node, values: Values, module: nn.Module, path: str) -> Signal | Current:
        x = super()._taken(argument, values, module, path)
        if isinstance(x, Current):
            return x
        if isinstance(module, nn.Linear):
            x = self._as_vector(argument, x)
        if x.view is None:
            return x
        x, seen = self._laid_out(argument, x), argument.meta["shape"]  # which others that take it go by
        values[argument] = x if x.shape == seen else replace(x, view=index_ops.as_given(x.shape or ()).view(seen))
        return x

    def _laid_out(self, argument: fx.Node, x: Signal) -> Signal:
        """The values as the model sees them, given by a layer."""
        if x.view is None:
            return x
        try:
            layers = index_ops.layers_to(x.view, x.shape)  # type: ignore[arg-type]  # shapes are known
        except ValueError as error:
            raise TypeError(f"{self.model}: {path_of(argument)} {error}") from error
        shape = tuple(x.view.shape)
        for layer in layers:
            last = layer is layers[-1]
            name = self._name(argument) if last else self._free(f"{argument.name}_input")
            x = self._other(name, layer, x, shape)
        return replace(x, view=None, shape=shape)

    def _seen_as(self, argument: fx.Node, x: Signal, shape: Sequence[int]) -> Signal:
        """The values in another shape, of the same order."""
        view = index_ops.as_given(x.shape or ()) if x.view is None else x.view
        return self._laid_out(argument, replace(x, view=view.reshape(*shape)))

    def _as_vector(self, argument: fx.Node, x: Signal) -> Signal:
        """[N, 1, features] as [N, features], which a matrix product takes."""
        shape = tuple(x.view.shape) if x.view is not None else x.shape or ()
        if len(shape) < 3 or max(shape[1:-1]) > 1:
            return x
        view = index_ops.as_given(shape) if x.view is None else x.view
        return replace(x, view=view.flatten(1))

    def _carried_in(self, node: fx.Node, x: Current, shape: tuple[int, ...]) -> Signal:
        """A current as real values of a shape that the model does not see."""
        signal = replace(self._carry(node, x), shape=shape)
        del self.carried[node]
        return signal

    def _spread(self, name: str, x: Signal, spread: Spread) -> Signal:
        if len(spread.stride) > 1:
            return super()._spread(name, x, spread)
        shape: Any = x.shape
        view = spread.places(index_ops.as_given(shape), index_ops.NOTHING)
        for layer in index_ops.layers_to(view, shape):
            x = self._other(self._free(name), layer, x, tuple(view.shape))
        return x

    def _expanded(self, x: Signal | Current, argument: fx.Node, shape: tuple[int, ...]) -> Signal | Current:
        """Values that are repeated along axes where ``shape`` is larger, and joined to no other's sums before."""
        seen = argument.meta["shape"]
        if isinstance(x, Current) and not x.pools and seen == shape:
            return x
        x = self._carry(argument, x)
        if seen == shape:
            return x
        return self._laid_out(argument, replace(x, view=index_ops.as_given(seen).expand(shape)))
