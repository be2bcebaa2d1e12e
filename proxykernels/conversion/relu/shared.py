"""A spiking network made of a ReLU network's own parameters: which can be, and where they are.

The copy of the ReLU network that was followed has modules of its own, with the parameters of the ReLU network. All
weights of the spiking network must be those parameters, each in one layer, since they are rescaled in place.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ...network import Network
from ..graph.folding import tied
from ..graph.graph_values import Population, Projection
from .relu_graph import ReluGraph
from .scales import limit


def check_shareable(graph: ReluGraph, ann: nn.Module, copies: dict[int, Any]) -> None:
    """``copies``: of deepcopy, the copy of each module of ``ann`` by its id.

    Raises:
        ValueError: some weights cannot be ``ann``'s own; the message names the layer.
    """
    if path := next(tied(graph.populations), None):
        raise ValueError(
            f"share=True rescales {graph.model}, whose {path} has another layer's weights; use share=False"
        )
    originals = _originals(ann, copies)
    parameters = {id(parameter) for parameter in ann.parameters()}
    for population in graph.populations.values():
        where = f"share=True rescales {graph.model}, whose {population.current.path}"
        for projection in population.current.projections:
            module, norm = projection.module, projection.norm
            if projection.added or (isinstance(module, nn.Identity) and not _keeps_scale(population, projection)):
                raise ValueError(f"{where} has no weights that could be; use share=False")
            if isinstance(module, nn.Identity):
                continue
            own = id(module) in originals or (norm is None and _all_in(module.parameters(), parameters))
            if not own or not (norm is None or id(norm) in originals):
                raise ValueError(
                    f"{where} is called twice, or computes with weights or statistics that no module of its own has; "
                    "use share=False"
                )
        if limit(population.neuron):
            raise ValueError(f"{where} is limited (ReLU6) at a value that cannot be rescaled; use ReLU, or share=False")


def use_own_modules(graph: ReluGraph, ann: nn.Module, copies: dict[int, Any]) -> None:
    """Put the modules of ``ann`` in the place of their copies, so that what is folded into them is ``ann``'s, too."""
    originals = _originals(ann, copies)
    for population in graph.populations.values():
        for projection in population.current.projections:
            projection.module = originals.get(id(projection.module), projection.module)
            projection.norm = originals.get(id(projection.norm), projection.norm)


def _originals(ann: nn.Module, copies: dict[int, Any]) -> dict[int, nn.Module]:
    return {id(copies[id(module)]): module for module in ann.modules()}


def _all_in(parameters: Iterable[nn.Parameter], ids: set[int]) -> bool:
    return all(id(parameter) in ids for parameter in parameters)


def _keeps_scale(population: Population, projection: Projection) -> bool:
    """Whether an identity joins values of one scale: of neurons on both sides, or of none."""
    return population.fires == (projection.source.neurons != Network.INPUT)
