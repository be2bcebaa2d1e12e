"""Reads a graph of NIR: unnests it, sorts it, and replaces nodes that have no layer here.

Nodes without a layer here are replaced by others:

    CubaLI                                    LI of tau_syn and w_in, then LI of tau_mem and r
    CubaLIF that rests at several potentials  LI of tau_syn and w_in, then LIF of tau_mem and r
    neurons that differ within a channel      Flatten, the same neurons as features, Images

The filter comes first: the next node takes the current after the step's update, as CubaLIF does.
"""

import copy
import graphlib
import inspect
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import checks
from ...network import free_name
from .cycles import cut_at_delays, leave_out_single_steps, take_out
from .nodes import FIELDS, Before, Images, Shape, check_size, is_filtered, is_neuron, shares_potentials


class Nodes(NamedTuple):
    """The nodes of a graph by name, the senders to each, and their order, senders before receivers.

    ``returning``: recurrent neurons -> the nodes that their spikes come back through. Those nodes are in ``by_name``
    and not in ``senders`` or ``order``.
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


def nodes_of(nir, graph, dt: float) -> Nodes:
    """The nodes of a nir.NIRGraph, or of a file of one, with one input and one output.

    Raises:
        TypeError, ValueError: it is no such graph, or its nodes are connected in another way.
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
    leave_out_single_steps(nir, nodes, senders, dt)
    returning = take_out(nir, nodes, senders)
    cut_at_delays(nir, nodes, senders, dt)
    return Nodes(nodes, senders, _in_order(nir, nodes, senders), returning)


def input_shape(node) -> Shape | None:
    """The shape (C, H, W), (C, L) or (features,) of a nir.Input; None if it does not tell.

    Raises:
        TypeError, ValueError: it is no shape of a sample, or too large.
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
    """Reads without nir's own check of shapes, which assumes square kernels; from_nir checks shapes."""
    unchecked = {"type_check": False} if "type_check" in inspect.signature(nir.read).parameters else {}
    try:
        with np.errstate(all="ignore"):
            return nir.read(path, **unchecked)
    except Exception as error:  # nir computes with what it reads: a stride of 0, for example
        if isinstance(error, OSError) and error.errno:  # the system's: there is no such file, for example
            raise
        raise ValueError(f"{path} cannot be read as a graph of NIR: {type(error).__name__}: {error}") from error


def _unnested(nir, graph, path: str, around: tuple[int, ...]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes and edges in which nodes of inner graphs are called "graph.node", without inner inputs and outputs.

    ``around``: the ids of the graphs that this one is in.
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
    """All nodes, senders before receivers; refuses nodes without a sender or a way to the output."""
    order = list(graphlib.TopologicalSorter(senders).static_order())
    senders_of_any = {sender for names in senders.values() for sender in names}
    senders_of_any |= {node.giver for node in nodes.values() if isinstance(node, Before)}
    for name in order:
        if not senders[name] and not isinstance(nodes[name], nir.Input | Before):
            raise ValueError(f"node '{name}' has no sender")
        if name not in senders_of_any and not isinstance(nodes[name], nir.Output):
            raise ValueError(f"node '{name}' leads to no output; remove it")
    return order


def simpler(nir, nodes: Nodes, dt: float, reset: str | None) -> Nodes:
    """The same graph, of nodes that have layers here."""
    senders = {name: list(its_senders) for name, its_senders in nodes.senders.items()}
    given = Nodes(dict(nodes.by_name), senders, [], nodes.returning)
    for name in nodes.order:
        node = given.by_name[name]
        given.order.append(name)
        with checks.at(f"node '{name}'"):
            splits = is_filtered(nir, node) and (not _fires(nir, node) or not shares_potentials(nir, node, dt, reset))
            if splits and _fires(nir, node) and name in nodes.returning:  # which would not pass through the filter
                raise ValueError(
                    "recurrent CubaLIF neurons must all rest at one v_leak and reset to one v_reset, below v_threshold"
                )
        if splits:
            _put_before(given, name, f"{name}_filter", _filter(nir, node))
            node = given.by_name[name] = _unfiltered(nir, node)
        if is_neuron(nir, node) and (shape := _differs_within_channels(node)):
            flatten = nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
            _put_before(given, name, f"{name}_in_a_row", flatten)
            given.by_name[name] = _in_a_row(node)
            _put_behind(given, name, f"{name}_as_images", Images(shape))
    return given


def _fires(nir, node) -> bool:
    return isinstance(node, nir.CubaLIF)


def _filter(nir, node) -> Any:
    w_in, tau = (np.broadcast_to(np.asarray(v, np.float64), np.shape(node.tau_syn)) for v in (node.w_in, node.tau_syn))
    return nir.LI(tau=tau.copy(), r=w_in.copy(), v_leak=np.zeros_like(tau))


def _unfiltered(nir, node) -> Any:
    values = {"tau": node.tau_mem, "r": node.r, "v_leak": node.v_leak}
    if not _fires(nir, node):
        return nir.LI(**values)
    if getattr(node, "v_reset", None) is not None:
        values["v_reset"] = node.v_reset
    made = nir.LIF(**values, v_threshold=node.v_threshold)
    made.metadata = node.metadata
    return made


def _differs_within_channels(node) -> Shape | None:
    """The shape of neurons whose values are not the same in each channel; None: they are."""
    for name in FIELDS:
        values = np.asarray(getattr(node, name, 0.0))
        if values.ndim > 1 and values.dtype.kind in "fiub" and values.size:
            by_channel = values.reshape(len(values), -1).astype(np.float32)
            if (by_channel != by_channel[:, :1]).any():
                return tuple(values.shape)
    return None


def _in_a_row(node) -> Any:
    """The same neurons as features."""
    row, size = copy.copy(node), math.prod(_differs_within_channels(node) or ())
    for name in FIELDS:
        value = getattr(node, name, None)
        if value is not None and np.size(value) == size:
            setattr(row, name, np.asarray(value).reshape(-1))
    return row


def _put_before(nodes: Nodes, name: str, wanted: str, node: Any) -> None:
    """Put a node between another one, the last in order so far, and all its senders."""
    new = free_name(wanted, nodes.by_name)
    nodes.by_name[new], nodes.senders[new] = node, nodes.senders[name]
    nodes.senders[name] = [new]
    nodes.order.insert(nodes.order.index(name), new)


def _put_behind(nodes: Nodes, name: str, wanted: str, node: Any) -> None:
    new = free_name(wanted, nodes.by_name)
    for receiver in nodes.receivers(name):
        nodes.senders[receiver] = [new if sender == name else sender for sender in nodes.senders[receiver]]
    nodes.by_name[new], nodes.senders[new] = node, [name]
    nodes.order.append(new)
