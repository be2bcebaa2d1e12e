"""The equations of NIR, step by step in float64, node by node: what all simulators are compared with.

It shares no code with proxykernels. A cycle is cut where neurons send into it: they send what they fired a step before.
"""

import graphlib
from typing import Any

import networkx
import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .rules import Rules

NEURONS = (nir.IF, nir.LIF, nir.CubaLIF, nir.I, nir.LI, nir.CubaLI, nir.Threshold)
SPIKING = (nir.IF, nir.LIF, nir.CubaLIF, nir.Threshold)


class Graph:
    """Nodes and edges without graphs in graphs, in the order in which a step computes them.

    Attributes:
        nodes: by name. senders: of each node; and whether it takes what these gave a step before.
    """

    def __init__(self, graph: nir.NIRGraph):
        self.nodes: dict[str, Any] = {}
        edges = _unnested(graph, "", self.nodes)
        whole = networkx.DiGraph(edges)
        part = {name: k for k, names in enumerate(networkx.strongly_connected_components(whole)) for name in names}
        late = {(a, b) for a, b in edges if part[a] == part[b] and isinstance(self.nodes[a], NEURONS)}
        self.senders = {name: [(a, (a, b) in late) for a, b in edges if b == name] for name in self.nodes}
        now = {name: [a for a, is_late in senders if not is_late] for name, senders in self.senders.items()}
        self.order = list(graphlib.TopologicalSorter(now).static_order())

    @property
    def neurons(self) -> list[str]:
        return [name for name in self.order if isinstance(self.nodes[name], SPIKING)]

    @property
    def output(self) -> str:
        return next(name for name, node in self.nodes.items() if isinstance(node, nir.Output))


def _unnested(graph: nir.NIRGraph, path: str, nodes: dict[str, Any]) -> list[tuple[str, str]]:
    """Adds the nodes; the inputs and outputs of inner graphs are nodes, too. Returns the edges."""
    edges = []
    inner = {name: node for name, node in graph.nodes.items() if isinstance(node, nir.NIRGraph)}
    for name, node in graph.nodes.items():
        if name in inner:
            edges += _unnested(node, f"{path}{name}.", nodes)
        else:
            nodes[path + name] = node if not path or not isinstance(node, nir.Input | nir.Output) else None
    for a, b in graph.edges:
        edges.append((path + _end(a, inner, nir.Output), path + _end(b, inner, nir.Input)))
    return edges


def _end(name: str, inner: dict[str, Any], kind: type) -> str:
    if name not in inner:
        return name
    return f"{name}.{next(key for key, node in inner[name].nodes.items() if isinstance(node, kind))}"


def run(graph: Graph, x: Tensor, dt: float, rules: Rules) -> dict[str, Tensor]:
    """What each node gives for x [T, N, ...], float64 [T, N, ...]."""
    given: dict[str, list[Tensor]] = {name: [] for name in graph.order}
    states: dict[str, Any] = {}
    for step in x.double():
        now: dict[str, Tensor] = {}
        for name in graph.order:
            node = graph.nodes[name]
            taken = [_before(given[a], graph.nodes[a], step) if late else now[a] for a, late in graph.senders[name]]
            if isinstance(node, nir.Input):
                now[name] = step
                continue
            total = _sum(taken)
            if isinstance(node, NEURONS):
                value = states.setdefault(name, _State(node, dt, rules)).step(total)
                late = rules.output != "now" and isinstance(node, SPIKING)
                now[name] = states[name].swap(value) if late else value
            elif isinstance(node, nir.Delay):
                now[name] = states.setdefault(name, _Past(node, dt)).step(total)
            else:
                now[name] = total if node is None else _value(node, total)
        for name, value in now.items():
            given[name].append(value)
    return {name: torch.stack(values) for name, values in given.items()}


def _before(given: list[Tensor], node: Any, step: Tensor) -> Tensor:
    if given:
        return given[-1]
    shape = np.shape(getattr(node, "v_threshold", getattr(node, "r", 0.0)))
    return torch.zeros(len(step), *shape, dtype=torch.float64)


