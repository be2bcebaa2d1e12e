"""Finds what prevents a conversion: parts without a counterpart in spikes, and state between calls.

All such parts are named at once, since changing one takes another training.
"""

from contextlib import nullcontext
from random import Random

import torch
from torch import Tensor, fx, nn

from ..graph.functions import is_known
from ..graph.fx_calls import arguments, needed, path_of, remedy
from ..graph.prepared import copied
from ..graph.reach import has_foreign_code
from ..graph.sample_runs import called, is_constant
from ..graph.state_between_calls import Changed, State, generators_kept
from .relu_graph import tensors_of
from .viewed_graph import is_move

PLACES = 3  # named for each kind
BLOCK = "squeeze-and-excitation block"
OF_BLOCKS = "; it multiplies each channel by a number computed from the same sample, which spikes cannot: remove it"
PRODUCTS = ("mul", "multiply")
CALLS = 101  # of a network that keeps something: a prime, so that no short cycle ends with it
FEW_CALLS = 16  # of a network in which no value that can be reached changes


def with_all(error: TypeError, traced: fx.GraphModule, model: str, supported: tuple[type, ...]) -> TypeError:
    """``error``, about the first part without a counterpart, with a list of all such parts if there are several.

    ``supported``: modules that have a counterpart. A run must have noted the values of nodes (sample_runs.py).
    """
    found = _parts(traced, model, supported)
    if "no counterpart in spikes" not in str(error) or sum(map(len, found.values())) < 2:
        return error
    lines = []
    for (kind, what_to_do), places in found.items():
        shown = ", ".join(places[:PLACES]) + (", ..." if len(places) > PLACES else "")
        lines.append(f"  {len(places)} x {kind} ({shown}){what_to_do}")
    total = sum(map(len, found.values()))
    return TypeError(
        "\n".join(
            [f"{error}\n{model} has {total} such parts; change all of them, then continue training once:", *lines]
        )
    )


def _parts(traced: fx.GraphModule, model: str, supported: tuple[type, ...]) -> dict[tuple[str, str], list[str]]:
    """(kind, remedy) -> the places of such parts, in order."""
    nodes = [node for node in needed(traced, model) if not is_constant(node)]
    blocks = {_owner(node): node for node in nodes if _is_excitation(node) and _owner(node)}
    found: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        block = next((owner for owner in blocks if _owner(node) == owner or _owner(node).startswith(f"{owner}.")), None)
        if block is not None:
            if node is blocks[block]:
                found.setdefault((BLOCK, OF_BLOCKS), []).append(f"module '{block}'")
            continue
        kind = _kind(node, traced, supported)
        if kind:
            found.setdefault((kind, remedy(kind.removesuffix("()"))), []).append(path_of(node))
    return found


def _kind(node: fx.Node, traced: fx.GraphModule, supported: tuple[type, ...]) -> str:
    """The class or function without a counterpart, judged by its name; "": it has one."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        kind = type(module).__name__
        return kind if remedy(kind) and not isinstance(module, supported) and not is_move(node, traced) else ""
    name = _name(node)
    if name in PRODUCTS:
        return f"{name}()" if _is_product(node) else ""
    return f"{name}()" if name and remedy(name) and not is_known(name) and not is_move(node, traced) else ""


def _is_excitation(node: fx.Node) -> bool:
    """Whether a node multiplies images by one number a channel, [N, C, 1, 1], computed from a sample."""
    if _name(node) not in PRODUCTS or not _is_product(node):
        return False
    pixels = [shape[2:].count(1) for shape in (argument.meta.get("shape", ()) for argument in arguments(node))]
    return len(node.meta.get("shape", ())) == 4 and sorted(pixels)[-1] == 2 and sorted(pixels)[0] < 2


def _is_product(node: fx.Node) -> bool:
    return sum(not is_constant(argument) for argument in arguments(node)) > 1


def _name(node: fx.Node) -> str:
    name = called(node)
    return name.strip("_").removeprefix("i") if name.strip("_") == "imul" else name


def _owner(node: fx.Node) -> str:
    """The path of a called module, or of the module whose forward pass calls a function."""
    if node.op == "call_module":
        return str(node.target)
    owners = list(node.meta.get("nn_module_stack") or {})
    return owners[-1] if owners else ""


class Steady:
    """Calls a copy of ``ann`` repeatedly on ``samples`` [N, ...]; networks with only torch's modules are not called."""

    def __init__(self, ann: nn.Module, samples: Tensor):
        self.name, self.samples = type(ann).__name__, samples
        self.net = copied(ann, {}) if has_foreign_code(ann) else None

    @torch.no_grad()
    def check(self) -> None:
        """Check that outputs do not change from call to call; values that the network keeps may change.

        The samples are given in both orders.

        Raises:
            Changed: an output changes; the message names the module that causes it.
        """
        if self.net is None:
            return
        steady, changed, _ = self._called(self.net)
        if steady:
            return
        if changed:
            raise changed
        _, changed, state = self._called(self.net, watches=True)  # slower: to name the module
        if changed:
            raise changed
        state.explain()
        raise Changed(f"{self.name} has a state: it does not always give the same for the same input; take it out")

    def _called(self, net: nn.Module, watches: bool = False) -> tuple[bool, Changed | None, State]:
        """Whether outputs stayed the same, and the first change of a kept value; ``watches``: look at each module."""
        state = State(net, self.name)
        known: dict[int, list[Tensor]] = {}
        changed: Changed | None = None
        steady, drew = True, False
        with generators_kept() as draws, state.watched() if watches else nullcontext():
            for call, turned in enumerate(Random(0).choices((0, 1), k=CALLS), 1):
                given = tensors_of(net(self.samples.flip(0) if turned else self.samples.clone()))
                before = known.setdefault(turned, [y.clone() for y in given])
                steady &= len(before) == len(given) and all(map(_equal, before, given))
                drew |= draws()
                is_still = steady and not drew and not changed and not watches
                last = call == (FEW_CALLS if is_still else CALLS)
                try:
                    state.check(last=last)
                except Changed as error:
                    changed = changed or error
                if last and not changed:
                    break
        return steady, changed, state


def _equal(known: Tensor, y: Tensor) -> bool:
    largest = known.nan_to_num().abs().max().item() if known.numel() else 0.0
    return known.shape == y.shape and torch.allclose(known, y, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
