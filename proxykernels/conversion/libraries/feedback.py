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
from ...network import Network
from ..graph.functions import Scaled
from ..graph.fx_calls import path_of
from ..graph.fx_graph import GraphLayers
from ..graph.graph_values import Affine, Current, ModelPopulation, Projection, Signal
from .expression_graph import ExpressionGraph
from .library_neurons import Recurrence
from .spikingjelly_neurons import factor_of_spikes

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
        factor = term.gain * term.source.factor * factor_of_spikes(neuron)
        bias: Tensor | None = getattr(term.module, "bias", None)
        bias = None if bias is None else bias.detach() * term.gain
        return Recurrence(neuron, neuron, weight.detach() * factor, bias, learnt=term.is_layer, is_own=True)

    def _weighted_back(self, term: Projection) -> Projection:
        """A term of spikes of the step before, with what a spike of their neurons counts in its weights."""
        neuron = self.traced.get_submodule(term.source.layer[len(BEFORE) :])
        factor = term.source.factor * factor_of_spikes(neuron)
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
