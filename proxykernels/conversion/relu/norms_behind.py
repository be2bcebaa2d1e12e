"""Normalisations behind a ReLU: W (a x + c) + b is W a x + (b + W c), so the next weights take them, and spikes go on.

Carried on as real values they would make the next layer multiply at each step. They pass the poolings that they may
change places with. A convolution pads its image with zeros, not with shifts: then this is not exact, and a warning
says what the real values cost.
"""

import math
import warnings
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from ...layers.synapses import WEIGHTED
from ...network import Network, free_name
from ...running.simulate import simulate
from ..graph.fx_calls import arguments, path_of
from ..graph.fx_graph import MAXIMA, Values
from ..graph.graph_layers import AVERAGES
from ..graph.graph_values import Affine, Current, Signal
from .viewed_graph import ViewedGraph

FLATTENINGS = ("flatten", "view", "reshape")  # to [N, features], in the order that there is
STEPS = 8  # in which the operations of a network are counted


class NormsBehind(ViewedGraph):
    """What follows a factor and a shift for each channel, up to the weights that take them."""

    def _synapse(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        affine = affine_of(x)
        if affine is None or not isinstance(module, WEIGHTED) or not _is_exact(affine, x, module):
            return super()._synapse(node, x, module, path)
        assert isinstance(x, Current)
        source = x.projections[0].source
        for name, pool, where in x.pools:
            source = self._pool(free_name(name, self.order), pool, source, where, self._before(node).meta["shape"])
        current = super()._synapse(node, source, module, path)
        assert isinstance(current, Current)
        current.projections[0].before = affine
        return current

    def _reshape(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        affine = affine_of(x)
        if affine is None or not _change_places(affine, module):
            return super()._reshape(node, x, module, path)
        assert isinstance(x, Current)
        name = free_name(self._name(node), (*self.order, *(name for name, *_ in x.pools)))
        return replace(x, pools=[*x.pools, (name, module, path)])

    def _moved(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        before = arguments(node)[0]
        value = values[before]
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name in FLATTENINGS and isinstance(value, Current) and affine_of(value) is not None:
            shape = before.meta["shape"]
            if "ours" not in before.meta and len(shape) > 2 and node.meta["shape"] == (shape[0], math.prod(shape[1:])):
                return self._reshape(node, value, nn.Flatten(), path_of(node))
        return super()._moved(node, values)

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: nn.Module | None) -> Signal:
        if isinstance(x, Current) and not all(isinstance(pool, MAXIMA) for _, pool, _ in x.pools):
            x = self._carry(self._before(node), x)  # a ReLU and an average do not change places
        return super()._fire(node, x, neuron)

    def multiplied(self) -> list[str]:
        """The paths of normalisations that are carried on as real values of neurons, which weights multiply."""
        weighted = {
            projection.source.layer
            for population in self.populations.values()
            for projection in population.current.projections
            if projection.affine is None and not isinstance(projection.module, nn.Identity)
        }
        behind = {name: set(sources) for name, (_, sources) in self.others.items()}
        while grown := {s for name in weighted & behind.keys() for s in behind[name]} - weighted:
            weighted |= grown
        carried = [
            population.current
            for name, population in self.populations.items()
            if name in weighted and not population.fires and affine_of(population.current) is not None
        ]
        return [current.path for current in carried if current.projections[0].source.neurons != Network.INPUT]


def affine_of(x: Signal | Current) -> Affine | None:
    """The factor and shift of a current that is nothing else of a signal; pooling may follow."""
    if isinstance(x, Signal) or len(x.projections) != 1 or x.projections[0].norm is not None:
        return None
    return x.projections[0].affine if x.projections[0].source.view is None else None


def warn_of_products(net: Network, graph: NormsBehind, x: Tensor) -> None:
    """Say what share of the operations are products because of a normalisation behind a ReLU; ``x``: some samples."""
    paths = graph.multiplied()
    if not paths:
        return
    synops = simulate(net, x, STEPS).synops
    share = sum(synops.multiply_accumulates.values()) / max(1, synops.total)
    warnings.warn(
        f"{graph.model}: {', '.join(paths)} behind a ReLU could not be made part of the next weights, which therefore "
        f"multiply real values at each step: {share:.0%} of all operations are products. Put it before the ReLU, or "
        "give the next convolution no padding",
        UserWarning,
        stacklevel=4,  # at the call of convert, which without_autocast has wrapped
    )


def _is_exact(affine: Affine, x: Any, module: Any) -> bool:
    """Whether weights can take it: what pooling and padding put around and between values knows no shift."""
    pools = [pool for _, pool, _ in x.pools]
    averaged = False
    for pool in pools:
        if not _change_places(affine, pool) or (averaged and isinstance(pool, MAXIMA)):
            return False
        averaged = averaged or isinstance(pool, AVERAGES)
    pads = any(getattr(module, "_reversed_padding_repeated_twice", ()))
    return not pads or not affine.shift.any()


def _change_places(affine: Affine, module: nn.Module) -> bool:
    """Whether a pooling gives the same before it."""
    if isinstance(module, MAXIMA):
        return bool((affine.factor >= 0).all())
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
        padded = any(module.padding) if isinstance(module.padding, tuple) else module.padding
        return not padded and getattr(module, "divisor_override", None) is None
    return isinstance(module, (*AVERAGES, nn.Flatten))
