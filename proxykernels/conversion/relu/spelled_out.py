"""Writes what a model calls in terms of calls that have layers, in its trace: a clamp or the maximum of two values by a
ReLU, einsum by a linear layer, a convolution that pads by reflection by a padding and a convolution.

A run must have noted shapes and constants (sample_runs.py); after it, another one is needed.
"""

import copy
import operator
from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..graph.fx_calls import MOVES
from ..graph.sample_runs import called, constant_of

KEEP_SIGN = frozenset(("dropout", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
                       "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "mean", "cat", "concat",
                       "stack", "add", *MOVES))  # fmt: skip
ABOVE_0 = frozenset(("relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "abs"))
SIGN_KEEPING = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Dropout,
    nn.Dropout2d, nn.Flatten, nn.Identity, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
COMPARED = ("gt", "ge")


def spell_out(traced: fx.GraphModule) -> None:
    """Replace calls of the trace, in place."""
    padded: set[str] = set()
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            module: Any = traced.get_submodule(str(node.target))
            if isinstance(module, nn.Conv1d | nn.Conv2d) and (module.padding_mode != "zeros" or node.target in padded):
                _pad_in_front(node, module, traced, padded)
            elif isinstance(module, nn.Hardtanh) and module.min_val != 0:
                _limit(node, module.min_val, module.max_val)
            elif isinstance(module, nn.Threshold) and module.threshold == module.value != 0:
                _limit(node, module.value, inf)
        elif (rule := RULES.get(called(node).strip("_"))) and node.args and not _is_constant(node):
            rule(node, traced)


def _is_constant(node: fx.Node) -> bool:
    return "constant" in node.meta


def _given(node: fx.Node, names: str) -> dict[str, Any]:
    """The arguments of a call behind the first one by their names, as constants where they are."""
    by_place = dict(zip(names.split(), node.args[1:], strict=False))
    return {name: constant_of(value) for name, value in (by_place | dict(node.kwargs)).items()}


def _replace(node: fx.Node, made: fx.Node) -> None:
    made.meta = {**node.meta, "shape": node.meta.get("shape")}
    node.replace_all_uses_with(made, lambda user: user is not made)
    if not node.users:
        node.graph.erase_node(node)


def _pad_in_front(node: fx.Node, module: Any, traced: fx.GraphModule, padded: set[str]) -> None:
    """Pads as the convolution does, which then pads nothing."""
    name = str(node.target)
    original = module
    if name not in padded:
        padded.add(name)
        plain = copy.copy(module)
        plain.__dict__ |= {"_parameters": dict(module._parameters), "around": module}
        plain.padding, plain.padding_mode = (0,) * len(module.kernel_size), "zeros"
        plain._reversed_padding_repeated_twice = [0] * 2 * len(module.kernel_size)
        traced.set_submodule(name, plain)
    else:
        original = module.around
    options = {"mode": original.padding_mode}
    with traced.graph.inserting_before(node):
        pads = tuple(original._reversed_padding_repeated_twice)
        node.replace_input_with(
            node.all_input_nodes[0], traced.graph.call_function(F.pad, (node.args[0], pads), options)
        )


def _limit(node: fx.Node, low: Any, high: Any) -> None:
    """max(x, low) is low + relu(x - low), and min(x, high) is high - relu(high - x)."""
    graph, x = node.graph, node.args[0]
    with graph.inserting_before(node):
        if _is_number(low, inf):
            taken = graph.call_function(operator.sub, (high, x))
            made = graph.call_function(operator.sub, (high, graph.call_function(torch.relu, (taken,))))
        else:
            taken = graph.call_function(operator.sub, (x, low))
            limited = (
                graph.call_function(torch.relu, (taken,))
                if _is_number(high, inf)
                else graph.call_function(torch.clamp, (taken, 0, high - low))
            )
            made = graph.call_function(operator.add, (limited, low))
    _replace(node, made)


def _is_number(value: Any, size: float) -> bool:
    """Whether it is a number of this size, of either sign."""
    return isinstance(value, int | float) and abs(value) == size


def _clamp(node: fx.Node, traced: fx.GraphModule) -> None:
    names = {"clamp_min": "min", "clamp_max": "max", "hardtanh": "min_val max_val inplace"}
    given = _given(node, names.get(called(node).strip("_"), "min max"))
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if called(node).strip("_") == "hardtanh":
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    _clamped(node, -inf if low is None else low, inf if high is None else high, traced)


def _clamped(node: fx.Node, low: Any, high: Any, traced: fx.GraphModule) -> None:
    low, high = (value.item() if isinstance(value, Tensor) and value.numel() == 1 else value for value in (low, high))
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if not numbers and not _is_number(low, inf) and not _is_number(high, inf):
        return  # two limits, of which one is a tensor
    if any(isinstance(value, fx.Node) for value in (low, high)) or (numbers and not low < high):
        return
    if numbers and (
        low == 0 or (low == -inf and (high == inf or (high > 0 and not may_be_negative(node.args[0], traced))))
    ):
        return  # these have layers
    _limit(node, low, high)


def _is_minimum(x: Any, high: Any, traced: fx.GraphModule) -> bool:
    """Whether a limit is above 0, and that of values that are not below 0."""
    return isinstance(high, int | float) and high > 0 and not may_be_negative(x, traced)


def may_be_negative(node: Any, traced: fx.GraphModule) -> bool:
    """Whether a value may be below 0, so far as the calls that give it tell."""
    if not isinstance(node, fx.Node):
        return not (isinstance(node, int | float) and node >= 0)
    if _is_constant(node):
        return bool((node.meta["constant"] < 0).any())
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        if isinstance(module, nn.ReLU | nn.Sigmoid | nn.Hardsigmoid | nn.Softmax):
            return False
        if isinstance(module, nn.Hardtanh):
            return module.min_val < 0
        return not isinstance(module, SIGN_KEEPING) or may_be_negative(node.args[0], traced)
    name = called(node).strip("_")
    if name in ABOVE_0 or (name in ("clamp", "clip") and node.args[1:2] and _is_at_least_0(node.args[1])):
        return False
    if name in ("mul", "add"):
        return any(may_be_negative(value, traced) for value in node.args)
    return name not in KEEP_SIGN or any(may_be_negative(value, traced) for value in node.all_input_nodes)


def _is_at_least_0(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0


def _larger(node: fx.Node, traced: fx.GraphModule) -> None:
    """maximum(a, b) is a + relu(b - a), and minimum(a, b) a - relu(a - b)."""
    operands = [*node.args, *(node.kwargs[key] for key in ("input", "other") if key in node.kwargs)]
    is_maximum = called(node) in ("maximum", "max")
    if len(operands) != 2:
        return
    first, second = map(constant_of, operands)
    if not isinstance(first, fx.Node) or isinstance(second, int):  # of two constants; of an axis
        return
    if isinstance(second, Tensor):
        limit = second.item() if second.numel() == 1 else second
        with node.graph.inserting_before(node):
            limited = node.graph.call_function(torch.clamp, (first,), {"min" if is_maximum else "max": limit})
        _replace(node, limited)
        return _clamp(limited, traced)
    if not isinstance(second, fx.Node):
        return None
    graph = node.graph
    with graph.inserting_before(node):
        between = graph.call_function(operator.sub, (second, first) if is_maximum else (first, second))
        above = graph.call_function(torch.relu, (between,))
        made = graph.call_function(operator.add if is_maximum else operator.sub, (first, above))
    return _replace(node, made)


def _largest(node: fx.Node, traced: fx.GraphModule) -> None:
    """The maximum over axes as a max pooling along one: amax(dim), max(dim).values, max(dim)[0]."""
    given = _given(node, "dim keepdim")
    dims: Any = given.pop("dim", given.pop("axis", None))
    keeps = given.pop("keepdim", False)
    x: Any = node.args[0]
    shape = x.meta.get("shape")
    if given or dims is None or isinstance(dims, fx.Node | Tensor) or not shape:
        return
    axes = sorted(axis % len(shape) for axis in ((dims,) if isinstance(dims, int) else dims))
    if not axes or axes[0] == 0:
        return
    readers = [node]
    if called(node) == "max":
        if not all(_is_values(user) for user in node.users):
            return
        readers = list(node.users)
    others = [axis for axis in range(len(shape)) if axis not in axes]
    size = prod(shape[axis] for axis in axes)
    graph = node.graph
    left = [1 if axis in axes else shape[axis] for axis in range(1, len(shape)) if keeps or axis not in axes]
    with graph.inserting_before(node):
        if axes == list(range(2, len(shape))) and len(shape) in (3, 4):
            pool = F.adaptive_max_pool2d if len(shape) == 4 else F.adaptive_max_pool1d
            made = graph.call_function(pool, (x, 1))
        else:
            rows = graph.call_method("permute", (x, *others, *axes))
            rows = graph.call_method("reshape", (rows, shape[0], -1, size))
            made = graph.call_function(F.max_pool1d, (rows, size))
        made = graph.call_method("reshape", (made, -1, *left))
    for reader in readers:
        _replace(reader, made)


def _is_values(node: fx.Node) -> bool:
    at = node.args[1] if len(node.args) > 1 else None
    return bool(called(node) == "getitem" and at == 0) or (called(node) == "getattr" and at == "values")


def _max(node: fx.Node, traced: fx.GraphModule) -> None:
    second = node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
    (_larger if isinstance(second, fx.Node) else _largest)(node, traced)


def _abs(node: fx.Node, traced: fx.GraphModule) -> None:
    graph, x = node.graph, node.args[0]
    with graph.inserting_before(node):
        parts = [graph.call_function(torch.relu, (value,)) for value in (x, graph.call_function(operator.neg, (x,)))]
        made = graph.call_function(operator.add, tuple(parts))
    _replace(node, made)


def _threshold(node: fx.Node, traced: fx.GraphModule) -> None:
    given = _given(node, "threshold value inplace")
    if given.get("threshold") == given.get("value") != 0:
        _limit(node, given["value"], inf)


def _where(node: fx.Node, traced: fx.GraphModule) -> None:
    """where(x > 0, x, 0) as a ReLU, where(x > 0, x, a * x) as a LeakyReLU."""
    if len(node.args) != 3:
        return
    condition, x, other = node.args
    if not _is_above_0(condition, x):
        return
    otherwise = constant_of(other)
    slope: Any = None
    if isinstance(otherwise, Tensor) or _is_number(otherwise, 0):
        slope = None if isinstance(otherwise, Tensor) and bool(otherwise.any()) else 0.0
    elif isinstance(other, fx.Node) and called(other) == "mul":
        factors = [constant_of(value) for value in other.args if value is not x]
        slope = factors[0] if len(factors) == 1 and isinstance(factors[0], float) else None
    if slope is not None:
        with node.graph.inserting_before(node):
            function, options = (torch.relu, (x,)) if slope == 0 else (F.leaky_relu, (x, slope))
            _replace(node, node.graph.call_function(function, options))


def _is_above_0(node: Any, x: Any) -> bool:
    """Whether a node is x > 0, perhaps as a number."""
    while isinstance(node, fx.Node) and called(node) in ("to", "float", "type_as", "type"):
        node = node.args[0]
    return (
        isinstance(node, fx.Node)
        and called(node) in COMPARED
        and node.args[0] is x
        and _is_number(constant_of(node.args[1]), 0)
    )


def _times(node: fx.Node, traced: fx.GraphModule) -> None:
    """x * (x > 0) as a ReLU."""
    if len(node.args) != 2:
        return
    for x, other in (node.args, node.args[::-1]):
        if _is_above_0(other, x):
            with node.graph.inserting_before(node):
                return _replace(node, node.graph.call_function(torch.relu, (x,)))


def _product(node: fx.Node, traced: fx.GraphModule) -> None:
    """x @ w of constant weights w [inputs, outputs], and w @ x of w [outputs, inputs], as a linear layer."""
    operands = [*node.args, *(node.kwargs[key] for key in ("input", "other", "mat2") if key in node.kwargs)]
    if len(operands) != 2:
        return
    first, second = operands
    graph = node.graph
    if _is_matrix(second) and isinstance(first, fx.Node) and not _is_constant(first):
        if len(first.meta.get("shape", ())) < 3:
            return  # which has a module
        with graph.inserting_before(node):
            made = graph.call_function(F.linear, (first, _weights(constant_of(second).t(), traced)))
        _replace(node, made)
    elif _is_matrix(first) and isinstance(second, fx.Node) and len(second.meta.get("shape", ())) > 2:
        with graph.inserting_before(node):
            turned = graph.call_method("transpose", (second, -1, -2))
            made = graph.call_function(F.linear, (turned, _weights(constant_of(first), traced)))
            made = graph.call_method("transpose", (made, -1, -2))
        _replace(node, made)


def _is_matrix(value: Any) -> bool:
    known = constant_of(value)
    return isinstance(known, Tensor) and known.ndim == 2


def _weights(values: Tensor, traced: fx.GraphModule) -> fx.Node:
    """A new parameter of the trace, and the node that gives it."""
    number = 0
    while hasattr(traced, name := f"_weights_{number}"):
        number += 1
    traced.register_parameter(name, nn.Parameter(values.detach().contiguous().clone(), values.requires_grad))
    return traced.graph.get_attr(name)


def _einsum(node: fx.Node, traced: fx.GraphModule) -> None:
    """einsum of values and constant weights that share only the axes that are summed over, as a linear layer."""
    equation, *operands = node.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    given, arrow, result = str(equation).replace(" ", "").partition("->")
    names = given.split(",")
    if not arrow or "." in given or len(names) != 2 or len(operands) != 2:
        return
    if isinstance(constant_of(operands[0]), Tensor):
        names, operands = names[::-1], operands[::-1]
    (x_axes, w_axes), (x, w) = names, operands
    weight = constant_of(w)
    if not isinstance(x, fx.Node) or _is_constant(x) or not isinstance(weight, Tensor):
        return
    if len({*x_axes}) < len(x_axes) or len({*w_axes}) < len(w_axes):
        return
    summed = [axis for axis in w_axes if axis in x_axes and axis not in result]
    new = [axis for axis in w_axes if axis not in x_axes]
    rest = [axis for axis in x_axes if axis not in summed]
    if (
        not summed
        or len(summed) + len(new) < len(w_axes)
        or {*rest, *new} != {*result}
        or len(rest + new) != len(result)
    ):
        return
    if rest[:1] != [x_axes[0]] or len(x_axes) < 3:
        return  # of the samples; of features, which has a module
    sizes = dict(zip(x_axes, x.meta["shape"], strict=True)) | dict(zip(w_axes, weight.shape, strict=True))
    outputs = prod(sizes[axis] for axis in new)
    matrix = weight.permute(*(w_axes.index(axis) for axis in [*new, *summed])).reshape(outputs, -1)
    graph = node.graph
    with graph.inserting_before(node):
        rows = graph.call_method("permute", (x, *(x_axes.index(axis) for axis in [*rest, *summed])))
        left = [sizes[axis] for axis in rest[1:]]
        rows = graph.call_method("reshape", (rows, -1, *left, matrix.shape[1]))
        made = graph.call_function(F.linear, (rows, _weights(matrix, traced)))
        made = graph.call_method("reshape", (made, -1, *left, *(sizes[axis] for axis in new)))
        made = graph.call_method("permute", (made, *((rest + new).index(axis) for axis in result)))
    _replace(node, made)


RULES: dict[str, Callable[[fx.Node, fx.GraphModule], None]] = {
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max", "hardtanh"), _clamp),
    **dict.fromkeys(("maximum", "minimum"), _larger),
    **dict.fromkeys(("matmul", "mm"), _product),
    **dict.fromkeys(("abs", "absolute"), _abs),
    **dict.fromkeys(("mul", "imul", "multiply"), _times),
    "max": _max,
    "amax": _largest,
    "threshold": _threshold,
    "where": _where,
    "einsum": _einsum,
}
