"""A network from a graph of NIR; how NIR and this package differ: to_nir.py."""

from typing import Any

import torch
from torch import nn

from ... import checks
from ...layers import Flatten, Unflatten
from ...network import Network, free_name
from ..graph.build_layers import CARRIED, build_layer, multiply
from ..graph.prepared import without_autocast
from ..graph.rewrites import scaled_identity
from .check import compare_with
from .graph import Nodes, input_shape, nodes_of
from .neurons import SUBTRACT, TO_V_RESET, check_shape, is_neuron, neuron
from .nodes import Shape, check_dt, output_shape, scale_of, shaping, synapse
from .origins import warn_of_others
from .recurrence import layer_of

FEW = 1024  # features that a matrix scales; more are scaled as channels


@without_autocast()
def from_nir(graph, *, dt: float = 1.0, reset: str | None = None) -> Network:
    """Import a network from a NIR graph or file.

    The network is compared with the equations of the graph, node by node, in float64, before it is returned.

    Args:
        graph: nir.NIRGraph or a path. Its nodes: one Input, one Output, and between them Conv2d, Conv1d, Affine, Linear
            and Scale, IF, LIF and CubaLIF neurons, AvgPool2d, SumPool2d and Flatten, in any order and number, and a
            readout, I or LI, at the end. Neurons may have several inputs, which are added. Spikes may come back to
            their neurons through a Linear, an Affine or a Scale, one step later. Graphs within the graph are unfolded.
            Values are copied, in float32.
        dt: length of a step in the graph's unit of time. The decay of LIF neurons is 1 - dt / tau. Graphs of snnTorch
            have dt = 1e-4, which is SpikingJelly's default too.
        reset: "subtract": all neurons subtract their threshold. NIR cannot express this; use it for graphs of sinabs.
            None: a reset to the graph's ``v_reset``, or to 0 if there is none, unless a node's metadata say "subtract".
            A warning names nodes such as sinabs, Norse and snnTorch write them, whose neurons do something else there,
            and says what to pass. "v_reset": as None, without that warning.

    Returns:
        A :class:`Network`. Layers have the names of the synapse nodes, with underscores for dots, and a number if a
        name is taken. Thresholds, resets and resting potentials are divided by the factor of the current (r dt for IF,
        r dt / tau for LIF), so weights stay the same; weights of readouts are multiplied by it. Layers without neurons
        pass real values on; those of a last layer are ``simulate(...).potentials``.

    Raises:
        TypeError: the graph holds another node, or nodes connected in another way, or values of another kind.
        ValueError: a cycle, nodes without sender or receiver, neurons that differ within a channel, resets that
            differ, an IF's r * dt far from 1, a tau below dt, values that are not finite or of the wrong shape, a file
            that cannot be read. The message names the node.
        ImportError: nir is not installed.
    """
    import nir

    check_dt(dt)
    if reset not in (None, SUBTRACT, TO_V_RESET):
        raise ValueError(f"reset must be {SUBTRACT!r}, {TO_V_RESET!r} or None, got {reset!r}")
    nodes = nodes_of(nir, graph)
    builder = _Builder(nir, nodes, dt, reset)
    for name in nodes.order:
        builder.add(name)
    if not builder.made:
        raise TypeError("the graph must have neurons, it has none")
    compare_with(nir, nodes, builder.net, builder.made, builder.shapes[Network.INPUT], dt, reset)
    if reset != TO_V_RESET:
        warn_of_others(nir, nodes.by_name, dt, reset)
    return builder.net


