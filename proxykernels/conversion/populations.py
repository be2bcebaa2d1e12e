"""From a torch model to the layers of this package: torch.fx follows the forward pass, one layer for each neuron.

What flows through a model is either a *signal*, the output of neurons (or the model's input), or a *current*, a sum of
synapses that no neuron has taken in yet. Convolutions make a current of a signal, additions join currents, and neurons
make a signal of a current.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from .. import checks
from ..layers.synapses import WEIGHTED, synapse_of
from ..network import Network, free_name
from .build_layers import shaping_layer
from .fx_calls import Add, as_module, needed, path_of

NEGLIGIBLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Signal:
    """What a layer gave: its name in the network, the neurons whose spikes it holds (both "" for the input), and
    whether they are spikes still (averages are not)."""

    layer: str
    neurons: str
    binary: bool


@dataclass
class Synapse:
    """One term of a current: a convolution, matrix product or identity of a signal, and the normalisation after it."""

    module: Any  # of torch, with a weight and perhaps a bias; nn.Identity
    source: Signal
    norm: Any = None  # of torch


@dataclass
class Current:
    """A sum of synapses, and pooling that comes between it and its neurons."""

    name: str
    path: str
    synapses: list[Synapse]
    pools: list[tuple[str, nn.Module, str]] = field(default_factory=list)


@dataclass
class Population:
    """The neurons of one layer: the current they take, the node that gives their output, and what they are."""

    current: Current
    node: fx.Node
    neuron: nn.Module | None  # None: the model's last layer has no neuron

    @property
    def modules(self) -> list[nn.Module]:
        """The synapses' modules, first the one with the largest kernel."""
        return [synapse.module for synapse in self.current.synapses]


