"""The layers of a ReLU network before any layer is built, and what it returns. Firing rates stand for its values.

A model returns one tensor, or several in tuples, lists and dicts, which the converted network gives side by side.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...kernels import heap
from ...layers import Flatten
from ...layers.of_sums import SMOOTH, OfSums
from ...network import Network, Part
from ..graph import rewrites
from ..graph.functions import Add, Cat, Mean, Minimum, Scaled, Times
from ..graph.fx_calls import arguments, as_module, is_move, path_of
from ..graph.fx_graph import Values, named, shape_of
from ..graph.graph_values import Current, Projection, Signal
from ..graph.sample_runs import called, constant_of, is_constant, set_part
from ..graph.state_between_calls import items_of, keys_of
from .viewed_graph import MOST_VALUES, NOTHING, NormsBehind, as_given, of_samples

MONOTONE = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)  # of the logits, at the end
MONOTONE_NAMES = frozenset("softmax log_softmax sigmoid logsigmoid".split())
LEAKY = (nn.LeakyReLU, nn.PReLU)
ADAPTIVE_AVERAGES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
OF_ROWS = (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)
OF_IMAGES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class ReluGraph(NormsBehind):
    """The graph of a ReLU network. A run must have noted shapes, numbers and constants (sample_runs.py).

    Neurons behind a max pooling are put in front of it, and the pooling takes the highest rate.
    """

    rates = True
    computes = False  # whether its neurons are sigma-delta or graded, which functions of values can be made of
    supported = (
        "Conv2d, Conv1d, ConvTranspose2d and 1d, Linear, BatchNorm, ReLU, ReLU6, LeakyReLU, PReLU, Max-, Avg- and "
        "AdaptiveAvgPool, Flatten, Upsample, ZeroPad2d, Dropout, Identity, additions, concatenations, views, channel "
        "shuffles, and Softmax or Sigmoid at the end"
    )

    def __init__(self, *arguments: Any, computes: bool = False, **options: Any):
        self.computes = computes
        super().__init__(*arguments, **options)

    def _is_number(self, node: fx.Node) -> bool:
        return is_constant(node)

    def _step(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        taken = arguments(node)
        if node.target is set_part:
            return self._assigned(node, values)
        if taken and taken[0] in values and is_move(node, self.traced):
            return self._moved(node, values)
        if any("ours" in argument.meta for argument in taken):  # of a matrix product of [N, 1, features]
            module = as_module(node, self.traced, self.model)
            if self._is_elementwise(module):
                node.meta["ours"] = taken[0].meta["ours"]
            elif not isinstance(module, nn.Linear):
                self._restore(taken, values)
        if node.op == "call_module" and len(node.args) + len(node.kwargs) > 1:
            if not isinstance(self.traced.get_submodule(str(node.target)), nn.ConvTranspose1d | nn.ConvTranspose2d):
                raise TypeError(f"{self.model}: {path_of(node)} is called with more than its input")
        return super()._step(node, values)

    def _is_elementwise(self, module: nn.Module) -> bool:
        """Whether a module does the same with each value of its input, whatever the shape."""
        if isinstance(module, Scaled):
            return not any(isinstance(value, Tensor) and value.ndim for value in (module.factor, module.shift))
        return self.is_neuron(module) or isinstance(module, (nn.LeakyReLU, *self.negligible))

    # Sums and concatenations

    def _add(self, node: fx.Node, add: Add, terms: list[Signal | Current], path: str) -> Current:
        first, second = (arguments(node) * 2)[:2]
        if len(terms) == 2:
            shape = tuple(node.meta["shape"])
            terms = [self._expanded(term, at, shape) for term, at in zip(terms, (first, second), strict=True)]
            terms[1] = self._scaled(second, terms[1], Scaled(add.factor, 0), path)
        return super()._add(node, Add(), terms, path)

    def _cat(self, node: fx.Node, cat: Cat, terms: list[Signal | Current], path: str) -> Signal:
        given = arguments(node)
        if any(argument not in self.values and argument.meta["constant"].any() for argument in given):
            raise TypeError(f"{self.model}: {path} takes values that are not its input's; only zeros can be joined")
        shape = tuple(node.meta["shape"])
        axis = cat.dim % len(shape)
        if axis == 0:
            raise TypeError(f"{self.model}: {path} joins along the axis of samples; only a sample's own axes may be")
        if axis == 1 and not cat.stack and len(given) == len(terms):
            return super()._cat(node, Cat(1), terms, path)
        of_terms = iter(terms)

        def join(views: list[Tensor]) -> Tensor:
            return torch.stack(views, axis) if cat.stack else torch.cat(views, axis)

        return self._gathered(node, [(each, next(of_terms) if each in self.values else None) for each in given], join)

    def _gathered(
        self, node: fx.Node, given: list[tuple[fx.Node, Any]], join: Callable[[list[Tensor]], Tensor]
    ) -> Signal:
        """Values of several nodes where ``join`` puts those of one sample; None for a node of zeros."""
        parts, views, start = list[Signal](), list[Tensor](), 0
        for argument, value in given:
            size = argument.meta["shape"]
            if value is None:
                views.append(torch.full((1, *size[1:]), NOTHING, dtype=torch.int64, device=heap.CPU))
                continue
            parts.append(self._seen_as(argument, self._carry(argument, value), (size[0], -1)))
            places = as_given((1, *size[1:]))
            views.append(places + start)
            start += places.numel()
        view, samples = join(views), node.meta["shape"][0]
        flat = (samples, start)
        x = replace(parts[0], shape=flat) if len(parts) == 1 else self._side_by_side(node, parts, path_of(node), flat)
        return replace(x, view=of_samples(view, samples, start))

    def _assigned(self, node: fx.Node, values: Values) -> Signal:
        """A value of which a part was replaced, x[index] = value: by another one, or by zeros."""
        x: Any
        value: Any
        x, index, value = node.args
        path = path_of(node)
        known: Any = fx.map_arg(index, constant_of)
        constants = [constant_of(part) for part in (x, value) if part not in values]
        if any(isinstance(each, fx.Node) for each in constants) or any(_is_any(each) for each in constants):
            raise TypeError(
                f"{self.model}: {path} puts constants into a tensor, as in y[:, 0] = 1; only zeros and results of "
                "layers can be put there"
            )
        given = [(x, self._of(x, values, path)), *[(value, self._of(value, values, path))] * (value in values)]
        if all(part is None for _, part in given):
            raise TypeError(f"{self.model}: {path} puts zeros into zeros")
        views = [None if part is None or isinstance(part, Current) else part.view for _, part in given]
        layers = {part.layer for _, part in given if isinstance(part, Signal)}

        def join(parts: list[Tensor]) -> Tensor:
            whole = parts[0].clone()
            whole[known] = parts[1] if len(parts) > 1 else NOTHING
            return whole

        signals: list[Any] = [part for _, part in given if part is not None]
        if len(layers) == 1 and all(isinstance(part, Signal) for part in signals):  # which is in its place already
            places = [
                torch.full(each.meta["shape"], NOTHING, dtype=torch.int64, device=heap.CPU)
                if part is None
                else as_given(each.meta["shape"])
                if view is None
                else view
                for (each, part), view in zip(given, views, strict=True)
            ]
            return replace(signals[0], view=join(places))
        return self._gathered(node, given, join)

    def _of(self, node: fx.Node, values: Values, path: str) -> Signal | Current | None:
        if node not in values:
            return None
        return super()._taken(node, values, nn.Identity(), path) if isinstance(values[node], list) else values[node]  # type: ignore[return-value]

    # Products and activations

    def _value(self, node: fx.Node, module: nn.Module, terms: list[Signal | Current], path: str) -> Signal | Current:
        if self.computes and isinstance(module, Times) and len(terms) == 2:
            return self._of_sums(node, list(zip(arguments(node), terms, strict=True)), None, path)
        return super()._value(node, module, terms, path)

    def _of_sums(
        self, node: fx.Node, given: list[tuple[fx.Node, Signal | Current]], function: nn.Module | None, path: str
    ) -> Signal:
        """A function of values, or the product of two."""
        parts = []
        for argument, x in given:
            x = self._laid_out(argument, self._carry(argument, x))
            parts.append(self._unscaled(node, x, path))
        shapes, shape = [part.shape or () for part in parts], tuple(node.meta["shape"])
        if len({len(each) for each in shapes}) > 1 or not 2 <= len(shape) <= 4:
            raise TypeError(
                f"{self.model}: {path} multiplies {' by '.join(map(named, shapes))}; both must have the same axes"
            )
        name = self._name(node)
        self.order.append(name)
        self.others[name] = OfSums(function and type(function)(**_options(function))), tuple(p.layer for p in parts)
        return Signal(name, Network.INPUT, False, True, shape)

    def _apply(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        before = self._before(node)
        if isinstance(module, Scaled):
            return self._scaled(before, x, module, path, node.meta["shape"])
        if isinstance(module, Minimum):
            if isinstance(x, Current) or x.signed:
                limit = module.limit
                raise TypeError(f"{self.model}: {path} limits values that may be below 0; write clamp(0, {limit:g})")
            module = nn.Hardtanh(0.0, module.limit)
        if self.computes and type(module) in SMOOTH:
            return self._of_sums(node, [(before, x)], module, path)
        if isinstance(module, LEAKY):
            return self._leaky(node, x, module, path)
        if isinstance(module, Mean):
            x = self._mean(node, x, module, path)
            if module.factor == 1:
                return x
            x = self._laid_out(node, x) if isinstance(x, Signal) else x
            return self._scaled(node, x, Scaled(module.factor, 0), path)
        axes = 4 if isinstance(module, OF_IMAGES) else 3 if isinstance(module, OF_ROWS) else 0
        if axes and len(before.meta["shape"]) != axes:
            return self._unbatched(node, x, module, path, axes)
        if isinstance(module, nn.AvgPool1d | nn.AvgPool2d) and self._is_of_all(node, before, module):
            module = (nn.AdaptiveAvgPool2d if axes == 4 else nn.AdaptiveAvgPool1d)(1)
        if isinstance(module, ADAPTIVE_AVERAGES) and not isinstance(module.output_size, int):
            module = type(module)(node.meta["shape"][2:])  # None is the size that there is
        if type(module) in rewrites.ADAPTIVE_MAXIMA:
            module = rewrites.windows_of(module, shape_of(before), f"{self.model}: {path}")
        if isinstance(module, nn.ConstantPad2d) and module.value == 0:
            module = nn.ZeroPad2d(module.padding)
        if isinstance(module, nn.Upsample):
            return self._upsampled(node, x, module, path)
        return super()._apply(node, x, module, path)

    def _synapse(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        shape = self._before(node).meta["shape"]
        if isinstance(module, nn.Linear) and len(shape) > 2:
            if max(shape[1:-1]) > 1:
                return self._product_of_rows(node, x, module, path)
            x = self._carry(self._before(node), x)
            x = x if len(x.shape or ()) == 2 else self._seen_as(self._before(node), x, (shape[0], shape[-1]))
        current = super()._synapse(node, x, module, path)
        if isinstance(module, nn.Linear) and len(shape) > 2:  # of [N, 1, features]
            node.meta["ours"] = shape[0], node.meta["shape"][-1]
        return current

    def _product_of_rows(self, node: fx.Node, x: Signal | Current, module: nn.Linear, path: str) -> Signal:
        """A matrix product of the last axis of [N, ..., features], as a convolution of one tap."""
        before = self._before(node)
        shape, out = before.meta["shape"], node.meta["shape"]
        x = self._carry(before, x)
        rows = as_given(shape).flatten(1, -2).transpose(1, 2)
        x = self._laid_out(before, replace(x, view=rows))
        current = super()._synapse(node, x, rewrites.product_as_convolution(module), path)
        assert isinstance(current, Current)
        current.projections[0].added = True
        x = self._carried_in(node, current, (out[0], out[-1], rows.shape[2]))
        return replace(x, view=as_given(x.shape or ()).transpose(1, 2).reshape(out))

    def _scaled(
        self, before: fx.Node, x: Signal | Current, scaled: Scaled, path: str, shape: tuple[int, ...] | None = None
    ) -> Signal | Current:
        """The value of ``before`` times a factor plus a shift, each a number, one a channel, or one a value.

        They may be of a larger ``shape``, to which the value is broadcast.
        """
        given = before.meta["shape"]
        shape = shape or given
        constants = scaled.factor, scaled.shift
        factor, shift = (rewrites.by_channel(value, shape, f"{self.model}: {path}") for value in constants)
        if isinstance(factor, float) and isinstance(shift, float):
            if (factor, shift) == (1, 0) and shape == given:
                return x
        x = self._carry(before, x)
        if shape != given:
            x = self._expanded(x, before, shape)
            assert isinstance(x, Signal)
        name = self._free(f"{before.name}_scaled")
        learnt = any(isinstance(value, Tensor) and value.requires_grad for value in constants)
        if max(value.ndim if isinstance(value, Tensor) else 0 for value in (factor, shift)) < 2:
            return Current(name, path, [self._times(x, factor, shift, learnt)])
        if (values := torch.Size(shape[1:]).numel()) > MOST_VALUES:
            raise TypeError(
                f"{self.model}: {path} has another constant for each of {values:,} values, as a position embedding; at "
                f"most {MOST_VALUES:,} are supported: use one for each channel, or remove it and continue training"
            )
        x = self._seen_as(before, x, (shape[0], -1, 1))  # one channel for each value
        factor, shift = (v.expand(shape[1:]).flatten() if isinstance(v, Tensor) else v for v in (factor, shift))
        current = Current(name, path, [self._times(x, factor, shift, learnt)])
        x = self._carried_in(before, current, x.shape or ())
        return replace(x, view=as_given(shape))

    def _leaky(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        """y = slope x + (1 - slope) max(x, 0): x as real values, and neurons for its positive part."""
        x = self._carry(self._before(node), x)
        if not x.signed:
            return x
        learnt = isinstance(module, nn.PReLU) and module.weight.requires_grad
        slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else module.weight.detach()
        positive = self._fire(node, Current(self._name(node), path, [Projection(nn.Identity(), x)]), nn.ReLU())
        name = self._free(f"{positive.layer}_leak")
        terms = [self._times(positive, 1 - slope, 0.0, learnt), self._times(x, slope, 0.0, learnt)]
        return Current(name, path, terms)

    def _times(self, x: Signal, factor: float | Tensor, shift: float | Tensor, learnt: bool) -> Projection:
        """A signal times a factor plus a shift, each a number or one a channel."""
        assert x.shape is not None
        identity = rewrites.scaled_identity(x.shape[1], len(x.shape), self.like, learnt)
        module = rewrites.affine(identity, factor, shift)
        return Projection(module, x, added=True, affine=rewrites.affine_by(module))

    # Pooling

    def _mean(self, node: fx.Node, x: Signal | Current, mean: Mean, path: str) -> Signal | Current:
        before = self._before(node)
        shape = before.meta["shape"]
        axes = sorted(axis % len(shape) for axis in mean.dims)
        if not axes or axes[0] == 0:
            raise TypeError(f"{self.model}: {path} takes the mean over samples; only a sample's own axes may be")
        if axes == list(range(2, len(shape))) and len(shape) in (3, 4):
            pool: nn.Module = nn.AdaptiveAvgPool2d(1) if len(shape) == 4 else nn.AdaptiveAvgPool1d(1)
            return super()._apply(node, x, pool if mean.keepdim else nn.Sequential(pool, nn.Flatten()), path)
        x = self._carry(before, x)
        others = [axis for axis in range(1, len(shape)) if axis not in axes]
        places = as_given(shape).permute(0, *others, *axes)
        count = torch.Size([shape[axis] for axis in axes]).numel()
        x = self._laid_out(before, replace(x, view=places.reshape(shape[0], -1, count)))
        rows = shape[0], places[0].numel() // count, 1
        return self._pooled_as(node, nn.AdaptiveAvgPool1d(1), x, path, rows)

    def _is_of_all(self, node: fx.Node, before: fx.Node, module: Any) -> bool:
        """Whether an average's window is computed from the size of its input, as in ``y.size()[2:]``."""
        window = node.args[1] if len(node.args) > 1 else node.kwargs.get("kernel_size")
        size, padding, kernel = before.meta["shape"][2:], module.padding, module.kernel_size
        given = window if isinstance(window, tuple | list) else [window]
        if node.op == "call_module" or not all(isinstance(part, fx.Node) for part in given):
            return False
        kernel = tuple(kernel) if isinstance(kernel, tuple | list) else (kernel,)  # of one number images have squares
        return kernel == size and not any(padding if isinstance(padding, tuple) else (padding,))

    def _unbatched(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str, axes: int) -> Signal:
        """Pooling of inputs with one axis too few: as in torch, [N, C, L] are N images of one channel."""
        before = self._before(node)
        shape, result = before.meta["shape"], node.meta["shape"]
        if len(shape) != axes - 1:
            raise TypeError(f"{self.model}: {path} takes {named(shape)}, which it does not pool")
        x = self._seen_as(before, self._carry(before, x), (shape[0], 1, *shape[1:]))
        if isinstance(module, ADAPTIVE_AVERAGES):
            module = type(module)(result[1:] if axes == 4 else result[1])
        elif type(module) in rewrites.ADAPTIVE_MAXIMA:
            module = rewrites.windows_of(module, x.shape, f"{self.model}: {path}")
        return self._pooled_as(node, module, x, path, (result[0], 1, *result[1:]))

    def _pooled_as(self, node: fx.Node, module: nn.Module, x: Signal, path: str, shape: tuple[int, ...]) -> Signal:
        """Pool to ``shape``, where the model sees the same values in another shape."""
        x = self._pool(self._name(node), module, x, path, shape)
        return replace(x, view=as_given(shape).reshape(node.meta["shape"]))

    def _upsampled(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        """Upsampling of images; rows are images of one row."""
        before = self._before(node)
        shape, result = before.meta["shape"], node.meta["shape"]
        size, factor = module.size, module.scale_factor
        if module.recompute_scale_factor:
            size, factor = result[2:], None
        if len(shape) == 4:
            module = nn.Upsample(size, factor, module.mode, module.align_corners)
            return super()._apply(node, x, module, path)
        if len(shape) != 3 or module.mode != "linear":
            raise TypeError(f"{self.model}: {path} takes {named(shape)} by mode={module.mode!r}, no images")
        if factor is not None:
            factor = (1.0, *(factor if isinstance(factor, tuple) else (factor,)))
        rows = nn.Upsample(None if factor else (1, result[2]), factor, "bilinear", module.align_corners)
        x = self._seen_as(before, self._carry(before, x), (*shape[:2], 1, shape[2]))
        return self._pooled_as(node, rows, x, path, (*result[:2], 1, result[2]))

    def _last(self, result: fx.Node, x: Signal | Current) -> None:
        """Add neurons at the end, whose charges are the logits, including negative ones."""
        if isinstance(x, Current) and x.pools:
            x = self._carry(result, x)
        if isinstance(x, Current) or (x.layer != Network.INPUT and not self._gives_neurons(x)):
            signal = self._fire(result, x, None)
            self.carried[result] = signal

    def _gives_neurons(self, x: Signal) -> bool:
        """Whether the values are spikes of a population, flattened or not."""
        name = x.layer
        while name in self.others and isinstance(self.others[name][0], Flatten):
            (name,) = self.others[name][1]
        return x.binary and name in self.populations


def _is_any(value: Any) -> bool:
    """Whether a number, or one of a tensor, is not 0."""
    return bool(value.any() if isinstance(value, Tensor) else value)


def _options(function: nn.Module) -> dict[str, Any]:
    """The arguments that a function of values was made with, except that it changes its input in place."""
    names = ("alpha", "beta", "threshold")
    return {name: getattr(function, name) for name in names if hasattr(function, name)}


def one_output(traced: fx.GraphModule, model: str) -> None:
    """Make the model return its logits as one tensor: without a softmax or sigmoid at the end, and with the values of
    several results side by side [N, features]. A run must have noted the values of nodes (sample_runs.py)."""
    graph = traced.graph
    output = list(graph.nodes)[-1]
    leaves = _leaves(output.args[0])
    if not leaves:
        raise TypeError(f"{model} must return a tensor, its forward returns {output.args[0]}")
    for leaf in leaves:
        if not leaf.meta["shape"]:
            raise TypeError(f"{model} must return tensors [N, ...], and {path_of(leaf)} gives one value of all samples")
    logits = [_logits(leaf, traced, output) for leaf in leaves]
    with graph.inserting_before(output):
        logits = [_with_features(leaf, graph) for leaf in logits]
        if len(logits) > 1:
            flat = [graph.call_function(torch.flatten, (leaf, 1)) for leaf in logits]
            logits = [graph.call_function(torch.cat, (flat, 1))]
    output.args = (logits[0],)
    traced.recompile()


def parts_of(returned: Any) -> Part | None:
    """The places in a network's output of what the model returned; None: the model returned one tensor, the output.

    Named tuples become tuples, dataclasses become dicts of their fields, and values other than tensors become None.
    """
    start = 0

    def part(value: Any) -> Any:
        nonlocal start
        if isinstance(value, Tensor):
            start += value[0].numel()
            return Part((start - value[0].numel(), start), tuple(value.shape[1:]))
        if isinstance(value, dict) or dataclasses.is_dataclass(value):
            return {key: part(item) for key, item in zip(keys_of(value), items_of(value), strict=True)}
        if isinstance(value, tuple | list):  # torch.fx's own kind of a list
            return (tuple if isinstance(value, tuple) else list)(map(part, value))
        return None

    return None if isinstance(returned, Tensor) and returned.ndim > 1 else part(returned)


def _leaves(returned: Any) -> list[fx.Node]:
    """The nodes of the tensors in what the forward pass returns."""
    leaves: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        if node.op == "call_function" and isinstance(node.target, type):  # a named tuple or a dataclass
            fx.map_arg((node.args, node.kwargs), note)
        elif "shape" in node.meta:
            leaves.append(node)
        return node

    fx.map_arg(returned, note)
    return leaves


def _with_features(leaf: fx.Node, graph: fx.Graph) -> fx.Node:
    """One value for each sample [N] as [N, 1]."""
    if len(leaf.meta["shape"]) != 1:
        return leaf
    before = arguments(leaf)[0] if leaf.op != "call_module" and arguments(leaf) else None
    if before is not None and before.meta.get("shape") == (*leaf.meta["shape"], 1):
        return before  # it was but squeezed
    return graph.call_function(torch.unsqueeze, (leaf, 1))


def _logits(leaf: fx.Node, traced: fx.GraphModule, output: fx.Node) -> fx.Node:
    """The input of a softmax or the like at the end; other nodes are returned as they are."""
    if leaf.op == "call_module":
        ends = isinstance(traced.get_submodule(str(leaf.target)), MONOTONE)
    else:
        ends = called(leaf) in MONOTONE_NAMES
    return arguments(leaf)[0] if ends and set(leaf.users) == {output} else leaf
