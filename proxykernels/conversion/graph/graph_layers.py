"""The layers that a followed model has had so far, before any of them is built."""

from collections.abc import Callable
from dataclasses import replace

from torch import fx, nn

from ...layers import Concatenate
from ...network import Network, free_name
from .build_layers import MAX_POOLS, MAX_RATE_POOLS, RUNNING_MAX_POOLS, shaping_layer
from .fx_calls import path_of
from .graph_values import Current, ModelPopulation, Projection, Signal
from .rewrites import blends, limited, overshoots

AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)


class GraphLayers:
    """Populations of neurons and what lies between them, in the order of the forward pass.

    Attributes:
        populations: name -> neurons.
        others: name -> (pooling, flattening or the like, the layers it takes).
        one_scale: groups of populations whose spikes are put side by side, and so must count the same.
        order: the names of both.
        values: node -> what gives its value; currents are those that no layer gives.
        carried: node -> the real values that its current is carried on as.
    """

    model: str  # its name, for messages
    rates: bool  # whether firing rates stand for the values of a ReLU network
    signed: bool  # whether currents without an activation become spikes of either sign, not real values

    def __init__(self) -> None:
        self.populations: dict[str, ModelPopulation] = {}
        self.others: dict[str, tuple[nn.Module, tuple[str, ...]]] = {}
        self.one_scale: list[set[str]] = []
        self.order: list[str] = []
        self.carried: dict[fx.Node, Signal] = {}
        self.values: dict[fx.Node, Signal | Current | list[Signal]] = {}

    def network(self, layer: Callable[[str, ModelPopulation], nn.Module]) -> Network:
        """The network, with ``layer(name, population)`` for each population."""
        net = Network()
        for name in self.order:
            if name in self.populations:
                population = self.populations[name]
                sources = tuple(projection.source.layer for projection in population.current.projections)
                net.append(name, layer(name, population), sources)
            else:
                net.append(name, *self.others[name])
        return net

    @property
    def firing(self) -> dict[str, ModelPopulation]:
        """The populations that fire: all but the currents that are carried on."""
        return {name: population for name, population in self.populations.items() if population.fires}

    def _carry(self, node: fx.Node, x: Signal | Current) -> Signal:
        """Turn a current into a signal of real values, or of spikes of either sign."""
        if isinstance(x, Signal):
            return x
        self.order.append(x.name)
        signed = self.signed and any(projection.is_layer for projection in x.projections)
        self.populations[x.name] = ModelPopulation(x, node, None, fires=signed, signed=signed)
        signal = Signal(x.name, x.name if signed else Network.INPUT, False, True, shape_of(node))
        for name, pool, path in x.pools:
            signal = self._pool(name, pool, signal, path, shape_of(node))
        self.carried[node] = signal
        return signal

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: nn.Module | None) -> Signal:
        if isinstance(x, Signal):
            if self.rates and not x.signed and neuron is not None and not limited(neuron):
                return x  # a ReLU of what is not negative
            x = Current(self._name(node), path_of(node), [Projection(nn.Identity(), x)])
        self.order.append(x.name)
        self.populations[x.name] = ModelPopulation(x, node, neuron)
        signal = Signal(x.name, x.name, True, False, shape_of(node))
        for name, pool, path in x.pools:
            signal = self._pool(name, pool, signal, path, shape_of(node))
        return signal

    def _side_by_side(self, node: fx.Node, parts: list[Signal], path: str, shape) -> Signal:
        scaled = [part for part in parts if part.neurons != Network.INPUT]
        if len(scaled) < len(parts):
            parts = [self._unscaled(node, part, path) for part in parts]
        else:
            self.one_scale.append({part.neurons for part in scaled})
        binary, signed = all(part.binary for part in parts), any(part.signed for part in parts)
        name = self._name(node)
        self.order.append(name)
        self.others[name] = Concatenate(), tuple(part.layer for part in parts)
        return Signal(name, parts[0].neurons, binary, signed, shape)

    def _unscaled(self, node: fx.Node, part: Signal, path: str) -> Signal:
        if part.neurons == Network.INPUT or not self.rates:
            return part
        current = Current(self._free(f"{node.name}_{part.layer}"), path, [Projection(nn.Identity(), part)])
        self.order.append(current.name)
        self.populations[current.name] = ModelPopulation(current, node, None, fires=False)
        return Signal(current.name, Network.INPUT, False, part.signed, part.shape)

    def _pool(self, name: str, module: nn.Module, x: Signal, path: str, shape) -> Signal:
        if not self.rates or x.layer == Network.INPUT:
            maxima = MAX_POOLS
        else:
            maxima = MAX_RATE_POOLS if x.binary else RUNNING_MAX_POOLS
        layer = shaping_layer(module, maxima, f"{self.model}: {path}")
        x = self._other(name, layer, x, shape, keeps_spikes=not isinstance(module, AVERAGES) and not blends(module))
        return replace(x, signed=True) if overshoots(module) else x

    def _other(self, name: str, layer: nn.Module, x: Signal, shape, keeps_spikes: bool = True) -> Signal:
        self.order.append(name)
        self.others[name] = layer, (x.layer,)
        return Signal(name, x.neurons, x.binary and keeps_spikes, x.signed, shape)

    def _weighted(self) -> bool:
        """Whether any projection has weights."""
        return any(not isinstance(module, nn.Identity) for p in self.populations.values() for module in p.modules)

    def _name(self, node: fx.Node) -> str:
        """A module's path with underscores for dots, or a function's name; with a number if that is taken."""
        return self._free(str(node.target) if node.op == "call_module" else node.name)

    def _free(self, wanted: str) -> str:
        """A name that no layer has, nor a current that becomes one."""
        waiting = [value for value in self.values.values() if isinstance(value, Current)]
        pools = [name for current in waiting for name, *_ in current.pools]
        return free_name(wanted, (*self.order, *(current.name for current in waiting), *pools))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of what a node gives here: [N, ...], where it is known."""
    return node.meta.get("ours", node.meta.get("shape"))
