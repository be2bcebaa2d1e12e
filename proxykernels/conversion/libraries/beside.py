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
from ..graph.compare import TINY, Difference, Watched, check_neurons, drive, pixels, rounding, share_of
from .here import Given, Here, Made, Outputs, Random
from .port_runs import Original, at_rest, current_of, first, reset, takes_all_steps, tensor_of


class Layer(NamedTuple):
    """A layer of neurons here and there.

    Attributes:
        path: of its neurons there.
        gain: what the weights in front of them have been multiplied by here.
        shift: a constant current [C] that is added here; None: none.
    """

    path: str
    gain: float
    shift: Tensor | None


class Steps(NamedTuple):
    """What a call is given.

    Attributes:
        x: the input [T, N, ...]; of a network that repeats its input, the same at each step.
        factors: of each step [T], by which the spikes are multiplied that neurons hand on, and the input where it
            changes; else that is multiplied by the largest of them.
        changes: whether it does.
    """

    x: Tensor
    factors: Tensor
    changes: bool

    def quiet(self) -> "Steps":
        """The same without the factors."""
        by = self.bounds.view(-1, *[1] * (self.x.ndim - 1)).to(self.x)
        return Steps(self.x / by, torch.ones_like(self.factors), self.changes)

    @property
    def bounds(self) -> Tensor:
        """Factors of no step are larger [T]."""
        return self.factors if self.changes else self.factors.max().expand(len(self.factors))


class Beside:
    """A translation ``net`` beside ``original``.

    Attributes:
        layers: of neurons, by name.
        made: the translation, prepared.
        told: is called with the number of samples and steps of a layer that have been compared.
    """

    def __init__(
        self, original: Original, net: Network, layers: Mapping[str, Layer], largest: Tensor, told: Callable[[int], Any]
    ):
        """``largest``: the sizes of an input's values [1, 1, ...]."""
        self.original, self.net, self.layers, self.told = original, net, layers, told
        self.made = Made(net, largest)
        self.outputs = Outputs()

    @torch.no_grad()
    def run(self, calls: Sequence[Steps]) -> None:
        """Call one copy of the original again and again. Some calls may be the same.

        Raises:
            Difference: the first step and layer of which currents, spikes or outputs are others.
        """
        there, known = self.original.fresh(), dict[int, Here]()
        kept: dict[str, list[_Neurons]] = {key: [] for key in self.layers}
        for number, steps in enumerate(calls):
            reset(there)
            here = Here(self.made, steps.x.float(), steps.factors, steps.bounds)
            try:
                self._call(there, known.setdefault(id(steps), here), steps.x, number, kept)
            except Difference as difference:
                if number:
                    difference.what += f", in call {number + 1}"
                raise
        for key, of_calls in kept.items():
            self._check_neurons(key, of_calls)

    def _call(self, there: nn.Module, here: Here, x: Tensor, number: int, kept: Mapping[str, list["_Neurons"]]) -> None:
        """``kept``: where its neurons are added, by layer."""
        here.begin()
        quiet, T = here.takes_products(self.layers), len(x)
        for k, (key, layer) in enumerate(self.layers.items()):
            module, seed = there.get_submodule(layer.path), 1000 * number + k
            kept[key].append(_Neurons(key, layer, here, self, module, seed, key not in quiet))
        neurons = [of_calls[-1] for of_calls in kept.values()]
        with self._in_place_of_neurons(there, neurons):
            output = self._output(there, x)
        for one in neurons:
            if one.at != T:
                raise Difference(one.key, f"its neurons run for {one.at} steps, where the input has {T}")
        self.outputs.check(here.value(self.made.last, 0, T), here.largest(self.made.last), output)

    def _check_neurons(self, key: str, of_calls: Sequence["_Neurons"]) -> None:
        """Whether all that they gave follows from the currents that they were given."""
        current, fired = (torch.cat(parts, 1) for parts in zip(*(one.all_steps() for one in of_calls), strict=True))
        if all(all(one.anew) for one in of_calls):  # one step that starts its neurons: what follows is the caller's
            current, fired = (part.flatten(0, 1)[None] for part in (current, fired))
        there = self.layers[key]
        watched = Watched(current, fired, fired, there.gain, shift=there.shift)
        check_neurons(key, self.net.get_submodule(key), watched.here(current), fired)  # type: ignore[arg-type]

    def _output(self, there: nn.Module, x: Tensor) -> Any:
        if self.original.one_call:
            return self.original.call(there, x)
        given = [tensor_of(there(step)) for step in x]
        return torch.stack(given) if all(isinstance(y, Tensor) for y in given) else None

    @contextmanager
    def _in_place_of_neurons(self, net: nn.Module, neurons: Sequence["_Neurons"]) -> Iterator[None]:
        with ExitStack() as hooks:
            for one in neurons:
                module = net.get_submodule(one.there.path)
                hooks.enter_context(module.register_forward_pre_hook(one.before))
                hooks.enter_context(module.register_forward_hook(one.after))
            yield


