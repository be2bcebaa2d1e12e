"""Groups of layers in a cycle, which have to run step by step."""

from ...layers import RecurrentGraph
from ...layers.recurrent_graph import given_by, is_before
from ...network import Network


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
            outside = [source for source in sources if given_by(source) not in inner]
            entered = outside[0] if outside else entered
            group.append(part, layer, tuple(RecurrentGraph.INPUT if s in outside else s for s in sources))
        net.append(name, group, (entered,))
    return net


def _groups(layers: list[tuple[str, tuple[str, ...]]]) -> list[tuple[int, int]]:
    """Neighbouring layers, first and last, by name and sources: each group has one input and one output, and holds
    whoever gives what a layer of it takes in the step after."""
    at = {name: k for k, (name, _) in enumerate(layers)}
    readers: dict[int, int] = {}  # of each layer the last that takes its output
    spans = [(k, k) for k in range(len(layers))]
    for k, (_, sources) in enumerate(layers):
        for source in sources:
            giver = at.get(given_by(source), -1)
            readers[giver] = max(readers.get(giver, k), k)
            if is_before(source):
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
    taken = {given_by(source) for _, sources in layers[first : last + 1] for source in sources}
    outside = [source for source in taken if at.get(source, -1) < first]
    return first - (len(outside) > 1), max(last, *(readers.get(k, k) for k in range(first, last)))
