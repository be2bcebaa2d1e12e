"""Training by backpropagation through time in bounded memory: a network in parts of a few samples and steps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import checks, surrogates
from ..kernels import weight_cache
from ..kernels.heap import keep_freed
from ..layers import Dropout, Neurons, RecurrentGraph, SpikingLayer
from ..layers.base import chunked_pass
from ..layers.parametrized import shallow_copy, with_plain_weights
from ..running.inputs import is_sequence
from ..running.prepared_network import look, replace_neurons
from ..running.simulate import samples
from ..running.stateful_layer import Counters, HeldDropout, Masks, StatefulLayer, check_calls, check_layers
from ..spikes import Spikes, pack_if_binary
from ..surrogates import ATan, Surrogate
from .proxy import READOUTS, silenced
from .twin import PASSES, Watch

# Bytes of the largest layer's currents in a part: large enough to make the cost of a call small, and on a CPU small
# enough for a block of the heap (kernels/heap.py).
PART_BYTES = {"cpu": 28 << 20, "cuda": 1 << 30}
MOST_STEPS = 64  # per part: a segment of the kernels
State = dict[str, list[Tensor]]  # layer's name -> states, one for each of its calls in a step
Net = TypeVar("Net", bound=nn.Module)


class PartTally:
    """Spikes of one layer, its neurons times steps, and the bytes that a backward pass keeps for it."""

    def __init__(self, counters: Counters | None, layer: SpikingLayer):
        """``counters``: shared by all layers, they count on a GPU; None: spikes are not counted."""
        self.counters, self.spikes = counters, list[Tensor]()
        self.fires = not isinstance(layer, Neurons) or layer.neuron.fires
        self.of_integers = isinstance(layer, Neurons) and layer.neuron.counts
        self.neurons = 0
        self.kept_bytes = 0.0

    @property
    def rate(self) -> float:
        """Spikes per neuron and step."""
        counted = 0 if self.counters is None else self.counters.total(self)
        return (sum(map(int, self.spikes)) + counted) / max(1, self.neurons)

    def add(self, x: Any, y: Spikes | Tensor, *, first: bool) -> None:
        """Count a chunk of the layer's input (a tuple if there are several) and of its output."""
        if isinstance(y, Spikes) and self.counters is not None:
            if self.counters.take(y):
                self.counters.add(y, self)
            else:
                self.spikes.append(y._total())
        elif self.of_integers and self.counters is not None and isinstance(y, Tensor):
            self.spikes.append(y.detach().sum(dtype=torch.float64))
        self.neurons += math.prod(y.shape)
        # Counts input and output, since a pooling layer keeps its input for the backward pass.
        self.kept_bytes += sum(_bytes(part) for part in (*(x if isinstance(x, tuple) else (x,)), y))


def rates_of(tallies: Mapping[str, PartTally]) -> dict[str, float]:
    """The firing rates of the layers that fire."""
    return {name: tally.rate for name, tally in tallies.items() if tally.fires}


def _bytes(x: Spikes | Tensor) -> float:
    """Bytes kept of an input: one bit per spike, four bytes per real value, and next to nothing if it is constant."""
    return math.prod(x.shape) * (1 / 8 if isinstance(x, Spikes) else 0 if checks.is_constant(x) else 4)


