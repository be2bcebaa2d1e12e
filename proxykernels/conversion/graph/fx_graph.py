"""From a torch model to the layers of this package: torch.fx follows the forward pass, one layer for each neuron.

What flows through a model is either a *signal*, the output of neurons or of another layer (or the model's input), or a
*current*, a sum of projections that no neuron has taken yet. Convolutions make a current of a signal, additions join
currents, and neurons make a signal of a current. A current that something else takes, such as another convolution, or
that is taken twice, is carried on as real values: a layer gives it, whose neurons forget everything at each step.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from ... import checks
from ...layers import Concatenate
from ...layers.synapses import WEIGHTED, synapse_of
from ...network import Network, free_name
from . import rewrites
from .functions import Add, Cat, Times
from .fx_calls import arguments, as_module, is_cast, needed, path_of, remedy
from .graph_values import Current, ModelPopulation, Projection, Signal

AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
NEGLIGIBLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
SAMPLE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d)  # supported where they keep running statistics
MAXIMA = (nn.MaxPool2d, nn.MaxPool1d)
SHAPING = (*MAXIMA, *AVERAGES, nn.Flatten, nn.Upsample, nn.ZeroPad2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
Values = dict[fx.Node, Signal | Current | list[Signal]]  # a list: the parts of a split


class GraphLayers:
    """Populations of neurons and what lies between them, in the order of the forward pass.

    Attributes:
        populations: name -> neurons.
        others: name -> (pooling, flattening or the like, the layers it takes).
        one_scale: groups of populations whose spikes are concatenated and so must have one scale.
        order: the names of populations and others.
        values: node -> its value.
        carried: node -> the real values that its current was turned into.
    """

    model: str  # its name, for messages
    rates: bool  # whether firing rates stand for the values of a ReLU network
    signed: bool  # whether currents without an activation become signed spikes, not real values

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
        """The populations that fire; others pass real values on."""
        return {name: population for name, population in self.populations.items() if population.fires}

    def _carry(self, node: fx.Node, x: Signal | Current) -> Signal:
        """Turn a current into a signal of real values, or of signed spikes."""
        if isinstance(x, Signal):
            return x
        signed = self.signed and any(projection.is_layer for projection in x.projections)
        neurons = x.name if signed else Network.INPUT
        signal = Signal(x.name, neurons, False, True, shape_of(node))
        self.carried[node] = self._populate(ModelPopulation(x, node, None, fires=signed, signed=signed), signal)
        return self.carried[node]

    def _populate(self, population: ModelPopulation, signal: Signal) -> Signal:
        """Add a layer that gives ``signal``, and the poolings behind it."""
        current = population.current
        self.order.append(current.name)
        self.populations[current.name] = population
        for name, pool, path in current.pools:
            signal = self._pool(name, pool, signal, path, signal.shape)
        return signal

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: nn.Module | None) -> Signal:
        if isinstance(x, Signal):
            if self.rates and not x.signed and neuron is not None and not rewrites.limited(neuron):
                return x  # a ReLU of what is not negative
            x = Current(self._name(node), path_of(node), [Projection(nn.Identity(), x)])
        return self._populate(ModelPopulation(x, node, neuron), Signal(x.name, x.name, True, False, shape_of(node)))

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
        signal = Signal(current.name, Network.INPUT, False, part.signed, part.shape)
        return self._populate(ModelPopulation(current, node, None, fires=False), signal)

    def _pool(self, name: str, module: nn.Module, x: Signal, path: str, shape) -> Signal:
        if not self.rates or x.layer == Network.INPUT:
            maxima = rewrites.MAX_POOLS
        else:
            maxima = rewrites.MAX_RATE_POOLS if x.binary else rewrites.RUNNING_MAX_POOLS
        layer = rewrites.shaping_layer(module, maxima, f"{self.model}: {path}")
        keeps_spikes = not isinstance(module, AVERAGES) and not rewrites.blends(module)
        x = self._other(name, layer, x, shape, keeps_spikes)
        return replace(x, signed=True) if rewrites.overshoots(module) else x

    def _other(self, name: str, layer: nn.Module, x: Signal, shape, keeps_spikes: bool = True) -> Signal:
        self.order.append(name)
        self.others[name] = layer, (x.layer,)
        return Signal(name, x.neurons, x.binary and keeps_spikes, x.signed, shape)

    def _weighted(self) -> bool:
        """Whether any projection has weights."""
        return any(not isinstance(module, nn.Identity) for p in self.populations.values() for module in p.modules)

    def _name(self, node: fx.Node) -> str:
        """A free name: a module's path with underscores for dots, or a function's name."""
        return self._free(str(node.target) if node.op == "call_module" else node.name)

    def _free(self, wanted: str) -> str:
        """A name that no layer has, nor a current that may become a layer."""
        waiting = [value for value in self.values.values() if isinstance(value, Current)]
        pools = [name for current in waiting for name, *_ in current.pools]
        return free_name(wanted, (*self.order, *(current.name for current in waiting), *pools))


def named(shape: tuple[int, ...]) -> str:
    """A shape for messages; its first axis is the samples."""
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape [N, ...] of a node's value here, where it is known."""
    return node.meta.get("ours", node.meta.get("shape"))


