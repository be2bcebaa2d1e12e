"""What may differ from step to step in a loop over time: normalisations, gains and offsets of each step, and what a
step takes of the input of the step before."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...layers import StepAffine
from ..graph.fx_calls import path_of
from ..graph.sample_runs import called

SUMS, DIFFERENCES, PRODUCTS = ("add", "iadd"), ("sub", "isub", "subtract"), ("mul", "imul", "multiply")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LISTS = "lists"  # the key of the lengths of a model's lists of modules, by their paths, of its graph
STEP, BEFORE, DIFFERENCE = "the step", "the step before", "their difference"


def step_before(x: Any) -> Any:
    """Stands in a graph of one step for the model's input x in the step before, zeros in the first."""
    raise NotImplementedError


class StepNorms(nn.Module):
    """Stands in a graph of one step for a normalisation of each step."""

    def __init__(self, norms: Sequence[Any], factors: Sequence[Any] = ()):
        """``factors``: of what each gives; none: 1."""
        super().__init__()
        self.norms, self.factors = norms, factors or [1.0] * len(norms)

    @torch.no_grad()
    def as_layer(self, axes: int) -> StepAffine:
        """The layer of values with some ``axes`` behind the channels."""
        weights, biases = [], []
        for norm, factor in zip(self.norms, self.factors, strict=True):
            if norm.running_mean is None:
                raise ValueError("a normalisation of a step keeps no running statistics")
            scale = torch.rsqrt(norm.running_var.double() + norm.eps) * (1.0 if norm.weight is None else norm.weight)
            bias = (0.0 if norm.bias is None else norm.bias) - norm.running_mean.double() * scale
            weights.append(scale * factor)
            biases.append(bias * factor)
        parts = (torch.stack(values).to(self.norms[0].running_var) for values in (weights, biases))
        learnt = all(norm.weight is not None and norm.weight.requires_grad for norm in self.norms)
        return StepAffine(*(part.view(*part.shape, *[1] * axes).requires_grad_(learnt) for part in parts))


def norms_of_steps(module: Any) -> StepNorms | None:
    """The normalisations of SpikingJelly's modules of one for each step; None: it is another module."""
    kind = type(module)
    if isinstance(module, StepNorms) or not kind.__module__.startswith("spikingjelly."):
        return module if isinstance(module, StepNorms) else None
    if kind.__name__.startswith("TemporalEffectiveBatchNorm"):
        return StepNorms([module] * len(module.scale), list(module.scale.detach()))
    return StepNorms(module.bn_list) if kind.__name__.startswith("BatchNormThroughTime") else None


