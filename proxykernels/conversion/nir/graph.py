"""A graph of NIR as plain nodes and edges: read, unnested, and in order."""

import graphlib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .nodes import Shape, check_size
from .recurrence import ONLY, take_out


class Nodes(NamedTuple):
    """What a graph holds: nodes by name, those that send to each, and their order, senders before receivers.

    ``returning``: of recurrent neurons, the nodes that their spikes come back through (recurrence.py). These are in
    ``by_name``, and in none of the others.
    """

    by_name: dict[str, Any]
    senders: dict[str, list[str]]
    order: list[str]
    returning: dict[str, list[str]]

    def only_sender(self, name: str) -> str:
        if len(self.senders[name]) != 1:
            raise TypeError(f"node '{name}' must have one sender, it has {len(self.senders[name])}")
        return self.senders[name][0]

    def receivers(self, name: str) -> list[str]:
        return [receiver for receiver, senders in self.senders.items() if name in senders]

    def any_of(self, kind: type) -> bool:
        return any(isinstance(node, kind) for node in self.by_name.values())


def nodes_of(nir, graph) -> Nodes:
    """The nodes of a nir.NIRGraph or of a file of one, of one input and one output.

    Raises:
        TypeError, ValueError: it is none, or its nodes are connected in another way.
    """
    graph = _read(nir, graph) if isinstance(graph, str | Path) else graph
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph or the path of one, got {type(graph).__name__}")
    nodes, edges = _unnested(nir, graph, "", ())
    senders: dict[str, list[str]] = {name: [] for name in nodes}
    for start, end in edges:
        if start in senders[end]:
            raise ValueError(f"the edge from '{start}' to '{end}' is there twice")
        senders[end].append(start)
    for kind in (nir.Input, nir.Output):
        _one(kind, nodes, "the graph")
    returning = take_out(nir, nodes, senders)
    return Nodes(nodes, senders, _in_order(nir, nodes, senders), returning)


def input_shape(node) -> Shape | None:
    """The shape (C, H, W), (C, L) or (features,) of a nir.Input; None if it does not tell.

    Raises:
        TypeError, ValueError: it is none of a sample, or larger than any.
    """
    shape = (node.input_type or {}).get("input")
    if shape is None:
        return None
    sizes = np.asarray(shape).reshape(-1)
    if sizes.dtype.kind not in "iuf" or not np.isfinite(sizes).all() or (sizes != np.floor(sizes)).any():
        raise TypeError(f"the shape of an input must be integers, got {shape!r}")
    values = tuple(int(n) for n in sizes)
    if any(n < 1 for n in values):
        raise ValueError(f"the shape of an input must be at least 1 along each axis, got {values}")
    check_size(values)
    return values if len(values) in (1, 2, 3) else None


def _read(nir, path: str | Path):
    """nir's own check of shapes, which takes every kernel for a square one, is left out; from_nir checks them."""
    unchecked = {"type_check": False} if "type_check" in inspect.signature(nir.read).parameters else {}
    try:
        with np.errstate(all="ignore"):
            return nir.read(path, **unchecked)
    except Exception as error:  # nir computes with what it reads: a stride of 0, for example
        if isinstance(error, OSError) and error.errno:  # the system's: there is no such file, for example
            raise
        raise ValueError(f"{path} cannot be read as a graph of NIR: {type(error).__name__}: {error}") from error


def _unnested(nir, graph, path: str, around: tuple[int, ...]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes and edges without graphs in graphs: their nodes are called "graph.node", their inputs and outputs left out.

    ``around``: the graphs that this one is in.
    """
    if id(graph) in around:
        raise ValueError(f"node '{path[:-1]}' is a graph that holds itself")
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    entered: dict[str, list[str]] = {}  # a graph among the nodes -> who takes its input
    left: dict[str, list[str]] = {}  # -> who gives its output
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph):
            nodes[path + name] = node
            continue
        inner, between = _unnested(nir, node, f"{path}{name}.", (*around, id(graph)))
        first, last = (_one(kind, inner, f"node '{path}{name}'") for kind in (nir.Input, nir.Output))
        entered[path + name] = [end for start, end in between if start == first]
        left[path + name] = [start for start, end in between if end == last]
        if last in entered[path + name]:
            raise ValueError(f"node '{path}{name}' is a graph whose input is its output; leave it out")
        nodes |= {key: value for key, value in inner.items() if key not in (first, last)}
        edges += [edge for edge in between if not {first, last} & set(edge)]
    for start, end in graph.edges:
        start, end = path + start, path + end
        for name in (start, end):
            if name not in nodes and name not in entered:
                raise ValueError(f"the edge from '{start}' to '{end}' needs a node '{name}', which is not there")
        edges += [(a, b) for a in left.get(start, [start]) for b in entered.get(end, [end])]
    return nodes, edges


def _one(kind: type, nodes: dict[str, Any], where: str) -> str:
    names = [name for name, node in nodes.items() if isinstance(node, kind)]
    if len(names) != 1:
        listed = ", ".join(f"'{name}'" for name in names) or "none"
        raise ValueError(f"{where} must have one {kind.__name__} node, it has {listed}")
    return names[0]


def _in_order(nir, nodes: dict[str, Any], senders: dict[str, list[str]]) -> list[str]:
    """All nodes, senders before receivers: each is behind the input and leads to the output, which is the last."""
    try:
        order = list(graphlib.TopologicalSorter(senders).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"the graph has a cycle, {' -> '.join(error.args[1])}; {ONLY}") from None
    senders_of_any = {sender for names in senders.values() for sender in names}
    for name in order:
        if not senders[name] and not isinstance(nodes[name], nir.Input):
            raise ValueError(f"node '{name}' has no sender")
        if name not in senders_of_any and not isinstance(nodes[name], nir.Output):
            raise ValueError(f"node '{name}' leads to no output; remove it")
    return order