class SurrogateNet(nn.Module):
    """Training by backpropagation through time, with a surrogate derivative for the spikes and bounded memory.

    The gradient goes through all T steps. Samples and steps are processed in parts. For the backward pass only the
    packed spikes and the states between parts are kept. What does not fit into ``memory`` is simulated again in the
    backward pass, a few samples at a time.

    Args:
        net: an nn.Sequential or any nn.Module of this package's layers; the last one has neurons. It is not changed.
        T: number of steps.
        surrogate: surrogate derivative of all layers; None: the one that each layer has (:func:`use_surrogate`).
        readout: the output. "count": spikes in T steps. "rate": count / T. "potential": the potential after T steps of
            a last layer that never fires.
        memory: approximate limit of the packed spikes and states that are kept, in bytes; default 128 MB.

    Shapes: ``model(x)``: the readout, float32 [N, classes], differentiable with respect to all parameters; x
    [N, C, H, W] or [N, features], constant for T steps, or a sequence of T steps [T, N, C, H, W] or [T, N, features], a
    tensor or Spikes. ``model(x, state)`` continues from ``state`` ({}: at rest) and returns (readout, state). The
    gradient does not enter the previous call: truncated backpropagation.

    In training, batch normalisation uses the statistics of all samples and steps of the call, which is then one
    part. On a CPU with glibc the process keeps up to 512 MB of freed memory for later parts.

    In training, one warning names a layer that gave no spike in many calls in a row.

    Attributes:
        rates: layer name -> firing rate of the last call.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; the message names it.
    """

    trains_its_net: ClassVar[bool] = True  # so that simulate and compile refuse it by what to pass

    def __init__(
        self,
        net: nn.Module,
        T: int,
        *,
        surrogate: Surrogate | None = ATan(),  # noqa: B008 - a constant
        readout: str = "count",
        memory: int = 128 << 20,
    ):
        super().__init__()
        checks.module("net", net)
        surrogates.check(surrogate)
        if readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, got {readout!r}")
        if not isinstance(memory, int) or memory < 0:
            raise ValueError(f"memory must be a number of bytes, at least 0, got {memory!r}")
        _refuse_graphs(net)
        names = [name for name, layer in _neurons(net)]
        checks.neurons("net", names)
        self.net, self.T, self.surrogate = net, checks.steps(T), surrogate
        self.readout, self.memory = readout, memory
        self._last = names[-1]
        self._watch, self._unseen = Watch(), list[dict[str, PartTally]]()  # passes not yet watched
        self._tallies: dict[str, PartTally] = {}  # of the last pass
        self._counters = Counters()  # of the passes not yet watched
        self._known: tuple[Any, _Sizes | None] = None, None  # cached sizes, with their key

    @property
    def rates(self) -> dict[str, float]:
        """Layer name -> firing rate of the last call. Waits for a GPU."""
        return rates_of(self._tallies)

    def forward(self, x: Tensor | Spikes, state: State | None = None) -> Any:
        """The readout [N, classes]; if a ``state`` is given, also the state after T steps, detached."""
        checks.values("x", x)
        if x.device.type == "cpu" and torch.is_grad_enabled():
            keep_freed()
        if not is_sequence(self.net, x, self.T):
            x = x.expand(self.T, *x.shape)
        elif x.device.type == "cuda" and not (isinstance(x, Tensor) and x.requires_grad):
            x = _packed(checks.frames(x))
        plain = _plain(self.net)
        layers = [name or type(m).__name__ for name, m in plain.named_modules() if isinstance(m, SpikingLayer)]
        check_layers(state or {}, layers)
        sizes = self._sizes_of(plain, x)
        outputs: list[Tensor] = []
        states: list[State] = []
        kept = 0.0
        tallies: dict[str, PartTally] = {}
        self._counters.forget_chunk()  # drop what an aborted pass left
        watched = self.training and torch.is_grad_enabled()
        counters = self._counters if watched else Counters()
        with self._looked_at(plain, x, state or {}):
            for index in sizes.groups:
                part = _Part(self, plain, sizes.steps, tallies, counters, _of(state, index))
                group = samples(x, index) if len(index) < x.shape[1] else x
                kept += sizes.kept(len(index))
                if torch.is_grad_enabled() and kept > self.memory and len(sizes.groups) > 1:
                    outputs.append(checkpoint(part, group, use_reentrant=False))
                else:
                    outputs.append(part(group))
                states.append(part.states)
        self._tallies = tallies
        if watched:
            self._unseen.append(tallies)
            if x.device.type == "cpu" or len(self._unseen) == PASSES:  # wait for a GPU only once per PASSES
                for seen in self._unseen:
                    self._watch.look(rates_of(seen), {})
                self._unseen, self._counters = [], Counters()
        output = torch.cat(outputs)
        return output if state is None else (output, _joined(states))

    @contextmanager
    def _looked_at(self, plain: nn.Module, x: Tensor | Spikes, state: State) -> Iterator[None]:
        """Checks all values of a pass on a GPU before the block, with a single wait."""
        if x.device.type == "cpu":
            yield
            return
        values = [*self.net.parameters(), *(v for states in state.values() for v in states)]
        with weight_cache.unchanging(*([x] if isinstance(x, Tensor) else [])):
            with torch.no_grad():
                look(x, dict(_neurons(plain)), values, self.training)
            yield

    def _sizes_of(self, plain: nn.Module, x: Tensor | Spikes) -> "_Sizes":
        """The sizes for such inputs, cached."""
        layers = [(name, type(module)) for name, module in plain.named_modules()]
        shapes = [tuple(parameter.shape) for parameter in plain.parameters()]
        kind = type(x), tuple(x.shape), x.device, isinstance(x, Tensor) and checks.is_constant(x), self.training
        of = kind, layers, shapes, self.T, self.surrogate, PART_BYTES[x.device.type], MOST_STEPS
        if self._known[0] != of or self._known[1] is None:
            self._known = of, _Sizes(self, plain, x)
        return self._known[1]  # type: ignore[return-value]

    def _stateful(self, name: str, layer: Any, states: list[Tensor], tally: PartTally) -> StatefulLayer:
        """The replacement of a layer: it starts from ``states`` and has the model's surrogate derivative."""
        layer = shallow_copy(layer)
        if isinstance(layer, Neurons):
            if self.readout == "potential" and name == self._last:
                layer = silenced(layer)
            if self.surrogate is not None:
                layer.surrogate = self.surrogate
        return StatefulLayer(name, layer, 0, states, self.training, tally)


