"""Networks in which layers take the spikes of the step before: what runs step by step is put into one layer.

A translation with feedback is first a :class:`RecurrentGraph` of all layers, which is compared with the original. Then
only layers on the way from where spikes arrive to where they come from stay in such a graph, together with those
between them; the others run all steps at once, as in every network.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...layers import RecurrentGraph
from ...layers.recurrent_graph import given_by, is_before
from ...network import Network
from ..graph.functions import Scaled
from ..graph.fx_calls import path_of
from ..graph.fx_graph import GraphLayers
from ..graph.graph_values import Affine, Current, ModelPopulation, Projection, Signal
from .expression_graph import ExpressionGraph
from .library_neurons import Recurrence
from .snntorch_neurons import graded_factor

CONVOLUTIONS = nn.Conv1d, nn.Conv2d
BEFORE = "the step before of "  # begins the name of the signal of neurons in the step before


class FeedbackGraph(ExpressionGraph):
    """Collects layers that take spikes of the step before: their own, those of later layers, or both."""

    def network(self, layer: Callable[[str, ModelPopulation], nn.Module]) -> Any:
        """The network; where spikes come back to other layers, or through a convolution, a graph with cycles."""
        if any(map(takes_back, self.populations.values())):
            return with_feedback(self, layer)
        return super().network(layer)

    def _check_back(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> None:
        """Refuse spikes of the step before that go through other layers than one with weights."""
        projections = x.projections if isinstance(x, Current) else [Projection(None, x)]
        back = [term.source.layer[len(BEFORE) :] for term in projections if term.source.layer.startswith(BEFORE)]
        passes = (nn.Linear, *CONVOLUTIONS, nn.Identity, Scaled) if isinstance(x, Signal) else (Scaled, *self.norms)
        if back and not self.is_neuron(module) and not isinstance(module, passes):
            raise TypeError(
                f"{self.model}: {path} takes spikes of module '{back[0]}' of the step before; only a Linear or a "
                "convolution may lie between them and neurons, which add what it gives to their current"
            )

    def _recurrent(self, node: fx.Node, x: Signal | Current, found: Recurrence, path: str) -> Signal:
        """Neurons that take their own spikes from the step before."""
        self._use(found.module, path)
        if found.synapse is not None:
            x = self._synapse(node, x, found.synapse, path)
        if found.convolution is not None:
            back = Signal(BEFORE + str(node.target), Network.INPUT, False, True)
            terms = x.projections if isinstance(x, Current) else [Projection(nn.Identity(), x)]
            name, its_path = (x.name, x.path) if isinstance(x, Current) else (self._name(node), path)
            x = Current(name, its_path, [*terms, Projection(found.convolution, back)])
        signal = self._fire(node, x, found.neuron)
        self.populations[signal.layer].recurrence = found
        return signal

    def _coming_back(self, node: fx.Node, x: Signal | Current, neuron: Any) -> Recurrence | None:
        """The terms of a current that come from the neurons' own spikes, which are taken out of it."""
        terms = x.projections if isinstance(x, Current) else []
        back = [term for term in terms if term.source.layer.startswith(BEFORE)]
        if not back:
            return None
        others = [term for term in terms if term not in back]
        if not others:
            raise TypeError(
                f"{self.model}: {path_of(node)} takes only spikes of the step before; add to them what comes in this "
                "step, such as a Linear of the input"
            )
        term = back[0]
        is_own = len(back) == 1 and term.source.layer == BEFORE + str(node.target) and term.norm is None
        modules = (term.module, *(other.module for other in others))
        if not is_own or len(others) > 1 or not all(isinstance(part, nn.Linear | nn.Identity) for part in modules):
            terms[:] = [self._weighted_back(term) if term in back else term for term in terms]
            return None
        terms[:] = others
        weight: Any = getattr(term.module, "weight", torch.ones(()))
        factor = term.gain * term.source.factor * graded_factor(neuron)
        bias: Tensor | None = getattr(term.module, "bias", None)
        bias = None if bias is None else bias.detach() * term.gain
        return Recurrence(neuron, neuron, weight.detach() * factor, bias, learnt=term.is_layer, is_own=True)

    def _weighted_back(self, term: Projection) -> Projection:
        """A term of spikes of the step before, with what a spike of their neurons counts in its weights."""
        neuron = self.traced.get_submodule(term.source.layer[len(BEFORE) :])
        factor = term.source.factor * graded_factor(neuron)
        if factor != 1 and isinstance(term.module, nn.Identity):
            raise TypeError(
                f"{self.model}: spikes of the step before come back times {factor:g} through no weights; put a Linear "
                "between them"
            )
        return with_factor(replace(term, source=replace(term.source, factor=factor)))


def with_factor(term: Projection) -> Projection:
    """A term with the factor of its source folded into its weights."""
    if term.source.factor == 1:
        return term
    factor = torch.tensor([term.source.factor], dtype=torch.float64)
    before = Affine(factor, torch.zeros_like(factor))
    return replace(term, source=replace(term.source, factor=1.0), before=before)


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
