"""Forward passes of a user's own: Python between this package's layers, followed once.

The pass runs with values that stand for Spikes and tensors. Its calls of layers and the functions below become
operations. Whatever else it asks of a value is refused, such as its numbers, its type, or the number of steps; so what
was followed depends on nothing that a run decides. What Python decides, such as an attribute that an `if` looks at, may
change from call to call: a pass that was followed runs once more before its plan is used again, and notes whether it
still makes the same calls.
"""

import gc
import numbers
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import SpikingLayer
from ..layers.layer_graph import LayerGraph
from ..layers.parametrized import shallow_copy
from ..spikes.operators import Arithmetic
from .followed_values import FUNCTIONS, SAMPLES, STEPS, CannotFollowError, Extent, Sum, Value, parts_of, refuse

KEPT = "_kept_plans"  # the attribute of a network in which simulations keep what they know of it
PLAIN = numbers.Number, str, bytes, type(None), torch.dtype, slice


def has_own_forward(module: nn.Module) -> bool:
    """Whether it is a class of the user's that has a forward pass, and no layer of neurons or graph of layers."""
    if isinstance(module, SpikingLayer | LayerGraph) or "forward" in vars(module):
        return False
    return not (type(module).forward.__module__ or "torch.").startswith(("torch.", "proxykernels."))


class OwnForward:
    """A module's own forward pass, and the calls that it made when it was followed."""

    def __init__(self, path: str, module: nn.Module, args: tuple, options: dict[str, Any]):
        self.path, self.args, self.options = path, args, options
        self.module = _stand_in(path, module)  # and not the module, which may be the network that holds this
        del vars(self.module)["forward"]
        self.attributes = dict(vars(self.module))
        self.calls: list[tuple[Any, Any]] = []  # what was called with what, and what it gave
        self.given: Any = None

    def follow(self, follower: Any) -> Any:
        """What it gives: values, also in tuples, lists and dicts.

        Raises:
            CannotFollowError: it asks for something that no plan has.
        """
        changes = _Changes(self.module)
        self.given = self._run(_Run(self, follower))
        if what := changes.found():
            self.refuse(f"its forward pass {what}")
        return self.given

    def is_as_before(self) -> bool:
        """Whether it makes the same calls now, and gives the same."""
        run = _Run(self, None)
        try:
            return self._run(run) == self.given and run.done == len(self.calls)
        except CannotFollowError:
            return False

    def refuse(self, why: str) -> NoReturn:
        refuse(self.path, self.module, why)

    def _run(self, run: "_Run") -> Any:
        given = self._called(run)
        if run.raised is not None:
            raise run.raised
        if run.take_back():
            self.refuse("its forward pass keeps a value beyond the call")
        now = vars(self.module)
        if now.keys() != self.attributes.keys() or any(now[name] is not was for name, was in self.attributes.items()):
            names = (name for name in now if now[name] is not self.attributes.get(name, run))
            changed = next(names, None) or next(name for name in self.attributes if name not in now)
            now.clear()
            now.update(self.attributes)
            self.refuse(f"its forward pass sets self.{changed}")
        return given

    def _called(self, run: "_Run") -> Any:
        args, options = _each(Value | Sum, run.followed, (self.args, self.options))
        try:
            return _each(Followed, run.value_of, type(self.module).forward(self.module, *args, **options))
        except Exception as error:
            if run.raised is not None:  # by a layer, which says what is wrong, or a refusal that somebody has caught
                raise run.raised from None
            self.refuse(f"its forward pass, followed without an input, raises {type(error).__name__}: {error}")


