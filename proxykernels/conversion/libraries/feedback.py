"""Networks in which layers take the spikes of the step before: what runs step by step is put into one layer.

A translation with feedback is first a :class:`RecurrentGraph` of all layers, which is compared with the original. Then
only layers on the way from where spikes arrive to where they come from stay in such a graph, together with those
between them; the others run all steps at once, as in every network.
"""

from collections.abc import Callable

from torch import nn

from ...layers import RecurrentGraph
from ...network import Network
from ..graph.fx_graph import GraphLayers
from ..graph.graph_values import ModelPopulation

BEFORE = "the step before of "  # begins the name of the signal of neurons in the step before


def takes_back(population: ModelPopulation) -> bool:
    """Whether neurons take spikes of the step before, through weights of their own."""
    return any(projection.source.layer.startswith(BEFORE) for projection in population.current.projections)


def with_feedback(graph: GraphLayers, layer: Callable[[str, ModelPopulation], nn.Module]) -> RecurrentGraph:
    """All layers of a graph, with ``layer(name, population)`` for each population."""
    givers = {BEFORE + str(p.node.target): RecurrentGraph.before(name) for name, p in graph.firing.items()}
    net = RecurrentGraph()
    for name in graph.order:
        if name not in graph.populations:
            net.append(name, *graph.others[name])
            continue
        population = graph.populations[name]
        projections = population.current.projections
        projections.sort(key=lambda projection: projection.source.layer.startswith(BEFORE))  # the input's come first
        sources = (projection.source.layer for projection in projections)
        net.append(name, layer(name, population), tuple(givers.get(source, source) for source in sources))
    return net


def grouped(flat: RecurrentGraph) -> Network:
    """The same network, in which only what has to be runs step by step. A group is called as its last layer."""
    layers = flat.layers()
    groups = _groups([(name, sources) for name, _, sources in layers])
    net = Network()
    for first, last in groups:
        name, layer, sources = layers[last]
        if first == last and RecurrentGraph.before(name) not in sources:
            net.append(name, layer, sources)
            continue
        inner = {name for name, *_ in layers[first : last + 1]}
        group, entered = RecurrentGraph(), Network.INPUT
        for part, layer, sources in layers[first : last + 1]:
            outside = [source for source in sources if _plain(source) not in inner]
            entered = outside[0] if outside else entered
            group.append(part, layer, tuple(RecurrentGraph.INPUT if s in outside else s for s in sources))
        net.append(name, group, (entered,))
    return net


def _plain(source: str) -> str:
    """The layer that a source is the output of, in this step or the one before."""
    return source.removesuffix(RecurrentGraph.before(""))


def _groups(layers: list[tuple[str, tuple[str, ...]]]) -> list[tuple[int, int]]:
    """Neighbouring layers, first and last, by name and sources: each group has one input and one output, and holds
    whoever gives what a layer of it takes in the step after."""
    at = {name: k for k, (name, _) in enumerate(layers)}
    readers: dict[int, int] = {}  # of each layer the last that takes its output
    spans = [(k, k) for k in range(len(layers))]
    for k, (_, sources) in enumerate(layers):
        for source in sources:
            giver = at.get(_plain(source), -1)
            readers[giver] = max(readers.get(giver, k), k)
            if _plain(source) != source:
                spans.append((min(k, giver), max(k, giver)))
    while True:
        joined: list[tuple[int, int]] = []
        for first, last in sorted(spans):
            if joined and first <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(last, joined[-1][1])
            else:
                joined.append((first, last))
        spans = [_closed(layers, at, readers, *span) if span[0] < span[1] else span for span in joined]
        if spans == joined:
            return joined


def _closed(layers, at: dict[str, int], readers: dict[int, int], first: int, last: int) -> tuple[int, int]:
    """A group with more layers at its ends, until it has one input and one output."""
    taken = {_plain(source) for _, sources in layers[first : last + 1] for source in sources}
    outside = [source for source in taken if at.get(source, -1) < first]
    return first - (len(outside) > 1), max(last, *(readers.get(k, k) for k in range(first, last)))
