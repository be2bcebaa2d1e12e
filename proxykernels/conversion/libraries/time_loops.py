"""Finds the steps of a forward pass: in an axis of its input, or in a loop of its own.

Networks of recorded events may take [N, T, ...] and move the steps to the front themselves. A forward pass that loops
over time and keeps the potentials itself (snnTorch's tutorials) is unrolled by torch.fx: each neuron is called once a
step, with the potentials of its last call. If all steps are the same except for the potentials, the first is taken.
"""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..graph.fx_calls import is_cast, path_of, trace
from ..graph.sample_runs import LOOPED, SWAPS, called, of_sizes, ranked, set_part, zeros_of_sizes
from .expressions import note_sizes, of_sample
from .unequal_steps import UnequalSteps, of_input

RANKS = ((nn.Conv2d, 4), (nn.ConvTranspose2d, 4), (nn.Conv1d, 3), (nn.Linear, 2))
ONE_STEP = (
    "write one step in a module of its own: a forward that calls the layers once, shortcuts too, neurons without their "
    "potentials, self.lif1(self.fc1(x)), and returns what the last give"
)
JOINS = ("cat", "concat", "concatenate")
STACKED_LAST = "stack behind the samples"
ASKS_SIZES = "symbolically traced variables cannot be used as inputs to control flow"
ZEROS = ("zeros", "zeros_like", "new_zeros")


def rank_of_input(model: nn.Module) -> int | None:
    """The dimensions of one step's input [N, ...], as the model's first layer with weights takes it."""
    ranks = (rank for module in model.modules() for kind, rank in RANKS if isinstance(module, kind))
    return next(ranks, None)


@zeros_of_sizes()
def followed(
    model: nn.Module, leaves: tuple[type, ...], multi_step: bool, sample: Tensor | None = None, steps: int = LOOPED
) -> fx.GraphModule:
    """The graph of a forward pass. It takes one step [N, ...], or all steps [T, N, ...] if its neurons do
    (``multi_step``) or if it loops over them. A sample [N, ...] tells the sizes that the former may ask for. ``steps``:
    how many a loop over the input's steps runs."""
    rank = rank_of_input(model)
    tracer = ranked(rank + multi_step if rank else None, steps)
    try:
        traced = trace(model, leaves, tracer)
        if not tracer.loops or multi_step or rank is None:
            if multi_step and sample is not None:
                note_sizes(traced, sample)
            return traced
    except TypeError as error:
        if multi_step and sample is not None:
            return of_sample(model, leaves, sample)
        if multi_step and ASKS_SIZES in str(error):
            raise TypeError(f"{error}; pass a sample [N, ...], which tells the sizes that it asks for") from error
        if multi_step or rank is None:
            raise
        of_steps = ranked(rank + 1, steps)
        try:
            traced = trace(model, leaves, of_steps)
        except TypeError:
            of_steps.loops = False
        if not of_steps.loops:
            raise
        return traced
    return trace(model, leaves, ranked(rank + 1, steps))


class TimeAxes(NamedTuple):
    """Whether a network's input and output are [N, T, ...], not [T, N, ...] as here."""

    input: bool = False
    output: bool = False

    def of_input(self, x: Tensor) -> Tensor:
        """Steps [T, N, ...] as the network takes them."""
        return x.transpose(0, 1).contiguous() if self.input else x

    def of_output(self, given: Any) -> Any:
        """The network's output with the steps first."""
        return given.transpose(0, 1) if self.output and isinstance(given, Tensor) and given.ndim > 1 else given


