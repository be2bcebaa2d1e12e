"""Operations of torch between a model's layers: one :class:`Formula` for each group of them, which computes what the
model computes.

Sizes that a model reads from tensors are told apart by two runs with other numbers of steps and samples: those that
follow the steps or the samples stay sizes, and others become numbers.
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...layers import Formula
from ..graph.fx_calls import MOVES, path_of, trace
from ..graph.graph_values import Signal
from ..graph.sample_runs import called, of_sizes, sized
from .all_steps import steps_of_module
from .library_neurons import reset
from .recognised import Function

RUNS = ((2, 3), (3, 5))  # steps and samples of the two runs, where a model takes any number of steps
JOINING = frozenset("matmul bmm einsum mul multiply sum mean amax softmax sigmoid add sub truediv div".split())
FUNCTIONS = MOVES | JOINING
NO_SIZES = "no sizes"  # the key of why a model did not run, of its graph
SEEN = "seen"  # the key of what a node gave in both runs: the shape of a tensor, or a number
SIZES = "sizes"  # the key of the steps and samples of both runs, of a node
Sizes = tuple[tuple[int, int], tuple[int, int]]


@dataclass
class Expression:
    """A value that is computed of signals.

    Attributes:
        nodes: the operations, in order. signals: what they take, by the nodes that give it.
    """

    nodes: dict[fx.Node, None] = field(default_factory=dict)
    signals: dict[fx.Node, Signal] = field(default_factory=dict)

    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of a sample of each signal, as its layer gives it."""
        return [signal.given or seen(node) for node, signal in self.signals.items()]

    def join(self, other: "Expression") -> None:
        self.nodes |= other.nodes
        self.signals |= other.signals

    @property
    def is_binary(self) -> bool:
        """Whether it moves and multiplies spikes only, which gives 0 and 1."""
        spikes = all(signal.binary and signal.factor == 1 for signal in self.signals.values())
        return spikes and all(is_only_a_view(node) or _is_product(node) for node in self.nodes)


class _Run(fx.Interpreter):
    """Notes shapes and numbers of each node, behind those of the run before."""

    @torch.no_grad()
    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        node.meta.setdefault(SEEN, []).append(_sizes(value))
        return value


def of_sample(model: nn.Module, leaves: tuple[type, ...], sample: Tensor) -> fx.GraphModule:
    """The graph of a forward pass that takes all steps and asks for sizes."""
    T, N = _runs(model)[0]
    reset(model)
    traced = trace(model, leaves, sized(sample[:1].expand(T, N, *sample.shape[1:])))
    note_sizes(traced, sample)
    return traced


def _runs(model: nn.Module) -> Sizes:
    """Two runs with other numbers of samples, and of steps where the model takes any number of these."""
    steps = next((T for T in map(steps_of_module, model.modules()) if T is not None), None)
    (first, few), (second, many) = RUNS
    return ((first, few), (second, many)) if steps is None else ((steps, few), (steps, many))


def note_sizes(traced: fx.GraphModule, sample: Tensor) -> None:
    """Run the model on steps [T, N, ...] of a sample [N, ...] twice, and note the sizes of its values. A model that
    takes no steps, since it repeats its input itself, stays without."""
    runs = _runs(traced)
    for node in traced.graph.nodes:
        node.meta[SIZES] = runs
    try:
        for T, N in runs:
            reset(traced)
            _Run(traced).run(sample[torch.arange(N) % len(sample)].expand(T, N, *sample.shape[1:]))
    except Exception as error:  # a model may raise anything; it is told where the sizes that stay unknown are needed
        traced.meta[NO_SIZES] = str(error)
        for node in traced.graph.nodes:
            node.meta.pop(SEEN, None)
    reset(traced)
    for node in traced.graph.nodes:
        shape = shape_seen(node)
        if shape is not None:
            node.meta["rank"] = len(shape)


