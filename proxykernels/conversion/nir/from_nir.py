"""A network from a graph of NIR; to_nir.py says how NIR and this package differ.

Some libraries write graphs that do not say what their neurons do. A graph does not name its library, so it is
recognised by properties of its nodes, and a warning says what to pass.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ... import checks
from ...layers import Flatten, RecurrentGraph, Unflatten
from ...network import Network, free_name
from ...neurons import Value, neuron_checks
from ..graph.groups import grouped
from ..graph.prepared import without_autocast
from ..graph.rewrites import CARRIED, NEGLIGIBLE, affine, build_layer, multiply, scaled_identity
from .check_equations import compare_with
from .cycles import layer_of
from .graph import Nodes, input_shape, nodes_of, simpler
from .nodes import (
    RESET,
    SUBTRACT,
    TO_V_RESET,
    Before,
    Images,
    Made,
    Shape,
    check_dt,
    check_shape,
    is_neuron,
    neuron,
    output_shape,
    scale_of,
    shaping,
    synapse,
)

Term = tuple[nn.Module, str, str]  # a synapse, its node, and the layer that it takes
BEFORE = "the step before of "  # begins the name of what a node gave in the step before, among sources
FEW = 1024  # features that a matrix scales at most; more are scaled as channels
SINABS = (
    "a graph of sinabs needs from_nir(graph, reset='subtract'), and spikes that are single there (SingleSpike, not "
    "MultiSpike, for which max_spike_count=255 is), of potentials without a lower bound (min_v_mem=None)"
)
EXACT = (
    "a graph of sinabs, which integrates exactly, needs tau = 1 / (1 - np.exp(-1 / tau)) in its nodes, and r = tau "
    "where norm_input is False, as an ExpLeak's is by default"
)
SNNTORCH = (
    "a graph of snnTorch with reset_mechanism='subtract' needs reset='subtract', which resets a step earlier here: "
    "from_snntorch(net) takes the network exactly"
)
NORSE = "a graph of Norse has no w_in, since Norse adds whole currents: set it to tau_syn / dt"


@without_autocast()
def from_nir(graph, *, dt: float = 1.0, reset: str | None = None, max_spike_count: int | None = None) -> Network:
    """Import a network from a NIR graph or file.

    The network is compared with the equations of the graph, node by node, in float64, before it is returned. A graph
    that tells no shape of its input is compared on one that fits; a warning says where none is found.

    Args:
        graph: nir.NIRGraph or a path. Its nodes: one Input, one Output, and between them Conv2d, Conv1d, Affine, Linear
            and Scale, neurons (IF, LIF, CubaLIF, Threshold, and I, LI and CubaLI, which give potentials), AvgPool2d,
            SumPool2d, Flatten and Delay, in any order and number. Neurons may have several inputs, which are added.
            Spikes may come back to their neurons through a Linear, an Affine or a Scale, one step later. Any other
            cycle must have a Delay, which says how many steps later. Graphs within the graph are unfolded. Values are
            copied, in float32.
        dt: length of a step in the graph's unit of time. The decay of LIF neurons is 1 - dt / tau. Graphs of snnTorch
            have dt = 1e-4, which is SpikingJelly's default too.
        reset: "subtract": all neurons subtract their threshold. NIR cannot express this; use it for graphs of sinabs.
            None: a reset to the graph's ``v_reset``, or to 0 if there is none, unless a node's metadata say "subtract".
            A warning names nodes such as sinabs, Norse and snnTorch write them, whose neurons do something else there,
            and says what to pass. "v_reset": as None, without that warning.
        max_spike_count: with reset="subtract": how often IF and LIF neurons fire in a step, from 1 to 255
            (:class:`neurons.IntegerLIFNeuron`). NIR cannot express this; use it for graphs of sinabs with MultiSpike
            (255, if no neuron fires more often) or MaxSpike. None: once.

    Returns:
        A :class:`Network`. Layers have the names of the synapse nodes, with underscores for dots, and a number if a
        name is taken. Thresholds, resets and resting potentials are divided by the factor of the current (r dt for IF,
        r dt / tau for LIF), so weights stay the same; weights of readouts are multiplied by it. Layers without neurons
        pass real values on; those of a last layer are ``simulate(...).potentials``. Neurons start at ``v_leak``, and
        those that rest above their threshold, which fire by themselves, at ``v_reset``. Layers in a cycle with a Delay
        are a :class:`layers.RecurrentGraph`, which runs step by step.

    Raises:
        TypeError: the graph holds another node, or nodes connected in another way, or values of another kind.
        ValueError: max_spike_count without reset="subtract", another cycle, nodes without sender or receiver, a delay
            that is no whole number of steps, an IF's r * dt far from 1, a tau below dt, values that are not finite or
            of the wrong shape, a file that cannot be read. The message names the node.
        ImportError: nir is not installed.
    """
    import nir

    check_dt(dt)
    if reset not in (None, SUBTRACT, TO_V_RESET):
        raise ValueError(f"reset must be {SUBTRACT!r}, {TO_V_RESET!r} or None, got {reset!r}")
    if max_spike_count is not None:
        neuron_checks.most_spikes("max_spike_count", max_spike_count)
        if reset != SUBTRACT:
            raise ValueError(f"max_spike_count needs reset={SUBTRACT!r}: no neuron here fires several times and resets")
    given = nodes_of(nir, graph, dt)
    nodes = simpler(nir, given, dt, reset)
    builder = _Builder(nir, nodes, dt, reset, max_spike_count)
    for name in nodes.order:
        builder.add(name)
    if not builder.made:
        raise TypeError("the graph must have neurons, it has none")
    shape, net = builder.shapes[Network.INPUT], builder.network()
    backs = builder.backs()
    compare_with(nir, nodes, net, builder.made, backs, builder.currents, shape, dt, reset, max_spike_count)
    if reset != TO_V_RESET:
        warn_of_others(nir, given.by_name, dt, reset)
    return grouped(net) if isinstance(net, RecurrentGraph) else net


class _Builder:
    """Builds the network, layer by layer.

    Attributes:
        layers: name, layer, and the names of those whose outputs it takes, in order.
        given: a node -> the layer that gives its output.
        made: a layer of neurons -> its node.
        currents: a layer of neurons -> its constant current [C], if it has one.
        shapes: a layer -> the shape of its output; None: the graph does not tell the input's.
    """

    def __init__(self, nir, nodes: Nodes, dt: float, reset: str | None, most: int | None):
        self.nir, self.nodes, self.dt, self.reset, self.most = nir, nodes, dt, reset, most
        self.layers: list[tuple[str, nn.Module, tuple[str, ...]]] = []
        self.given: dict[str, str] = {}
        self.made: dict[str, str] = {}
        self.currents: dict[str, torch.Tensor] = {}
        self.shapes: dict[str, Shape | None] = {}
        self.output = ""  # the node
        self._givers = {node.giver for node in nodes.by_name.values() if isinstance(node, Before)}

    def network(self) -> Any:
        """The network; a flat graph of all its layers where some are in a cycle."""
        before = {BEFORE + name: source for name, source in self.backs().items()}
        last = self.given[self.nodes.only_sender(self.output)]
        if self.layers[-1][0] != last:  # behind it are neurons whose spikes only come back
            self._append(self.output, self.output, nn.Identity(), (last,))
        net = RecurrentGraph() if before else Network()
        for name, layer, sources in self.layers:
            net.append(name, layer, tuple(before.get(source, source) for source in sources))
        return net

    def backs(self) -> dict[str, str]:
        """The nodes that give what comes back in the step after, and the source that it is in the network."""
        nodes = self.nodes.by_name.items()
        return {name: RecurrentGraph.before(self.given[node.giver]) for name, node in nodes if isinstance(node, Before)}

    def add(self, name: str) -> None:
        node = self.nodes.by_name[name]
        if isinstance(node, self.nir.Input):
            with checks.at(f"node '{name}'"):
                shape = input_shape(node)
            if len(shape or ()) == 2 and not self.nodes.any_of(self.nir.Conv1d):
                shape = None  # Norse writes (N, features)
            self.given[name], self.shapes[Network.INPUT] = Network.INPUT, shape
        elif isinstance(node, Before):
            is_whole = len(node.shape or ()) > 1 or not self.nodes.any_of(self.nir.Conv1d | self.nir.Conv2d)
            self.given[name] = BEFORE + name
            self.shapes[BEFORE + name] = node.shape if is_whole else None
        elif isinstance(node, self.nir.Output):
            sender = self.nodes.only_sender(name)
            if self.given[sender] == Network.INPUT:
                raise TypeError(f"node '{name}' must follow neurons or another node, it follows '{sender}'")
            self.output = name
        elif is_neuron(self.nir, node):
            self._add_neurons(name, node)
        elif self._is_synapse(name):
            sender = self.nodes.only_sender(name)
            receivers = [is_neuron(self.nir, self.nodes.by_name[end]) for end in self.nodes.receivers(name)]
            if not all(receivers) or name in self._givers:
                with checks.at(f"node '{name}'"):
                    layer = build_layer([synapse(self.nir, node)], CARRIED)
                self._append(name, name, layer, (self.given[sender],))
        elif isinstance(node, self.nir.Scale):
            self._add_scale(name, node)
        elif isinstance(node, Images | self.nir.Delay | self.nir.AvgPool2d | self.nir.SumPool2d | self.nir.Flatten):
            source = self.given[self.nodes.only_sender(name)]
            with checks.at(f"node '{name}'"):
                layers = shaping(self.nir, node, self.shapes[source], self.dt)
            for k, layer in enumerate(layers):
                source = self._append(name, name if not k else f"{name}_{k}", layer, (source,))
        elif node is None:
            raise TypeError(
                f"node '{name}' is None: the library that made the graph has no node of NIR for this module, as Norse "
                "has none for LIFRecurrentCell; build it here, as a proxykernels.FusedRecurrentLinear with its weights"
            )
        else:
            raise TypeError(f"node '{name}': a nir.{type(node).__name__} in this place is not supported")

    def _is_synapse(self, name: str) -> bool:
        nir = self.nir
        return isinstance(self.nodes.by_name[name], nir.Conv1d | nir.Conv2d | nir.Affine | nir.Linear)

    def _add_neurons(self, name: str, node) -> None:
        """Add neurons together with the synapses that send to them."""
        terms: list[Term] = []
        for sender in self.nodes.senders[name]:
            if self._is_synapse(sender):
                with checks.at(f"node '{sender}'"):
                    module = synapse(self.nir, self.nodes.by_name[sender])
                terms.append((module, sender, self.given[self.nodes.only_sender(sender)]))
            else:
                terms.append((nn.Identity(), name, self.given[sender]))
        terms.sort(key=lambda term: isinstance(term[0], nn.Identity))
        with checks.at(f"node '{name}'"):
            made = neuron(self.nir, node, self.dt, self.reset, self.most)
            terms = self._scaled(name, terms, made)
            modules, keys, sources = zip(*terms, strict=True)
            multiply([module for module in modules if not isinstance(module, nn.Identity)], made.gain)
            if _is_needed(made.current) and not isinstance(modules[0], nn.Identity):
                _add(modules[0], made.current)
            v_init = made.v_init.float() if isinstance(made.v_init, torch.Tensor) else made.v_init
            if name in self.nodes.returning:
                back = self.nodes.returning[name]
                layer = layer_of(self.nir, self.nodes.by_name, back, name, list(modules), made.neuron, v_init)
            else:
                layer = build_layer(list(modules), made.neuron, v_init)
        key = self._append(name, keys[0], layer, sources)
        self.made[key] = name
        if _is_needed(made.current):
            self.currents[key] = torch.as_tensor(made.current).float().reshape(-1)
        if shape := self.shapes[key]:
            with checks.at(f"node '{name}'"):
                check_shape(node, shape)

    def _scaled(self, name: str, terms: list[Term], made: Made) -> list[Term]:
        """The terms, with a layer in front of those without weights that must be scaled or shifted."""
        current, scaled = made.current, []
        for number, (module, key, source) in enumerate(terms):
            current = 0.0 if number else current
            is_plain = isinstance(module, nn.Identity)
            if is_plain and (_is_needed(made.gain, 1.0) or _is_needed(current)):
                shape = self.shapes[source]
                if shape is None:
                    raise ValueError("neurons that scale or shift what they take need the shape of the graph's input")
                scale, shift = (_of_neurons(value, shape) for value in (made.gain, current))
                source = self._append_scale(source, name, f"{name}_scaled", scale, shift)
            scaled.append((module, key, source))
        return scaled

    def _add_scale(self, name: str, node) -> None:
        source = self.given[self.nodes.only_sender(name)]
        with checks.at(f"node '{name}'"):
            scale = scale_of(node, self.shapes[source])
        self._append_scale(source, name, name, scale, torch.zeros_like(scale))

    def _append_scale(self, source: str, name: str, key: str, scale: torch.Tensor, shift: torch.Tensor) -> str:
        """Add a product with one weight a channel, or with one a value as a channel of its own, plus a shift."""
        by_channel = all(
            bool((v == v.flatten(1)[:, 0].view(-1, *[1] * (v.ndim - 1))).all()) for v in (scale, shift) if v.ndim > 1
        )
        if by_channel and (scale.ndim > 1 or len(scale) <= FEW):
            gain, current = (v.flatten(1)[:, 0] if v.ndim > 1 else v for v in (scale, shift))
            return self._append(name, key, _scaling(gain, current, scale.ndim + 1), (source,))
        if scale.ndim > 1:
            source = self._append(name, f"{key}_in_a_row", Flatten(), (source,))
        source = self._append(name, f"{key}_as_channels", Unflatten((scale.numel(), 1, 1)), (source,))
        source = self._append(name, key, _scaling(scale.flatten(), shift.flatten(), 4), (source,))
        source = self._append(name, f"{key}_flat", Flatten(), (source,))
        if scale.ndim > 1:
            source = self._append(name, f"{key}_back", Unflatten(tuple(scale.shape)), (source,))
        return source

    def _append(self, name: str, key: str, layer: nn.Module, sources: tuple[str, ...]) -> str:
        """Add a layer, which gives the output of the node ``name`` until another layer does."""
        taken = free_name(key, [other for other, *_ in self.layers])
        self.layers.append((taken, layer, sources))
        self.given[name] = taken
        with checks.at(f"node '{name}'" + (f" (behind '{key}')" if key != name else "")):
            self.shapes[taken] = output_shape(layer, [self.shapes[source] for source in sources])
        return taken


def _scaling(scale: torch.Tensor, shift: torch.Tensor, ndim: int) -> nn.Module:
    module = scaled_identity(len(scale), ndim, scale, learnt=True)
    return build_layer([affine(module, scale, shift)], CARRIED)


def _add(module: Any, current: Value) -> None:
    """Add a constant to the output of a synapse."""
    bias = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias.detach()
    module.bias = nn.Parameter((bias.double() + torch.as_tensor(current)).to(bias.dtype))


def _is_needed(value: Value, neutral: float = 0.0) -> bool:
    value = torch.as_tensor(value, dtype=torch.float64)
    return not bool(torch.isclose(value, torch.full_like(value, neutral), rtol=NEGLIGIBLE, atol=0.0).all())


def _of_neurons(value: Value, shape: Shape) -> torch.Tensor:
    """One value, or one a channel, as one value for each neuron of a shape."""
    values = torch.as_tensor(value).float()
    return (values.view(-1, *[1] * (len(shape) - 1)) if values.ndim else values).expand(shape)


def warn_of_others(nir, nodes: Mapping[str, Any], dt: float, reset: str | None) -> None:
    """Warn of nodes that are written by a library whose neurons do something else; ``reset``: the caller's."""
    advice: dict[str, list[str]] = {}
    for name, node in nodes.items():
        if is_neuron(nir, node) and (node.metadata or {}).get(RESET) is None:
            for what in [*_of_dynamics(nir, node, dt), *([] if reset else _of_reset(nir, node, dt))]:
                advice.setdefault(what, []).append(f"'{name}'")
    if advice:
        told = (f"{what} (node {', '.join(names)})" for what, names in advice.items())
        warnings.warn(
            f"neurons may do something else where the graph was written: {'; '.join(told)}. If they do what the graph "
            "says, pass reset='v_reset'",
            UserWarning,
            stacklevel=4,
        )


def _of_dynamics(nir, node, dt: float) -> list[str]:
    if isinstance(node, nir.LIF | nir.LI) and dt == 1 and _is(node.r, 1) and not _is(node.tau, 1):
        return [EXACT]
    if isinstance(node, nir.CubaLIF) and _is(node.w_in, 1) and not _is(node.tau_syn, dt):
        return [NORSE]
    return []


def _of_reset(nir, node, dt: float) -> list[str]:
    if isinstance(node, nir.Threshold):
        return []
    if isinstance(node, nir.IF | nir.LIF) and dt == 1 and _is(node.r, 1):
        return [SINABS]
    tau = getattr(node, "tau_mem", getattr(node, "tau", None))
    single = np.asarray(node.r).dtype == np.float32  # SpikingJelly's are float64
    if isinstance(node, nir.LIF | nir.CubaLIF) and single and not _is(node.r, 1) and _is(np.asarray(node.r) * dt, tau):
        return [SNNTORCH]
    return []


def _is(value: Any, wanted: Any) -> bool:
    return bool(np.allclose(np.asarray(value, np.float64), np.asarray(wanted, np.float64), 1e-5, 0))
