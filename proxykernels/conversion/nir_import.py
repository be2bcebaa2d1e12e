"""A network from a graph of NIR; how NIR and this package differ: nir_export.py."""

import graphlib
import inspect
import math
import numbers
from pathlib import Path

import numpy as np
from torch import nn

from .. import checks
from ..network import Network, free_name
from .build_layers import build_layer
from .nir_neurons import check_shape, is_neuron, multiply, neuron
from .nir_nodes import Shape, output_shape, shaping, synapse


def from_nir(graph, *, dt: float = 1.0) -> Network:
    """A network from a nir.NIRGraph or a file of one.

    Args:
        graph: nir.NIRGraph or a path. Its nodes: one Input, one Output, and between them Conv2d, Conv1d, Affine or
            Linear before an IF, LIF or CubaLIF (several may send to one, and so may other neurons or pooling directly),
            AvgPool2d and Flatten, at the end perhaps a readout, I or LI. Its values are copied, in float32.
        dt: length of a step, in the graph's unit of time: LIF neurons keep 1 - dt / tau of their potential in a step,
            and an IF's r times dt must be 1. 1e-4 in graphs of snnTorch and, unless told otherwise, SpikingJelly.

    Returns:
        A :class:`Network`, its layers named as the synapse nodes, with underscores for dots, and a number behind names
        that are taken. What multiplies the currents of LIF neurons (r dt / tau) divides their thresholds, resets and
        rests, and weights stay what they are; those of readouts are multiplied.

    Raises:
        TypeError: the graph holds another node, or nodes connected in another way, or values of another kind.
        ValueError: a cycle, nodes without sender or receiver, neurons that differ within a channel, resets that
            differ, an IF's r * dt other than 1, a tau below dt, values that are not finite or of the wrong shape. The
            message names the node.
        ImportError: nir is not installed.
    """
    import nir

    if not isinstance(dt, numbers.Real) or not 0 < dt < math.inf:
        raise ValueError(f"dt must be a positive number, got {dt!r}")
    graph = _read(nir, graph) if isinstance(graph, str | Path) else graph
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph must be a nir.NIRGraph or the path of one, got {type(graph).__name__}")
    senders = _senders(nir, graph)
    net = Network()
    given: dict[str, str] = {}  # a node -> the layer whose output it gives
    shapes: dict[str, Shape | None] = {}  # of a layer's output, as far as the graph tells the input's
    for name in _in_order(nir, graph, senders):
        node = graph.nodes[name]
        if isinstance(node, nir.Input):
            given[name], shapes[Network.INPUT] = Network.INPUT, _shape_of(node)
        elif isinstance(node, _synapses(nir)):
            _only(senders, name)
        elif isinstance(node, nir.Output):
            _check_end(given, name, _only(senders, name))
        else:
            layer, key, takes = _layer(nir, graph, senders, name, dt)
            for sender, receiver in takes:
                if sender not in given:
                    raise TypeError(f"node '{sender}' must send to neurons, it sends to '{receiver}'")
            sources = tuple(given[sender] for sender, _ in takes)
            given[name] = free_name(key, [taken for taken, *_ in net.layers()])
            net.append(given[name], layer, sources)
            with checks.at(f"node '{name}'" + (f" (behind '{key}')" if key != name else "")):
                shapes[given[name]] = output_shape(layer, [shapes[source] for source in sources])
                if is_neuron(nir, node) and shapes[given[name]]:
                    check_shape(node, shapes[given[name]])
    return net


def _read(nir, path: str | Path):
    """nir's own check of shapes, which takes every kernel for a square one, is left out; from_nir checks them."""
    unchecked = {"type_check": False} if "type_check" in inspect.signature(nir.read).parameters else {}
    return nir.read(path, **unchecked)


def _synapses(nir) -> tuple[type, ...]:
    return nir.Conv1d, nir.Conv2d, nir.Affine, nir.Linear


def _senders(nir, graph) -> dict[str, list[str]]:
    """The nodes that send to each node, of a graph with one input and one output."""
    senders: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, end in graph.edges:
        for name in (start, end):
            if name not in senders:
                raise ValueError(f"the edge from '{start}' to '{end}' needs a node '{name}', which is not there")
        if start in senders[end]:
            raise ValueError(f"the edge from '{start}' to '{end}' is there twice")
        senders[end].append(start)
    for kind in (nir.Input, nir.Output):
        names = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
        if len(names) != 1:
            listed = ", ".join(f"'{name}'" for name in names) or "none"
            raise ValueError(f"the graph must have one {kind.__name__} node, it has {listed}")
    return senders


def _in_order(nir, graph, senders: dict[str, list[str]]) -> list[str]:
    """All nodes, senders before receivers: each is behind the input and leads to the output, which is the last."""
    try:
        order = list(graphlib.TopologicalSorter(senders).static_order())
    except graphlib.CycleError as error:
        raise ValueError(
            f"the graph has a cycle, {' -> '.join(error.args[1])}; only feed-forward is supported"
        ) from None
    senders_of_any = {sender for names in senders.values() for sender in names}
    for name in order:
        if not senders[name] and not isinstance(graph.nodes[name], nir.Input):
            raise ValueError(f"node '{name}' has no sender")
        if name not in senders_of_any and not isinstance(graph.nodes[name], nir.Output):
            raise ValueError(f"node '{name}' leads to no output; remove it")
    return order


def _only(senders: dict[str, list[str]], name: str) -> str:
    if len(senders[name]) != 1:
        raise TypeError(f"node '{name}' must have one sender, it has {len(senders[name])}")
    return senders[name][0]


def _check_end(given: dict[str, str], name: str, sender: str) -> None:
    if given.get(sender, Network.INPUT) == Network.INPUT:
        raise TypeError(f"node '{name}' must follow neurons, AvgPool2d or Flatten, it follows '{sender}'")


def _layer(nir, graph, senders, name: str, dt: float) -> tuple[nn.Module, str, list[tuple[str, str]]]:
    """The layer that a node ends, the name of its first node, and the edges on which the layer's inputs arrive."""
    node, terms = graph.nodes[name], []
    for sender in senders[name]:
        if isinstance(graph.nodes[sender], _synapses(nir)):
            with checks.at(f"node '{sender}'"):
                terms.append((synapse(nir, graph.nodes[sender]), sender, (_only(senders, sender), sender)))
        else:
            terms.append((nn.Identity(), name, (sender, name)))
    terms.sort(key=lambda term: isinstance(term[0], nn.Identity))
    modules, keys, takes = zip(*terms, strict=True)
    with checks.at(f"node '{name}'"):
        if is_neuron(nir, node):
            neurons, scale = neuron(nir, node, dt)
            multiply(modules, scale)
            layer = build_layer(list(modules), neurons)
        elif isinstance(node, nir.AvgPool2d | nir.Flatten) and keys == (name,):
            layer = shaping(nir, node)
        else:
            raise TypeError(f"a nir.{type(node).__name__} in this place is not supported")
    return layer, keys[0], list(takes)


def _shape_of(node) -> Shape | None:
    """The shape (C, H, W) or (features,) of a nir.Input; None if it does not tell."""
    shape = (node.input_type or {}).get("input")
    shape = () if shape is None else tuple(np.asarray(shape).tolist())
    return shape if len(shape) in (1, 3) and all(isinstance(n, int) and n > 0 for n in shape) else None
