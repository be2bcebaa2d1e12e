"""A torch.fx trace that knows the number of dimensions of all values: a forward pass may ask ``x.ndim``."""

from typing import Any

from torch import fx, nn

from ..graph.fx_calls import CASTS

RANKS = ((nn.Conv2d, 4), (nn.ConvTranspose2d, 4), (nn.Conv1d, 3), (nn.Linear, 2))
KEEP = ("add", "sub", "mul", "iadd", "isub", "imul", "truediv", "relu", "contiguous", "clone", "detach", *CASTS)


def rank_of_input(model: nn.Module) -> int | None:
    """The dimensions of one step's input [N, ...], as the model's first layer with weights takes it."""
    ranks = (rank for module in model.modules() for kind, rank in RANKS if isinstance(module, kind))
    return next(ranks, None)


class RankedProxy(fx.Proxy):
    """A value whose number of dimensions may be known; its sizes never are."""

    @property
    def rank(self) -> int | None:
        return self.node.meta.get("rank")

    @property
    def ndim(self) -> Any:
        return super().__getattr__("ndim") if self.rank is None else self.rank

    @property
    def shape(self) -> Any:
        shape: Any = super().__getattr__("shape")
        if self.rank is None:
            return shape
        return tuple(shape[axis] for axis in range(self.rank))

    def dim(self) -> Any:
        return super().__getattr__("dim")() if self.rank is None else self.rank

    ndimension = dim


def ranked(rank: int | None) -> type[fx.Tracer]:
    """A tracer of models whose input has so many dimensions; None: as torch.fx's own."""

    class RankedTracer(fx.Tracer):
        def proxy(self, node: fx.Node) -> fx.Proxy:
            node.meta["rank"] = self._rank(node)
            return RankedProxy(node, self)

        def _rank(self, node: fx.Node) -> int | None:
            if node.op == "placeholder":
                return rank
            if node.op == "call_module":
                reshapes = "latten" in type(self.root.get_submodule(str(node.target))).__name__  # Flatten, Unflatten
                keeps = not reshapes
            else:
                name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
                keeps = name in KEEP
            inputs = [value for value in node.args if isinstance(value, fx.Node)]
            return inputs[0].meta.get("rank") if keeps and inputs else None

    return RankedTracer