class _Neurons:
    """The neurons of a layer in a call: compares what they are given, and keeps what they make of it.

    Attributes:
        at: the next step.
    """

    def __init__(self, key: str, there: Layer, here: Here, run: Beside, module: nn.Module, seed: int, is_loud: bool):
        self.key, self.there, self.here, self.run = key, there, here, run
        self.takes_all_steps = takes_all_steps(module)
        self.layer: Any = run.net.get_submodule(key)
        self.generator = torch.Generator().manual_seed(seed)
        self.factors = here.factors if is_loud else torch.ones_like(here.factors)
        self.at = 0
        self.anew: list[bool] = []  # of each call, whether it starts from potentials of 0 that it is given
        self.pixels: tuple = ()  # that are driven and kept
        self.kept: list[tuple[Tensor, Tensor]] = []  # currents and what they made of them, of some pixels
        self.limits: Tensor | None = None
        self.natural: Tensor | None = None  # which neurons take the currents that occur
        self.total: Any = None  # of the currents of the others

    def before(self, module: nn.Module, arguments: tuple) -> tuple:
        """Compare the currents, and replace some by others."""
        self.anew.append(at_rest(arguments))
        current = self._as_steps(current_of(module, arguments))
        start, stop, T = self.at, self.at + len(current), len(self.here.x)
        if stop > T:
            raise Difference(self.key, f"its neurons run for more steps than the input's {T}")
        expected = self.here.currents(self.key, start, stop)
        self._compare(current, expected, start)
        taken = self._as_steps(arguments[0]).clone()
        at = self.pixels = self.pixels or pixels(taken)
        taken[at] = self._driven(taken[at], start, stop)
        self.run.told(current.shape[1] * len(current))
        return taken if self.takes_all_steps else taken[0], *arguments[1:]

    def after(self, module: nn.Module, arguments: tuple, given: Any) -> Any:
        """Keep what they gave, and hand on spikes at random."""
        current, fired = (
            self._as_steps(part) for part in (current_of(module, arguments), first(module, arguments, given))
        )
        self.kept.append((current[self.pixels], fired[self.pixels].clone()))
        start, self.at = self.at, self.at + len(current)
        handed = self.here.handed
        if hasattr(module, "decode"):
            handed.setdefault(self.key, Given()).values.extend(fired)  # type: ignore[union-attr]
            return given
        if self.key not in handed:
            handed[self.key] = Random(fired.shape[1:], self.factors, self.generator)
        spikes = handed[self.key][start : self.at].to(fired, copy=True, memory_format=torch.contiguous_format)
        spikes = spikes if self.takes_all_steps else spikes[0]
        return (spikes, *given[1:]) if self.run.original.states and isinstance(given, tuple) else spikes

    def all_steps(self) -> tuple[Tensor, Tensor]:
        """Currents and what they made of them, [T, N, ...]."""
        current, fired = map(torch.cat, zip(*self.kept, strict=True))
        return current, fired

    def _compare(self, current: Tensor, here: Tensor, start: int) -> None:
        if self.there.shift is not None:
            here = here - self.there.shift.view(-1, *[1] * (here.ndim - 3))
        here = here if self.there.gain == 1 else here / self.there.gain
        if here.shape != current.shape:
            raise Difference(
                self.key,
                f"its neurons take currents of the shape {list(current.shape[2:])} there, and {list(here.shape[2:])} "
                f"here"
                if here.shape[2:] != current.shape[2:]
                else f"its neurons take {current.shape[1]} samples there, and {here.shape[1]} here",
            )
        if self.limits is None:
            self.limits = 2 * rounding(current) * self.here.largest(self.key) / abs(self.there.gain) + TINY
        limits = self.limits[start : start + len(current)]
        far = (here - current).abs_()
        if bool((far.flatten(1).amax(1) <= limits).all()):
            return
        wrong = ~(far <= limits.view(-1, *[1] * (current.ndim - 1)))
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

    def _as_steps(self, values: Tensor) -> Tensor:
        return values if self.takes_all_steps else values[None]
