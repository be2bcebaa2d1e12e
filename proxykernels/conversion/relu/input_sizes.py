"""Finds what a model computes from the size of its input, which is a constant of the translation.

Examples are a pooling by ``y.size()[2:]``, a crop, a division by H * W, or a branch by a size. So model and translation
run on other sizes, and the model on other numbers of samples. Numbers that only further sizes would change, such as
``x.shape[2] > 512``, are computed for many sizes without a run.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...network import Network
from ..graph.fx_calls import path_of
from ..graph.sample_runs import called, is_asked, of_sizes
from ..graph.state_between_calls import tensors_of
from .relu_graph import ReluGraph
from .scales import Scales
from .side_by_side import layer_value, spread

NUMBERS_OF_SAMPLES = (*range(1, 66), 100, 127, 128, 129, 200, 255, 256, 257, 500, 512, 1000, 1024, 4096, 10000)
LENGTHS = (*range(1, 65), 96, 100, 127, 128, 129, 192, 224, 255, 256, 257, 299, 300, 384, 512, 513, 1000, 1024, 2048)
MOST_HIDDEN = 8  # sizes tried because a number changes there; if there are more, the network gets one fixed size
LARGEST = 1 << 18  # values of a sample of such a size, at most
SMALL = 1 << 15  # values of a sample that is also tried at three times its length
TOLERANCE = 1e-3  # of the largest output

Shapes = dict[fx.Node, tuple[int, ...]]


def check_samples(model: nn.Module, traced: fx.GraphModule, few: Tensor, name: str, rounding: float) -> None:
    """Check that a model's output for a sample does not depend on the other samples.

    ``few``: the two samples of the trace. ``rounding``: of :func:`rounding_of`.

    Raises:
        TypeError: it does.
    """
    four = torch.cat([few, few.flip(0)])
    given = {len(x): _called(model, x) for x in (few[:1], few, four)}
    two = given[2] or []
    expected = {1: [y[:1] for y in two], 4: [torch.cat([y, y.flip(0)]) for y in two]}
    for number in (1, 4):
        ours = given[number]
        if ours is None and number == 1:  # as behind a squeeze(), which takes the axis of samples, too
            continue
        if ours is None or not _alike(ours, expected[number], rounding, reshaped=number == 1):
            raise TypeError(
                f"{name}: what it gives for a sample depends on how many samples it is given at a time, as with 2 "
                f"and {number}; a spiking network computes each sample by itself: take this out of the forward pass"
            )
    numbers = _used_numbers(traced)
    if not numbers:
        return
    of_two, of_four = (_Run(traced, x).shapes for x in (few, four))
    for node, values in _over(numbers, NUMBERS_OF_SAMPLES, lambda n: _extrapolated(of_two, of_four, n)):
        known = {n: _of_rows(value, n) for n, value in values.items() if n > 1}
        constant = len({*known.values()}) <= 1
        if not constant and (is_asked(node) or not _proportional(known)):
            raise TypeError(
                f"{name}: {path_of(node)} computes something from the number of samples, which its translation would "
                "have as a constant; a spiking network computes each sample by itself: take this out of the forward "
                "pass"
            )


@dataclass
class _Tried:
    """Samples x [N, ...] of another size.

    Attributes:
        logits: the trace's; None if ``followed`` is not True.
        followed: whether the trace gives the model's output; None: the trace or the model fails.
        taken: whether the model takes such samples.
    """

    x: Tensor
    logits: Tensor | None
    followed: bool | None
    taken: bool


class OtherSizes:
    """Runs the model on samples of other sizes than those of the trace, ``few``; ``returned``: the model's output."""

    def __init__(self, model: nn.Module, traced: fx.GraphModule, returned: Any, few: Tensor, rounding: float):
        self.shape, self.is_fixed = tuple(few.shape[1:]), False
        self.tried: list[_Tried] = []
        self._model, self._traced, self._few = model, traced, few
        self._rounding = rounding
        self._wanted = list(traced.graph.nodes)[-1].args[0], returned
        seen = [numbers for shape in dict.fromkeys(_other_shapes(self.shape)) for numbers in self._try(shape)]
        numbers = _used_numbers(traced)
        if numbers and seen:
            self._try_hidden(numbers, seen)

    def _try(self, shape: tuple[int, ...]) -> list[dict[fx.Node, Any]]:
        """Try a size. Returns the numbers that the trace computes for it, if the model takes it."""
        x = _resized(self._few, shape)
        theirs = _called(self._model, x)
        if theirs is None or any(len(y) != len(x) for y in theirs if y.ndim):  # or takes them for more samples
            self.tried.append(_Tried(x, None, None, False))
            return []
        run = _Run(self._traced, x, self._wanted)
        followed = _alike(tensors_of(run.returned), theirs, self._rounding) if run.is_whole else None
        self.tried.append(_Tried(x, run.logits if followed else None, followed, True))
        return [run.numbers]

    def _try_hidden(self, numbers: list[fx.Node], seen: list[dict[fx.Node, Any]]) -> None:
        """Try sizes that change numbers which were the same for all sizes so far."""
        known = _Run(self._traced, self._few).numbers
        shapes = [tuple(tried.x.shape[1:]) for tried in self.tried if tried.taken]
        axes = [k for k, n in enumerate(self.shape) if any(shape[k] != n for shape in shapes)]
        varying = {node for node, value in known.items() if any(value != one.get(node, value) for one in seen)}
        hidden = [node for node in numbers if node not in varying and _picks(node, varying)]
        leaves = {leaf for node in hidden for leaf in _tensors_behind(node)}
        if any(leaf.op != "placeholder" for leaf in leaves):  # sizes within the network: how they grow is not known
            self.is_fixed = True
            return
        cases = [
            tuple(length if k in which else n for k, n in enumerate(self.shape))
            for which in ([k] for k in axes) for length in LENGTHS
        ]  # fmt: skip
        cases.sort(key=math.prod)
        wanted: dict[tuple[int, ...], None] = {}
        for node, values in _over(hidden, cases, lambda shape: dict.fromkeys(leaves, (len(self._few), *shape))):
            changes = {value: shape for shape, value in reversed(values.items()) if value != known[node]}
            wanted |= dict.fromkeys(changes.values())
        for shape in list(wanted)[:MOST_HIDDEN]:
            if math.prod(shape) <= max(LARGEST, math.prod(self.shape)):
                self._try(shape)
        self.is_fixed = len(wanted) > MOST_HIDDEN or any(
            math.prod(shape) > max(LARGEST, math.prod(self.shape)) for shape in wanted
        )

    def is_constant_of(self, net: Network, graph: ReluGraph, scales: Scales) -> bool:
        """Whether ``net`` is right for samples of the traced size only."""
        same = answers = False
        for tried in self.tried:
            ours = _relu_outputs(net, graph, scales, self._wanted[0], tried.x)
            if tried.logits is not None:
                if ours is None or not _alike([ours], [tried.logits], self._rounding, reshaped=True):
                    return True
                same = True
            elif tried.followed is False or (tried.taken and ours is not None):
                return True
            answers |= ours is not None
        return self.is_fixed or (not same and answers)


