"""Runs a network of another library, and its translation beside it, step by step.

What neurons fire is replaced by random spikes. So whatever lies between neurons is compared at each step, even if the
network is silent on this input, and a neuron that fires a step earlier because of rounding changes nothing behind it.
Half of the neurons take the currents that occur; the other half are given currents on which they fire.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...network import Network
from ..graph import compare
from ..graph.compare import Difference, Here, Layer
from ..graph.prepared import copied
from .library_neurons import reset
from .spikingjelly_neurons import (
    ALL_STEPS,
    CONTAINERS,
    factor_of_spikes,
    is_container,
    is_delay,
    of_population,
)
from .time_loops import TimeAxes

STANDARDISED = "WSConv2d", "WSLinear"  # modules that compute their weights at each call


class Original:
    """A network of another library. Copies of it are run, in evaluation mode.

    Attributes:
        source: the network itself.
        one_call: whether a call runs all steps [T, N, ...], as SpikingJelly's multi-step mode and loops over time do.
        takes_steps: whether such a call takes [T, N, ...]; otherwise it takes one input and repeats it itself.
        states: whether it separates what its neurons return into spikes and potentials.
        axes: which axis of the input and the output of such a call is time.
    """

    def __init__(self, net: nn.Module, one_call: bool, takes_steps: bool, states: bool, axes: TimeAxes):
        self.source, self.axes = net, axes
        self.one_call, self.takes_steps, self.states = one_call, takes_steps, states

    @property
    def delay(self) -> int:
        """The sum of all its delays, in steps."""
        return sum(int(module.delay_steps) for module in self.source.modules() if is_delay(module))  # type: ignore

    def fresh(self) -> nn.Module:
        """A new copy, which has not run. Recurrent connections are cut: they are compared by themselves."""
        net = cut(copied(self.source, {}))
        for module in net.modules():
            if getattr(module, "backend", "torch") != "torch":
                module.backend = "torch"  # type: ignore[assignment]  # SpikingJelly's kernels of a GPU
            if type(module).__name__ in STANDARDISED and type(module).__module__.startswith("spikingjelly."):
                # SpikingJelly standardises the weights at each call, which takes longer than the call itself.
                weight: Any = module.get_weight().detach()  # type: ignore[operator]
                module.get_weight = partial(_same, weight)  # type: ignore[assignment]
        return net

    def call(self, net: nn.Module, x: Tensor) -> Any:
        """What one call of ``net``, a copy, returns for the steps x [T, N, ...]; it may take only the first."""
        takes_all = self.one_call and self.takes_steps
        return self.axes.of_output(net(self.axes.of_input(x) if takes_all else x[0]))


class Steps(NamedTuple):
    """The input of a call.

    Attributes:
        x: the input [T, N, ...]; the same at each step for a network that repeats its input.
        factors: for each step [T], the factor of the spikes that neurons hand on, and of the input if it changes from
            step to step; a constant input is multiplied by the largest of them.
        changes: whether the input changes from step to step.
    """

    x: Tensor
    factors: Tensor
    changes: bool

    def quiet(self) -> "Steps":
        """This input without the factors."""
        by = self.bounds.view(-1, *[1] * (self.x.ndim - 1)).to(self.x)
        return Steps(self.x / by, torch.ones_like(self.factors), self.changes)

    @property
    def bounds(self) -> Tensor:
        """An upper bound of the factors up to each step [T]."""
        return self.factors if self.changes else self.factors.max().expand(len(self.factors))


class Beside:
    """Runs a translation ``net`` beside ``original``.

    Attributes:
        layers: the layers of neurons, by name.
        told: called with the number of samples and steps of a layer that have been compared.
    """

    def __init__(
        self,
        original: Original,
        net: Network,
        layers: Mapping[str, Layer],
        largest: Tensor,
        told: Callable[[int], Any],
        recurrent: frozenset[str] = frozenset(),
        cut: frozenset[str] = frozenset(),
    ):
        """``largest``: the sizes of an input's values [1, 1, ...]. ``recurrent``: layers whose spikes the forward pass
        of the original brings back. ``cut``: whose modules do so."""
        self.original, self.net, self.layers, self.told = original, net, layers, told
        self.made = compare.Made(net, largest)
        self.recurrent, self.cut = recurrent, cut
        self.outputs = compare.Outputs()

    @torch.no_grad()
    def run(self, calls: Sequence[Steps]) -> None:
        """Call one copy of the original repeatedly; some inputs may be the same.

        Raises:
            Difference: names the first step and layer whose currents, spikes or outputs differ.
        """
        there, known = self.original.fresh(), dict[int, Here]()
        kept: dict[str, list[_Neurons]] = {key: [] for key in self.layers}
        for number, steps in enumerate(calls):
            reset(there)
            here = Here(self.made, steps.x.float(), steps.factors, steps.bounds)
            here.recurrent, here.cut = self.recurrent, self.cut
            try:
                self._call(there, known.setdefault(id(steps), here), steps.x, number, kept)
            except Difference as difference:
                if number:
                    difference.what += f", in call {number + 1}"
                raise
        for key, of_calls in kept.items():
            self._check_neurons(key, of_calls)

    def _call(self, there: nn.Module, here: Here, x: Tensor, number: int, kept: Mapping[str, list["_Neurons"]]) -> None:
        """``kept``: the neurons of this call are added to it, by layer."""
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
        """Check that the neurons' output in all calls follows from the currents that they took."""
        current, fired = (torch.cat(parts, 1) for parts in zip(*(one.all_steps() for one in of_calls), strict=True))
        if all(all(one.anew) for one in of_calls):  # each step starts its neurons; the caller keeps their states
            current, fired = (part.flatten(0, 1)[None] for part in (current, fired))
        layer: Any = self.net.get_submodule(key)
        if self.layers[key].gives_values:
            compare.check_values(key, layer, current, fired)
        else:
            compare.check_neurons(key, layer, self.layers[key].here(current), fired)

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
    """The neurons of a layer in one call: compares the currents that they take, and keeps what they make of them.

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
        self.anew: list[bool] = []  # for each call, whether it was given potentials of 0
        self.pixels: tuple = ()  # the pixels that are driven and kept
        self.kept: list[tuple[Tensor, Tensor]] = []  # currents and the neurons' output at these pixels
        self.shape: tuple[int, ...] | None = None  # of a sample here, where it has another one there
        self.taken = torch.empty(0)  # the currents there of the last call
        self.limits: Tensor | None = None
        self.natural: Tensor | None = None  # which neurons take the currents that occur
        self.total: Any = None  # sum of the currents of the other neurons

    def before(self, module: nn.Module, arguments: tuple) -> tuple:
        """Compare the currents, and replace some of them."""
        self.anew.append(at_rest(arguments))
        current = self._as_steps(current_of(module, arguments))
        shape = current.shape[2:]
        start, stop, T = self.at, self.at + len(current), len(self.here.x)
        if stop > T:
            raise Difference(self.key, f"its neurons run for more steps than the input's {T}")
        taken_from = self.there.takes or self.key
        if self.there.takes is None:
            here = self.there.there(self.here.currents(self.key, start, stop))
        else:
            here = self.here.value(taken_from, start, stop)
        if self.there.viewed and here[0, 0].numel() == current[0, 0].numel():
            self.shape = here.shape[2:]
            current = self._viewed(current)
        if self.limits is None:
            self.limits = (
                2 * compare.rounding(current) * self.here.largest(taken_from) / abs(self.there.gain) + compare.TINY
            )
        compare.check_currents(self.key, here, current, self.limits[start:stop], start)
        taken = self._viewed(self._as_steps(arguments[0])).clone()
        at = self.pixels = self.pixels or compare.pixels(taken)
        taken[at] = self._driven(taken[at], start, stop)
        self.taken = current_of(module, (taken,))[at].clone()  # some neurons change their input
        self.run.told(current.shape[1] * len(current))
        taken = taken.reshape(*taken.shape[:2], *shape)
        return taken if self.takes_all_steps else taken[0], *arguments[1:]

    def after(self, module: nn.Module, arguments: tuple, given: Any) -> Any:
        """Keep what the neurons fired, and hand on random spikes instead."""
        fired = self._viewed(self._as_steps(first(module, arguments, given)))
        self.kept.append((self.taken, fired[self.pixels].clone()))
        start, self.at = self.at, self.at + len(fired)
        handed = self.here.handed
        if hasattr(module, "decode") or self.there.gives_values:
            handed.setdefault(self.key, compare.Given()).values.extend(fired)  # type: ignore[union-attr]
            return given
        if self.key not in handed:
            handed[self.key] = compare.Random(fired.shape[1:], self.factors, self.generator)
        spikes = handed[self.key][start : self.at].to(fired, copy=True, memory_format=torch.contiguous_format)
        spikes = spikes.view(*spikes.shape[:2], *tensor_of(given).shape[1 + self.takes_all_steps :])
        spikes = (spikes if self.takes_all_steps else spikes[0]) * factor_of_spikes(module)
        return (spikes, *given[1:]) if self.run.original.states and isinstance(given, tuple) else spikes

    def all_steps(self) -> tuple[Tensor, Tensor]:
        """The currents and the neurons' output, both [T, N, ...]."""
        current, fired = map(torch.cat, zip(*self.kept, strict=True))
        return current, fired

    def _driven(self, current: Tensor, start: int, stop: int) -> Tensor:
        """The currents that occur for half of the neurons, and currents on which they fire for the others.

        In the second half of the run, the sum of the latter goes up and down around 0.
        """
        driven = compare.drive(self.layer, current, self.there.gain, self.generator)
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

    def _viewed(self, values: Tensor) -> Tensor:
        """Values [T, N, ...] in the shape that they have here."""
        return values if self.shape is None else values.reshape(*values.shape[:2], *self.shape)


