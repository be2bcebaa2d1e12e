"""Finds state that a network's own code keeps from call to call, which a translation would not have.

torch.fx follows a forward pass once; what Python computes there is a constant of the translation.
"""

import dataclasses
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from .kept_by_code import PLAIN, has_foreign_code, has_own_code, kept
from .prepared import copied

KNOWN = 4  # calls of a module that later ones are compared with
CALLS = 101  # of a ReLU network that keeps something: a prime, so that no short cycle ends with it
FEW_CALLS = 16  # of a ReLU network in which no value that can be reached changes
REMEDY = "a translation would stay as in the first call; take it out"

Place = tuple[str, str]  # a module's path, and what it has


class Changed(TypeError):
    """Raised when a network keeps state between calls."""


class State:
    """The values that a network keeps, compared after each of its calls."""

    def __init__(self, net: nn.Module, model: str):
        self.net, self.model = net, model
        self.calls = 0
        self.modules = Unsteady()
        self.before: dict[bool, dict[Place, Any]] = {}
        for libraries in (False, True) if has_foreign_code(net) else ():
            self.before[libraries] = {}
            self.before[libraries] = self._now(libraries)

    def check(self, last: bool = False) -> None:
        """Compare the values with those after the call before.

        Values that were None or missing may be computed and kept in the first call. Attributes of a library's modules
        are compared after calls 1, 2, 4, 8 and so on, and after the ``last``.

        Raises:
            Changed: something else has changed; the message names the module that keeps it.
        """
        self.calls += 1
        for libraries in self.before:
            if not libraries or last or self.calls.bit_count() == 1:
                self._check(libraries)
        if draws := self.modules.draws:
            raise Changed(f"{self.model}: {_where(draws[0])} draws random numbers; {REMEDY}")

    def _check(self, libraries: bool) -> None:
        now, before, first = self._now(libraries), self.before[libraries], self.calls == 1
        for place in before | now:
            path, name = place
            computed_once = first and place in now and before.get(place) is None
            if now.get(place, self) is not before.get(place, self) and not computed_once:
                raise Changed(f"{self.model}: {_where(path)} has a state: {name} changes from call to call; {REMEDY}")
        self.before[libraries] = now

    def _now(self, libraries: bool) -> dict[Place, Any]:
        """All values; those that have not changed are the same objects as before."""
        found: dict[Place, Any] = {}
        for path, name, value in kept(self.net, libraries):
            old = self.before[libraries].get((path, name), self)
            copied = value.detach().clone() if isinstance(value, Tensor) else value
            copied = value.copy() if isinstance(value, np.ndarray) else copied
            found[path, name] = old if _same(old, value) else copied
        return found

    def explain(self) -> None:
        """Raise Changed if a module gave different outputs for the same input."""
        if unsteady := self.modules.unsteady:
            raise Changed(
                f"{self.model}: {_where(unsteady[0])} has a state: it does not always give the same for the same "
                f"input; {REMEDY}"
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Notes which modules draw random numbers or are not steady; the generators are restored afterwards."""
        with self.modules.watching(self.net), generators_kept():
            yield


class Unsteady:
    """Finds modules whose own code gives different outputs for the same input.

    Attributes:
        draws: paths of modules that draw random numbers, inner ones first.
        unsteady: paths of modules that gave another output than before for the same input.
    """

    def __init__(self) -> None:
        self.draws: list[str] = []
        self.unsteady: list[str] = []

    @contextmanager
    def watching(self, net: nn.Module, apart_from: Collection[str] = ()) -> Iterator[None]:
        """While ``net`` is called; ``apart_from``: paths of modules that are not looked at."""
        with ExitStack() as hooks:
            for path, module in net.named_modules():
                if has_own_code(module) and path not in apart_from:
                    watch = _Watch(path, self)
                    hooks.enter_context(module.register_forward_pre_hook(watch.before))
                    hooks.enter_context(module.register_forward_hook(watch.after))
            yield


@contextmanager
def generators_kept() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether random numbers were drawn; the generators are restored afterwards."""
    before = _generators()
    try:
        yield lambda: _differ(before, _generators())
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


class _Watch:
    """The hooks of one module, which add it to ``found``."""

    def __init__(self, path: str, found: Unsteady):
        self.path, self.found = path, found
        self.calls: list[tuple[tuple, Tensor]] = []  # inputs and output of the first calls
        self.begun: list[tuple] = []  # generators and inputs of calls that have not ended

    def before(self, module: nn.Module, arguments: tuple) -> None:
        taken = tuple(part.clone() if isinstance(part, Tensor) else part for part in arguments)
        self.begun.append((_generators(), taken))

    def after(self, module: nn.Module, arguments: tuple, given: Any) -> None:
        generators, taken = self.begun.pop()
        if _differ(generators, _generators()):
            self.found.draws.append(self.path)
        given = given[0] if isinstance(given, tuple | list) and given else given
        if not isinstance(given, Tensor):
            return
        for then, gave in self.calls:
            if len(then) == len(taken) and all(map(_same, then, taken)):
                if gave.shape != given.shape or not torch.allclose(gave, given, 1e-4, 1e-6, equal_nan=True):
                    self.found.unsteady.append(self.path)
                return
        if len(self.calls) < KNOWN:
            self.calls.append((taken, given.clone()))


@contextmanager
def naming_what_is_kept(net: nn.Module) -> Iterator[None]:
    """Within this context errors also name a module of ``net`` that keeps its input from call to call."""
    try:
        yield
    except (TypeError, ValueError) as error:
        found = (f"{_where(one.path)} keeps {one.name}" for one in kept(net, False) if isinstance(one.value, fx.Proxy))
        place = next(found, None)
        if place is None or isinstance(error, Changed):
            raise
        raise TypeError(f"{error}. Perhaps since {place} from call to call, a state; take it out") from error


def _where(path: str) -> str:
    return f"module '{path}'" if path else "its own code"


def _generators() -> tuple:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _differ(before: tuple, after: tuple) -> bool:
    of_numpy = [(state[1].tobytes(), *state[2:]) for state in (before[2], after[2])]
    return not torch.equal(before[0], after[0]) or before[1] != after[1] or of_numpy[0] != of_numpy[1]


def _same(old: Any, new: Any) -> bool:
    """Whether a value is what it was."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return _same_tensors(old, new)
    if type(old) is not type(new):
        return False
    if isinstance(old, np.ndarray):
        return old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes()
    return old is new or (isinstance(old, PLAIN) and (old == new or (old != old and new != new)))


def _same_tensors(old: Tensor, new: Tensor) -> bool:
    if (old.shape, old.dtype, old.device, old.layout) != (new.shape, new.dtype, new.device, new.layout):
        return False
    if old.layout != torch.strided or old.is_meta:
        return True
    return torch.equal(old, new) or bool(((old == new) | ((old != old) & (new != new))).all())


class Steady:
    """Calls a copy of ``ann`` repeatedly on ``samples`` [N, ...]; networks with only torch's modules are not called."""

    def __init__(self, ann: nn.Module, samples: Tensor):
        self.name, self.samples = type(ann).__name__, samples
        self.net = copied(ann, {}) if has_foreign_code(ann) else None

    @torch.no_grad()
    def check(self) -> None:
        """Check that outputs do not change from call to call; values that the network keeps may change.

        The samples are given in both orders.

        Raises:
            Changed: an output changes; the message names the module that causes it.
        """
        if self.net is None:
            return
        steady, changed, _ = self._called(self.net)
        if steady:
            return
        if changed:
            raise changed
        _, changed, state = self._called(self.net, watches=True)  # slower: to name the module
        if changed:
            raise changed
        state.explain()
        raise Changed(f"{self.name} has a state: it does not always give the same for the same input; take it out")

    def _called(self, net: nn.Module, watches: bool = False) -> tuple[bool, Changed | None, State]:
        """Whether outputs stayed the same, and the first change of a kept value; ``watches``: look at each module."""
        state = State(net, self.name)
        known: dict[int, list[Tensor]] = {}
        changed: Changed | None = None
        steady, drew = True, False
        with generators_kept() as draws, state.watched() if watches else nullcontext():
            for call, turned in enumerate(random.Random(0).choices((0, 1), k=CALLS), 1):
                given = tensors_of(net(self.samples.flip(0) if turned else self.samples.clone()))
                before = known.setdefault(turned, [y.clone() for y in given])
                steady &= len(before) == len(given) and all(map(_equal, before, given))
                drew |= draws()
                is_still = steady and not drew and not changed and not watches
                last = call == (FEW_CALLS if is_still else CALLS)
                try:
                    state.check(last=last)
                except Changed as error:
                    changed = changed or error
                if last and not changed:
                    break
        return steady, changed, state


def _equal(known: Tensor, y: Tensor) -> bool:
    largest = known.nan_to_num().abs().max().item() if known.numel() else 0.0
    return known.shape == y.shape and torch.allclose(known, y, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)


def tensors_of(returned: Any) -> list[Tensor]:
    """All tensors in what a model returned, in order."""
    if isinstance(returned, Tensor):
        return [returned]
    return [tensor for item in items_of(returned) for tensor in tensors_of(item)]


def items_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if dataclasses.is_dataclass(value):
        return [getattr(value, name) for name in keys_of(value)]
    return list(value) if isinstance(value, tuple | list) else []


def keys_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else [field.name for field in dataclasses.fields(value)]
