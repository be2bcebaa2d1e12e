"""Max pooling in networks of sigma-delta neurons: of what arrives at the neurons behind it.

An activation that grows with z and a maximum change places, max(relu(z)) = relu(max(z)). So the neurons come behind the
pooling: fewer of them, whose spikes are additions in the layer that takes them. That is so where the pooling alone
takes what they send, by itself or in a concatenation. Elsewhere the neurons send what others need too, and the pooling
passes on real values: what the maximum of all that was sent so far changes by.
"""

from dataclasses import replace
from typing import Any

from torch import fx

from ... import layers
from ..graph.graph_values import Signal
from .make_sigma_delta import is_fired
from .relu_graph import ReluGraph

RUNNING: dict[type, Any] = {
    layers.MaxPool1d: layers.RunningMaxPool1d,
    layers.MaxPool2d: layers.RunningMaxPool2d,
    layers.MaxRatePool1d: layers.RunningMaxPool1d,
    layers.MaxRatePool2d: layers.RunningMaxPool2d,
    layers.RunningMaxPool1d: layers.RunningMaxPool1d,
    layers.RunningMaxPool2d: layers.RunningMaxPool2d,
}


def pool_before_neurons(graph: ReluGraph) -> None:
    """Put each max pooling before the neurons whose spikes it takes; let others pool what was sent so far."""
    for name in list(graph.order):
        old, (source, *_) = graph.others.get(name, (None, ("",)))
        if type(old) not in RUNNING:
            continue
        taken = _taken_alone(graph, source, name)
        if taken is None:
            graph.others[name] = _running(old), (source,)
            continue
        for neurons in taken & set(graph.populations):
            graph.populations[neurons].pool = _running(old)
        _leave_out(graph, name, source, taken)


def _running(pool: Any) -> layers.RunningMaxPool2d:
    return RUNNING[type(pool)](pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


def _taken_alone(graph: ReluGraph, name: str, reader: str) -> set[str] | None:
    """A layer that ``reader`` alone takes, and all before it back to neurons; None: others take some, or there is
    something else before."""
    if [other for other in graph.order if name in _sources(graph, other)] != [reader]:
        return None
    if name in graph.populations:
        population = graph.populations[name]
        return {name} if is_fired(population) and population.pool is None else None
    layer, sources = graph.others.get(name, (None, ()))
    if not isinstance(layer, layers.Concatenate):
        return None
    found = [_taken_alone(graph, source, name) for source in sources]
    parts = [part for part in found if part is not None]
    return {name}.union(*parts) if len(parts) == len(found) else None


def _sources(graph: ReluGraph, name: str) -> tuple[str, ...]:
    if name in graph.others:
        return graph.others[name][1]
    return tuple(projection.source.layer for projection in graph.populations[name].current.projections)


def _leave_out(graph: ReluGraph, name: str, source: str, pooled: set[str]) -> None:
    """Leave out the pooling ``name``: ``source`` has its values now, and no layer has those of ``pooled`` before it."""
    graph.order.remove(name)
    del graph.others[name]
    for other, (layer, sources) in graph.others.items():
        graph.others[other] = layer, tuple(source if taken == name else taken for taken in sources)
    for population in graph.populations.values():
        for projection in population.current.projections:
            if projection.source.layer == name:
                projection.source = replace(projection.source, layer=source)
    for nodes in (graph.values, graph.carried):
        _rename(nodes, name, source, pooled)


def _rename(nodes: dict[fx.Node, Any], name: str, source: str, pooled: set[str]) -> None:
    for node, value in list(nodes.items()):
        if not isinstance(value, Signal):
            continue
        if value.layer in pooled:
            del nodes[node]
        elif value.layer == name:
            nodes[node] = replace(value, layer=source)