def shape_seen(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a tensor in the first run; None: it is none, or sizes are not known."""
    seen = node.meta.get(SEEN, (None,))[0]
    return seen if isinstance(seen, tuple) and seen[:2] == _sizes_of(node)[0] else None


def _sizes_of(node: fx.Node) -> Sizes:
    """The steps and samples of both runs."""
    return node.meta.get(SIZES, RUNS)


def seen(node: fx.Node) -> tuple[int, ...]:
    """The shape of a sample as the model sees it."""
    shape = shape_seen(node)
    assert shape is not None
    return shape[2:]


def may_be_operation(node: fx.Node) -> bool:
    """Whether a node may be a part of an expression, if sizes are known."""
    return called(node) in FUNCTIONS


def is_operation(node: fx.Node) -> bool:
    return SEEN in node.meta and may_be_operation(node)


def is_only_a_view(node: fx.Node) -> bool:
    return called(node) in MOVES


def _is_product(node: fx.Node) -> bool:
    """Whether a node multiplies results of layers."""
    factors = (isinstance(value, fx.Node) and value.op != "get_attr" and not of_sizes(value) for value in node.args)
    return called(node) == "mul" and all(factors)


def formula(node: fx.Node, expression: Expression, traced: fx.GraphModule, model: str) -> Formula:
    """The layer that computes the value of a node.

    Raises:
        TypeError: it mixes steps or samples, or joins their axes.
    """
    place = f"{model}: {path_of(node)}"
    if shape_seen(node) is None:
        raise TypeError(
            f"{place} gives values without the axes of steps and samples in front, which layers take; give the "
            "library's layers all steps [T, N, ...], or pass the layers of one step"
        )
    graph, made = fx.Graph(), dict[fx.Node, Any]()
    for source, signal in expression.signals.items():
        value = made[source] = graph.placeholder(source.name)
        if signal.given is not None:
            value = made[source] = graph.call_method(
                "unflatten", (graph.call_method("flatten", (value, 2)), 2, seen(source))
            )
        if signal.inverted:
            value = made[source] = graph.call_function(operator.sub, (1.0, value))
        if signal.factor != 1:
            made[source] = graph.call_function(operator.mul, (value, signal.factor))
    sizes = graph.call_function(getattr, (next(iter(graph.nodes)), "shape"))
    steps, samples = (graph.call_function(operator.getitem, (sizes, axis)) for axis in range(2))

    def argument(other: fx.Node) -> Any:
        if other in made:
            return made[other]
        if other.op == "get_attr":
            made[other] = graph.node_copy(other)
            return made[other]
        return _size(other, steps, samples, place)

    for each in expression.nodes:
        made[each] = graph.node_copy(each, argument)
    graph.output(made[node])
    function = fx.GraphModule(traced, graph, "formula")
    function.graph.eliminate_dead_code()
    function.recompile()
    layer = Formula(function, binary=expression.is_binary)
    _check_steps(layer, expression, place, _sizes_of(node)[0])
    return layer


def _size(node: fx.Node, steps: fx.Node, samples: fx.Node, place: str) -> Any:
    """A number of the model as a number, or as that of the steps or the samples."""

    def of(first: Any, second: Any) -> Any:
        if isinstance(first, tuple | list):
            return tuple(map(of, first, second))
        if first == second:
            return first
        for run, size in zip(zip(*_sizes_of(node), strict=True), (steps, samples), strict=True):
            if (first, second) == run:
                return size
        raise TypeError(f"{place} computes with a size that is neither the steps' nor the samples': {node}")

    return of(*node.meta[SEEN])


@torch.no_grad()
def _check_steps(layer: Formula, expression: Expression, place: str, sizes: tuple[int, int]) -> None:
    """Refuse what mixes steps, which a stream gives one by one, or samples."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(*sizes, *shape) for shape in expression.shapes()]
    x = [(torch.rand(shape, generator=generator) < 0.5).float() for shape in shapes]
    try:
        whole, alone = layer(x), layer([each[:1, :1] for each in x])
        mixes = not torch.allclose(whole[:1, :1], alone, 1e-4, 1e-5)
    except (RuntimeError, AssertionError):  # of a layer that takes one number of steps only
        mixes = True
    if mixes:
        raise TypeError(
            f"{place} mixes steps or samples, which networks here take in any number: take it out, or compute it of "
            "one step"
        )


def probed(layer: Formula, expression: Expression) -> tuple[Function, list[tuple[int, ...]]]:
    """What a formula computes of one step, [N, C, tokens] of each signal to [N, values], and their shapes."""
    shapes = expression.shapes()

    def function(*parts: Tensor) -> Tensor:
        steps = (
            part.unflatten(2, shape[1:] or (1,)).view(1, -1, *shape) for part, shape in zip(parts, shapes, strict=True)
        )
        return layer(list(steps))[0].flatten(1)

    return function, shapes


def _sizes(value: Any) -> Any:
    """Shapes in the place of tensors."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(map(_sizes, value)) if isinstance(value, tuple | list) else value