def _refuse_graphs(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, RecurrentGraph):
            raise TypeError(
                f"net has the layers of a RecurrentGraph, {name or 'itself'}, which SurrogateNet does not run: call "
                "the network itself, net(x), with a surrogate derivative, proxykernels.use_surrogate(net, "
                "proxykernels.ATan())"
            )


class _Part:
    """Runs some samples through all steps. A second call, in the backward pass, computes the same again."""

    def __init__(
        self, model: SurrogateNet, plain: nn.Module, steps: int, tallies: dict[str, PartTally], counters: Counters,
        state: State,
    ):  # fmt: skip
        self.model, self.plain, self.steps, self.tallies = model, plain, steps, tallies
        self.counters: Counters | None = counters
        self.versions = _versions(model.net)
        self.start, self.masks = state, Masks()
        self.states: State = {}

    def __call__(self, x: Tensor | Spikes) -> Tensor:
        if changed := _versions(self.model.net).items() - self.versions.items():
            raise RuntimeError(
                f"{min(changed)[0]} of SurrogateNet's net was modified by an inplace operation after the forward pass, "
                "parts of which the backward pass simulates again; call backward before the optimizer's step"
            )
        stateful_layers: dict[str, StatefulLayer] = {}
        dropouts: list[HeldDropout] = []
        # Nothing is counted when it is computed again.
        tallies, self.tallies = self.tallies, {}
        counters, self.counters = self.counters, None

        def make_stateful(name: str, layer: SpikingLayer) -> StatefulLayer:
            tally = tallies.setdefault(name, PartTally(counters, layer))
            stateful_layers[name] = self.model._stateful(name, layer, self.start.get(name, []), tally)
            return stateful_layers[name]

        def hold(name: str, layer: Dropout) -> HeldDropout:
            dropouts.append(HeldDropout(name, layer, self.masks))
            return dropouts[-1]

        network = replace_neurons(self.plain, make_stateful, hold)
        count: Any = 0
        for first in range(0, self.model.T, self.steps):
            for stateful in stateful_layers.values():
                stateful.start_chunk(first)
            for dropout in dropouts:
                dropout.start_chunk()
            with chunked_pass(self.model.net):
                y = network(checks.frames(x[first : first + self.steps]))
            if counters is not None:
                counters.end_chunk()
            for name, stateful in stateful_layers.items():
                if not first:
                    check_calls(name, len(self.start.get(name, [])), stateful.calls)
            last: Any = stateful_layers[self.model._last]
            counts = last.firing.layer.neuron.counts
            if not (isinstance(y, Spikes) or counts) and self.model.readout != "potential":
                raise TypeError(
                    f"net must end in a layer of neurons that fire, and gave {type(y).__name__}; readout='potential' "
                    "takes the potentials of its last layer"
                )
            if self.model.readout != "potential":
                count = count + (y.sum(0) if counts else y.count())
        self.states = {name: [v.detach() for v in stateful.states.now] for name, stateful in stateful_layers.items()}
        if self.model.readout == "potential":
            last = stateful_layers[self.model._last]
            v = last.states.now[0]
            return v if last.firing.layer.states == 1 else v[:, 0]
        return count.float() / (self.model.T if self.model.readout == "rate" else 1)


