"""Runs a network of another library on inputs that it had before, for a hundred steps: what then differs is a state.

Its neurons hand on spikes that they handed on before too. So whatever lies between them must give the currents of then.
The neurons themselves are given currents on which they fire.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ...network import Network
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
from ..graph.state import CALLS, State
from .port_runs import Original, at_rest, first, reset, takes_all_steps, tensor_of

MEMORIES = ("v", "v_seq", "c", "c_seq", "trace", "mem", "syn", "reset")  # of the libraries' neurons
MEMORY = frozenset((*MEMORIES, *(f"_memories['{name}']" for name in MEMORIES), "_memories.len()"))
SHORT = 32  # calls of a few steps each


class Neurons:
    """The neurons of a layer in a run: checks what they are given, and keeps what they make of currents of ours.

    Attributes:
        places: where in memory the potentials are that they gave in this call.
    """

    def __init__(self, key: str, layer: Any, watched: Watched, limit: Tensor, states: bool):
        self.states = states  # whether the network takes potentials from them
        self.key, self.layer, self.watched, self.limit = key, layer, watched, limit
        self.generator = torch.Generator().manual_seed(1)
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
        current, given = self._as_steps(module, arguments[0]), self._of_steps(self.watched.current, arguments[0], module)
        wrong = ~((current - given).abs() <= self._of_steps(self.limit, arguments[0], module))
        if current.shape != given.shape or bool(wrong.any()):
            share = wrong.double().mean().item()
            raise Difference(
                self.key, f"{100 * share:.2g} % of the currents that its neurons take are not those that the same input "
                "and spikes gave before, so something in front of them has a state, or draws random numbers"
            )  # fmt: skip
        driven = drive(self.layer, arguments[0], self.watched.gain, self.generator)
        return driven, *arguments[1:]

    def after(self, module: nn.Module, arguments: tuple, given: Any) -> Any:
        """Keep what they gave, and hand on spikes of before."""
        if at_rest(arguments) and self.runs[-1]:
            self.runs.append([])
        current, fired = (
            few_pixels(self._as_steps(module, part))[:, :1].clone()
            for part in (arguments[0], first(module, arguments, given))
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
            check_neurons(self.key, self.layer, current * self.watched.gain, fired)

    def _as_steps(self, module: nn.Module, values: Tensor) -> Tensor:
        return values if takes_all_steps(module) else values[None]

    def _of_steps(self, values: Tensor, given: Tensor, module: nn.Module) -> Tensor:
        """Those of the steps that ``given`` repeats."""
        number = len(given) if takes_all_steps(module) else 1
        return values[self.order[self.at : self.at + number]]


class Repeats:
    """A network that is run again on x [T, N, ...]; ``compared``: what was made of it, where it gave ``output``.

    Attributes:
        neurons: by the paths of their modules.
    """

    def __init__(self, original: Original, x: Tensor, neurons: Mapping[str, Neurons]):
        self.original, self.x, self.neurons = original, x, neurons

    @torch.no_grad()
    def check(self, state_of: Callable[[nn.Module], State], compared: Compared, output: Tensor | None) -> None:
        """
        Raises:
            Difference: currents, spikes or outputs are not what they were.
            Changed: what the network keeps is not.
        """
        net, one_call = self.original.fresh(), self.original.one_call
        reset(net)
        state = state_of(net)
        with state.watched(), self._in_place_of_neurons(net):
            orders = list(self._orders())
            for call, order in enumerate(orders):
                if one_call and call:
                    reset(net)
                for one in self.neurons.values():
                    one.begin(order, one_call or not call)
                steps = self.x[order]
                given = net(steps if one_call and self.original.takes_steps else steps[0])
                places = frozenset().union(*(one.places for one in self.neurons.values()))
                state.check(places, last=call == len(orders) - 1)
                if output is not None and len(order) <= len(self.x):
                    self._check_output(given, order, compared, output)
        for one in self.neurons.values():
            one.check()

    @contextmanager
    def _in_place_of_neurons(self, net: nn.Module) -> Iterator[None]:
        handles = []
        for path, one in self.neurons.items():
            module = net.get_submodule(path)
            handles += [module.register_forward_pre_hook(one.before), module.register_forward_hook(one.after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _orders(self) -> Iterator[Tensor]:
        """Of each call, which of the steps of before it repeats."""
        T, generator = len(self.x), torch.Generator().manual_seed(2)
        many = torch.randint(T, (CALLS,), generator=generator)
        if not self.original.one_call:
            yield from torch.cat([torch.arange(T), many]).split(1)
            return
        if not self.original.own_steps:
            yield many
        for _ in range(max(SHORT, CALLS // T)):
            order = torch.randperm(T - 1, generator=generator)
            yield torch.cat([order, torch.tensor([T - 1])])  # an output may be that of the last step

    def _check_output(self, given: Any, order: Tensor, compared: Compared, output: Tensor) -> None:
        limit = output_limit(compared, output)
        if not self.original.one_call:
            given = tensor_of(given)
            expected = output[order[0]] if output.ndim == compared.output.ndim else output
        else:
            given = as_steps(given, compared.output)
            expected = output[order] if output.shape == compared.output.shape else output
        if given.shape != expected.shape or not bool(((given - expected).abs() <= limit).all()):
            raise Difference("", "its output is not what the same input and spikes gave before, so it has a state")
