"""Makes the layers that were recognised in a model's own operations."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import layers
from ...network import Network
from ..graph.fx_calls import path_of
from ..graph.fx_graph import Graph
from ..graph.graph_values import Current, Projection, Signal
from ..graph.rewrites import scaled_identity
from .recognised import Attended, Known, Mixed, Multiplied, Selected, View

CONVOLUTIONS: tuple[Any, ...] = nn.Linear, nn.Conv1d, nn.Conv2d  # by the number of axes of tokens
Shape = tuple[int, ...]  # of a sample


class RecognisedLayers:
    """Appends layers to a graph that give the value of one of its nodes."""

    def __init__(self, graph: Graph, node: fx.Node, seen: Shape):
        """``seen``: the shape of a sample that the model sees."""
        self.graph, self.node, self.seen = graph, node, seen

    def of(self, known: Known, x: Sequence[Signal], shapes: Sequence[Shape]) -> Signal | Current:
        """The value of the node. ``x``, ``shapes``: what it is computed of, and the shapes of samples as layers give
        them."""
        match known:
            case View():
                return self._as_given(x[0], shapes[0])
            case Selected(channels, summed, scale):
                first = self._selected(x[0], channels, shapes[0])
                return self._summed(first, summed, (len(channels), *shapes[0][1:]), scale)
            case Multiplied():
                return self._product(known, x, shapes)
            case Attended():
                return self._attention(known, x, shapes)
            case Mixed(weight):
                return self._mixed(x[0], weight, (len(weight), *shapes[0][1:]))

    def _product(self, known: Multiplied, x: Sequence[Signal], shapes: Sequence[Shape]) -> Signal | Current:
        order = known.first, 1 - known.first
        pairs = zip(order, known.channels, strict=True)
        factors = [self._selected(x[k], channels, shapes[k]) for k, channels in pairs]
        product = self._layer(layers.Multiply(), factors, "multiply", all(part.binary for part in factors))
        shape = (len(known.channels[0]), *shapes[known.first][1:])
        return self._summed(product, known.summed, shape, known.scale)

    def _attention(self, known: Attended, x: Sequence[Signal], shapes: Sequence[Shape]) -> Signal | Current:
        inputs = sum(shape[0] for shape in shapes)
        joined = x[0]
        if len(x) > 1:
            joined = self._layer(layers.Concatenate(), x, "concatenate", all(part.binary for part in x))
        thirds = torch.arange(inputs).unflatten(0, (3, -1))[list(known.order)].flatten()
        ordered = self._selected(joined, thirds, (inputs,))
        given = self._layer(layers.Attention(known.heads), [ordered], "attention", False)
        return self._scaled(given, (inputs // 3, *shapes[0][1:]), known.scale)

    def shown(self, x: Signal) -> Signal:
        """A signal in the shape that the model sees, with its factor."""
        made = self._in_shape(x)
        return replace(x, layer=made.layer, binary=made.binary, signed=x.signed or not made.binary, given=None)

    def _in_shape(self, x: Signal) -> Signal:
        assert x.given is not None
        shape = self.seen
        if len(shape) in (2, 3) and shape[0] == x.given[0] and len(x.given) > 1:
            return self._layer(layers.Pixels(shape[1:]), [x], "pixels", x.binary)
        flat = x if len(x.given) == 1 else self._layer(layers.Flatten(), [x], "flatten", x.binary)
        if len(shape) == 1:
            return flat
        unflatten = layers.Unflatten(shape) if len(shape) < 4 else layers.Formula(nn.Unflatten(2, shape))
        return self._layer(unflatten, [flat], "unflatten", x.binary and len(shape) < 4)

    def _layer(self, layer: nn.Module, x: Sequence[Signal], name: str, binary: bool) -> Signal:
        """Append a layer that computes with values, or with spikes."""
        graph = self.graph
        name = graph._free(f"{graph._name(self.node)}_{name}")
        graph.order.append(name)
        graph.others[name] = layer, tuple(part.layer for part in x)
        return Signal(name, Network.INPUT, binary, not binary)

    def _selected(self, x: Signal, channels: Tensor, shape: Shape) -> Signal:
        if torch.equal(channels, torch.arange(shape[0])):
            return x
        return self._layer(layers.Channels(channels), [x], "channels", x.binary)

    def _summed(self, x: Signal, summed: bool, shape: Shape, scale: float) -> Signal | Current:
        """The sum over tokens, as depthwise weights of 1, or the mean; the same values if they are not ``summed``."""
        C, *tokens = shape
        if not summed:
            return self._scaled(x, shape, scale)
        one = (C, *[1] * len(tokens))
        if abs(scale * prod(tokens) - 1) < 1e-6:
            pool = layers.AdaptiveAvgPool1d(1) if len(tokens) == 1 else layers.AdaptiveAvgPool2d(1)
            return self._as_given(self._layer(pool, [x], "mean", False), one)
        weights = CONVOLUTIONS[len(tokens)](C, C, tuple(tokens), groups=C, bias=False)
        return self._weighted(weights, torch.full_like(weights.weight, scale), x, one)

    def _mixed(self, x: Signal, weight: Tensor, shape: Shape) -> Current:
        axes = len(shape) - 1
        module = CONVOLUTIONS[axes](weight.shape[1], weight.shape[0], *[1] * (axes > 0), bias=False)
        return self._weighted(module, weight.view_as(module.weight), x, shape)

    def _scaled(self, x: Signal, shape: Shape, scale: float) -> Signal | Current:
        if scale == 1:
            return self._as_given(x, shape)
        module = scaled_identity(shape[0], len(shape) + 1, self.graph.like)
        return self._weighted(module, module.weight * scale, x, shape)

    def _weighted(self, module: Any, weight: Tensor, x: Signal, shape: Shape) -> Current:
        module.weight = nn.Parameter(weight.to(self.graph.like), False)
        projection = Projection(module, x, added=True)
        return Current(self.graph._name(self.node), path_of(self.node), [projection], given=self._given(shape))

    def _as_given(self, x: Signal, shape: Shape) -> Signal:
        return Signal(x.layer, x.neurons, x.binary, x.signed, given=self._given(shape))

    def _given(self, shape: Shape) -> Shape | None:
        """The shape that layers give, None if the model sees the same."""
        return None if shape == self.seen else shape