def cut(net: nn.Module) -> nn.Module:
    """Cut all recurrent connections of a network, in place; returns it."""
    for module in net.modules():
        recurrent: Any = module
        if is_container(module) and type(module).__name__ == CONTAINERS[1]:
            recurrent.element_wise_function = _input_alone
        elif of_population(module):
            with torch.no_grad():
                recurrent.conn.weight.zero_()
        elif is_container(module):
            with torch.no_grad():
                recurrent.rc.weight[:, recurrent.rc.in_features - recurrent.sub_module_out_features :] = 0
        elif type(module).__module__.startswith("snntorch.") and hasattr(module, "recurrent"):
            bias: Any = getattr(recurrent.recurrent, "bias", None)
            is_image = bias is not None and isinstance(recurrent.recurrent, nn.Conv2d)
            recurrent.recurrent = BiasAlone(bias.view(-1, 1, 1) if is_image else bias)
    return net


def _same(weight: Tensor) -> Tensor:
    return weight


def _input_alone(y: Tensor, x: Tensor) -> Tensor:
    return x


class BiasAlone(nn.Module):
    """Replaces a recurrent matrix product by its bias, which does not depend on spikes."""

    def __init__(self, bias: Tensor | None):
        super().__init__()
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.bias is None else self.bias.expand(x.shape)


