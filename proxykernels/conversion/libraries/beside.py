"""Runs a network of another library, and its translation beside it: neuron by neuron, step by step.

Neurons hand on spikes at random. So whatever lies between them is compared at each step, however silent the network is
on this input, and a neuron that rounding lets fire a step earlier changes nothing behind it. Half of the neurons take
the currents that occur, and the other half are given currents on which they fire.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...network import Network
from ..graph.compare import TINY, Difference, Watched, check_neurons, drive, few_pixels, rounding, share_of
from .here import Given, Here, Random
from .port_outputs import Outputs
from .port_runs import Original, at_rest, current_of, first, reset, takes_all_steps, tensor_of


class Layer(NamedTuple):
    """A layer of neurons here and there.

    Attributes:
        path: of its neurons there.
        gain: what the weights in front of them have been multiplied by here.
        shift: a constant current [C] that they have here besides; None: none.
    """

    path: str
    gain: float
    shift: Tensor | None


class Steps(NamedTuple):
    """What a call is given.

    Attributes:
        x: the input [T, N, ...]; of a network that repeats its input, the same at each step.
        largest: the largest sizes of its values [1, 1, ...] where a step's factor is 1.
        factors: of each step [T], by which the input has been multiplied, as the spikes are that neurons hand on.
    """

    x: Tensor
    largest: Tensor
    factors: Tensor

    def quiet(self) -> "Steps":
        """The same without the factors."""
        x = self.x / self.factors.view(-1, *[1] * (self.x.ndim - 1)).to(self.x)
        return Steps(x, self.largest, torch.ones_like(self.factors))


class Beside:
    """A translation ``net`` beside ``original``.

    Attributes:
        layers: of neurons, by name.
        told: is called with the number of samples and steps of a layer that have been compared.
    """

    def __init__(
        self, original: Original, net: Network, layers: Mapping[str, Layer], told: Callable[[int], Any] = lambda _: None
    ):
        self.original, self.net, self.layers, self.told = original, net, layers, told
        self.outputs = Outputs()

    @torch.no_grad()
    def run(self, calls: Sequence[Steps]) -> None:
        """Call one copy of the original again and again.

        Raises:
            Difference: the first step and layer of which currents, spikes or outputs are others.
        """
        there = self.original.fresh()
        for number, steps in enumerate(calls):
            reset(there)
            try:
                self._call(there, steps, number)
            except Difference as difference:
                if number:
                    difference.what += f", in call {number + 1}"
                raise

    def _call(self, there: nn.Module, steps: Steps, number: int) -> None:
        here = Here(self.net, steps.x.float(), steps.largest, steps.factors)
        quiet = here.takes_products(self.layers)
        neurons = {
            key: _Neurons(key, layer, here, self, 1000 * number + k, key not in quiet)
            for k, (key, layer) in enumerate(self.layers.items())
        }
        with self._in_place_of_neurons(there, neurons):
            output = self._output(there, steps.x)
        T = len(steps.x)
        for one in neurons.values():
            if one.at != T:
                raise Difference(one.key, f"its neurons run for {one.at} steps, where the input has {T}")
            one.check()
        self.outputs.check(here.value(here.last, 0, T), here.sizes(here.last), output)

    def _output(self, there: nn.Module, x: Tensor) -> Any:
        if self.original.one_call:
            return self.original.call(there, x)
        given = [tensor_of(there(step)) for step in x]
        return torch.stack(given) if all(isinstance(y, Tensor) for y in given) else None

    @contextmanager
    def _in_place_of_neurons(self, net: nn.Module, neurons: Mapping[str, "_Neurons"]) -> Iterator[None]:
        with ExitStack() as hooks:
            for one in neurons.values():
                module = net.get_submodule(one.there.path)
                hooks.enter_context(module.register_forward_pre_hook(one.before))
                hooks.enter_context(module.register_forward_hook(one.after))
            yield


class _Neurons:
    """The neurons of a layer in a call: compares what they are given, and keeps what they make of it.

    Attributes:
        at: the next step.
    """

    def __init__(self, key: str, there: Layer, here: Here, run: Beside, seed: int, is_loud: bool):
        self.key, self.there, self.here, self.run = key, there, here, run
        self.layer: Any = run.net.get_submodule(key)
        self.generator = torch.Generator().manual_seed(seed)
        self.factors = here.factors if is_loud else torch.ones_like(here.factors)
        self.at = 0
        self.anew: list[bool] = []  # of each call, whether it starts from potentials of 0 that it is given
        self.kept: list[tuple[Tensor, Tensor]] = []  # currents and what they made of them, of some pixels
        self.limits: Tensor | None = None
        self.natural: Tensor | None = None  # which neurons take the currents that occur
        self.total: Any = None  # of the currents of the others

    def before(self, module: nn.Module, arguments: tuple) -> tuple:
        """Compare the currents, and put others in the place of some."""
        self.anew.append(at_rest(arguments))
        current = self._as_steps(module, current_of(module, arguments))
        start, stop, T = self.at, self.at + len(current), len(self.here.x)
        if stop > T:
            raise Difference(self.key, f"its neurons run for more steps than the input's {T}")
        expected = self.here.currents(self.key, start, stop)
        self._compare(current, expected, start)
        taken = self._as_steps(module, arguments[0])
        driven = self._driven(taken, start, stop)
        self.run.told(current.shape[1] * len(current))
        return driven if takes_all_steps(module) else driven[0], *arguments[1:]

    def after(self, module: nn.Module, arguments: tuple, given: Any) -> Any:
        """Keep what they gave, and hand on spikes at random."""
        current, fired = (
            self._as_steps(module, part) for part in (current_of(module, arguments), first(module, arguments, given))
        )
        self.kept.append((few_pixels(current).clone(), few_pixels(fired).clone()))
        start, self.at = self.at, self.at + len(current)
        handed = self.here.handed
        if hasattr(module, "decode"):
            handed.setdefault(self.key, Given()).values.extend(fired)  # type: ignore[union-attr]
            return given
        if self.key not in handed:
            handed[self.key] = Random(fired.shape[1:], self.factors, self.generator)
        spikes = handed[self.key][start : self.at].to(fired)
        spikes = spikes if takes_all_steps(module) else spikes[0]
        return (spikes, *given[1:]) if self.run.original.states and isinstance(given, tuple) else spikes

    def check(self) -> None:
        """Whether all that they gave follows from the currents that they were given."""
        current, fired = map(torch.cat, zip(*self.kept, strict=True))
        if all(self.anew):  # one step that starts its neurons itself: what follows is the caller's
            current, fired = (part.flatten(0, 1)[None] for part in (current, fired))
        there = Watched(current, fired, fired, self.there.gain, shift=self.there.shift)
        check_neurons(self.key, self.layer, there.here(current), fired)

    def _compare(self, current: Tensor, here: Tensor, start: int) -> None:
        if self.there.shift is not None:
            here = here - self.there.shift.view(-1, *[1] * (here.ndim - 3))
        here = here / self.there.gain
        if here.shape != current.shape:
            raise Difference(
                self.key,
                f"its neurons take currents of the shape {list(current.shape[2:])} there, and {list(here.shape[2:])} "
                f"here"
                if here.shape[2:] != current.shape[2:]
                else f"its neurons take {current.shape[1]} samples there, and {here.shape[1]} here",
            )
        if self.limits is None:
            self.limits = 2 * rounding(current) * self.here.sizes(self.key) / abs(self.there.gain) + TINY
        limits = self.limits[start : start + len(current)].view(-1, *[1] * (current.ndim - 1))
        wrong = ~((here - current).abs() <= limits)
        if not bool(wrong.any()):
            return
        step = int(wrong.flatten(1).any(1).byte().argmax())
        k = int(wrong[step].flatten().byte().argmax())
        raise Difference(
            self.key,
            f"at step {start + step} {share_of(wrong[step])} of the currents that its neurons take differ, for example "
            f"{current[step].flatten()[k]:.6g} there and {here[step].flatten()[k]:.6g} here",
        )

    def _driven(self, current: Tensor, start: int, stop: int) -> Tensor:
        """The currents that occur for half of the neurons, and for the others such on which they fire.

        From the middle of the run on, these go up and down around 0, as far as the factors let them.
        """
        driven = drive(self.layer, current, self.there.gain, self.generator)
        if self.natural is None:
            self.natural = (torch.randperm(current[0].numel(), generator=self.generator) % 2 == 0).view_as(current[0])
            self.total = torch.zeros_like(current[0])
        for step in range(max(start, len(self.here.x) // 2), stop):
            size = driven[step - start].abs() * self.here.factors[step].item()
            driven[step - start] = torch.where(self.total > 0, -size, size)
            self.total += driven[step - start]
        return torch.where(self.natural, current, driven)

    def _as_steps(self, module: nn.Module, values: Tensor) -> Tensor:
        return values if takes_all_steps(module) else values[None]
