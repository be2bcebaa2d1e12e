"""Which module of a network is the reason why its translation differs: one with a forward of its own, or a state."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.compare import RATE
from ..graph.reach import has_own_code
from .port_runs import Original, first, has_own_forward, reset, tensor_of

CALLS = 64  # in search of a state
KNOWN = 4  # calls of a module that others are compared with


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
        unsteady: list[str] = []
        known: dict[str, list[tuple[tuple, Tensor]]] = {}
        begun: dict[str, list[tuple]] = {}

        def before(path: str) -> Callable:
            def note(module: nn.Module, arguments: tuple) -> None:
                taken = tuple(part.clone() if isinstance(part, Tensor) else part for part in arguments)
                begun.setdefault(path, []).append(taken)

            return note

        def after(path: str) -> Callable:
            def compare(module: nn.Module, arguments: tuple, given: Any) -> None:
                taken, given = begun[path].pop(), tensor_of(given)
                if not isinstance(given, Tensor):
                    return
                calls = known.setdefault(path, [])
                for then, gave in calls:
                    if len(then) == len(taken) and all(map(_same, then, taken)):
                        if gave.shape != given.shape or not torch.allclose(gave, given, 1e-4, 1e-6, equal_nan=True):
                            unsteady.append(path)
                        return
                if len(calls) < KNOWN:
                    calls.append((taken, given.clone()))

            return compare

        with ExitStack() as hooks:
            for path, module in net.named_modules():
                if has_own_code(module) and path not in self.paths:
                    hooks.enter_context(module.register_forward_pre_hook(before(path)))
                    hooks.enter_context(module.register_forward_hook(after(path)))
            hooks.enter_context(self._known_spikes(net))
            for turn in Random(0).choices((0, 1), k=CALLS):
                self._call(net, turn)
                if unsteady:
                    return unsteady[0]
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


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return old.shape == new.shape and torch.equal(old, new)
    return old is new or (type(old) is type(new) and isinstance(old, bool | int | float | str) and old == new)