def steps_first(traced: fx.GraphModule, model: str) -> TimeAxes:
    """Remove nodes that exchange the first two axes of the input and of the output; x[:, t] becomes x[t].

    Raises:
        TypeError: the input is used both as [T, N, ...] and as [N, T, ...].
    """
    graph = traced.graph
    given = next(node for node in graph.nodes if node.op == "placeholder")
    for node in list(given.users):
        if called(node) == "unbind" and not node.users:
            graph.erase_node(node)  # which was looped over
        else:
            _plain_step(node)
    output = next(node for node in graph.nodes if node.op == "output")
    readers = [node for node in given.users if not of_sizes(node)]
    swaps = [node for node in readers if _swaps_first_two(node)]
    steps = [node for node in readers if _of_sample_steps(node)]
    if (swaps or steps) and len(readers) not in (len(swaps), len(steps)):
        raise TypeError(f"{model} takes its input as [T, N, ...] and as [N, T, ...]; put the steps first, and once")
    for node in swaps:
        node.replace_all_uses_with(given)
        graph.erase_node(node)
    for node in steps:
        node.args = (given, node.args[1][1])  # type: ignore[index]
    last: Any = output.args[0]
    at_the_end = isinstance(last, fx.Node) and _swaps_first_two(last)
    if at_the_end:
        output.args = (last.args[0],)
        graph.eliminate_dead_code()
    return TimeAxes(bool(swaps or steps), at_the_end)


def _plain_step(node: fx.Node) -> None:
    """x[t, :, :], x[t, ...] and x.select(0, t) as x[t], and x[:, t, :] as x[:, t]."""
    if called(node) == "select" and len(node.args) == 3 and node.args[1] in (0, 1):
        at: Any = (slice(None),) * node.args[1] + (node.args[2],)  # type: ignore[operator]
        node.op, node.target, node.args = "call_function", operator.getitem, (node.args[0], at)
    at = node.args[1] if called(node) == "getitem" else None
    if not isinstance(at, tuple):
        return
    while len(at) > 1 and (at[-1] is Ellipsis or (isinstance(at[-1], slice) and at[-1] == slice(None))):
        at = at[:-1]
    node.args = (node.args[0], at[0] if len(at) == 1 else at)


def _of_sample_steps(node: fx.Node) -> bool:
    """Whether a node is x[:, t]."""
    at: Any = node.args[1] if called(node) == "getitem" else None
    return isinstance(at, tuple) and len(at) == 2 and at[0] == slice(None) and isinstance(at[1], int)


def _swaps_first_two(node: fx.Node) -> bool:
    """Whether a node exchanges axes 0 and 1, and leaves the others where they are."""
    name = called(node)
    axes: list[Any] = [*node.args[1:], *node.kwargs.values()]
    if name in SWAPS:
        return sorted(map(str, axes)) == ["0", "1"]
    if name != "permute":
        return False
    axes = list(axes[0]) if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    return len(axes) > 2 and axes == [1, 0, *range(2, len(axes))]


class Loop(NamedTuple):
    """The loop over time of a forward pass.

    Attributes:
        steps: the steps that a call runs; 1: there is no loop.
        sequence: whether each step has an input of its own.
        states: whether it separates what its neurons return into spikes and potentials.
        stacked_last: whether it returns the steps behind the samples, [N, T, ...].
        length: the steps for which the model has parameters of their own; None: it has none, or it does not tell.
    """

    steps: int = 1
    sequence: bool = False
    states: bool = False
    stacked_last: bool = False
    length: int | None = None


def over_time(x: Any, kind: str) -> Any:
    """Stands in a graph for the "mean", "sum" or "max" of x over all steps, or for their "stack"."""
    raise NotImplementedError


def last_spikes(neurons: str) -> Any:
    """Stands in a graph of one step for the spikes of neurons, the path of a module, in the step before."""
    raise NotImplementedError


