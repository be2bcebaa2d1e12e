"""From a torch model to the layers of this package: torch.fx follows the forward pass, one layer for each neuron.

What flows through a model is either a *signal*, the output of neurons or of another layer (or the model's input), or a
*current*, a sum of projections that nothing has taken in yet. Convolutions make a current of a signal, additions join
currents, and neurons make a signal of a current. A current that something else takes in, another convolution for
example, or that is taken twice, is carried on as real values: a layer gives it, whose neurons forget all at each step.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ... import checks
from ...layers.synapses import WEIGHTED, synapse_of
from ...network import Network
from .functions import Add, Cat, Times
from .fx_calls import arguments, as_module, is_cast, needed, path_of
from .graph_layers import AVERAGES, GraphLayers, shape_of
from .graph_values import Current, Projection, Signal
from .index_ops import named
from .refusals import remedy
from .rewrites import Spread, affine_by, as_convolution, norm_as_convolution, taps

NEGLIGIBLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
SAMPLE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d)  # by running statistics where they are told to keep them
MAXIMA = (nn.MaxPool2d, nn.MaxPool1d)
SHAPING = (*MAXIMA, *AVERAGES, nn.Flatten, nn.Upsample, nn.ZeroPad2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)

Values = dict[fx.Node, Signal | Current | list[Signal]]  # a list: the parts of a split


class Graph(GraphLayers):
    """What ReLU networks and networks of other libraries share: which layers a forward pass asks for.

    Attributes:
        like: a parameter of the model, of whose type and on whose device all weights are.
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
        """``negligible``: modules of another library that change nothing. ``signed``: as the attribute."""
        super().__init__()
        self.signed = signed
        self.traced, self.model, self.is_neuron = traced, model, is_neuron
        self.negligible = (*NEGLIGIBLE, *negligible)
        weights = (value for value in (*traced.parameters(), *traced.buffers()) if value.is_floating_point())
        self.like = next(weights, torch.zeros(()))
        self._used: set[int] = set()  # modules that have weights or potentials
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
        """Whether a node computes numbers, from shapes, and no values of the input."""
        raise NotImplementedError

    def _cast(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        """The same values: a type or device other than the model's own cannot be kept."""
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
        """The first of the nodes whose values a node takes."""
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
        """What to do about a module or function of this name; "" if nothing is known."""
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
        """A transposed convolution: zeros between the values and around them, and a convolution."""
        shape = node.meta.get("shape")
        convolution, spread = as_convolution(module), Spread.of(module, x.shape and x.shape[2:], shape and shape[2:])
        x = self._spread(self._free(f"{node.name}_input"), x, spread)
        return Current(self._name(node), path, [Projection(convolution, x, added=True)])

    def _spread(self, name: str, x: Signal, spread: Spread) -> Signal:
        if len(spread.stride) == 1:
            raise ValueError("transposed convolutions along one axis are not supported")
        return self._other(name, spread.layer(), x, x.shape)

    def _own(self, module: nn.Module, path: str) -> nn.Module:
        """A module for this call alone, since each call is scaled in its own way."""
        if id(module) not in self._used:
            self._used.add(id(module))
            return module
        return copy.deepcopy(module)

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
        convolution = norm_as_convolution(norm, dims)
        projection = Projection(convolution, x, added=True, affine=affine_by(convolution))
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
        projections.sort(key=lambda projection: -taps(projection.module))
        first = next((term for term in terms if isinstance(term, Current)), None)
        return Current(first.name if first else self._name(node), first.path if first else path, projections)

    def _cat(self, node: fx.Node, cat: Cat, terms: list[Signal | Current], path: str) -> Signal:
        """Signals side by side. Spikes of several populations must count the same; beside real values they become
        some themselves."""
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
        """How many axes the model gives a node's values, where that is known."""
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
