"""Values that a model sees in another order or shape than the layers give them, or scaled and shifted.

Views, permutations, slices, splits, channel shuffles and padding put values elsewhere and change none. Such a call is
followed by carrying it out on numbers: for each value that the model sees, its place among the values that a layer
gave, or NOTHING for a zero of padding. Layers that bring the values there are added when something else takes them.

A normalisation behind a ReLU goes into the next weights, W (a x + c) + b = W a x + (b + W c), so that spikes are passed
on; as real values they would cost products at each step. It moves past the poolings that allow it. A convolution pads
its image with zeros, not with shifts: there the values are passed on as real ones, and a warning says what that
costs.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import layers
from ...kernels import heap
from ...layers.synapses import WEIGHTED
from ...network import Network, free_name
from ...running.simulate import simulate
from ..graph.fx_calls import arguments, path_of
from ..graph.fx_graph import AVERAGES, MAXIMA, Graph, Values, named
from ..graph.graph_values import Affine, Current, Signal
from ..graph.rewrites import Spread
from ..graph.sample_runs import called, constant_of

NOTHING = -1  # the place of a zero
MOST_VALUES = 1 << 15  # values along an axis that Unflatten makes
FLATTENINGS = ("flatten", "view", "reshape")  # to [N, features], in the order that there is
STEPS = 8  # in which the operations of a network are counted


class ViewedGraph(Graph):
    """Follows calls that only put values elsewhere, and adds layers for them where something takes the values."""

    def _restore(self, taken: list[fx.Node], values: Values) -> None:
        """Give values the shape that the model sees, [N, 1, features] for [N, features]."""
        for argument in taken:
            if "ours" in argument.meta:
                x = self._carry(argument, super()._taken(argument, values, nn.Identity(), path_of(argument)))
                del argument.meta["ours"]
                values[argument] = self._seen_as(argument, x, argument.meta["shape"])

    def _moved(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        before = arguments(node)[0]
        value = values[before]
        if isinstance(value, list):  # one part of several, or some
            number: Any = constant_of(node.args[1])
            return value[number]
        seen = None if isinstance(value, Current) else value.view
        view = as_given(before.meta["shape"]) if seen is None else seen
        try:
            given = moved(node, self.traced, view)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise TypeError(f"{self.model}: {path_of(node)} cannot be followed: {reason}") from error
        if isinstance(value, Current) and isinstance(given, Tensor) and torch.equal(given, view):
            if "ours" in before.meta:
                node.meta["ours"] = before.meta["ours"]
            return value  # as it was: it need not be carried on
        x = self._carry(before, value)
        return [replace(x, view=part) for part in given] if isinstance(given, tuple | list) else replace(x, view=given)

    def _taken(self, argument: fx.Node, values: Values, module: nn.Module, path: str) -> Signal | Current:
        x = super()._taken(argument, values, module, path)
        if isinstance(x, Current):
            return x
        if isinstance(module, nn.Linear):
            x = self._as_vector(argument, x)
        if x.view is None:
            return x
        x, seen = self._laid_out(argument, x), argument.meta["shape"]  # which others that take it go by
        values[argument] = x if x.shape == seen else replace(x, view=as_given(x.shape or ()).view(seen))
        return x

    def _laid_out(self, argument: fx.Node, x: Signal) -> Signal:
        """Add layers that put the values where the model sees them."""
        if x.view is None:
            return x
        try:
            added = layers_to(x.view, x.shape)  # type: ignore[arg-type]  # shapes are known
        except ValueError as error:
            raise TypeError(f"{self.model}: {path_of(argument)} {error}") from error
        shape = tuple(x.view.shape)
        for layer in added:
            last = layer is added[-1]
            name = self._name(argument) if last else self._free(f"{argument.name}_input")
            x = self._other(name, layer, x, shape)
        return replace(x, view=None, shape=shape)

    def _seen_as(self, argument: fx.Node, x: Signal, shape: Sequence[int]) -> Signal:
        """The values in another shape and the same order."""
        view = as_given(x.shape or ()) if x.view is None else x.view
        return self._laid_out(argument, replace(x, view=view.reshape(*shape)))

    def _as_vector(self, argument: fx.Node, x: Signal) -> Signal:
        """[N, 1, features] as [N, features], for a matrix product."""
        shape = tuple(x.view.shape) if x.view is not None else x.shape or ()
        if len(shape) < 3 or max(shape[1:-1]) > 1:
            return x
        view = as_given(shape) if x.view is None else x.view
        return replace(x, view=view.flatten(1))

    def _carried_in(self, node: fx.Node, x: Current, shape: tuple[int, ...]) -> Signal:
        """A current as real values, of a shape that the model does not see."""
        signal = replace(self._carry(node, x), shape=shape)
        del self.carried[node]
        return signal

    def _spread(self, name: str, x: Signal, spread: Spread) -> Signal:
        if len(spread.stride) > 1:
            return super()._spread(name, x, spread)
        shape: Any = x.shape
        view = spread.places(as_given(shape), NOTHING)
        for layer in layers_to(view, shape):
            x = self._other(self._free(name), layer, x, tuple(view.shape))
        return x

    def _expanded(self, x: Signal | Current, argument: fx.Node, shape: tuple[int, ...]) -> Signal | Current:
        """Values repeated along the axes where ``shape`` is larger."""
        seen = argument.meta["shape"]
        if isinstance(x, Current) and not x.pools and seen == shape:
            return x
        x = self._carry(argument, x)
        if seen == shape:
            return x
        return self._laid_out(argument, replace(x, view=as_given(seen).expand(shape)))


class NormsBehind(ViewedGraph):
    """Moves a factor and a shift for each channel into the next weights."""

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
        if called(node) in FLATTENINGS and isinstance(value, Current) and affine_of(value) is not None:
            shape = before.meta["shape"]
            if "ours" not in before.meta and len(shape) > 2 and node.meta["shape"] == (shape[0], math.prod(shape[1:])):
                return self._reshape(node, value, nn.Flatten(), path_of(node))
        return super()._moved(node, values)

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: nn.Module | None) -> Signal:
        if isinstance(x, Current) and not all(isinstance(pool, MAXIMA) for _, pool, _ in x.pools):
            x = self._carry(self._before(node), x)  # a ReLU and an average do not change places
        return super()._fire(node, x, neuron)

    def multiplied(self) -> list[str]:
        """The paths of normalisations behind neurons whose real values weights multiply."""
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
    """The factor and shift of a current that is only a scaled and shifted signal, perhaps pooled; otherwise None."""
    if isinstance(x, Signal) or len(x.projections) != 1 or x.projections[0].norm is not None:
        return None
    return x.projections[0].affine if x.projections[0].source.view is None else None


def warn_of_products(net: Network, graph: NormsBehind, x: Tensor) -> None:
    """Warn of the share of products that a normalisation behind a ReLU causes; ``x``: some samples."""
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
    """Whether the weights can contain it: zeros of pooling and padding have no shift."""
    pools = [pool for _, pool, _ in x.pools]
    averaged = False
    for pool in pools:
        if not _change_places(affine, pool) or (averaged and isinstance(pool, MAXIMA)):
            return False
        averaged = averaged or isinstance(pool, AVERAGES)
    pads = any(getattr(module, "_reversed_padding_repeated_twice", ()))
    return not pads or not affine.shift.any()


def _change_places(affine: Affine, module: nn.Module) -> bool:
    """Whether a pooling may change places with it."""
    if isinstance(module, MAXIMA):
        return bool((affine.factor >= 0).all())
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
        padded = any(module.padding) if isinstance(module.padding, tuple) else module.padding
        return not padded and getattr(module, "divisor_override", None) is None
    return isinstance(module, (*AVERAGES, nn.Flatten))


def moved(node: fx.Node, traced: fx.GraphModule, view: Tensor) -> Any:
    """The result of a node's call on ``view``: a tensor, or a tuple of tensors."""
    first = node.all_input_nodes[0]
    numbers = (view + 1).double()  # padding is 0, which is no value's number; some calls take only floats

    def value(argument: fx.Node) -> Any:
        if argument is first:
            return numbers
        known = constant_of(argument)
        return heap.empty(*argument.meta["shape"]) if known is argument else known  # its shape is asked

    arguments, options = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    target: Any = node.target
    if node.op == "call_module":
        result = traced.get_submodule(target)(*arguments, **options)
    elif node.op == "call_method":
        result = getattr(arguments[0], target)(*arguments[1:], **options)
    else:
        result = target(*arguments, **options)
    return tuple(map(_places, result)) if isinstance(result, tuple | list) else _places(result)