def _split_behind(cat: fx.Node, back: fx.Node, traced: fx.GraphModule) -> None:
    """A Linear of two values side by side, of which one comes back, as two Linears whose results are added."""
    parts: Any = cat.args[0] if _name(cat) in JOINS else ()
    axis = (*cat.args[1:], *cat.kwargs.values(), 0)[0]
    if len(parts) != 2 or parts[0] is parts[1] or axis not in (1, -1):
        return
    for node in list(cat.users):
        module: Any = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is not nn.Linear:
            continue
        C, terms, weight = module.out_features, [], module.weight
        widths = (C, weight.shape[1] - C) if parts[0] is back else (weight.shape[1] - C, C)
        if min(widths) < 1:
            continue
        with traced.graph.inserting_before(node):
            for part, columns in zip(parts, weight.split(widths, 1), strict=True):
                bias = None if part is back else module.bias
                linear: Any = nn.Linear(columns.shape[1], C, bias is not None, device="meta")
                linear.weight, linear.bias = nn.Parameter(columns.detach().clone(), weight.requires_grad), bias
                name = f"{node.target}_{'back' if part is back else 'input'}"
                traced.add_submodule(name, linear)
                terms.append(traced.graph.call_module(name, (part,)))
            node.replace_all_uses_with(traced.graph.call_function(operator.add, tuple(terms)))