class Graph:
    """The layers of a model, before any layer is built.

    Attributes:
        populations: name -> neurons, in the order of the forward pass.
        others: name -> (pooling or flattening, the layer it takes).
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        model: str,
        is_neuron: Callable[[nn.Module], bool],
        rates: bool,
        negligible: tuple[type, ...] = (),
    ):
        """``rates``: firing rates stand for the values of a ReLU network. Then neurons after a max pooling may come
        before it, and pooling takes the highest rate; otherwise it is the OR of spikes. ``negligible``: modules of
        another library that change nothing.
        """
        self.traced, self.model, self.is_neuron, self.rates = traced, model, is_neuron, rates
        self.negligible = (*NEGLIGIBLE, *negligible)
        self.populations: dict[str, Population] = {}
        self.others: dict[str, tuple[nn.Module, str]] = {}
        self.order: list[str] = []
        self._used: set[int] = set()  # modules that have weights or potentials
        self._taken: set[fx.Node] = set()  # currents that have become part of another or of neurons
        values: dict[fx.Node, Signal | Current] = {}
        for node in needed(traced, model):
            if node.op == "placeholder":
                values[node] = Signal(Network.INPUT, Network.INPUT, binary=False)
            elif node.op == "output":
                self._end(node, values)
            elif node.op != "get_attr" and not isinstance(node.meta.get("value"), int | torch.Size):
                values[node] = self._step(node, values)

    def network(self, layer: Callable[[str, Population], nn.Module]) -> Network:
        """The network, with ``layer(name, population)`` for each population."""
        net = Network()
        for name in self.order:
            if name in self.populations:
                population = self.populations[name]
                sources = tuple(synapse.source.layer for synapse in population.current.synapses)
                net.append(name, layer(name, population), sources)
            else:
                module, source = self.others[name]
                net.append(name, module, (source,))
        return net

    def _step(self, node: fx.Node, values: Mapping[fx.Node, Signal | Current]) -> Signal | Current:
        path = path_of(node)
        if isinstance(node.args[0] if node.args else None, fx.Node) and node.args[0] not in values:
            raise TypeError(f"{self.model}: {path} takes values that are not its input's")
        nodes = [a for a in node.args if isinstance(a, fx.Node) and a in values]
        terms = [values[a] for a in nodes]
        for argument, term in zip(nodes, terms, strict=True):
            if isinstance(term, Current):
                if argument in self._taken:
                    raise TypeError(
                        f"{self.model}: {path} takes the output of {term.path}, which is taken already; use it once, "
                        "or what its ReLU or other neuron gives"
                    )
                self._taken.add(argument)
        module = as_module(node, self.traced, self.model)
        if isinstance(module, Add):
            return self._add(node, terms, path)
        if len(terms) != 1:
            raise TypeError(f"{self.model}: {path} takes {len(terms)} tensors; only additions may join two")
        x = terms[0]
        return self._apply(node, x, module, path)

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
        if isinstance(module, WEIGHTED):
            return self._synapse(node, x, module, path)
        if isinstance(module, NORMS):
            return self._norm(x, module, path)
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.Flatten):
            return self._reshape(node, x, module, path)
        raise TypeError(
            f"{self.model}: {path} is a {type(module).__name__}, which has no counterpart in spikes. Supported: "
            "Conv2d, Conv1d, Linear, BatchNorm after them, ReLU, ReLU6, Max-, Avg- and AdaptiveAvgPool2d, Flatten, "
            "Dropout, Identity and additions"
        )

    def _synapse(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Current:
        if isinstance(x, Current):
            raise TypeError(f"{self.model}: {path} follows {x.path} with no ReLU or other neuron between them")
        self._use(module, path)
        shape = node.all_input_nodes[0].meta.get("shape")
        with checks.at(f"{self.model}: {path}"):
            inputs = synapse_of(module).inputs
        if shape and len(shape) != module.weight.ndim:
            raise TypeError(f"{self.model}: {path} takes {list(shape)}; only {inputs} is supported")
        for name, tensor in module.named_parameters():
            with checks.at(f"{self.model}: {path}"):
                checks.floating(name, tensor)
                checks.finite(name, tensor)
        return Current(self._name(node), path, [Synapse(module, x)])

    def _use(self, module: nn.Module, path: str) -> None:
        if id(module) in self._used:
            raise TypeError(f"{self.model}: {path} is called twice; give every call a layer of its own")
        self._used.add(id(module))

    def _norm(self, x: Signal | Current, norm: nn.Module, path: str) -> Current:
        if isinstance(x, Signal) or len(x.synapses) != 1 or x.synapses[0].norm is not None or x.pools:
            raise TypeError(f"{self.model}: {path} must follow a Conv2d or Linear, into which it is folded")
        if norm.running_mean is None:
            raise ValueError(f"{self.model}: {path} keeps no running statistics, so it cannot be folded")
        x.synapses[0].norm = norm
        return x

    def _add(self, node: fx.Node, terms: list[Signal | Current], path: str) -> Current:
        if len(terms) != 2:
            raise TypeError(f"{self.model}: {path} must add two results of layers")
        synapses = []
        for term in terms:
            if isinstance(term, Current):
                if term.pools:
                    raise TypeError(f"{self.model}: {path} adds a pooling of currents; pool after the neurons instead")
                synapses += term.synapses
            elif term.neurons == Network.INPUT:
                raise TypeError(f"{self.model}: {path} adds the model's input; put a convolution on that shortcut")
            else:
                synapses.append(Synapse(nn.Identity(), term))
        # The largest kernel first: the others then join it in one pass (FusedIFSum).
        synapses.sort(key=lambda synapse: -_taps(synapse.module))
        first = next((term for term in terms if isinstance(term, Current)), None)
        return Current(first.name if first else self._name(node), first.path if first else path, synapses)

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: nn.Module | None) -> Signal:
        if isinstance(x, Signal):
            if self.rates and x.neurons == Network.INPUT:
                raise TypeError(
                    f"{self.model}: {path_of(node)} is a ReLU of the model's input, which no weights can scale; put a "
                    "convolution before it, or apply it to the data"
                )
            if self.rates:
                return x  # a ReLU of what is not negative
            x = Current(self._name(node), path_of(node), [Synapse(nn.Identity(), x)])
        self.order.append(x.name)
        self.populations[x.name] = Population(x, node, neuron)
        signal = Signal(x.name, x.name, binary=True)
        for name, pool, path in x.pools:
            signal = self._other(name, pool, signal, path)
        return signal

    def _reshape(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        if isinstance(x, Signal):
            return self._other(self._name(node), module, x, path)
        if not self.rates or not isinstance(module, nn.MaxPool2d):
            raise TypeError(
                f"{self.model}: {path} follows {x.path} with no neuron between them; put it after the neuron"
            )
        return Current(x.name, x.path, x.synapses, [*x.pools, (self._name(node), module, path)])

    def _other(self, name: str, module: nn.Module, x: Signal, path: str) -> Signal:
        if isinstance(module, nn.MaxPool2d) and self.rates and not x.binary and x.layer != Network.INPUT:
            raise TypeError(f"{self.model}: {path} takes averages; only spikes and the input may be max-pooled")
        self.order.append(name)
        self.others[name] = shaping_layer(module, self.rates and x.binary, f"{self.model}: {path}"), x.layer
        averages = isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d)
        return Signal(name, x.neurons, x.binary and not averages)

    def _end(self, node: fx.Node, values: Mapping[fx.Node, Signal | Current]) -> None:
        (result,) = node.args
        if not isinstance(result, fx.Node) or result not in values:
            raise TypeError(f"{self.model} must return one tensor, its forward returns {result}")
        x = values[result]
        if isinstance(x, Current):
            if not self.rates:
                raise TypeError(f"{self.model} must end in neurons, it ends in {x.path}")
            self._fire(result, x, None)
        if not self.populations:
            raise TypeError(f"{self.model} must have at least one Conv2d or Linear layer")

    def _name(self, node: fx.Node) -> str:
        """A module's path with underscores for dots, or a function's name; with a number if that is taken."""
        name = str(node.target) if node.op == "call_module" else node.name
        return free_name(name, self.order)


def fold_norms(population: Population, root: nn.Module) -> None:
    """Fold batch normalisations into the synapses before them, in place; each becomes an nn.Identity in ``root``."""
    for synapse in population.current.synapses:
        norm, module = synapse.norm, synapse.module
        if norm is None:
            continue
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight.detach())
        shift = 0.0 if norm.bias is None else norm.bias.detach()
        bias = torch.zeros_like(norm.running_mean) if module.bias is None else module.bias.detach()
        module.weight.data.mul_(scale.view(-1, *[1] * (module.weight.ndim - 1)))
        module.bias = nn.Parameter((bias - norm.running_mean) * scale + shift, module.weight.requires_grad)
        path = next(name for name, child in root.named_modules() if child is norm)
        root.set_submodule(path, nn.Identity().train(norm.training))
        synapse.norm = None


def tied(graph: Graph) -> Iterator[str]:
    """The paths of layers with a parameter that an earlier layer has, too; in order."""
    seen: set[int] = set()
    for population in graph.populations.values():
        for module in population.modules:
            ids = {id(parameter) for parameter in module.parameters()}
            if ids & seen:
                yield population.current.path
            seen |= ids


def untie(graph: Graph) -> None:
    """Give every layer weights of its own, as each is scaled in its own way."""
    seen: set[int] = set()
    for population in graph.populations.values():
        for module in population.modules:
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in seen:
                    setattr(module, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
                seen.add(id(parameter))


def _taps(module: nn.Module) -> int:
    """Weights from one input channel to one output channel; 0 for an identity."""
    weight = getattr(module, "weight", None)
    return 0 if weight is None else weight[0, 0].numel()
