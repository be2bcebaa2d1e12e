"""The layers of a ReLU network, whose values firing rates stand for, before any layer is built."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..network import Network, free_name
from . import moves
from .flow import Current, Signal, Synapse
from .fx_calls import Minus, Scaled, arguments, path_of
from .populations import Graph, Values, shape_of
from .rewrites import scaled_identity

LEAKY = (nn.LeakyReLU, nn.PReLU)
ADAPTIVE_MAXIMA: dict[type[nn.Module], Any] = {
    nn.AdaptiveMaxPool1d: nn.MaxPool1d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
}


class ReluGraph(Graph):
    """What a forward pass has done on one sample must be noted: the shape of every tensor, and numbers.

    Neurons behind a max pooling may come before it, and pooling takes the highest rate. What only puts values elsewhere
    is followed (moves.py), and layers are added where something else takes them.
    """

    rates = True

    def _is_number(self, node: fx.Node) -> bool:
        return "value" in node.meta and not _holds_tensors(node.meta["value"])

    def _step(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        taken = arguments(node)
        if taken and taken[0] in values and moves.is_move(node, self.traced):
            return self._moved(node, values)
        if taken and "ours" in taken[0].meta and node.meta.get("shape") == taken[0].meta["shape"]:
            node.meta["ours"] = taken[0].meta["ours"]
        return super()._step(node, values)

    def _moved(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        before = arguments(node)[0]
        value = values[before]
        if isinstance(value, list):  # one part of several
            number: Any = node.args[1]
            return value[number]
        seen = None if isinstance(value, Current) else value.view
        view = moves.as_given(before.meta["shape"]) if seen is None else seen
        given = moves.moved(node, self.traced, view)
        if isinstance(value, Current) and isinstance(given, Tensor) and torch.equal(given, view):
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
        try:
            layers = moves.layers_to(x.view, x.shape)  # type: ignore[arg-type]  # shapes are known
        except ValueError as error:
            raise TypeError(f"{self.model}: {path_of(argument)} {error}") from error
        shape = tuple(x.view.shape)
        for layer in layers:
            last = layer is layers[-1]
            name = self._name(argument) if last else free_name(f"{argument.name}_input", self.order)
            x = self._other(name, layer, x, shape)
        values[argument] = x = replace(x, view=None, shape=shape)
        return x

    def _as_vector(self, argument: fx.Node, x: Signal) -> Signal:
        """[N, 1, features] as [N, features], which a matrix product takes."""
        shape = tuple(x.view.shape) if x.view is not None else x.shape or ()
        if len(shape) < 3 or max(shape[1:-1]) > 1:
            return x
        view = moves.as_given(shape) if x.view is None else x.view
        return replace(x, view=view.flatten(1))

    def _value(self, node: fx.Node, module: nn.Module, terms: list[Signal | Current], path: str) -> Signal | Current:
        if isinstance(module, Minus) and len(terms) == 2:
            second = node.all_input_nodes[-1]
            return self._add(node, [terms[0], self._scaled(second, terms[1], Scaled(-1, 0), path)], path)
        return super()._value(node, module, terms, path)

    def _apply(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        before = node.all_input_nodes[0]
        if isinstance(module, Scaled):
            return self._scaled(before, x, module, path)
        if isinstance(module, LEAKY):
            return self._leaky(node, x, module, path)
        if type(module) in ADAPTIVE_MAXIMA:
            module = self._windows(module, shape_of(before), path)
        return super()._apply(node, x, module, path)

    def _synapse(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Current:
        current = super()._synapse(node, x, module, path)
        shape = node.meta.get("shape", ())
        if isinstance(module, nn.Linear) and len(shape) > 2:  # of [N, 1, features]
            node.meta["ours"] = shape[0], shape[-1]
        return current

    def _scaled(self, before: fx.Node, x: Signal | Current, scaled: Scaled, path: str) -> Signal | Current:
        """A result of ``before`` times a number, plus a number."""
        if (scaled.factor, scaled.shift) == (1, 0):
            return x
        x = self._carry(before, x)
        name = free_name(f"{before.name}_scaled", self.order)
        return Current(name, path, [_weighted(x, scaled.factor, scaled.shift)])

    def _leaky(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        """y = slope x + (1 - slope) max(x, 0): what is carried on as real values, and neurons on it."""
        x = self._carry(node.all_input_nodes[0], x)
        if not x.signed:
            return x
        slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else module.weight.detach()
        positive = self._fire(node, Current(self._name(node), path, [Synapse(nn.Identity(), x)]), nn.ReLU())
        name = free_name(f"{positive.layer}_leak", self.order)
        return Current(name, path, [_weighted(positive, 1 - slope), _weighted(x, slope)])

    def _windows(self, module: Any, shape: tuple[int, ...] | None, path: str) -> nn.Module:
        """A max pooling to a given size as one by windows."""
        size = (shape or ())[2:]
        wanted = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * len(size)
        wanted = tuple(n if w is None else w for n, w in zip(size, wanted, strict=True))
        if any(n % w for n, w in zip(size, wanted, strict=True)) or module.return_indices:
            raise TypeError(
                f"{self.model}: {path} takes windows of several sizes, of {list(size)}; use a size that divides it"
            )
        window = tuple(n // w for n, w in zip(size, wanted, strict=True))
        return ADAPTIVE_MAXIMA[type(module)](window if len(window) > 1 else window[0])

    def _last(self, result: fx.Node, x: Signal | Current) -> None:
        if isinstance(x, Current) or (not x.binary and x.layer != Network.INPUT):
            self._fire(result, x, None)


def _weighted(x: Signal, factor: float | Tensor, shift: float = 0.0) -> Synapse:
    """The values of a signal times a number, or one number a channel, plus a number."""
    assert x.shape is not None
    module = scaled_identity(x.shape[1], len(x.shape))
    with torch.no_grad():
        module.weight.mul_(factor.view(-1, *[1] * (module.weight.ndim - 1)) if isinstance(factor, Tensor) else factor)
    if shift:
        module.bias = nn.Parameter(torch.full((x.shape[1],), shift))
    return Synapse(module, x, added=True)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(_holds_tensors, value)))