def one_step(traced: fx.GraphModule, model: str, is_neuron, samples_first: bool = False) -> tuple[fx.GraphModule, Loop]:
    """The graph of one step, in which no potentials are passed, and the loop that it was taken from.

    A graph of one step that passes no potentials is left as it is. ``samples_first``: whether the model takes
    [N, T, ...], and so may stack its steps behind the samples.

    Raises:
        TypeError: the steps differ in more than the potentials, or potentials are used in another way; the message says
            where.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and is_neuron(module) and not hasattr(module, "decode"):  # else it has no states
            calls.setdefault(str(node.target), []).append(node)
    loop = _Loop(traced, model, calls, samples_first)
    with_state = any(len(node.args) > 1 or _parts(node) for node in loop.number)
    if not with_state and not loop.returns_several():
        return traced, Loop()
    last, result = loop.steps()
    steps = last.steps
    if len(steps) < loop.count:
        raise TypeError(
            f"{model} returns what {len(steps)} of its steps give{'s' * (len(steps) == 1)}, where it was followed for "
            f"{loop.count}; return all of them, torch.stack(out), and take the spikes of some from the imported network"
            f"'s result; or {ONE_STEP}"
        )
    for k, step in enumerate(steps[1:], 1):
        if not loop.same(step, steps[0], k):
            raise TypeError(
                f"{model}: step {k} of its forward pass is another than step 0{loop.unequal.why}; {ONE_STEP}"
            )
    first = [nodes[0] for nodes in calls.values()]
    for node in first:
        loop.check_start(node)
        node.args = node.args[:1]
    for zeros, path in loop.back.items():
        with traced.graph.inserting_after(zeros):
            back = traced.graph.call_function(last_spikes, (path,))
        zeros.replace_all_uses_with(back)
        for user in list(back.users):
            _split_behind(user, back, traced)
    for node in first:
        for part in _parts(node):
            if part.args[1] == 0:
                part.replace_all_uses_with(node)
    loop.unequal.put()
    sequence = False
    for node in list(traced.graph.nodes):
        source: Any = node.args[0] if of_input(node) else None
        if source is not None:  # the input of the first step
            node.replace_all_uses_with(source)
            sequence = True
    output = next(node for node in traced.graph.nodes if node.op == "output")
    given: Any = steps[0].args[0] if steps[0].target is operator.getitem else steps[0]
    if last.node is result:
        output.args = (given,)
    else:
        with traced.graph.inserting_before(last.node):
            gathered = traced.graph.call_function(over_time, (given, last.kind))
        last.node.replace_all_uses_with(gathered)
        output.args = (result,)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced, Loop(len(steps), sequence, with_state, last.kind == STACKED_LAST, loop.unequal.length)


class _Gathered(NamedTuple):
    """A node that joins the results of all steps: their "mean", "sum" or "stack"."""

    node: fx.Node
    kind: str
    steps: list[fx.Node]


class _Loop:
    """An unrolled loop, whose steps are compared."""

    def __init__(self, traced: fx.GraphModule, model: str, calls: dict[str, list[fx.Node]], samples_first: bool):
        self.traced, self.model, self.calls, self.samples_first = traced, model, calls, samples_first
        self.count = max(map(len, calls.values()), default=0)  # of calls of a neuron
        self.number = {node: k for nodes in calls.values() for k, node in enumerate(nodes)}
        self.compared: set[tuple[fx.Node, fx.Node]] = set()
        self.unequal = UnequalSteps(traced, model)
        self.back: dict[fx.Node, str] = {}  # zeros in the first step, in whose place later ones have a neuron's spikes

    def returned(self) -> tuple:
        """What the forward pass returns, as a tuple."""
        output = next(node for node in self.traced.graph.nodes if node.op == "output")
        (returned,) = output.args
        return returned if isinstance(returned, tuple) else (returned,)

    def returns_several(self) -> bool:
        """Whether it returns something that joins the results of several steps."""
        return any(len(self._gathered(candidate).steps) > 1 for candidate in self.returned())

    def steps(self) -> tuple[_Gathered, fx.Node]:
        """The node that joins the steps, and the result made of it: the first result of spikes, or of several steps."""
        returned = self.returned()
        for candidate in returned:
            gathered = self._gathered(candidate)
            if gathered.steps and self._is_given(gathered.steps):
                if gathered.kind == "stack" and _reshapes(candidate, gathered.node):
                    return gathered, gathered.node  # the comparison with the original compares shapes
                if gathered.kind not in ("mean", "sum", "max") and gathered.node is not candidate:
                    last = path_of(candidate)
                    raise TypeError(f"{self.model}: {last} stands behind torch.stack of all steps; {ONE_STEP}")
                return gathered, candidate
        for neurons in map(self._potentials_of, returned):
            if neurons is not None:
                raise TypeError(
                    f"{self.model} must return the spikes of its last neurons, and returns the potentials of module "
                    f"'{neurons}', which fire: return the spikes first, torch.stack(spikes), torch.stack(potentials); "
                    f"simulate records potentials of the imported network, record=['{neurons.replace('.', '_')}.v']"
                )
        raise TypeError(
            f"{self.model} must return the spikes of its last neurons, of one step or torch.stack of all; it returns "
            f"{', '.join(map(str, returned))}; or {ONE_STEP}"
        )

    def _potentials_of(self, value: Any) -> str | None:
        """The path of the neurons whose potentials a result is made of; None: it is made of something else."""
        steps = self._gathered(value).steps
        node: Any = steps[0] if steps and isinstance(steps[0], fx.Node) else None
        if node is None or node.target is not operator.getitem or node.args[0] not in self.number:
            return None
        return str(node.args[0].target)

    def _gathered(self, value: Any) -> _Gathered:
        """The node that joins steps on the way to a result; the result itself, if none does."""
        node: Any = value
        own = self._listed(value)
        while len(own.steps) < 2:
            inputs = node.all_input_nodes if isinstance(node, fx.Node) and node not in self.number else []
            inputs = [value for value in inputs if not of_sizes(value)]
            if len(inputs) != 1:
                return self._listed(value)
            (node,) = inputs
            own = self._listed(node)
        return own

    def _listed(self, value: Any) -> _Gathered:
        """The steps that a value joins, and how; the value itself, if it is of one step."""
        if isinstance(value, list):
            return _Gathered(value, "stack", value)  # type: ignore[arg-type]
        if not isinstance(value, fx.Node):
            return _Gathered(value, "", [])
        name, alone = _name(value), _Gathered(value, "", [value])
        if name in ("mean", "sum") and value.args[1:] in ((0,), ()) and value.kwargs.get("dim", 0) == 0:
            return self._listed(value.args[0])._replace(node=value, kind=str(name))
        if (given := largest_over_time(value)) is not None:
            return self._listed(given)._replace(node=value, kind="max")
        if value.target is set_part and (parts := self._put(value)):
            return _Gathered(value, "stack", parts)
        if name in JOINS and (joined := _unsqueezed(value)):
            return _Gathered(value, "stack", joined)
        if name == "stack":
            axis: Any = value.args[1] if len(value.args) > 1 else value.kwargs.get("dim", 0)
            steps = value.args[0] if value.args else value.kwargs["tensors"]
            if axis not in ((0, 1) if self.samples_first else (0,)) or not isinstance(steps, list | tuple):
                return alone  # or a readout's own list
            return _Gathered(value, STACKED_LAST if axis else "stack", list(steps))  # type: ignore[arg-type]
        if _is_sum(value) and self.count > 1:
            terms = self._added(value)
            return _Gathered(value, "sum", terms) if len(terms) == self.count else alone
        if name in ("truediv", "div"):
            summed, number = self._listed(value.args[0]), value.args[1]
            is_number_of_steps = number == len(summed.steps) or isinstance(number, fx.Node) and of_sizes(number)
            if len(summed.steps) > 1 and summed.kind == "sum" and is_number_of_steps:
                return summed._replace(node=value, kind="mean")
        return alone

    def _put(self, value: Any) -> list[Any]:
        """The steps that were put into zeros one after the other, y[t] = s; none: something else was put there."""
        parts: list[Any] = []
        while isinstance(value, fx.Node) and value.target is set_part:
            value, at, part = value.args
            parts.insert(0, (at, part))
        are_steps = [at for at, _ in parts] == list(range(len(parts)))
        return [part for _, part in parts] if are_steps and self._is_zero(value) else []

    def _added(self, value: Any) -> list[fx.Node]:
        """The terms of a sum that grows by one in each step, and begins with 0 or with the first."""
        terms: list[Any] = []
        while len(terms) < self.count and _is_sum(value):
            value, term = value.args
            terms.insert(0, term)
            is_first = not (_is_sum(value) and self._is_zero(value.args[0]))
            if len(terms) == self.count - 1 and is_first and not self._is_zero(value):
                return [value, *terms]
        return terms if self._is_zero(value) else []

    def _is_zero(self, value: Any) -> bool:
        if not isinstance(value, fx.Node):
            return isinstance(value, int | float) and value == 0
        if is_cast(value):
            return self._is_zero(value.args[0])
        if value.op == "get_attr":  # a tensor that the forward pass makes
            values = operator.attrgetter(str(value.target))(self.traced)
            return isinstance(values, torch.Tensor) and not bool(values.any())
        return _name(value) in ZEROS

    def _is_given(self, steps: list[fx.Node]) -> bool:
        """Whether steps give a neuron's first or only result, or several steps something computed from it."""
        node: Any = steps[0]
        if not isinstance(node, fx.Node):
            return False
        of_neuron = node.target is operator.getitem and node.args[0] in self.number
        return node in self.number or bool(node.args[1] == 0 if of_neuron else len(steps) > 1)

    def same(self, node: Any, first: Any, step: int) -> bool:
        """Whether a value of one step is computed in the same way as one of the first step."""
        if isinstance(node, tuple | list) and isinstance(first, tuple | list):
            pairs = zip(node, first, strict=False)
            return len(node) == len(first) and all(self.same(a, b, step) for a, b in pairs)
        if not isinstance(node, fx.Node) or not isinstance(first, fx.Node):
            return type(node) is type(first) and node == first
        if node is first or (node, first) in self.compared:
            return True
        if self._comes_back(node, first, step) or self.unequal.may_differ(node, first, step, self._is_zero(first)):
            return True
        if (
            (node.op, node.target) != (first.op, first.target)
            or node.kwargs != first.kwargs
            and not self.same(list(node.kwargs.items()), list(first.kwargs.items()), step)
        ):
            if node.op == first.op == "call_module" and self.unequal.is_norm(node, first, step):
                return self.same(node.args, first.args, step)
            self._tell(node, first)
            return False
        if of_input(node):
            return False
        if node in self.number:
            if not self._goes_on(node, step):
                return False
            same = self.number[first] == 0 and self.same(node.args[0], first.args[0], step)
        else:
            same = self.same(node.args, first.args, step)
        if same:
            self.compared.add((node, first))
        return same

    def _tell(self, node: fx.Node, first: fx.Node) -> None:
        """Say in what two steps differ, where nothing is said yet."""
        here, there = (f"'{at.target}'" if at.op in ("call_module", "get_attr") else _name(at) for at in (node, first))
        remedy = ""
        if node.op == first.op == "call_module":
            remedy = "; only normalisations, gains and offsets may differ from step to step: train with one such layer"
        self.unequal.why = self.unequal.why or f": it calls {here} where step 0 calls {there}{remedy}"

    def _comes_back(self, node: fx.Node, first: fx.Node, step: int) -> bool:
        """Whether a node gives a neuron's spikes of the step before, and ``first`` zeros."""
        is_spikes = node.target is operator.getitem and node.args[1] == 0
        call: Any = node.args[0] if is_spikes else node
        if self.number.get(call) != step - 1 or not self._is_zero(first):
            return False
        if len(call.args) > 1 and not is_spikes:  # spikes and potentials
            return False
        return self.back.setdefault(first, str(call.target)) == str(call.target)

    def _goes_on(self, node: fx.Node, step: int) -> bool:
        """Whether a call of a neuron takes the potentials of its call in the step before."""
        if self.number[node] != step:
            return False
        before = self.calls[str(node.target)][step - 1]
        states: list[Any] = list(node.args[1:])
        parts = ((state.target, state.args) if isinstance(state, fx.Node) else None for state in states)
        first = 0 if hasattr(self.traced.get_submodule(str(node.target)), "recurrent") else 1  # also takes its spikes
        return all(part == (operator.getitem, (before, k)) for k, part in enumerate(parts, first))

    def check_start(self, node: fx.Node) -> None:
        """Check that a neuron's first call starts at rest."""
        for state in node.args[1:]:
            if not isinstance(state, fx.Node) or not self._is_zero(state):
                raise TypeError(
                    f"{self.model}: {path_of(node)} starts from a potential of its own; start from zeros, as "
                    f"init_leaky() gives them, or {ONE_STEP}"
                )