class _Builder:
    """The network, layer by layer.

    Attributes:
        given: a node -> the layer whose output it gives.
        made: a layer of neurons -> the node that they are.
        shapes: of each layer's output, as far as the graph tells the input's.
    """

    def __init__(self, nir, nodes: Nodes, dt: float, reset: str | None):
        self.nir, self.nodes, self.dt, self.reset = nir, nodes, dt, reset
        self.net = Network()
        self.given: dict[str, str] = {}
        self.made: dict[str, str] = {}
        self.shapes: dict[str, Shape | None] = {}

    def add(self, name: str) -> None:
        node = self.nodes.by_name[name]
        if isinstance(node, self.nir.Input):
            with checks.at(f"node '{name}'"):
                shape = input_shape(node)
            if len(shape or ()) == 2 and not self.nodes.any_of(self.nir.Conv1d):
                shape = None  # Norse writes (N, features)
            self.given[name], self.shapes[Network.INPUT] = Network.INPUT, shape
        elif isinstance(node, self.nir.Output):
            sender = self.nodes.only_sender(name)
            if self.given[sender] == Network.INPUT:
                raise TypeError(f"node '{name}' must follow neurons or another node, it follows '{sender}'")
        elif is_neuron(self.nir, node):
            self._add_neurons(name, node)
        elif self._is_synapse(name):
            sender = self.nodes.only_sender(name)
            if not all(is_neuron(self.nir, self.nodes.by_name[end]) for end in self.nodes.receivers(name)):
                with checks.at(f"node '{name}'"):
                    layer = build_layer([synapse(self.nir, node)], CARRIED)
                self._append(name, name, layer, (self.given[sender],))
        elif isinstance(node, self.nir.Scale):
            self._add_scale(name, node)
        elif isinstance(node, self.nir.AvgPool2d | self.nir.SumPool2d | self.nir.Flatten):
            sender = self.nodes.only_sender(name)
            with checks.at(f"node '{name}'"):
                layer = shaping(self.nir, node)
            self._append(name, name, layer, (self.given[sender],))
        else:
            raise TypeError(f"node '{name}': a nir.{type(node).__name__} in this place is not supported")

    def _is_synapse(self, name: str) -> bool:
        nir = self.nir
        return isinstance(self.nodes.by_name[name], nir.Conv1d | nir.Conv2d | nir.Affine | nir.Linear)

    def _add_neurons(self, name: str, node) -> None:
        """With the synapses that send to them."""
        terms = []
        for sender in self.nodes.senders[name]:
            if self._is_synapse(sender):
                with checks.at(f"node '{sender}'"):
                    module = synapse(self.nir, self.nodes.by_name[sender])
                terms.append((module, sender, self.given[self.nodes.only_sender(sender)]))
            else:
                terms.append((nn.Identity(), name, self.given[sender]))
        terms.sort(key=lambda term: isinstance(term[0], nn.Identity))
        modules, keys, sources = zip(*terms, strict=True)
        with checks.at(f"node '{name}'"):
            neurons, scale = neuron(self.nir, node, self.dt, self.reset)
            multiply(modules, scale)
            if name in self.nodes.returning:
                back = self.nodes.returning[name]
                layer = layer_of(self.nir, self.nodes.by_name, back, name, list(modules), neurons)
            else:
                layer = build_layer(list(modules), neurons)
        key = self._append(name, keys[0], layer, sources)
        self.made[key] = name
        if shape := self.shapes[key]:
            with checks.at(f"node '{name}'"):
                check_shape(node, shape)

    def _add_scale(self, name: str, node) -> None:
        """A product with one weight a channel, or of every value as a channel of its own."""
        source = self.given[self.nodes.only_sender(name)]
        with checks.at(f"node '{name}'"):
            scale = scale_of(node, self.shapes[source])
        channels = scale.flatten(1)[:, 0] if scale.ndim > 1 else scale
        by_channel = bool((scale == channels.view(-1, *[1] * (scale.ndim - 1))).all())
        if by_channel and (scale.ndim > 1 or len(scale) <= FEW):
            self._append(name, name, _scaling(channels, scale.ndim + 1), (source,))
            return
        if scale.ndim > 1:
            source = self._append(name, f"{name}_in_a_row", Flatten(), (source,))
        source = self._append(name, f"{name}_as_channels", Unflatten((scale.numel(), 1, 1)), (source,))
        source = self._append(name, name, _scaling(scale.flatten(), 4), (source,))
        source = self._append(name, f"{name}_flat", Flatten(), (source,))
        if scale.ndim > 1:
            self._append(name, f"{name}_back", Unflatten(tuple(scale.shape)), (source,))

    def _append(self, name: str, key: str, layer: nn.Module, sources: tuple[str, ...]) -> str:
        """A layer that gives what the node ``name`` gives, until another does."""
        taken = free_name(key, [other for other, *_ in self.net.layers()])
        self.net.append(taken, layer, sources)
        self.given[name] = taken
        with checks.at(f"node '{name}'" + (f" (behind '{key}')" if key != name else "")):
            self.shapes[taken] = output_shape(layer, [self.shapes[source] for source in sources])
        return taken


def _scaling(scale: torch.Tensor, ndim: int) -> nn.Module:
    module: Any = scaled_identity(len(scale), ndim, scale, learnt=True)
    with torch.no_grad():
        module.weight.mul_(scale.view(-1, *[1] * (module.weight.ndim - 1)))
    return build_layer([module], CARRIED)
