"""Extracts one step of a forward pass that loops over time and keeps the potentials itself (snnTorch's tutorials).

torch.fx unrolls such a loop: each neuron is called once a step, with the potentials of its last call. Where all steps
are the same but for that, the first stands for them.
"""

import operator
from typing import Any, NamedTuple

import torch
from torch import fx

from ..graph.fx_calls import path_of

ONE_STEP = (
    "write one step in a module of its own: a forward that calls the layers once, shortcuts too, neurons without their "
    "potentials, self.lif1(self.fc1(x)), and returns what the last give"
)


class Loop(NamedTuple):
    """The loop over time of a forward pass.

    Attributes:
        steps: that a call runs; 1: it is one step.
        sequence: whether each step has an input of its own.
        states: whether it takes what its neurons give apart, spikes and potentials.
    """

    steps: int = 1
    sequence: bool = False
    states: bool = False


def one_step(traced: fx.GraphModule, model: str, is_neuron) -> tuple[fx.GraphModule, Loop]:
    """The graph of one step, without potentials going in and out, and the loop that it is taken from.

    A graph that has but one step and hands no potentials out is left as it is.

    Raises:
        TypeError: the steps differ in more than the potentials, or these are used otherwise; the message says where.
    """
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and is_neuron(module) and not hasattr(module, "decode"):  # else it has no states
            calls.setdefault(str(node.target), []).append(node)
    loop = _Loop(traced, model, calls)
    with_state = any(len(node.args) > 1 or _parts(node) for node in loop.number)
    if not with_state and not loop.returns_several():
        return traced, Loop()
    steps = loop.steps()
    for k, step in enumerate(steps[1:], 1):
        if not loop.same(step, steps[0], k):
            raise TypeError(f"{model}: step {k} of its forward pass is another than step 0; {ONE_STEP}")
    first = [nodes[0] for nodes in calls.values()]
    for node in first:
        loop.check_start(node)
        node.args = node.args[:1]
        for part in _parts(node):
            if part.args[1] == 0:
                part.replace_all_uses_with(node)
    sequence = False
    for node in list(traced.graph.nodes):
        source: Any = node.args[0] if _of_input(node) else None
        if source is not None:  # the input of the first step
            node.replace_all_uses_with(source)
            sequence = True
    output = next(node for node in traced.graph.nodes if node.op == "output")
    output.args = (steps[0].args[0] if steps[0].target is operator.getitem else steps[0],)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced, Loop(len(steps), sequence, with_state)


class _Loop:
    """An unrolled loop: how its steps are compared."""

    def __init__(self, traced: fx.GraphModule, model: str, calls: dict[str, list[fx.Node]]):
        self.traced, self.model, self.calls = traced, model, calls
        self.number = {node: k for nodes in calls.values() for k, node in enumerate(nodes)}
        self.compared: set[tuple[fx.Node, fx.Node]] = set()

    def returned(self) -> tuple:
        """What the forward pass returns, in a tuple."""
        output = next(node for node in self.traced.graph.nodes if node.op == "output")
        (returned,) = output.args
        return returned if isinstance(returned, tuple) else (returned,)

    def returns_several(self) -> bool:
        """Whether it returns what each of several steps gave."""
        return any(len(self._listed(candidate)) > 1 for candidate in self.returned())

    def steps(self) -> list[fx.Node]:
        """What is returned of each step: the spikes of some neurons."""
        returned = self.returned()
        for candidate in returned:
            steps = self._listed(candidate)
            if steps and self._is_spikes(steps[0]):
                return steps
        raise TypeError(
            f"{self.model} must return the spikes of its last neurons, of one step or torch.stack of all; it returns "
            f"{', '.join(map(str, returned))}; or {ONE_STEP}"
        )

    def _listed(self, value: Any) -> list[fx.Node]:
        if isinstance(value, list):
            return value
        if not isinstance(value, fx.Node):
            return []
        name = getattr(value.target, "__name__", value.target)
        if name in ("mean", "sum") and value.args[1:] in ((0,), ()) and value.kwargs.get("dim", 0) == 0:
            return self._listed(value.args[0])
        if name == "stack" and value.kwargs.get("dim", 0) == 0 and value.args[1:] in ((), (0,)):
            steps = value.args[0] if value.args else value.kwargs["tensors"]
            return list(steps) if isinstance(steps, list | tuple) else [value]  # or a readout's own list
        return [value]

    def _is_spikes(self, node: fx.Node) -> bool:
        """Whether a node is a neuron's first or only result."""
        return (
            node in self.number
            or node.target is operator.getitem
            and node.args[0] in self.number
            and bool(node.args[1] == 0)
        )

    def same(self, node: Any, first: Any, step: int) -> bool:
        """Whether a value of one step is computed in the same way as one of the first step."""
        if isinstance(node, tuple | list) and isinstance(first, tuple | list):
            pairs = zip(node, first, strict=False)
            return len(node) == len(first) and all(self.same(a, b, step) for a, b in pairs)
        if not isinstance(node, fx.Node) or not isinstance(first, fx.Node):
            return type(node) is type(first) and node == first
        if node is first or (node, first) in self.compared:
            return True
        if (
            (node.op, node.target) != (first.op, first.target)
            or node.kwargs != first.kwargs
            and not self.same(list(node.kwargs.items()), list(first.kwargs.items()), step)
        ):
            return False
        if _of_input(node):
            return node.args[0] is first.args[0] and (node.args[1], first.args[1]) == (step, 0)
        if node in self.number:
            if not self._goes_on(node, step):
                return False
            same = self.number[first] == 0 and self.same(node.args[0], first.args[0], step)
        else:
            same = self.same(node.args, first.args, step)
        if same:
            self.compared.add((node, first))
        return same

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
        """A neuron's first call must start at rest."""
        for state in node.args[1:]:
            place = str(state.target) if isinstance(state, fx.Node) and state.op == "get_attr" else None
            values = operator.attrgetter(place)(self.traced) if place else None
            if not isinstance(values, torch.Tensor) or bool(values.any()):
                raise TypeError(
                    f"{self.model}: {path_of(node)} starts from a potential of its own; start from init_leaky(), or "
                    f"{ONE_STEP}"
                )


def _parts(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.target is operator.getitem]


def _of_input(node: fx.Node) -> bool:
    """Whether a node is one step of the model's input."""
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and source.op == "placeholder" and isinstance(node.args[1], int)
