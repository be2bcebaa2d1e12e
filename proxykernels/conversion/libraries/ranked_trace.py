"""A torch.fx trace that knows the number of dimensions of values, so that a forward pass may ask for ``x.ndim``.

A forward pass may also loop over the steps of its input, ``for t in range(x.size(0))``; LOOPED steps are traced.
"""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from ..graph.fx_calls import CASTS, trace
from ..graph.sample_runs import STEPS, called, of_sizes

RANKS = ((nn.Conv2d, 4), (nn.ConvTranspose2d, 4), (nn.Conv1d, 3), (nn.Linear, 2))
SWAPS = ("transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "permute")
KEEP = ("add", "sub", "mul", "iadd", "isub", "imul", "truediv", "relu", "contiguous", "clone", "detach", *SWAPS, *CASTS)
SIZES = ("size", "getattr", "getitem")
LOOPED = STEPS  # steps that a traced loop runs


def rank_of_input(model: nn.Module) -> int | None:
    """The dimensions of one step's input [N, ...], as the model's first layer with weights takes it."""
    ranks = (rank for module in model.modules() for kind, rank in RANKS if isinstance(module, kind))
    return next(ranks, None)


@contextmanager
def zeros_of_sizes() -> Iterator[None]:
    """Within this context torch.zeros takes sizes that a trace does not know, as in ``torch.zeros(x.size(1), 16)``."""
    plain = torch.zeros

    def zeros(*sizes: Any, **options: Any) -> Any:
        unknown = next((value for value in (*sizes, *options.values()) if isinstance(value, fx.Proxy)), None)
        if unknown is None:
            return plain(*sizes, **options)
        return unknown.tracer.create_proxy("call_function", plain, sizes, options)

    torch.zeros = zeros
    try:
        yield
    finally:
        torch.zeros = plain


@zeros_of_sizes()
def followed(model: nn.Module, leaves: tuple[type, ...], multi_step: bool) -> fx.GraphModule:
    """The graph of a forward pass. It takes one step [N, ...], or all steps [T, N, ...] if its neurons do
    (``multi_step``) or if it loops over them."""
    rank = rank_of_input(model)
    tracer = ranked(rank + multi_step if rank else None)
    try:
        traced = trace(model, leaves, tracer)
        if not tracer.loops or multi_step or rank is None:
            return traced
    except TypeError:
        if multi_step or rank is None:
            raise
        of_steps = ranked(rank + 1)
        try:
            traced = trace(model, leaves, of_steps)
        except TypeError:
            of_steps.loops = False
        if not of_steps.loops:
            raise
        return traced
    return trace(model, leaves, ranked(rank + 1))


class RankedProxy(fx.Proxy):
    """A value whose number of dimensions may be known. Its sizes are not: one that must be a number, as in a loop, is
    taken for the number of steps."""

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

    def __index__(self) -> int:
        source: Any = self.node if of_sizes(self.node) else None
        while isinstance(source, fx.Node) and source.op != "placeholder":
            source = source.args[0] if source.args and called(source) in (*SIZES, *SWAPS) else None
        if source is None:
            raise TypeError("what is computed of its values or sizes cannot be used as a number")
        self.tracer.is_looped_over()  # type: ignore[attr-defined]
        return LOOPED

    def __len__(self) -> int:
        steps: Any = self.shape[0] if self.rank else self.size(0)
        return operator.index(steps)


class LoopTracer(fx.Tracer):
    loops = False  # whether the forward pass has asked how many steps there are


def ranked(rank: int | None) -> type[LoopTracer]:
    """A tracer of models whose input has this many dimensions; None: torch.fx's own."""

    class RankedTracer(LoopTracer):
        def is_looped_over(self) -> None:
            RankedTracer.loops = True

        def iter(self, obj: Any) -> Iterator:
            if obj.node.op != "placeholder":
                return super().iter(obj)
            self.is_looped_over()
            return iter([obj[step] for step in range(LOOPED)])

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
                keeps = called(node) in KEEP
            inputs = [value for value in node.args if isinstance(value, fx.Node)]
            return inputs[0].meta.get("rank") if keeps and inputs else None

    return RankedTracer
