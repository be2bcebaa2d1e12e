"""The layers of a spiking network of another library, before any layer is built."""

from dataclasses import replace
from math import isfinite
from typing import Any

from torch import Tensor, fx, nn

from ... import checks
from ...layers import Delay, Dropout, Flatten, Formula, StepAffine, StepAttention, StepMixture, Voting
from ...network import Network
from ...neurons import LIFNeuron
from ..graph.functions import Add, Scaled, Times
from ..graph.fx_calls import arguments, path_of, remedy_of_imports
from ..graph.fx_graph import Values, shape_of
from ..graph.graph_values import Current, Projection, Signal
from ..graph.rewrites import scaled_identity, taps
from ..graph.sample_runs import called, of_sizes
from .all_steps import step_attention
from .expression_graph import OVER_TIME
from .feedback import BEFORE, FeedbackGraph, with_factor
from .library_neurons import Find
from .neurons_of_steps import mixture
from .spikingjelly_neurons import factor_of_spikes, is_delay, synapse_filter, valued_neurons
from .time_loops import ONE_STEP, largest_over_time, last_spikes, over_time
from .unequal_steps import norms_of_steps, step_before

LINEAR = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
SCALABLE = (nn.MaxPool1d, nn.MaxPool2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Flatten, *LINEAR)  # by factors > 0
REPEATED = ("unsqueeze", "repeat", "expand")
SHAPES = "Max-, Avg- and AdaptiveAvgPool, Flatten, Upsample, ZeroPad2d, Dropout, Identity, additions, concatenations"


class Gate(nn.Module):
    """Neurons without memory that fire where their inputs add up to ``threshold``: a product of spikes."""

    def __init__(self, threshold: float):
        super().__init__()
        self.neuron = LIFNeuron(v_threshold=threshold, v_reset=0.0, decay=0.0)


