"""What layers keep in a simulation by chunks: neurons their potentials from call to call, a dropout its mask, and for
``record`` a layer's spikes and its potentials after every step.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..layers import Dropout, Neurons, RunningMaxPool2d, SpikingLayer
from ..layers.base import BatchStatistics
from ..spikes import Spikes
from ..spikes.spike_tensor import given_bits
from ..spikes.spikes import cat_steps

Watch = Callable[[str, Any], AbstractContextManager]  # of a layer's name and input: the context it computes in
POTENTIALS = ".v"  # behind a layer's name: its potentials


def unwatched(name: str, x) -> AbstractContextManager:
    return nullcontext()


def check_layers(state: Mapping[str, Any], layers: Collection[str]) -> None:
    """A state that is given must be of layers that there are, and hold lists.

    Raises:
        TypeError, ValueError: it is not; the message names the layer.
    """
    for name, states in state.items():
        if not isinstance(states, list | tuple):
            raise TypeError(f"state of layer {name} must be a list of tensors, got {type(states).__name__}")
    unknown = set(state) - set(layers)
    if unknown:
        raise ValueError(f"state holds layers that net has not: {sorted(unknown)}; it has {sorted(layers)}")


def check_calls(name: str, given: int, calls: int) -> None:
    """A state that is given must have a tensor for each population, or none; known once the layer was called."""
    if given not in (0, calls):
        raise ValueError(
            f"state of layer {name} must have one tensor for each of its {calls} call(s) in a step, got {given}"
        )


class States:
    """The potentials of a layer, one tensor [N, ...] for each of its calls in a step.

    A layer that a network calls more than once is that many populations of neurons.
    """

    def __init__(self, given: list[Tensor] | None):
        self.now = list(given) if given is not None else []
        self.retired: list[tuple[Tensor, list[Tensor]]] = []  # samples that were stopped, and their potentials

    def of_call(self, call: int) -> Tensor | None:
        """None: at rest."""
        return self.now[call] if call < len(self.now) else None

    def set(self, call: int, v: Tensor) -> None:
        self.now[call : call + 1] = [v]

    def retire(self, decided: Tensor, index: Tensor) -> None:
        """Put the states of the samples that are decided (bool [n]) aside; ``index`` [n]: which samples these n are."""
        self.retired.append((index[decided], [v[decided] for v in self.now]))
        self.now = [v[~decided] for v in self.now]

    def whole(self, index: Tensor) -> list[Tensor]:
        """The states of all samples; ``index``: the samples that were not retired."""
        if not self.retired:
            return self.now
        indices, states = zip(*self.retired, (index, self.now), strict=True)
        order = torch.cat(indices).argsort()
        return [torch.cat(parts)[order] for parts in zip(*states, strict=True)]


class StatefulLayer(nn.Module):
    """Takes a layer's place in the network, and keeps its state, records and counts.

    Attributes:
        states: the potentials. records: what was asked for. tally: rate and synaptic operations.
    """

    def __init__(
        self,
        name: str,
        layer: SpikingLayer,
        ahead: int,
        states: list[Tensor] | None,
        batch_statistics: BatchStatistics,
        tally: Any,
        watch: Watch = unwatched,
        seen: Callable[[Any], None] = lambda y: None,
    ):
        """
        Args:
            ahead: steps that neurons which repeat themselves are run at once; 0: they are not.
            tally: counts what goes in and comes out; here or in training/surrogate_net.py.
            seen: is shown what the layer gives.
        """
        super().__init__()
        self.name, self.watch, self.seen = name, watch, seen
        self.firing = _Firing(layer, ahead, batch_statistics)
        self.states, self.records, self.tally = States(states), Records(name, layer), tally
        self.calls = self.start = 0

    @property
    def is_readout(self) -> bool:
        """Whether the layer gives potentials."""
        layer = self.firing.layer
        return isinstance(layer, Neurons) and not layer.neuron.fires

    def start_chunk(self, start: int) -> None:
        self.calls, self.start = 0, start

    def restart(self) -> None:
        """Forget states and counts."""
        self.states.now = []
        self.firing.forget()
        self.tally.restart()

    def forward(self, x: Spikes | Tensor | tuple, v: Any = None) -> Spikes | Tensor:
        if v is not None:
            raise TypeError(
                f"layer {self.name} was called with a state, which simulations keep themselves: leave v out"
            )
        x = given_bits(x)
        if self.records and self.calls:
            raise ValueError(f"record: layer {self.name} is called more than once a step, and its calls would mix")
        v = self.states.of_call(self.calls)
        with checks.at(f"layer {self.name}"), self.watch(self.name, x):
            may_repeat = v is None and not self.records
            y, after = self.firing.spike(x, v, self.calls, self.start, may_repeat)
        self.states.set(self.calls, after)
        self.calls += 1
        self.tally.add(x, y, first=self.start == 0)
        self.records.add(x, v, y)
        self.seen(y)
        return y


class _Firing:
    """Computes the spikes of a layer for each chunk. Periodic neurons compute all steps in the first chunk."""

    def __init__(self, layer: SpikingLayer, ahead: int, batch_statistics: BatchStatistics):
        self.layer, self.ahead, self.batch_statistics = layer, ahead, batch_statistics
        self.repeating: dict[int, Spikes] = {}  # call -> all steps
        self.even: set[int] = set()  # calls whose input has been the same since they were at rest

    def spike(self, x, v: Tensor | None, call: int, start: int, may_repeat: bool) -> tuple[Spikes, Tensor]:
        """The chunk from step ``start``, and the potentials after it: of neurons that repeat themselves, after all."""
        constant = isinstance(x, Tensor) and x.stride(0) == 0
        if may_repeat and constant and len(x) < self.ahead and self.layer.repeats(x.device, self.ahead):
            whole = x[:1].expand(self.ahead, *x.shape[1:])
            self.repeating[call], v = self.layer.spike(whole, batch_statistics=self.batch_statistics)
        if isinstance(self.layer, RunningMaxPool2d) and constant and (v is None or call in self.even):
            self.even.add(call)
            y, added = self.layer.spike(x)  # as from rest: maxima grow evenly
            return y, added if v is None else v + added
        if v is None or call not in self.repeating:  # those that repeat themselves have a state from then on
            return self.layer.spike(x, v, batch_statistics=self.batch_statistics)
        return self.repeating[call][start : start + len(x)], v

    def forget(self) -> None:
        """The next chunk is the first."""
        self.repeating.clear()
        self.even.clear()


class Masks:
    """Which units the Dropouts of a network keep in one forward pass: drawn where first asked for, then the same."""

    def __init__(self):
        self._kept: dict[tuple[str, int], Tensor] = {}  # layer's name, call -> units that are kept, bool [N, ...]

    def of_call(self, name: str, call: int, layer: Dropout, x: Spikes | Tensor) -> Tensor:
        """The mask of a layer's ``call``-th call in a step, on x (T, N, ...)."""
        kept = self._kept.get((name, call))
        if kept is None:
            kept = self._kept[name, call] = layer.draw(x)
        if tuple(kept.shape) != tuple(x.shape[1:]):
            raise ValueError(
                f"x has the shape {list(x.shape[1:])} a step, and had {list(kept.shape)} in the other twin"
            )
        return kept