class _Run:
    """A run of a forward pass: the first, with a follower, notes its calls, and later ones are compared with them.

    Attributes:
        done: how many calls it has made. raised: the first error of a layer or refusal, whoever has caught it.
    """

    def __init__(self, of: OwnForward, follower: Any):
        self.of, self.follower = of, follower
        self.done = 0
        self.raised: Exception | None = None
        self.made: list[ref[Followed]] = []

    def followed(self, value: Value | Sum, memory: "_Memory | None" = None) -> "Followed":
        made = Followed(self, value, memory)
        self.made.append(ref(made))
        return made

    def take_back(self) -> bool:
        """Whether somebody has kept a value; lists and dicts have None in its place then."""
        kept = False
        for made in self.made:
            if (value := made()) is not None:
                kept = True
                for holder in gc.get_referrers(value):
                    places = (
                        enumerate(holder) if type(holder) is list else holder.items() if type(holder) is dict else ()
                    )
                    for place in [place for place, thing in places if thing is value]:
                        holder[place] = None
        return kept

    def value_of(self, x: "Followed") -> Value | Sum:
        if x._run is not self:
            self.refuse("its forward pass takes a value of another module's pass, past its arguments")
        if x._memory and x._memory.overwritten:
            self.refuse("its forward pass writes to a value in place and uses it by another name; write x = x + y")
        return x._value

    def refuse(self, why: str) -> NoReturn:
        try:
            self.of.refuse(why)
        except CannotFollowError as error:
            self.raised = self.raised or error
            raise

    def again(self, path: str, x: "Followed") -> Any:
        """What the next call gives, if it is that of a layer of one value which was the next one before; else None."""
        if self.done == len(self.of.calls) or x._run is not self or (x._memory and x._memory.overwritten):
            return None
        (what, args, options), given = self.of.calls[self.done]
        if what != path or len(args) != 1 or args[0] is not x._value or options or type(given) not in (Value, Sum):
            return None
        self.done += 1
        return self.followed(given)

    def call(self, what: Any, compute: Callable[[], Any], args: tuple, options: dict[str, Any]) -> Any:
        """What a layer or a function gives for ``args``, which have values. ``compute``: of them, for a follower."""
        called = (what, args, options)
        if self.follower is None:
            if self.done == len(self.of.calls) or self.of.calls[self.done][0] != called:
                self.refuse("its forward pass makes other calls than before")
            given = self.of.calls[self.done][1]
        else:
            try:
                given = compute()
            except Exception as error:
                self.raised = self.raised or error
                raise
            self.of.calls.append((called, given))
        self.done += 1
        return _each(Value | Sum, self.followed, given)

    def layer(self, path: str, module: nn.Module, args: tuple, options: dict[str, Any]) -> Any:
        args, options = self._plain(args, options)

        def compute() -> Any:
            if has_own_forward(module):
                return self.follower.own(path, module, args, options)
            if len(args) != 1 or options:
                refuse(path, module, "it is called with more than its input")
            return self.follower.module(path, module, tuple(args[0]) if isinstance(args[0], list) else args[0])

        return self.call(path, compute, args, options)

    def function(self, function: Callable, args: tuple, options: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", str(function))
        known = FUNCTIONS.get(function)
        if known is None:
            self.refuse(f"its forward pass calls torch's {name}; write it with a layer of this package")
        args, options = self._plain(args, options)
        path = f"{self.of.path}.{name}" if self.of.path else name

        def compute() -> Any:
            try:
                return known(self, path, *args, **options)
            except CannotFollowError:
                raise
            except TypeError as error:  # of its arguments
                self.refuse(f"its forward pass calls torch's {name} in a way that is not followed: {error}")

        return self.call(function, compute, args, options)

    def _plain(self, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Arguments with the values themselves instead of the objects that stand for them."""

        def plain(x: Any) -> Any:
            if type(x) is Followed:
                return self.value_of(x)
            if type(x) in (tuple, list):
                return type(x)(map(plain, x))
            if type(x) is dict:
                return {key: plain(part) for key, part in x.items()}
            if type(x) is not Extent and not isinstance(x, PLAIN):
                self.refuse(
                    f"its forward pass computes with a {type(x).__name__}, which may change; put it into the weights "
                    "of a layer"
                )
            return x

        return plain(args), plain(options)


class _Memory:
    """What a value of a forward pass and its views share. ``overwritten``: something has been added to it in place."""

    overwritten = False


class Followed(Arithmetic):
    """Stands for Spikes or a tensor (T, N, ...) while a forward pass is followed."""

    __slots__ = ("__weakref__", "_memory", "_run", "_value")

    def __init__(self, run: _Run, value: Value | Sum, memory: _Memory | None):
        self._run, self._value, self._memory = run, value, memory

    @property
    def shape(self) -> tuple:
        return STEPS, SAMPLES, *self._run.value_of(self).shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return next(_followed([args, kwargs]))._run.function(function, args, kwargs or {})

    def flatten(self, *args, **options):
        return self._view(Tensor.flatten, args, options)

    def reshape(self, *shape):
        return self._view(Tensor.reshape, shape, {})

    def view(self, *shape):
        return self._view(Tensor.view, shape, {})

    def _view(self, function: Callable, args: tuple, options: dict[str, Any]) -> "Followed":
        y = self._run.function(function, (self, *args), options)
        self._memory = self._memory or _Memory()
        return self._run.followed(y._value, self._memory)

    def __iadd__(self, other):
        return self._overwrite(torch.add(self, other))

    def __isub__(self, other):
        return self._overwrite(torch.sub(self, other))

    def __imul__(self, factor):
        return self._overwrite(torch.mul(self, factor))

    def __itruediv__(self, divisor):
        return self._overwrite(torch.div(self, divisor))

    def _overwrite(self, y: "Followed") -> "Followed":
        """What a tensor is after it was written to: the same by its other names, which must not be used any more."""
        if any(value.slot == 0 for value, _ in parts_of(self._value)):
            self._run.refuse("its forward pass writes to its input in place; write x = x + y")
        self._memory = self._memory or _Memory()
        self._memory.overwritten = True
        return y

    @property  # type: ignore[misc]  # isinstance asks for it
    def __class__(self):
        self._run.refuse(
            "its forward pass asks for the type of a value, which a plan does not know, or keeps it in self"
        )

    def __getattr__(self, name: str):
        self._run.refuse(f"its forward pass takes .{name} of a value; write it with a layer of this package")

    def __repr__(self) -> str:
        return f"Followed{self.shape}"


def _refusing(name: str) -> Callable:
    def refusing(self, *given):
        self._run.refuse(f"its forward pass takes {name} of a value, which a plan does not know before it runs")

    return refusing


for _name in (
    "len iter next getitem setitem contains bool int float index eq ne lt le gt ge pow rpow matmul rmatmul floordiv "
    "rfloordiv mod rmod rtruediv and rand or ror xor rxor invert abs round array reduce_ex ipow imatmul iand ior ixor"
).split():
    setattr(Followed, f"__{_name}__", _refusing(f"__{_name}__"))
Followed.__hash__ = object.__hash__  # type: ignore[method-assign]  # which a comparison of its own takes away


def _followed(things: Any) -> Iterator[Followed]:
    """All that stand for values in arguments."""
    if type(things) is Followed:
        yield things
    elif type(things) in (tuple, list, dict):
        for thing in things.values() if type(things) is dict else things:
            yield from _followed(thing)


def _each(kind: Any, function: Callable[[Any], Any], things: Any) -> Any:
    """A nest of tuples, lists and dicts with the function of each thing of a kind in its place."""
    if type(things) is Followed:  # which refuses isinstance
        return function(things) if kind is Followed else things
    if kind is not Followed and isinstance(things, kind):
        return function(things)
    if isinstance(things, tuple) and hasattr(things, "_fields"):
        return type(things)(*(_each(kind, function, part) for part in things))
    if type(things) in (tuple, list):
        return type(things)(_each(kind, function, part) for part in things)
    if type(things) is dict:
        return {key: _each(kind, function, part) for key, part in things.items()}
    return things


def _stand_in(path: str, module: nn.Module) -> nn.Module:
    """A copy of a module, and of all within it, whose call tells the run that its arguments belong to."""
    if isinstance(module, torch.jit.ScriptModule):
        return module  # which a value makes fail, and which then is refused
    clone = shallow_copy(module)
    attributes = vars(clone)
    attributes.pop(KEPT, None)
    for name in ("_forward_hooks", "_forward_pre_hooks"):  # a module that has some is refused when it is called
        attributes[name] = OrderedDict()
    attributes["_compiled_call_impl"] = None
    attributes["_modules"] = {
        name: child and _stand_in(f"{path}.{name}" if path else name, child) for name, child in module._modules.items()
    }
    attributes["_parameters"], attributes["_buffers"] = dict(module._parameters), dict(module._buffers)
    attributes["forward"] = partial(_called, path, module)
    return clone


def _called(path: str, module: nn.Module, *args, **options) -> Any:
    if len(args) == 1 and not options and type(x := args[0]) is Followed and x._run.follower is None:
        if (given := x._run.again(path, x)) is not None:
            return given
    found = next(_followed([args, options]), None)
    if found is None:
        refuse(path, module, "it is called with nothing that comes from the network's input")
    return found._run.layer(path, module, args, options)


class _Changes:
    """What a forward pass must not change: random generators, parameters and buffers, attributes of other modules."""

    def __init__(self, module: nn.Module):
        self.generators = _generators()
        self.module = module
        self.parts = [(part, dict(vars(part)), self._registered(part)) for part in module.modules()]
        self.versions = self._versions()

    def found(self) -> str:
        if not _same_generators(self.generators, _generators()):
            return "draws random numbers; draw them outside the network"
        if self._versions() != self.versions:
            return "writes to a parameter or a buffer of its module"
        for part, attributes, registered in self.parts:
            if self._registered(part) != registered or vars(part).keys() != attributes.keys():
                return "sets an attribute of a module"
            if any(vars(part)[name] is not value for name, value in attributes.items()):
                return "sets an attribute of a module"
        return ""

    def _versions(self) -> list[int]:
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]

    @staticmethod
    def _registered(part: nn.Module) -> list[int]:
        return [id(thing) for things in (part._modules, part._parameters, part._buffers) for thing in things.values()]


def _generators() -> tuple:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _same_generators(before: tuple, after: tuple) -> bool:
    of_numpy = [(state[1].tobytes(), *state[2:]) for state in (before[2], after[2])]
    return torch.equal(before[0], after[0]) and before[1] == after[1] and of_numpy[0] == of_numpy[1]