class UnequalSteps:
    """Collects what differs between the steps of an unrolled loop, by the nodes of step 0.

    Attributes:
        length: the steps for which a model has parameters, where a list or a tensor of its tells; None: not known.
        why: why something that differs is refused.
    """

    def __init__(self, traced: fx.GraphModule, model: str):
        self.traced, self.model, self.why = traced, model, ""
        self.length: int | None = None
        self._constants: dict[fx.Node, dict[int, Tensor]] = {}
        self._norms: dict[fx.Node, dict[int, Any]] = {}
        self._taken: dict[fx.Node, str] = {}  # what later steps have where step 0 has its input, or zeros
        self._inputs: dict[fx.Node, fx.Node] = {}  # the input, by zeros that stand for the step before

    def may_differ(self, node: fx.Node, first: fx.Node, step: int, is_zero: bool) -> bool:
        """Whether a node of a step differs from that of step 0 by parameters, or by what it takes of the input.

        ``is_zero``: whether step 0 has zeros there.
        """
        values, before = constant(node, self.traced), constant(first, self.traced)
        if values is not None and before is not None and values.shape == before.shape:
            self._note_length(node)
            return torch.equal(self._constants.setdefault(first, {0: before}).setdefault(step, values), values)
        if is_zero and of_input(node) and node.args[1] == step - 1:
            self._inputs[first] = node.args[0]  # type: ignore[assignment]
            return self._takes(first, BEFORE)
        if of_input(node) and of_input(first):
            return is_step(node, first, step) and self._takes(first, STEP) or self._tell(node)
        if of_input(first) and called(node) in DIFFERENCES and len(node.args) == 2 and all(map(of_input, node.args)):
            now, earlier = node.args
            steps = is_step(now, first, step) and is_step(earlier, first, step - 1)
            return steps and self._takes(first, DIFFERENCE) or self._tell(earlier)
        return False

    def _tell(self, node: Any) -> bool:
        """Say that a node is the input of another step than may be taken."""
        self.why = self.why or (
            f": it takes x[{node.args[1]}], the input of another step; only x[t - 1] may be taken, with zeros in its "
            "place at step 0, or a difference x[t] - x[t - 1], with x[0] at step 0: compute others in front of the "
            "network"
        )
        return False

    def is_norm(self, node: fx.Node, first: fx.Node, step: int) -> bool:
        """Whether both call normalisations of the same channels."""
        norm, before = (self.traced.get_submodule(str(at.target)) for at in (node, first))
        if not isinstance(norm, NORMS) or type(norm) is not type(before) or norm.num_features != before.num_features:
            return False
        self._note_length(node)
        return self._norms.setdefault(first, {0: before}).setdefault(step, norm) is norm

    def put(self) -> None:
        """Put one module, or the step before, into the graph of step 0 for what differs from step to step."""
        for k, (node, norms) in enumerate(self._norms.items()):
            node.target = self._add(f"norms_of_steps_{k}", StepNorms(list(norms.values())))
        for k, (node, values) in enumerate(self._constants.items()):
            parts = list(values.values())
            if any(not torch.equal(part, parts[0]) for part in parts[1:]):
                self._put_constants(f"of_steps_{k}", node, torch.stack(parts))
        for node, way in self._taken.items():
            source: Any = self._inputs.get(node, node.args[0] if node.args else None)
            with self.traced.graph.inserting_after(node):
                before = self.traced.graph.call_function(step_before, (source,))
            if way == BEFORE:
                node.replace_all_uses_with(before)
            elif way == DIFFERENCE:
                users = list(node.users)
                with self.traced.graph.inserting_after(before):
                    difference = self.traced.graph.call_function(operator.sub, (node, before))
                for user in users:
                    user.replace_input_with(node, difference)

    def _put_constants(self, name: str, node: fx.Node, values: Tensor) -> None:
        for k, user in enumerate(list(node.users)):
            operation, others = called(user), [value for value in user.args if value is not node]
            is_second = len(user.args) == 2 and user.args[1] is node
            known = operation in (*SUMS, *PRODUCTS) or (operation in DIFFERENCES and is_second)
            if not known or user.kwargs or len(others) != 1:
                raise TypeError(
                    f"{self.model}: {path_of(user)} takes a parameter of each step; such may only be added to what a "
                    "layer gives or to the input, or multiplied by it: write it so, or train with one for all steps"
                )
            given = -values if operation in DIFFERENCES else values
            layer = StepAffine(weight=given) if operation in PRODUCTS else StepAffine(bias=given)
            with self.traced.graph.inserting_before(user):
                made = self.traced.graph.call_module(self._add(f"{name}_{k}", layer), tuple(others))
            user.replace_all_uses_with(made)

    def _add(self, name: str, module: nn.Module) -> str:
        self.traced.add_submodule(name, module)
        return name

    def _takes(self, first: fx.Node, way: str) -> bool:
        """Note what later steps have in the place of a node of step 0, which all must agree on."""
        return self._taken.setdefault(first, way) == way

    def _note_length(self, node: fx.Node) -> None:
        length = None
        if node.op == "call_module":
            length = self.traced.meta.get(LISTS, {}).get(str(node.target).rpartition(".")[0])
        elif called(node) == "getitem" and isinstance(node.args[1], int):
            of_all = constant(node.args[0], self.traced)
            length = None if of_all is None else len(of_all)
        if length is not None:
            self.length = min(length, self.length or length)


def of_input(node: Any) -> bool:
    """Whether a node is one step of the model's input."""
    source = node.args[0] if isinstance(node, fx.Node) and node.target is operator.getitem else None
    return isinstance(source, fx.Node) and source.op == "placeholder" and isinstance(node.args[1], int)


def is_step(node: Any, first: fx.Node, step: int) -> bool:
    """Whether a node is the input of a step, and ``first`` that of step 0."""
    are_steps = of_input(node) and of_input(first) and node.args[0] is first.args[0]
    return are_steps and (node.args[1], first.args[1]) == (step, 0)


@torch.no_grad()
def constant(node: Any, traced: fx.GraphModule) -> Tensor | None:
    """The value of a node that is computed from parameters, buffers and numbers only; None: it is another node."""
    if not isinstance(node, fx.Node) or node.op not in ("get_attr", "call_function", "call_method"):
        return None
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(traced)
        return value if isinstance(value, Tensor) and value.is_floating_point() else None
    inputs = {each: constant(each, traced) for each in node.all_input_nodes}
    if not inputs or any(value is None for value in inputs.values()):
        return None
    arguments: Any = fx.map_arg(node.args, inputs.__getitem__)
    options: Any = fx.map_arg(node.kwargs, inputs.__getitem__)
    if node.op == "call_method":
        value = getattr(arguments[0], str(node.target))(*arguments[1:], **options)
    else:
        value = node.target(*arguments, **options)  # type: ignore[operator]
    return value if isinstance(value, Tensor) else None