def _unsqueezed(value: fx.Node) -> list[Any]:
    """The steps that torch.cat joins, if each has got an axis in front."""
    axis: Any = value.args[1] if len(value.args) > 1 else value.kwargs.get("dim", 0)
    parts: Any = value.args[0] if value.args else value.kwargs["tensors"]
    if axis != 0 or not isinstance(parts, list | tuple):
        return []
    joined: list[Any] = []
    for part in parts:
        if not isinstance(part, fx.Node):
            return []
        at = (*part.args[1:], *part.kwargs.values())
        if (_name(part) == "unsqueeze" and at == (0,)) or (_name(part) == "getitem" and at in ((None,), ((None,),))):
            joined.append(part.args[0])
        elif _name(part) in JOINS and (before := _unsqueezed(part)):
            joined += before
        else:
            return []
    return joined


def largest_over_time(value: fx.Node) -> fx.Node | None:
    """What a node gives the maximum over the first axis of: amax(0), max(0)[0], max(0).values."""
    name, node = _name(value), value
    if name in ("getitem", "getattr") and value.args[1] in (0, "values") and isinstance(value.args[0], fx.Node):
        node = value.args[0]
    axis = (*node.args[1:], node.kwargs.get("dim"))[0]
    is_maximum = _name(node) == ("amax" if node is value else "max") and axis == 0 and not isinstance(axis, bool)
    return node.args[0] if is_maximum else None  # type: ignore[return-value]


def _reshapes(value: Any, stack: fx.Node) -> bool:
    """Whether a value is a view of all steps."""
    while value is not stack and _name(value) in ("view", "reshape", "contiguous"):
        value = value.args[0]
    return value is stack


def _name(node: fx.Node) -> str:
    """The name of what a node calls, without the underscores of functions in place."""
    return called(node).strip("_")


def _is_sum(value: Any) -> bool:
    return isinstance(value, fx.Node) and _name(value) in ("add", "iadd") and len(value.args) == 2


def _parts(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.target is operator.getitem]