def current_of(module: nn.Module, arguments: tuple) -> Tensor:
    """The currents that neurons take, with the bias of a recurrent connection that was cut."""
    back = getattr(module, "recurrent", None)
    return arguments[0] + back.bias if isinstance(back, BiasAlone) and back.bias is not None else arguments[0]


def at_rest(arguments: tuple) -> bool:
    """Whether neurons are called with potentials that are all 0."""
    return len(arguments) > 1 and not any(bool(torch.as_tensor(state).any()) for state in arguments[1:])


def takes_all_steps(neurons: nn.Module) -> bool:
    """Whether a call of these neurons takes [T, N, ...] and not one step."""
    kinds = [kind.__name__ for kind in type(neurons).__mro__]
    by_name = any(kind.startswith(ALL_STEPS) and kind.endswith(("Node", "Module")) for kind in kinds)
    return by_name or hasattr(neurons, "decode") or getattr(neurons, "step_mode", "s") == "m"


def first(module: Any, arguments: tuple, given: Any) -> Tensor:
    """What neurons returned: spikes of 1, or all potentials of a readout, which may return only some of them."""
    if not hasattr(module, "decode"):
        return tensor_of(given) / factor_of_spikes(module)
    decode, module.decode = module.decode, None
    try:
        return torch.stack(module.forward(*arguments))
    finally:
        module.decode = decode


def tensor_of(given: Any) -> Any:
    return given[0] if isinstance(given, tuple | list) else given