def _other_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sizes that networks with a few poolings can take, and odd sizes."""
    if len(shape) == 1:
        yield from ((2 * shape[0],), (shape[0] + 1,))
        return
    head, size = shape[:1], shape[1:]
    others = [
        tuple(2 * n for n in size),
        tuple(n + max(1, n // 4) for n in size),
        tuple(max(1, n // 2) for n in size),
        tuple(n + 1 + 2 * k for k, n in enumerate(size)),
        *(tuple(2 * n if k == axis else n for k, n in enumerate(size)) for axis in range(len(size))),
        *(tuple(n + n // 2 if k == axis else n for k, n in enumerate(size)) for axis in range(len(size))),
    ]
    if math.prod(shape) < SMALL:
        others.append(tuple((3 - k % 2) * n for k, n in enumerate(size)))
    yield from ((*head, *other) for other in others if other != size)
    yield 2 * shape[0], *size  # of [N, L, features]


def _resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    for axis, length in enumerate(shape, 1):
        x = x.index_select(axis, torch.arange(length, device=x.device) * x.shape[axis] // length)
    return x


@torch.no_grad()
def _called(model: nn.Module, x: Tensor) -> list[Tensor] | None:
    """The output of a model; None: it does not take samples of this size."""
    try:
        return tensors_of(model(x.clone()))
    except Exception:  # whatever a forward pass raises, an assertion for example
        return None


class _Run(fx.Interpreter):
    """A run of a trace on x that goes on after a failure. It has ``shapes`` of tensors, ``numbers``, and the values of
    the pair ``wanted``."""

    def __init__(self, traced: fx.GraphModule, x: Tensor, wanted: tuple[Any, Any] = ((), ())):
        super().__init__(traced)
        self.shapes: Shapes = {}
        self.numbers: dict[fx.Node, Any] = {}
        self._failed: set[fx.Node] = set()
        self._kept: dict[fx.Node, Any] = {}
        self._wanted = _nodes_in(wanted)
        with torch.no_grad():
            self.run(x.clone())
        self.is_whole = self._kept.keys() == self._wanted
        results: Any = fx.map_arg(wanted, self._kept.__getitem__) if self.is_whole else (None, None)
        self.logits, self.returned = results

    def run_node(self, node: fx.Node) -> Any:
        if self._failed.intersection(node.all_input_nodes):
            self._failed.add(node)
            return None
        try:
            value = super().run_node(node)
        except Exception:  # whatever a function raises for another size
            self._failed.add(node)
            return None
        if of_sizes(node):
            self.numbers[node] = _plain(value)
        elif isinstance(value, Tensor):
            self.shapes[node] = tuple(value.shape)
        if node in self._wanted:
            self._kept[node] = value.clone() if isinstance(value, Tensor) else value
        return value


def _nodes_in(results: Any) -> set[fx.Node]:
    found: set[fx.Node] = set()

    def note(node: fx.Node) -> fx.Node:
        found.add(node)
        return node

    fx.map_arg(results, note)
    return found


def rounding_of(model: nn.Module, x: Tensor) -> float:
    """The change of the outputs, relative to the largest, for a rounding error in the input."""
    eps = torch.finfo(x.dtype).eps
    before, after = _called(model, x) or [], _called(model, x * (1 + 2 * eps)) or []
    shares = [((b - a).abs().max() / a.abs().max()).item() for a, b in zip(before, after, strict=False) if a.numel()]
    return max((share for share in shares if math.isfinite(share)), default=0.0)


def _alike(ours: list[Tensor], theirs: list[Tensor], rounding: float, reshaped: bool = False) -> bool:
    """Whether outputs agree; ``reshaped``: their axes may differ."""
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if a.numel() != b.numel() if reshaped else a.shape != b.shape:
            return False
        if not b.numel():
            continue
        tolerance = max(TOLERANCE, 64 * rounding, 64 * torch.finfo(b.dtype).eps) if b.is_floating_point() else 0
        largest = b.nan_to_num().abs().max().item()
        if not torch.allclose(a.reshape(b.shape).to(b), b, 0, tolerance * largest, equal_nan=True):
            return False
    return True


@torch.no_grad()
def _relu_outputs(net: Network, graph: ReluGraph, scales: Scales, result: fx.Node, x: Tensor) -> Tensor | None:
    """The logits of ``net`` as a ReLU network; None: it does not take samples of this size."""
    signal: Any = graph.carried.get(result) or graph.values[result]
    values = {Network.INPUT: x}
    try:
        for name, layer, sources in net.layers():
            values[name] = layer_value(graph, name, layer, tuple(values[source] for source in sources))
        found = values[signal.layer]
        return found * spread(scales[signal.neurons], found)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None


# Numbers that a forward pass computes from sizes


def _used_numbers(traced: fx.GraphModule) -> list[fx.Node]:
    """The numbers that Python asked for, or that a function of tensors takes."""
    nodes = [node for node in traced.graph.nodes if of_sizes(node)]
    return [node for node in nodes if is_asked(node) or not all(map(of_sizes, node.users))]


def _picks(node: fx.Node, varying: set[fx.Node]) -> bool:
    """Whether a number is computed from a size that varies."""
    before = [other for other in node.all_input_nodes if of_sizes(other)]
    if not before or _is_pick(node):
        return node in varying
    return any(_picks(other, varying) for other in before)


def _is_pick(node: fx.Node) -> bool:
    """Whether a node takes one number out of a shape."""
    return called(node) == "getitem" and not isinstance(node.args[1], slice)


def _tensors_behind(node: fx.Node) -> set[fx.Node]:
    """The tensors whose sizes a number is computed from."""
    found: set[fx.Node] = set()
    for other in node.all_input_nodes:
        found |= _tensors_behind(other) if of_sizes(other) else {other}
    return found


def _over(
    numbers: Iterable[fx.Node], cases: Iterable[Any], shapes: Callable[[Any], Shapes]
) -> Iterator[tuple[fx.Node, dict[Any, Any]]]:
    """Each number, and its values by case; cases in which it cannot be computed are missing."""
    known = [(case, shapes(case)) for case in cases]
    results: list[dict[fx.Node, Any]] = [{} for _ in known]
    for node in numbers:
        values = {}
        for (case, sizes), result in zip(known, results, strict=True):
            try:
                values[case] = _plain(_number(node, sizes, result))
            except Exception:  # as dividing by 0: the model does not take such samples
                continue
        if values:
            yield node, values


def _plain(value: Any) -> Any:
    """A number or tuple of numbers that can be compared and hashed; (shape, values) for a tensor made of numbers."""
    if isinstance(value, Tensor):
        return tuple(value.shape), tuple(value.flatten().tolist())
    if isinstance(value, slice):
        return _plain((value.start, value.stop, value.step))
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def _of_rows(value: Any, samples: int) -> Any:
    """The row that a tensor repeats for each sample; other values are returned as they are."""
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(part, tuple) for part in value):
        return value
    shape, numbers = value
    if not shape or shape[0] != samples or len(numbers) % samples:
        return value
    row = numbers[: len(numbers) // samples]
    return (shape[1:], row) if numbers == row * samples else value


def _number(node: fx.Node, shapes: Shapes, results: dict[fx.Node, Any]) -> Any:
    def value(argument: fx.Node) -> Any:
        if not of_sizes(argument):
            return torch.zeros((), dtype=torch.float32, device="cpu").expand(shapes[argument])  # no memory
        return _number(argument, shapes, results)

    if node not in results:
        arguments, options = fx.map_arg((node.args, node.kwargs), value)
        target: Any = node.target
        function = getattr(type(arguments[0]), target) if node.op == "call_method" else target
        results[node] = function(*arguments, **options)
    return results[node]


def _extrapolated(two: Shapes, four: Shapes, samples: int) -> Shapes:
    """The shapes of tensors for this many samples, extrapolated from two and four samples."""
    shapes = {}
    for node in two.keys() & four.keys():
        if len(two[node]) == len(four[node]):
            pairs = zip(two[node], four[node], strict=True)
            shapes[node] = tuple(max(0, a + (b - a) * (samples - 2) // 2) for a, b in pairs)
    return shapes


def _proportional(values: dict[int, Any]) -> bool:
    """Whether each number is a constant, or a multiple of the number of samples."""
    by_samples = {n: list(_flat(value)) for n, value in values.items()}
    lengths = {len(numbers) for numbers in by_samples.values()}
    if len(lengths) != 1:
        return False
    (first, start), *others = by_samples.items()
    for k, number in enumerate(start):
        constant = all(numbers[k] == number for _, numbers in others)
        scaled = isinstance(number, int | float) and all(
            not isinstance(numbers[k], bool) and math.isclose(numbers[k] * first, number * n) for n, numbers in others
        )
        if not constant and not scaled:
            return False
    return True


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    else:
        yield value
