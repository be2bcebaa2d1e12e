"""Who differs from the definition, where first, and by which rule."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Tensor

from . import definition, simulators
from .rules import Rules, hypotheses

OUTPUT = "output"


@dataclass
class Verdict:
    """What a simulator makes of a graph.

    Attributes:
        node, step: where it differs first; "" and -1: nowhere. differing, spikes: of the output, how many differ, and
            how many there are by the definition.
        why: the rule by which the definition gives the same spikes; or the simulator's error.
        output: its output [T, N, n], or None.
    """

    file: str
    simulator: str
    node: str = ""
    step: int = -1
    differing: int = 0
    spikes: int = 0
    why: str = ""
    output: Tensor | None = None


def judge(path: Path, dt: float, T: int, reset: str | None, rate: float) -> tuple[list[Verdict], Tensor]:
    """The verdicts on all simulators, ours first, and the definition's output [T, N, n]."""
    graph = definition.Graph(nir.read(path, type_check=False))
    rules = Rules() if reset != "subtract" else Rules(resets="by subtraction")
    x = input_of(graph, T, rate)
    expected = definition.run(graph, x, dt, rules)
    verdicts = []
    for name in ["proxykernels", *simulators.installed()]:
        run = simulators.ours if name == "proxykernels" else simulators.RIVALS[name]
        try:
            given = run(path, x, dt, reset)
        except Exception as error:  # whatever a simulator raises
            verdicts.append(Verdict(path.name, name, why=f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"))
            continue
        verdict = compare(graph, given, expected)
        verdict.file, verdict.simulator = path.name, name
        if verdict.differing and verdict.output is not None:
            verdict.why = explain(graph, x, dt, rules, verdict.output)
        verdicts.append(verdict)
    return verdicts, _flat(expected[graph.output])


def input_of(graph: definition.Graph, T: int, rate: float) -> Tensor:
    """Random events [T, 1, ...] of the shape that the graph tells."""
    node: Any = next(node for node in graph.nodes.values() if isinstance(node, nir.Input))
    shape = [int(n) for n in node.input_type["input"]]
    return (torch.rand(T, 1, *shape, generator=torch.Generator().manual_seed(0)) < rate).double()


def compare(graph: definition.Graph, given: dict[str, Tensor], expected: dict[str, Tensor]) -> Verdict:
    """The first difference: the earliest node, in the order of a step, whose spikes are others."""
    wanted = _flat(expected[graph.output])
    output = given.get("")
    output = None if output is None else _flat(output)
    verdict = Verdict("", "", spikes=int(wanted.sum()), output=output)
    if output is None or output.shape != wanted.shape:
        verdict.why = "its output has another shape"
        return verdict
    wrong = _differs(output, wanted)
    verdict.differing = int(wrong.sum())
    for name in graph.neurons:
        there = next((value for key, value in given.items() if key and _same_name(key, name)), None)
        if there is not None and there.numel() == expected[name].numel():
            steps = _differs(_flat(there), _flat(expected[name])).flatten(1).any(1)
            if steps.any():
                verdict.node, verdict.step = name, int(steps.byte().argmax())
                return verdict
    if verdict.differing:
        verdict.node, verdict.step = OUTPUT, int(wrong.flatten(1).any(1).byte().argmax())
    return verdict


def explain(graph: definition.Graph, x: Tensor, dt: float, rules: Rules, output: Tensor) -> str:
    """Answers by which the definition gives this output, none of which can be left out."""

    def fits(other: Rules) -> bool:
        return not _differs(output, _flat(definition.run(graph, x, dt, other)[graph.output])).any()

    found = next((other for other in hypotheses(rules) if other != rules and fits(other)), None)
    if found is None:
        return "no rule that is known here"
    for name in found.others(rules):
        without = replace(found, **{name: getattr(rules, name)})
        if fits(without):
            found = without
    return ", ".join(f"{name}: {answer}" for name, answer in found.others(rules).items())


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), 1, -1).double()


def _differs(a: Tensor, b: Tensor) -> Tensor:
    """Spikes that are others; potentials that differ by more than rounding."""
    whole = bool((b == b.round()).all())
    return a != b if whole else (a - b).abs() > 1e-4 * (1 + b.abs())


def _same_name(key: str, name: str) -> bool:
    """Simulators write dots and dashes otherwise."""
    plain = ["".join(c for c in word if c.isalnum()) for word in (key, name)]
    return plain[0] == plain[1]