class HeldDropout(nn.Module):
    """Takes the place of a :class:`Dropout` for a forward pass. ``masks`` None: nothing is dropped."""

    def __init__(self, name: str, layer: Dropout, masks: Masks | None):
        super().__init__()
        self.name, self.layer, self.masks = name, layer, masks
        self.calls = 0

    def start_chunk(self) -> None:
        self.calls = 0

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        with checks.at(f"layer {self.name}"):
            checks.steps_of(x, None, "(T, N, ...)")
            if self.masks is None or not self.layer.drops:
                return x
            kept = self.masks.of_call(self.name, self.calls, self.layer, x)
            self.calls += 1
            return self.layer.drop(x, kept)


class Records:
    """The records of one layer; false if nothing was asked for."""

    def __init__(self, name: str, layer: SpikingLayer):
        self.name, self.layer = name, layer
        self.parts: dict[str, list] = {}  # the name, or the name and POTENTIALS -> a part for each chunk

    def __bool__(self) -> bool:
        return bool(self.parts)

    def add(self, x: Spikes | Tensor | tuple, v: Tensor | None, y: Spikes | Tensor) -> None:
        """A chunk: the layer's input, the potentials it started from, and its spikes."""
        if self.name in self.parts:
            self.parts[self.name].append(y)
        if self.name + POTENTIALS in self.parts:
            self.parts[self.name + POTENTIALS].append(self._potentials(x, v))

    def whole(self) -> dict[str, Spikes | Tensor]:
        return {
            key: torch.cat(parts) if isinstance(parts[0], Tensor) else cat_steps(parts)
            for key, parts in self.parts.items()
        }

    def _potentials(self, x: Any, v: Tensor | None) -> Tensor:
        """The potentials after each step, float32 [T, N, ...]; the layer itself returns the last ones only."""
        parts = x if isinstance(x, tuple) else (x,)
        steps = []
        for t in range(parts[0].shape[0]):
            step = tuple(part[t : t + 1] for part in parts)
            given: Any = step if isinstance(x, tuple) else step[0]
            _, v = self.layer.spike(given, v)
            several = isinstance(self.layer, Neurons) and self.layer.states > 1
            steps.append(v[:, 0] if several else v)
        return torch.stack(steps)


def ask(records: Mapping[str, Records], wanted: Iterable[str]) -> None:
    """Tell the layers' records, by the layers' names, what ``record`` names."""
    if isinstance(wanted, str):
        raise TypeError(f"record must be a list of layer names, got the string {wanted!r}; write [{wanted!r}]")
    if not isinstance(wanted, Iterable):
        raise TypeError(f"record must be a list of layer names, got {wanted!r}; net has {sorted(records)}")
    for key in wanted:
        if not isinstance(key, str):
            raise TypeError(f"record must be a list of layer names, got {key!r} in it")
        name = key.removesuffix(POTENTIALS) if key not in records else key
        if name not in records:
            raise ValueError(f"record names a layer that net has not: {key!r}; it has {sorted(records)}")
        records[name].parts[key] = []
