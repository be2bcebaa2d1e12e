"""A spiking network made of a ReLU network's own parameters: which can be, and where they are.

All weights of the spiking network must be the ReLU network's parameters, each in one layer, since they are rescaled in
place; and normalisations its modules, since they are folded and taken out.
"""

from collections.abc import Iterable

from torch import nn

from ...network import Network
from ..graph.folding import tied
from ..graph.graph_values import ModelPopulation, Projection
from .relu_graph import ReluGraph
from .scales import limit


def check_shareable(graph: ReluGraph, ann: nn.Module) -> None:
    """Whether all weights can be ``ann``'s own.

    Raises:
        ValueError: some cannot; the message names the layer.
    """
    if path := next(tied(graph.populations), None):
        raise ValueError(
            f"share=True rescales {graph.model}, whose {path} has another layer's weights; use share=False"
        )
    modules = {id(module) for module in ann.modules()}
    parameters = {id(parameter) for parameter in ann.parameters()}
    for population in graph.populations.values():
        where = f"share=True rescales {graph.model}, whose {population.current.path}"
        for projection in population.current.projections:
            module, norm = projection.module, projection.norm
            if (
                projection.added
                or projection.before is not None
                or (isinstance(module, nn.Identity) and not _keeps_scale(population, projection))
            ):
                raise ValueError(f"{where} has no weights that could be; use share=False")
            if isinstance(module, nn.Identity):
                continue
            own = id(module) in modules or (norm is None and _all_in(module.parameters(), parameters))
            if not own or not (norm is None or id(norm) in modules):
                raise ValueError(
                    f"{where} is called twice, or computes with weights or statistics that no module of its own has; "
                    "use share=False"
                )
        if limit(population.neuron):
            raise ValueError(f"{where} is limited (ReLU6) at a value that cannot be rescaled; use ReLU, or share=False")


def _all_in(parameters: Iterable[nn.Parameter], ids: set[int]) -> bool:
    return all(id(parameter) in ids for parameter in parameters)


def _keeps_scale(population: ModelPopulation, projection: Projection) -> bool:
    """Whether an identity joins values of one scale: of neurons on both sides, or of none."""
    return population.fires == (projection.source.neurons != Network.INPUT)