def _sum(values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


class _State:
    """Neurons, and their states."""

    def __init__(self, node: Any, dt: float, rules: Rules):
        self.node, self.rules = node, rules
        self.dt = dt if rules.dt == "as given" else 1.0
        self.v = self.i = self.fired = self.kept = None

    def step(self, x: Tensor) -> Tensor:
        node, rules = self.node, self.rules
        if isinstance(node, nir.Threshold):
            return self._fires(x, _values(node.threshold, x))
        leaks = not isinstance(node, nir.IF | nir.I)
        rest = _values(node.v_leak, x) if leaks else torch.zeros_like(x)
        if self.v is None:
            self._begin(x, rest)
        current = x
        if hasattr(node, "tau_syn"):
            before = self.i
            self.i = self._decay(node.tau_syn, x) * self.i + self._share(node.tau_syn, x) * _values(node.w_in, x) * x
            current = self.i if rules.current == "new" else before
        whole = rules.input == "as it is"
        drive = current if whole else _values(node.r, x) * current
        if leaks:
            tau = getattr(node, "tau", getattr(node, "tau_mem", None))
            share = 1.0 if whole else self._share(tau, x)
            self.v = rest + self._decay(tau, x) * (self.v - rest) + share * drive
        else:
            self.v = self.v + (drive if whole else self.dt * drive)
        if not isinstance(node, SPIKING):
            return self.v
        if rules.reset != "now" and self.fired is not None:
            self.v = self._after(self.v, self.fired, x)
        self.fired = self._count(x)
        if rules.reset == "now":
            self.v = self._after(self.v, self.fired, x)
        if rules.floor != "none":
            self.v = torch.maximum(self.v, -_values(node.v_threshold, x))
        return self.fired

    def swap(self, value: Tensor) -> Tensor:
        """What it gave a step before."""
        before, self.kept = self.kept, value
        return torch.zeros_like(value) if before is None else before

    def _begin(self, x: Tensor, rest: Tensor) -> None:
        """At v_leak; neurons that rest above their threshold at v_reset, as after a spike."""
        self.i = torch.zeros_like(x)
        self.v = rest.clone() if self.rules.start == "at v_leak" else torch.zeros_like(x)
        if isinstance(self.node, SPIKING):
            alone = rest >= _values(self.node.v_threshold, x)
            after = torch.zeros_like(x) if self.rules.resets != "to v_reset" else self._v_reset(x)
            self.v = torch.where(alone, after, self.v)

    def _decay(self, tau: Any, x: Tensor) -> Tensor:
        rate = self.dt / _values(tau, x)
        return 1 - rate if self.rules.decay == "Euler" else torch.exp(-rate)

    def _share(self, tau: Any, x: Tensor) -> Tensor:
        return 1 - self._decay(tau, x)

    def _fires(self, v: Tensor, theta: Tensor) -> Tensor:
        return (v >= theta if self.rules.fires == ">=" else v > theta).double()

    def _count(self, x: Tensor) -> Tensor:
        theta = _values(self.node.v_threshold, x)
        if self.rules.spikes == "one a step":
            return self._fires(self.v, theta)
        return (self.v / theta).floor().clamp(min=0)

    def _after(self, v: Tensor, fired: Tensor, x: Tensor) -> Tensor:
        if self.rules.resets != "to v_reset":
            return v - fired * _values(self.node.v_threshold, x)
        return torch.where(fired > 0, self._v_reset(x), v)

    def _v_reset(self, x: Tensor) -> Tensor:
        v_reset = getattr(self.node, "v_reset", None)
        return torch.zeros_like(x) if v_reset is None else _values(v_reset, x)


class _Past:
    """What a delay was given."""

    def __init__(self, node: Any, dt: float):
        self.node, self.dt, self.given = node, dt, list[Tensor]()

    def step(self, x: Tensor) -> Tensor:
        self.given.append(x)
        steps = (_values(self.node.delay, x) / self.dt).round().long()
        whole = torch.stack(self.given)
        then = len(whole) - 1 - steps
        return torch.where(then >= 0, whole.gather(0, then.clamp(min=0)[None])[0], torch.zeros_like(x))


def _value(node: Any, x: Tensor) -> Tensor:
    """What a node without a state gives for x [N, ...]."""
    if isinstance(node, nir.Output):
        return x
    if isinstance(node, nir.Linear | nir.Affine):
        return F.linear(x, _tensor(node.weight), _tensor(getattr(node, "bias", None)))
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        convolve: Any = F.conv1d if isinstance(node, nir.Conv1d) else F.conv2d
        window = (_ints(getattr(node, name)) for name in ("stride", "padding", "dilation"))
        return convolve(x, _tensor(node.weight), _tensor(node.bias), *window, int(node.groups))
    if isinstance(node, nir.Scale):
        return x * _values(node.scale, x)
    if isinstance(node, nir.Flatten):
        return x.flatten(1)
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        window = (_ints(getattr(node, name)) for name in ("kernel_size", "stride", "padding"))
        return F.avg_pool2d(x, *window, divisor_override=1 if isinstance(node, nir.SumPool2d) else None)
    raise ValueError(f"the referee knows no nir.{type(node).__name__}")


def _values(value: Any, x: Tensor) -> Tensor:
    """A parameter of neurons for x [N, ...]: of all, of each channel, or of each."""
    tensor = _tensor(value)
    if tensor.numel() == 1:
        return tensor.reshape(()).expand(x.shape)
    if tensor.ndim < x.ndim - 1:
        tensor = tensor.view(-1, *[1] * (x.ndim - 2))
    return tensor.expand(x.shape)


def _tensor(value: Any) -> Any:
    return None if value is None else torch.from_numpy(np.asarray(value, np.float64))


def _ints(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return value.decode() if isinstance(value, bytes) else value
    values = [int(n) for n in np.asarray(value).reshape(-1)]
    return values[0] if len(values) == 1 else values