class Graph(GraphLayers):
    """Collects the layers that a forward pass asks for; base class for ReLU networks and other libraries' networks.

    Attributes:
        like: a parameter of the model; added weights have its type and device.
        supported: modules that have a counterpart, for messages.
    """

    supported: str
    norms: tuple[type, ...] = NORMS
    axes = 1  # in front of the channels

    def __init__(
        self,
        traced: fx.GraphModule,
        model: str,
        is_neuron: Callable[[nn.Module], bool],
        negligible: tuple[type, ...] = (),
        signed: bool = False,
    ):
        """``negligible``: modules of another library that change nothing in evaluation."""
        super().__init__()
        self.signed = signed
        self.traced, self.model, self.is_neuron = traced, model, is_neuron
        self.negligible = (*NEGLIGIBLE, *negligible)
        weights = (value for value in (*traced.parameters(), *traced.buffers()) if value.is_floating_point())
        self.like = next(weights, torch.zeros(()))
        self._used: set[int] = set()  # modules with weights or potentials that were called
        nodes = needed(traced, model)
        readers = [node for node in nodes if not self._is_number(node)]
        self._readers = Counter(argument for node in readers for argument in arguments(node))
        values = self.values
        for node in nodes:
            if node.op == "placeholder":
                values[node] = Signal(Network.INPUT, Network.INPUT, False, True, shape_of(node))
            elif node.op == "output":
                self._end(node, values)
            elif node.op != "get_attr" and not self._is_number(node):
                value = self._cast(node, values) if is_cast(node) else self._step(node, values)
                if isinstance(value, Current) and self._readers[node] > 1:
                    value = self._carry(node, value)
                values[node] = value

    def _is_number(self, node: fx.Node) -> bool:
        """Whether a node computes numbers from shapes, not from values of the input."""
        raise NotImplementedError

    def _cast(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        """A cast that changes nothing; a type or device other than the model's own is refused."""
        before = arguments(node)[0]
        if before.meta.get("type") != node.meta.get("type"):
            given, wanted = (" on ".join(map(str, at.meta["type"])) for at in (before, node))
            raise TypeError(
                f"{self.model}: {path_of(node)} makes {wanted} of {given}; convert the model and its input instead"
            )
        if "ours" in before.meta:
            node.meta["ours"] = before.meta["ours"]
        return values[before]

    def _step(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        path, taken = path_of(node), arguments(node)
        if taken and not any(argument in values for argument in taken):
            raise TypeError(
                f"{self.model}: {path} takes values that are not its input's, such as a parameter that no layer has; "
                "remove it and continue training"
            )
        module = as_module(node, self.traced, self.model, self._what_to_do)
        terms = [self._taken(argument, values, module, path) for argument in taken if argument in values]
        return self._value(node, module, terms, path)

    def _before(self, node: fx.Node) -> fx.Node:
        """The first node whose value a node takes."""
        return next(argument for argument in arguments(node) if argument in self.values)

    def _taken(self, argument: fx.Node, values: Values, module: nn.Module, path: str) -> Signal | Current:
        """The value of a node, as ``module`` takes it."""
        x = values[argument]
        if isinstance(x, list):
            raise TypeError(f"{self.model}: {path} takes all parts of a split; only single ones can be taken")
        return x

    def _value(self, node: fx.Node, module: nn.Module, terms: list[Signal | Current], path: str) -> Signal | Current:
        if isinstance(module, Add):
            return self._add(node, module, terms, path)
        if isinstance(module, Cat):
            return self._cat(node, module, terms, path)
        if isinstance(module, Times):
            raise TypeError(f"{self.model}: {path} has no counterpart in spikes{self._remedy('mul')}")
        if len(terms) != 1:
            raise TypeError(
                f"{self.model}: {path} takes {len(terms)} tensors; only additions and concatenations may join several"
            )
        return self._apply(node, terms[0], module, path)

    def _apply(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        if isinstance(module, nn.Sequential):
            for part in module:
                x = self._apply(node, x, part, path)
            return x
        if self.is_neuron(module):
            if not self.rates:
                self._use(module, path)
            return self._fire(node, x, module)
        if isinstance(module, self.negligible):
            return x
        if isinstance(module, (*WEIGHTED, *TRANSPOSED)):
            return self._synapse(node, x, module, path)
        if isinstance(module, self.norms) or (isinstance(module, SAMPLE_NORMS) and module.track_running_stats):
            return self._norm(node, x, module, path)
        if isinstance(module, SHAPING):
            return self._reshape(node, x, module, path)
        kind = type(module).__name__
        raise TypeError(f"{self.model}: {path} is a {kind}, which has no counterpart in spikes{self._what_to_do(kind)}")

    def _what_to_do(self, name: str) -> str:
        return self._remedy(name) or f". Supported: {self.supported}"

    def _remedy(self, name: str) -> str:
        """The remedy for a module or function of this name; "" if none is known."""
        return remedy(name)

    def _synapse(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        x = self._carry(self._before(node), x)
        module, shape = self._own(module, path), x.shape
        if shape and len(shape) != module.weight.ndim:
            wanted = {2: "[N, features]", 3: "[N, C, L]", 4: "[N, C, H, W]"}[module.weight.ndim]
            raise TypeError(f"{self.model}: {path} takes {named(shape)}; only {wanted} is supported")
        with checks.at(f"{self.model}: {path}"):
            if isinstance(module, TRANSPOSED):
                return self._transposed(node, x, module, path)
            synapse_of(module)
        for name, tensor in module.named_parameters():
            with checks.at(f"{self.model}: {path}"):
                checks.floating(name, tensor)
                checks.finite(name, tensor)
        return Current(self._name(node), path, [Projection(module, x)])

    def _transposed(self, node: fx.Node, x: Signal, module: Any, path: str) -> Current:
        """A transposed convolution as zeros between the values and around them, and a convolution."""
        shape, convolution = node.meta.get("shape"), rewrites.as_convolution(module)
        spread = rewrites.Spread.of(module, x.shape and x.shape[2:], shape and shape[2:])
        x = self._spread(self._free(f"{node.name}_input"), x, spread)
        return Current(self._name(node), path, [Projection(convolution, x, added=True)])

    def _spread(self, name: str, x: Signal, spread: rewrites.Spread) -> Signal:
        if len(spread.stride) == 1:
            raise ValueError("transposed convolutions along one axis are not supported")
        return self._other(name, spread.layer(), x, x.shape)

    def _own(self, module: nn.Module, path: str) -> nn.Module:
        """A module for this call only, since each call is scaled in its own way."""
        if id(module) in self._used:
            return copy.deepcopy(module)
        self._used.add(id(module))
        return module

    def _use(self, module: nn.Module, path: str) -> None:
        if id(module) in self._used:
            raise TypeError(f"{self.model}: {path} is called twice; give every call a layer of its own")
        self._used.add(id(module))

    def _norm(self, node: fx.Node, x: Signal | Current, norm: Any, path: str) -> Current:
        if norm.running_mean is None:
            raise ValueError(f"{self.model}: {path} keeps no running statistics, so it cannot be folded")
        if isinstance(x, Current) and len(x.projections) == 1:
            projection = x.projections[0]
            turns = norm.weight is not None and not bool((norm.weight > 0).all())  # some channels' signs
            if projection.norm is None and projection.is_layer:
                if not (x.pools and turns):  # else it may not change places with a maximum
                    projection.norm = norm
                    return x
        x = self._carry(self._before(node), x)
        dims = len(x.shape) if x.shape else 4 if isinstance(norm, nn.BatchNorm2d) else 2
        convolution = rewrites.norm_as_convolution(norm, dims)
        projection = Projection(convolution, x, added=True, affine=rewrites.affine_by(convolution))
        return Current(self._name(node), path, [projection])

    def _add(self, node: fx.Node, add: Add, terms: list[Signal | Current], path: str) -> Current:
        if len(terms) != 2:
            raise TypeError(f"{self.model}: {path} must add two results of layers")
        if add.factor != 1:
            raise TypeError(f"{self.model}: {path} scales what it adds; scale the weights instead")
        projections = []
        for term in terms:
            if isinstance(term, Current):
                projections += term.projections
            else:
                projections.append(Projection(nn.Identity(), term))
        # The largest kernel first: the others then join it in one pass (FusedIFSum).
        projections.sort(key=lambda projection: -rewrites.taps(projection.module))
        first = next((term for term in terms if isinstance(term, Current)), None)
        return Current(first.name if first else self._name(node), first.path if first else path, projections)

    def _cat(self, node: fx.Node, cat: Cat, terms: list[Signal | Current], path: str) -> Signal:
        """Signals side by side. Spikes of several populations must have one scale; beside real values they become real
        values."""
        shape = shape_of(node)
        if cat.stack or not self._is_of_channels(node, cat.dim):
            what = "stacks" if cat.stack else f"got dim={cat.dim}"
            raise TypeError(f"{self.model}: {path} must concatenate channels, dim={self.axes}, {what}")
        parts = [self._carry(argument, x) for argument, x in zip(arguments(node), terms, strict=True)]
        return parts[0] if len(parts) == 1 else self._side_by_side(node, parts, path, shape)

    def _is_of_channels(self, node: fx.Node, axis: int) -> bool:
        rank = self._rank(node)
        return axis == self.axes or (rank is not None and rank + axis == self.axes)

    def _rank(self, node: fx.Node) -> int | None:
        """The number of axes of a node's value in the model, where that is known."""
        shape = shape_of(node)
        return len(shape) if shape else None

    def _reshape(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        if isinstance(x, Current):
            if self.rates and isinstance(module, MAXIMA):  # a ReLU and a maximum may change places
                return Current(x.name, x.path, x.projections, [*x.pools, (self._name(node), module, path)])
            x = self._carry(self._before(node), x)
        elif self.rates and isinstance(module, MAXIMA) and x.neurons != Network.INPUT and not (x.binary or x.signed):
            x = self._fire(self._before(node), x, None)  # averages as spikes, whose counts have a maximum
        return self._pool(self._name(node), module, x, path, shape_of(node))

    def _end(self, node: fx.Node, values: Values) -> None:
        (result,) = node.args
        if not isinstance(result, fx.Node) or result not in values:
            raise TypeError(f"{self.model} must return one tensor, its forward returns {result}")
        self._last(result, self._taken(result, values, nn.Identity(), path_of(result)))
        if not self.populations or not self._weighted():
            raise TypeError(f"{self.model} must have at least one Conv2d or Linear layer")

    def _last(self, result: fx.Node, x: Signal | Current) -> None:
        """Make the network's output from the value of ``result``, the last node."""
        raise NotImplementedError
