"""A network of another library that is run: copies of it, and what its neurons take and give.

Where a translation differs, :class:`Blame` names the module at fault: it has a forward of its own, or a state.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.compare import RATE
from ..graph.prepared import copied
from ..graph.state_between_calls import Unsteady
from .recurrence import BiasAlone, cut
from .spikingjelly_neurons import ALL_STEPS, is_delay
from .time_loops import TimeAxes

CALLS = 64  # in search of a state


class Original:
    """A network of another library, of which copies are run, in evaluation mode.

    Attributes:
        source: the network itself.
        one_call: whether a call runs all steps, [T, N, ...]: of SpikingJelly's multi-step mode, or of a loop over time.
        takes_steps: whether such a call is given [T, N, ...], or an input that it repeats itself.
        states: whether it takes what its neurons give apart, spikes and potentials.
        axes: which axis of what such a call takes and gives is the steps.
    """

    def __init__(self, net: nn.Module, one_call: bool, takes_steps: bool, states: bool, axes: TimeAxes):
        self.source, self.axes = net, axes
        self.one_call, self.takes_steps, self.states = one_call, takes_steps, states

    @property
    def delay(self) -> int:
        """Steps of all its delays together."""
        modules: list[Any] = [module for module in self.source.modules() if is_delay(module)]
        return sum(int(module.delay_steps) for module in modules)

    def fresh(self) -> nn.Module:
        """Another copy, which has not run; without what comes back to neurons, which is compared by itself."""
        net = cut(copied(self.source, {}))
        for module in net.modules():
            if getattr(module, "backend", "torch") != "torch":
                module.backend = "torch"  # type: ignore[assignment]  # SpikingJelly's kernels of a GPU
        return net

    def call(self, net: nn.Module, x: Tensor) -> Any:
        """What one call of ``net``, a copy, gives for the steps x [T, N, ...], of which it may take the first only."""
        if not self.one_call or not self.takes_steps:
            return self.axes.of_output(net(x[0]))
        return self.axes.of_output(net(self.axes.of_input(x)))


def reset(net: nn.Module) -> None:
    for module in net.modules():
        its_reset: Any = getattr(module, "reset_mem", getattr(module, "reset", None))
        if callable(its_reset):  # snnTorch's neurons have a tensor of that name
            its_reset()


def current_of(module: nn.Module, arguments: tuple) -> Tensor:
    """What neurons are given, with the bias of what would come back to them (recurrence.py)."""
    back = getattr(module, "recurrent", None)
    return arguments[0] + back.bias if isinstance(back, BiasAlone) and back.bias is not None else arguments[0]


def at_rest(arguments: tuple) -> bool:
    """Whether neurons are called with potentials, and these are 0."""
    return len(arguments) > 1 and not any(bool(torch.as_tensor(state).any()) for state in arguments[1:])


def has_own_forward(module: nn.Module) -> bool:
    """Whether a call of the module is not what its library's class does."""
    definer = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    own = not definer.__module__.startswith(("torch.", "spikingjelly.", "snntorch."))
    return own or "forward" in vars(module)


def takes_all_steps(neurons: nn.Module) -> bool:
    """Whether a call of them takes [T, N, ...]; else one step."""
    kinds = (kind.__name__ for kind in type(neurons).__mro__)
    by_name = any(kind.startswith(ALL_STEPS) and kind.endswith("Node") for kind in kinds)
    return by_name or hasattr(neurons, "decode") or getattr(neurons, "step_mode", "s") == "m"


def first(module: Any, arguments: tuple, given: Any) -> Tensor:
    """What neurons gave: spikes, or all potentials of a readout, which may give a part of them only."""
    if not hasattr(module, "decode"):
        return tensor_of(given)
    decode, module.decode = module.decode, None
    try:
        return torch.stack(module.forward(*arguments))
    finally:
        module.decode = decode


def tensor_of(given: Any) -> Any:
    return given[0] if isinstance(given, tuple | list) else given


class Blame:
    """A network that is called again and again, on one of two inputs, each with spikes of its own.

    Attributes:
        x: two inputs of a call [T, N, ...]. paths: of its neurons.
    """

    def __init__(self, original: Original, x: tuple[Tensor, Tensor], paths: Iterable[str]):
        self.original, self.x, self.paths = original, x, list(paths)
        self.spikes: dict[tuple, Tensor] = {}
        self.turn = 0  # which of the inputs
        self.called: dict[str, int] = {}  # calls of neurons, by their path, in a call of the network

    @torch.no_grad()
    def has_a_state(self) -> str | None:
        """The path of the first module that does not always give the same for the same input; "": the network."""
        net = self.original.fresh()
        found = Unsteady()
        with found.watching(net, apart_from=self.paths), self._known_spikes(net):
            for turn in Random(0).choices((0, 1), k=CALLS):
                self._call(net, turn)
                if found.unsteady:
                    return found.unsteady[0]
        return None

    @torch.no_grad()
    def with_a_forward_of_its_own(self) -> tuple[str, str, str] | None:
        """The first module, in the order of calls, whose output differs from that of the torch class it is based on.

        Its path, its class and torch's. Only those are asked that have a forward of their own.
        """
        net = self.original.fresh()
        found: list[tuple[str, str, str]] = []

        def hook(path: str, base: Any) -> Callable:
            def compare(module: Any, arguments: tuple, given: Any) -> None:
                taken = arguments[0]
                steps = getattr(module, "step_mode", "s") == "m"
                try:
                    plain = base.forward(module, taken.flatten(0, 1) if steps else taken)
                    plain = plain.unflatten(0, taken.shape[:2]) if steps else plain
                    same = plain.shape == given.shape and torch.allclose(plain, given, 1e-4, 1e-5)
                except Exception:  # torch's class does not even run
                    same = False
                if not same:
                    found.append((path, type(module).__name__, base.__name__))

            return compare

        with ExitStack() as hooks:
            asks = False
            for path, module in net.named_modules():
                kinds = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules"))
                base = next(kinds, None)
                if base not in (None, nn.Module, nn.Sequential, nn.ModuleList) and has_own_forward(module):
                    hooks.enter_context(module.register_forward_hook(hook(path, base)))
                    asks = True
            if asks:
                hooks.enter_context(self._known_spikes(net))
                self._call(net, 0)
        return found[0] if found else None

    def _call(self, net: nn.Module, turn: int) -> None:
        self.turn = turn
        self.called.clear()
        if self.original.one_call:
            reset(net)
        self.original.call(net, self.x[turn])

    @contextmanager
    def _known_spikes(self, net: nn.Module) -> Iterator[None]:
        """Neurons hand on the same spikes in each call of the same turn."""

        def hook(path: str) -> Callable:
            def hand_on(module: Any, arguments: tuple, given: Any) -> Any:
                if hasattr(module, "decode"):
                    return None
                fired, number = first(module, arguments, given), self.called.get(path, 0)
                self.called[path] = number + 1
                at = path, self.turn, number, fired.shape
                if at not in self.spikes:
                    generator = torch.Generator().manual_seed(len(self.spikes))
                    self.spikes[at] = (torch.rand(fired.shape, generator=generator) < RATE).to(fired)
                spikes = self.spikes[at].clone()
                return (spikes, *given[1:]) if self.original.states and isinstance(given, tuple) else spikes

            return hand_on

        with ExitStack() as hooks:
            for path in self.paths:
                hooks.enter_context(net.get_submodule(path).register_forward_hook(hook(path)))
            yield