class Plus(nn.Module):
    """x + factor y."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.factor * y


class PortGraph(FeedbackGraph):
    """Pooling is the OR of spikes; real values that the model returns are the network's output."""

    rates = False

    def __init__(
        self, *arguments, steps_first: bool = False, neurons: str = "", norms=(), recurrence: Find = lambda _: None,
        **options,
    ):  # fmt: skip
        """
        Args:
            steps_first: whether the model is called with all steps [T, N, ...], not with one.
            neurons: names of the neurons that are supported, for messages.
            norms: the library's own batch normalisations.
            recurrence: finds the recurrent connection of a module.
        """
        self.norms = (*self.norms, *norms)
        self.recurrence = recurrence
        self.supported = f"Conv2d, Conv1d, ConvTranspose2d, Linear, BatchNorm, {SHAPES}, {neurons}"
        self.dropped: list[str] = []  # dropouts that are left out, with the reason, for a warning
        self.steps_first = steps_first
        self.axes = 2 if steps_first else 1  # in front of the channels
        self.reduced: dict[fx.Node, str] = {}  # nodes behind a "mean" or "sum" over all steps, and behind which of them
        self.adds_up = False  # whether the output is that of a last layer with a bias, behind the sum over time
        self.mixed: dict[str, tuple[str, Tensor]] = {}  # of layers behind a StepMixture: its source and weight
        self.valued: dict[str, tuple[str, str]] = {}  # neurons that hand on values: their module and what they take
        self.repeats_input = False  # whether the model repeats its input for all steps
        super().__init__(*arguments, **options)

    def _is_number(self, node: fx.Node) -> bool:
        return of_sizes(node)

    def _rank(self, node: fx.Node) -> int | None:
        ranks = (argument.meta.get("rank") for argument in arguments(node))
        return next((rank for rank in ranks if rank is not None), None)

    def _layer_step(self, node: fx.Node, values: Values) -> Signal | Current | list[Signal]:
        if node.target is last_spikes:
            return Signal(f"{BEFORE}{node.args[0]}", Network.INPUT, False, True)
        if node.target is step_before:
            given: Any = self._one(node.all_input_nodes[0], values)
            return self._other(self._free("step_before"), Delay(1), given, None)
        kinds = {self.reduced.get(argument) for argument in arguments(node) if argument in values}
        if len(kinds) > 1:
            raise TypeError(f"{self.model}: {path_of(node)} takes what is of one step and what is over time")
        kind = next(iter(kinds), None)
        self.axes = 2 if self.steps_first and kind is None else 1
        if kind is not None:
            self.reduced[node] = kind
        if node.target is over_time:
            self.reduced[node] = str(node.args[1])
            return values[arguments(node)[0]]
        if self._is_largest(node):
            self.reduced[node] = "max"
            return values[node.all_input_nodes[0]]
        if name := called(node):
            source = values.get(node.all_input_nodes[0]) if node.all_input_nodes else None
            if isinstance(source, Signal | Current):
                if name in ("truediv", "div") and kind == "sum" and isinstance(node.args[1], fx.Node):
                    self.reduced[node] = "mean"  # by the number of steps
                    return source
                if self.axes == 2 and self._is_over_time(node, name, source):
                    return source
                if name in ("view", "reshape", "flatten"):
                    return self._flattened(node, name, source)
        elif self.axes == 2 and node.op == "call_module":
            module = self.traced.get_submodule(str(node.target))
            if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (2, -1):  # torch's, on all steps
                x = self._taken(node.all_input_nodes[0], values, module, path_of(node))
                return self._reshape(node, x, nn.Flatten(), path_of(node))
        return super()._layer_step(node, values)

    def _is_largest(self, node: fx.Node) -> bool:
        """Whether a node is the maximum over all steps, amax(0) or max(0)[0], or max(0), whose values are taken."""
        if largest_over_time(node) is not None:
            return self.axes == 2 or called(node) != "amax"
        is_values = [largest_over_time(user) is not None for user in node.users]
        return self.axes == 2 and called(node) == "max" and bool(is_values) and all(is_values)

    def _fire(self, node: fx.Node, x: Signal | Current, neuron: Any) -> Signal:
        """Readouts return potentials: those of all steps, or one value for all steps as their ``decode`` says."""
        valued = valued_neurons(neuron)
        if valued is not None:
            before = self._carry(self._before(node), x)
            signal = self._other(self._name(node), valued, before, None, False)
            self.valued[signal.layer] = str(node.target), before.layer
            if x.given is not None:
                self.viewed.add(signal.layer)
            return replace(signal, neurons=Network.INPUT, signed=True, given=x.given)
        own = self._coming_back(node, x, neuron)
        mixing = mixture(neuron)
        if mixing is not None:
            x = before = self._carry(self._before(node), x)
            x = self._other(self._free(f"{node.target}_steps"), StepMixture(mixing), before, None, False)
            x = replace(x, neurons=Network.INPUT, signed=True)
        signal = super()._fire(node, x, neuron)
        if mixing is not None:
            self.mixed[signal.layer] = before.layer, mixing.detach()
        if own is not None:
            self.populations[signal.layer].recurrence = own
        signal = replace(signal, factor=factor_of_spikes(neuron))
        if not hasattr(neuron, "decode"):
            return signal
        if neuron.decode is not None and any(user.op != "output" for user in node.users):
            raise TypeError(
                f"{self.model}: {path_of(node)} gives one value for all steps; with decode={neuron.decode!r} it must "
                "be the last"
            )
        return replace(signal, neurons=Network.INPUT, binary=False, signed=True)

    def _is_over_time(self, node: fx.Node, name: str, x: Signal | Current) -> bool:
        """Whether a node repeats the input for all steps, or reduces them at the end: both are left to the caller."""
        axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if name in REPEATED and isinstance(x, Signal) and x.layer == Network.INPUT:
            self.repeats_input |= name != "unsqueeze"
            return bool(name != "unsqueeze" or axis == 0)
        if name == "stack":  # of the list of potentials that a readout gives
            return isinstance(node.args[0], fx.Node) and axis in (0, None)
        is_last = name == "getitem" and axis == -1
        if name in OVER_TIME and axis in (0, [0], (0,)):
            self.reduced[node] = name
            return True
        return is_last and all(user.op == "output" for user in node.users)

    def _flattened(self, node: fx.Node, name: str, x: Signal | Current) -> Signal | Current:
        """[N, C, H, W] as [N, features], or the same with steps in front; the shapes are not known."""
        sizes: list[Any] = list(node.args[1:])
        if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
            sizes = list(sizes[0])
        if name == "flatten":
            start, end = sizes + [node.kwargs.get("start_dim", 0), node.kwargs.get("end_dim", -1)][len(sizes) :]
            fits = start == self.axes and end in (-1, self.axes + 2)
        else:
            fits = len(sizes) == self.axes + 1
        if not fits:
            steps = "[T, N, C, H, W] to [T, N, " if self.axes == 2 else "[N, C, H, W] to [N, "
            raise TypeError(
                f"{self.model}: {name}() must flatten {steps}C * H * W]; use flatten({self.axes}) or the library's "
                "Flatten"
            )
        return self._reshape(node, x, nn.Flatten(), f"{name}()")

    def _remedy(self, name: str) -> str:
        return remedy_of_imports(name)

    def _use(self, module: nn.Module, path: str) -> None:
        try:
            super()._use(module, path)
        except TypeError as error:
            raise TypeError(f"{error}; if this is a loop over time, {ONE_STEP}") from error

    def _value(self, node: fx.Node, module: nn.Module, terms: list[Signal | Current], path: str) -> Signal | Current:
        if isinstance(module, Times) and len(terms) == 2 and node not in self.reduced:
            return self._product(node, terms, path)
        if isinstance(module, Add) and len(terms) == 1:
            raise TypeError(
                f"{self.model}: {path} adds a tensor that is no layer's, such as a position embedding or an offset; "
                "make it the bias of the layer in front of it, or continue training without it"
            )
        return super()._value(node, module, terms, path)

    def _apply(self, node: fx.Node, x: Signal | Current, module: nn.Module, path: str) -> Signal | Current:
        self._check_back(node, x, module, path)
        if node in self.reduced:
            self._check_linear(node, self.reduced[node], module, path)
        if isinstance(module, Scaled):
            return self._scaled(node, x, module, path)
        if is_delay(module):
            delay: Any = module
            x = self._carry(self._before(node), x)
            return self._other(self._name(node), Delay(delay.delay_steps), x, shape_of(node))
        norms = norms_of_steps(module)
        if norms is not None:
            x = self._carry(self._before(node), x)
            with checks.at(f"{self.model}: {path}"):
                module = norms.as_layer(self._channels(x.layer, path)[1] - 2)
        module = step_attention(module) or module
        if type(module) is nn.ReLU:
            module = Formula(module)
        if isinstance(module, StepAffine | StepAttention | Formula):
            x = self._carry(self._before(node), x)
            return replace(self._other(self._name(node), module, x, None, False), neurons=Network.INPUT, signed=True)
        trace = synapse_filter(module)
        if trace is not None:
            if not (isinstance(x, Signal) and x.binary):
                raise TypeError(
                    f"{self.model}: {path} takes real values, or its input; only the spikes of neurons are supported: "
                    "put neurons in front of it"
                )
            return replace(self._other(self._name(node), trace, x, None, False), neurons=Network.INPUT)
        if type(module).__name__ == "VotingLayer":
            voting: Any = module
            x = self._carry(node.all_input_nodes[0], x)
            return self._other(self._name(node), Voting(voting.voting_size), x, None, keeps_spikes=False)
        if hasattr(module, "p") and isinstance(module, self.negligible):
            return self._dropout(node, x, module, path)
        with checks.at(f"{self.model}: {path}"):
            found = self.recurrence(module)
        if found is not None:
            return self._recurrent(node, x, found, path)
        return super()._apply(node, x, module, path)

    def _check_linear(self, node: fx.Node, kind: str, module: nn.Module, path: str) -> None:
        """A module behind the mean over time is computed in front of it, at each step.

        A last layer behind the sum may have a bias, which is added once: it is the initial potential of a readout.
        """
        norm = isinstance(module, self.norms)
        if kind == "max":
            raise TypeError(
                f"{self.model}: {path} stands behind the maximum over time, which is left to the caller, "
                "result.potentials.amax(0): end the network there, and call what comes behind it on that"
            )
        if not (norm or isinstance(module, (*LINEAR, nn.Flatten, nn.Sequential, Scaled, *self.negligible))):
            raise TypeError(
                f"{self.model}: {path} stands behind the {kind} over time, where only linear layers and averages are "
                "supported: put it in front"
            )
        if kind == "sum" and (norm or getattr(module, "bias", None) is not None):
            if norm or any(user.op != "output" for user in node.users):
                raise TypeError(
                    f"{self.model}: {path} adds its bias once behind the sum over time, and would at each step here: "
                    "let it be the last layer, take the mean(0), or leave the bias out"
                )
            self.adds_up = True

    def _scaled(self, node: fx.Node, x: Signal | Current, scaled: Scaled, path: str) -> Signal | Current:
        """A product with a number, which goes into the weights that take the spikes or give the current."""
        factor, shift = (
            value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
            for value in (scaled.factor, scaled.shift)
        )
        if isinstance(x, Signal) and x.binary and (factor, shift) == (-1, 1) and x.factor == 1:
            return replace(x, inverted=not x.inverted)
        if isinstance(factor, Tensor) or isinstance(shift, Tensor) or shift != 0 or not isfinite(factor):
            raise TypeError(
                f"{self.model}: {path} computes with {'tensors' if isinstance(factor, Tensor) else 'a number'}; only "
                "products with numbers are supported: scale the weights, or normalise the input before the network"
            )
        if factor == 1 or self._counts_steps(node, factor):
            return x  # sum(steps) begins with 0
        if isinstance(x, Signal):
            return replace(x, factor=x.factor * factor)
        projections = [replace(p, gain=p.gain * factor) for p in self._weighted_terms(x, path)]
        return replace(x, projections=projections)

    def _counts_steps(self, node: fx.Node, factor: float) -> bool:
        """Whether a node at the end divides the sum over time by the steps; that is left to the caller."""
        by_whole = factor > 0 and abs(1 / factor - round(1 / factor)) < 1e-6 / factor
        return self.reduced.get(node) == "sum" and by_whole and all(user.op == "output" for user in node.users)

    def _weighted_terms(self, x: Current, path: str) -> list[Projection]:
        """The terms of a current, all with weights."""
        terms = []
        for term in x.projections:
            if isinstance(term.module, nn.Identity):
                term = self._times(term.source, path)
            terms.append(term)
        return sorted(terms, key=lambda term: -taps(term.module))

    def _times(self, x: Signal, path: str) -> Projection:
        """Weights that multiply a signal by its factor."""
        module = scaled_identity(*self._channels(x.layer, path), self.like)
        module.weight.data.mul_(x.factor)
        return Projection(module, replace(x, factor=1.0), added=True)

    def _other(self, name: str, layer: nn.Module, x: Signal, shape, keeps_spikes: bool = True) -> Signal:
        return replace(super()._other(name, layer, x, shape, keeps_spikes), factor=x.factor)

    def _synapse(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        current = super()._synapse(node, x, module, path)
        assert isinstance(current, Current)
        return replace(current, projections=[with_factor(term) for term in current.projections])

    def _norm(self, node: fx.Node, x: Signal | Current, norm: Any, path: str) -> Current:
        if isinstance(x, Current) and any(term.gain != 1 for term in x.projections):
            x = self._carry(self._before(node), x)
        current = super()._norm(node, x, norm, path)
        current.projections[:] = map(with_factor, current.projections)
        return current

    def _dropout(self, node: fx.Node, x: Signal | Current, module: Any, path: str) -> Signal | Current:
        """A Dropout of spikes is kept; other dropouts are left out, with a warning."""
        kind = type(module).__name__
        if kind == "Dropout" and isinstance(x, Signal) and 0 < module.p < 1:
            return self._other(self._name(node), Dropout(module.p), x, shape_of(node))
        if module.p > 0:
            what = "currents: put it behind neurons" if isinstance(x, Current) else f"spikes by {kind}: use Dropout"
            self.dropped.append(f"{path} drops {what}")
        return x

    def _taken(self, argument: fx.Node, values: Values, module: nn.Module, path: str) -> Signal | Current:
        x = super()._taken(argument, values, module, path)
        if isinstance(x, Signal) and x.inverted and not isinstance(module, Times | Scaled):
            raise TypeError(f"{self.model}: {path} takes 1 - spikes; only products x * (1 - y) of spikes are supported")
        if isinstance(x, Signal) and x.factor != 1 and not self._takes_factors(module, x.factor):
            return Current(self._free(f"{argument.name}_scaled"), path, [self._times(x, path)])
        return x

    def _takes_factors(self, module: nn.Module, factor: float) -> bool:
        """Whether multiplying a module's result is the same as multiplying its input."""
        voting = type(module).__name__ == "VotingLayer" or is_delay(module)
        dropout = isinstance(module, self.negligible) and not isinstance(module, nn.Identity)
        scales = factor > 0 and (voting or dropout or isinstance(module, SCALABLE))
        return scales or isinstance(module, (*LINEAR, *self.norms, Scaled))

    def _product(self, node: fx.Node, terms: list[Signal | Current], path: str) -> Signal:
        """x y, and x (1 - y), of spikes: neurons that fire where x + y reaches 2, or x - y reaches 1."""
        plain = [x for x in terms if isinstance(x, Signal) and x.binary and not x.inverted]
        inverted = [x for x in terms if isinstance(x, Signal) and x.binary and x.inverted]
        if not plain or len(plain) + len(inverted) < 2:
            raise TypeError(
                f"{self.model}: {path} multiplies real values; only products x * y and x * (1 - y) of spikes "
                "are supported"
            )
        projections = [Projection(nn.Identity(), x) for x in plain]
        for x in inverted:
            module: Any = scaled_identity(*self._channels(x.layer, path), self.like)
            module.requires_grad_(False).weight.neg_()
            negated = Projection(module, replace(x, inverted=False), added=True)
            projections.insert(0, negated)  # one with weights comes first
        return self._fire(node, Current(self._name(node), path, projections), Gate(float(len(plain))))

    def _add(self, node: fx.Node, add: Add, terms: list[Signal | Current], path: str) -> Any:
        """A difference is computed by torch, of the values of both layers; a sum of currents is their neurons'."""
        if add.factor == 1 or len(terms) != 2:
            return super()._add(node, add, terms, path)
        x = [self._carry(argument, term) for argument, term in zip(arguments(node), terms, strict=True)]
        name = self._name(node)
        self.order.append(name)
        self.others[name] = Formula(Plus(add.factor)), tuple(part.layer for part in x)
        return Signal(name, Network.INPUT, False, True)

    def _channels(self, layer: str, path: str) -> tuple[int, int]:
        """The number of channels and of axes of what a layer gives, [N, C, ...]."""
        if layer in self.populations:
            first = self.populations[layer].current.projections[0]
            if isinstance(first.module, nn.Identity):
                return self._channels(first.source.layer, path)
            return first.module.weight.shape[0], first.module.weight.ndim
        module, sources = self.others.get(layer, (None, ()))
        if module is None:
            raise TypeError(f"{self.model}: {path} takes neurons without weights in front of them; give them a layer's")
        (C, axes), *more = (self._channels(source, path) for source in sources)
        if isinstance(module, Flatten) and axes > 2:
            raise TypeError(
                f"{self.model}: {path} takes a flattened image times a number; multiply in front of the Flatten"
            )
        C += sum(channels for channels, _ in more)  # of a concatenation
        return C // module.voters if isinstance(module, Voting) else C, axes

    def _last(self, result: fx.Node, x: Signal | Current) -> None:
        if not self.populations or not self.firing:
            raise TypeError(f"{self.model} must have neurons, it has none")
        if isinstance(x, Signal) and not x.binary and x.layer not in self.populations:
            name = self._free("output")
            x = Current(name, "its output", [Projection(nn.Identity(), x)])
        elif isinstance(x, Signal) and x.binary and x.factor != 1:
            x = Current(self._free("output"), "its output", [self._times(x, "its output")])
        if isinstance(x, Current):
            self._carry(result, x)