class _Sizes:
    """The samples and steps of each part, and the memory that it keeps; measured on two steps of one sample.

    Attributes:
        steps: per part. groups: the samples, int64 [n], of each part.
    """

    def __init__(self, model: SurrogateNet, plain: nn.Module, x: Tensor | Spikes):
        N, every = x.shape[1], torch.arange(x.shape[1], device=x.device)
        self.T, self.steps = model.T, model.T
        self.groups: Sequence[Tensor] = (every,)
        self.step_bytes = self.state_bytes = 0.0
        statistics = any(getattr(layer, "bn", None) is not None for _, layer in _neurons(plain))
        if N < 1 or (model.training and statistics):
            return
        with torch.no_grad():
            probed = x[:2]  # two steps, since a single one counts as constant
            stateful_layers = self._probe(model, plain, samples(probed, every[:1]))
        largest = max(stateful.tally.neurons for stateful in stateful_layers) // len(probed)
        self.step_bytes = sum(stateful.tally.kept_bytes for stateful in stateful_layers) / len(probed)
        self.state_bytes = 4 * sum(v.numel() for stateful in stateful_layers for v in stateful.states.now)
        frames = max(1, PART_BYTES[x.device.type] // (4 * largest))
        self.steps = min(model.T, MOST_STEPS, frames)
        if x.device.type != "cpu":
            self.steps = min(model.T, -(-self.steps // 32) * 32)  # whole words, except in the last part
        size = max(1, frames // self.steps)
        self.groups = every.tensor_split(-(-N // size))

    @staticmethod
    def _probe(model: SurrogateNet, plain: nn.Module, x: Tensor | Spikes) -> list[StatefulLayer]:
        stateful_layers: list[StatefulLayer] = []

        def make_stateful(name: str, layer: SpikingLayer) -> StatefulLayer:
            stateful_layers.append(model._stateful(name, layer, [], PartTally(None, layer)))
            return stateful_layers[-1]

        network = replace_neurons(plain, make_stateful, lambda name, layer: HeldDropout(name, layer, None))
        with chunked_pass(model.net):
            network(checks.frames(x))
        return stateful_layers

    def kept(self, n: int) -> float:
        """Bytes that the backward pass of n samples needs."""
        return n * (self.T * self.step_bytes + -(-self.T // self.steps) * self.state_bytes)


def _versions(net: nn.Module) -> dict[str, int]:
    """The version of each parameter, which counts writes."""
    return {name: 0 if p.is_inference() else p._version for name, p in net.named_parameters()}


def _neurons(net: nn.Module) -> Iterator[tuple[str, Neurons]]:
    found: list[tuple[str, Neurons]] = []

    def collect(name: str, layer: SpikingLayer) -> SpikingLayer:
        found.extend([(name, layer)] if isinstance(layer, Neurons) else [])
        return layer

    replace_neurons(net, collect)
    yield from found


def _plain(net: nn.Module) -> nn.Module:
    """The network with parametrized weights computed once for all parts."""
    return replace_neurons(net, lambda name, layer: with_plain_weights(layer))


def _packed(x: Tensor | Spikes) -> Tensor | Spikes:
    """Packs a tensor of 0 and 1, so that convolutions take spikes; returns other inputs as they are."""
    spikes = x if isinstance(x, Spikes) else pack_if_binary(x)
    return x if spikes is None else spikes


def _of(state: State | None, index: Tensor) -> State:
    return {name: [v[index] for v in states] for name, states in (state or {}).items()}


def _joined(states: list[State]) -> State:
    """Concatenates the states of groups of samples."""
    return {
        name: [torch.cat(parts) for parts in zip(*(state[name] for state in states), strict=True)] for name in states[0]
    }


def use_surrogate(net: Net, surrogate: Surrogate | None) -> Net:
    """Make all layers with neurons differentiable, by a surrogate derivative for their spikes.

    The output of such a layer, :class:`Spikes` or a tensor, carries a gradient if gradients are enabled: with respect
    to the input, the weights, a state that is passed in, and learnable parameters of neurons. The backward pass keeps
    the packed spikes only, and recomputes the currents.

    Args:
        net: a network of the layers of this package (T, N, ...), or a layer: its attribute ``surrogate`` is set.
        surrogate: for example ``ATan(2.0)``; None: no gradient, the default.

    Returns:
        ``net`` itself.

    Raises:
        TypeError: ``net`` is no module, or ``surrogate`` no surrogate derivative. ValueError: it has no neurons.
    """
    checks.module("net", net)
    surrogates.check(surrogate)
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, Neurons)}
    checks.neurons("net", layers)
    for layer in layers.values():
        layer.surrogate = surrogate
    return net