def _places(numbers: Tensor) -> Tensor:
    return numbers.long() - 1


def as_given(shape: tuple[int, ...]) -> Tensor:
    """The identity view: int64 indices of ``shape`` [N, ...]."""
    return torch.arange(torch.Size(shape).numel(), device=heap.CPU).view(shape)


def of_samples(view: Tensor, N: int, features: int) -> Tensor:
    """The view of ``N`` samples of ``features`` values each, from the view of the first sample [1, ...]."""
    starts = features * torch.arange(N, device=heap.CPU).view(-1, *[1] * (view.ndim - 1))
    return torch.where(view < 0, NOTHING, view + starts)


def keeps_samples(view: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether each sample of ``view`` [N, ...] shows the same places of its own sample of values of ``shape``."""
    return len(view) == shape[0] and torch.equal(view, of_samples(view[:1], len(view), torch.Size(shape[1:]).numel()))


def layers_to(view: Tensor, shape: tuple[int, ...]) -> list[nn.Module]:
    """The layers that put values of ``shape`` [N, C, ...] where ``view`` [N, ...] shows them; none if they are there.

    Raises:
        ValueError: a sample contains values of others, or has too many axes.
    """
    wanted, size = tuple(view.shape[1:]), tuple(shape[2:])
    if len(wanted) not in (1, 2, 3):
        raise ValueError(
            f"gives {named(view.shape)} where another module takes it; known are [N, C, H, W], [N, C, L] and [N, C]"
        )
    if not keeps_samples(view, shape):
        raise ValueError(f"gives {list(view.shape)} of {shape[0]} samples, mixing or dropping some; keep [N, ...]")
    order, pixels = view[0].flatten(), torch.Size(size).numel()
    starts = order[::pixels]
    images = torch.where(starts[:, None] < 0, NOTHING, starts[:, None] + torch.arange(pixels, device=heap.CPU))
    whole = len(order) == len(starts) * pixels and torch.equal(order.view(-1, pixels), images)
    if whole and not (starts % pixels)[starts >= 0].any():  # images of whole channels
        channels = torch.where(starts < 0, NOTHING, starts // pixels)
        parts: list[nn.Module] = (
            [] if torch.equal(channels, torch.arange(shape[1], device=heap.CPU)) else [layers.Channels(channels)]
        )
        if wanted[1:] == size:
            return parts
        parts += [layers.Flatten()] if size else []
    else:
        parts = [*([layers.Flatten()] if size else []), layers.Channels(order)]
    if len(wanted) > 1 and max(wanted) > MOST_VALUES:
        raise ValueError(f"gives {named(view.shape)}; an axis of rearranged values may have at most {MOST_VALUES:,}")
    return [*parts, *([layers.Unflatten(wanted)] if len(wanted) > 1 else [])]
