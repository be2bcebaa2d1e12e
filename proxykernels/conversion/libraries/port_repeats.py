"""Runs a network of another library on inputs that it had before, for a hundred steps: what then differs is a state.

Its neurons hand on spikes that they handed on before too. So whatever lies between them must give the currents of then.
The neurons themselves are given currents on which they fire.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.compare import (
    Compared,
    Difference,
    Watched,
    as_steps,
    check_neurons,
    drive,
    few_pixels,
    output_limit,
)
from ..graph.state_between_calls import CALLS, State
from .port_runs import Original, at_rest, current_of, first, reset, takes_all_steps, tensor_of

MEMORIES = ("v", "v_seq", "c", "c_seq", "trace", "mem", "syn", "reset", "spike_seq")  # of the libraries' neurons
MEMORY = frozenset((*MEMORIES, *(f"_memories['{name}']" for name in MEMORIES), "_memories.len()"))
OTHERWISE = "of a call before, with the same input and the same spikes: something in front of it has a state"
SHORT = 32  # calls of a few steps each


class NeuronsThere:
    """The neurons of a layer in a run: checks what they are given, and keeps what they make of currents of ours.

    Attributes:
        different: the first currents that are not those of before.
        limit: how far the currents may be from those before; None: they are not compared.
        places: where in memory the potentials are that they gave in this call.
    """

    def __init__(self, key: str, layer: Any, watched: Watched, limit: Tensor | None, states: bool):
        self.states = states  # whether the network takes potentials from them
        self.key, self.layer, self.watched, self.limit = key, layer, watched, limit
        self.generator = torch.Generator().manual_seed(1)
        self.different: Difference | None = None
        self.places: set[int] = set()
        self.runs: list[list[tuple[Tensor, Tensor]]] = []  # from rest: currents and what they fired, [t, N, ...]

    def begin(self, order: Tensor, from_rest: bool) -> None:
        """A call that repeats the steps ``order``."""
        self.order, self.at = order, 0
        self.places.clear()
        if from_rest:
            self.runs.append([])

    def before(self, module: nn.Module, arguments: tuple) -> tuple:
        """Compare the currents that the neurons are given, and put others in their place."""
        if self.limit is not None:
            current, given = (
                self._as_steps(module, current_of(module, arguments)),
                self._of_steps(self.watched.current, arguments[0], module),
            )
            wrong = ~((current - given).abs() <= self._of_steps(self.limit, arguments[0], module))
            if bool(wrong.any()) and self.different is None:
                share = f"{100 * wrong.double().mean().item():.2g} % of the currents that its neurons take"
                self.different = Difference(self.key, f"{share} are not those {OTHERWISE}")
        driven = drive(self.layer, arguments[0], self.watched.gain, self.generator)
        return driven, *arguments[1:]

    def after(self, module: nn.Module, arguments: tuple, given: Any) -> Any:
        """Keep what they gave, and hand on spikes of before."""
        if at_rest(arguments) and self.runs[-1]:
            self.runs.append([])
        current, fired = (
            few_pixels(self._as_steps(module, part))[:, :1].clone()
            for part in (current_of(module, arguments), first(module, arguments, given))
        )
        self.runs[-1].append((current, fired))
        spikes = self._of_steps(self.watched.given, arguments[0], module)
        self.at += len(current)
        if hasattr(module, "decode"):
            return given
        spikes = (spikes if takes_all_steps(module) else spikes[0]).clone()
        if not self.states or not isinstance(given, tuple):
            return spikes
        self.places.update(state.data_ptr() for state in given[1:] if isinstance(state, Tensor))
        return (spikes, *given[1:])

    def check(self) -> None:
        """Whether all that they gave follows from the currents that they were given."""
        runs = [tuple(map(torch.cat, zip(*run, strict=True))) for run in self.runs]
        for _, alike in groupby(sorted(runs, key=lambda run: len(run[0])), key=lambda run: len(run[0])):
            current, fired = (torch.cat(parts, 1) for parts in zip(*alike, strict=True))
            check_neurons(self.key, self.layer, self.watched.here(current), fired)

    def _as_steps(self, module: nn.Module, values: Tensor) -> Tensor:
        return values if takes_all_steps(module) else values[None]

    def _of_steps(self, values: Tensor, given: Tensor, module: nn.Module) -> Tensor:
        """Those of the steps that ``given`` repeats."""
        number = len(given) if takes_all_steps(module) else 1
        return values[self.order[self.at : self.at + number]]


class Repeats:
    """A network that is run again on x [T, N, ...].

    Attributes:
        neurons: by the paths of their modules.
        compared: what was made of the network, if that was right, and its ``output`` then, if it is a tensor.
    """

    def __init__(
        self, original: Original, x: Tensor, neurons: Mapping[str, NeuronsThere], compared: Compared | None,
        output: Tensor | None,
    ):  # fmt: skip
        self.original, self.x, self.neurons = original, x, neurons
        self.compared, self.output = compared, output

    @torch.no_grad()
    def check(self, state_of: Callable[[nn.Module], State]) -> None:
        """
        Raises:
            Difference: currents, spikes or outputs are not what they were.
            Changed: what the network keeps is not.
        """
        net, one_call = self.original.fresh(), self.original.one_call
        reset(net)
        state, orders = state_of(net), self._orders()
        different: Difference | None = None
        with state.watched(), self._in_place_of_neurons(net):
            for call, order in enumerate(orders):
                if one_call and call:
                    reset(net)
                for one in self.neurons.values():
                    one.begin(order, one_call or not call)
                steps = self.x[order]
                given = self.original.call(net, steps)
                state.check(self._places(), last=call == len(orders) - 1)
                different = different or self._difference(given, order)
            if different or self.compared is None:
                state.explain()
        if different:
            raise different
        if self.compared:
            for one in self.neurons.values():
                one.check()

    def _places(self) -> frozenset[int]:
        return frozenset().union(*(one.places for one in self.neurons.values()))

    @contextmanager
    def _in_place_of_neurons(self, net: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for path, one in self.neurons.items():
                module = net.get_submodule(path)
                hooks.enter_context(module.register_forward_pre_hook(one.before))
                hooks.enter_context(module.register_forward_hook(one.after))
            yield

    def _orders(self) -> list[Tensor]:
        """Of each call, which of the steps of before it repeats."""
        T, generator = len(self.x), torch.Generator().manual_seed(2)
        many = torch.randint(T, (CALLS,), generator=generator)
        if not self.original.one_call:
            return list(torch.cat([torch.arange(T), many]).split(1))
        last = torch.tensor([T - 1])  # an output may be that of the last step
        short = [torch.cat([torch.randperm(T - 1, generator=generator), last]) for _ in range(max(SHORT, CALLS // T))]
        return short if self.original.own_steps else [*short, many]

    def _difference(self, given: Any, order: Tensor) -> Difference | None:
        """What a call gave that was otherwise before."""
        for one in self.neurons.values():
            if one.different:
                return one.different
        if self.compared is None or self.output is None or len(order) > len(self.x):
            return None
        y, output, samples = self.compared.output, self.output, self.x.shape[1]
        if not self.original.one_call:
            given = tensor_of(given)
            expected = output[order[0], :samples]  # of one step
        else:
            given = as_steps(given, y[:, :samples])
            expected = output[order, :samples] if output.shape == y.shape else output[:samples]
        limit = output_limit(self.compared, output)[:samples]
        wrong = given.shape != expected.shape or (given - expected).abs() > limit
        return Difference("", f"its output is not that {OTHERWISE}") if torch.as_tensor(wrong).any() else None
