"""The base of all neuron models: their parameters, as the kernels take them.

A class whose step is written in Python is a model of its own, which the reference code runs.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..kernels import backends, value_checks_cache, weight_cache
from ..kernels.neuron_models import IN_PYTHON, Constant, Model, Neuron, neuron
from ..kernels.value_checks_cache import nobody_follows
from . import neuron_checks

Value = float | Tensor  # a number, or a float tensor of one value a channel [C]


class _OtherFields:
    """The fields of a class that are neither ``v_reset`` nor among its ``scalars``."""

    def __get__(self, _: Any, kind: "type[AnyNeuron]") -> tuple[str, ...]:
        return tuple(name for name in kind.names() if name != "v_reset" and name not in kind.scalars)


@dataclass(frozen=True)
class AnyNeuron:
    """Base of all neuron models, and of your own. The fields are the parameters, which are given by name.

    A model of your own is a frozen dataclass with a method :meth:`step`, in torch. Every layer takes it and runs it by
    the reference code, which is slow, and says so once; :func:`proxykernels.compile` refuses it.

    Attributes:
        states: how many values a neuron keeps from step to step, the potential first (default 1).
        scalars: names of the fields that all channels share, and that ``step`` sees as numbers (default none).
            ``v_reset`` is such a field, and may be None. Every other field may differ by channel.
        rest: the potential that a call without a state starts from (default 0); the other states start at 0.

    Raises:
        TypeError: a class with a ``step`` is no dataclass, has no states, or does not fire.

    Example:
        >>> @dataclass(frozen=True)
        ... class Quadratic(pk.neurons.AnyNeuron):
        ...     v_threshold: pk.neurons.Value = 1.0
        ...     v_reset: float | None = 0.0
        ...
        ...     def step(self, state, current, fire):
        ...         (v,) = state
        ...         spikes, v = fire(v + v * v / 4 + current, self.v_threshold, self.v_reset)
        ...         return spikes, (v,)
        >>> layer = pk.FusedLinear(784, 10, neuron=Quadratic())
    """

    family: ClassVar[str]  # name of the model in kernels/reference.py
    channelwise: ClassVar[tuple[str, ...]] = _OtherFields()  # type: ignore[assignment]  # fields that may differ by channel
    scalars: ClassVar[tuple[str, ...]] = ()  # fields that all channels share, except v_reset
    states: ClassVar[int] = 1  # number of state variables
    rest: ClassVar[float] = 0.0  # the initial potential of a call without a state
    fires: ClassVar[bool] = True  # False: the output are the potentials
    counts: ClassVar[bool] = False  # True: they fire several times in a step; the output are tensors of integers
    in_python: ClassVar[bool] = False  # whether it has a step of its own, which no kernel knows
    is_checked: ClassVar[bool] = False  # of a neuron: whether its parameters, numbers, have been checked
    _added: ClassVar[Any] = None  # the class itself, once its step is known to the reference code

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.in_python = cls.step is not AnyNeuron.step
        if cls.in_python and "channelwise" not in vars(cls):
            cls.channelwise = _OtherFields()  # type: ignore[assignment]  # of this class, not of its base
        if not hasattr(cls, "family"):
            cls.family = cls.__name__

    def __new__(cls, *by_position: Any, **by_name: Any) -> Self:
        if cls.in_python and cls._added is not cls:
            _add_family(cls)
        if by_position:
            warn_of_positions(cls.__name__, cls.names(), by_position)
        return super().__new__(cls)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all fields."""
        return cls.__match_args__  # torch.compile cannot trace dataclasses.fields

    def step(
        self, state: tuple[Tensor, ...], current: Tensor, fire: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One time step, of a model of your own: equations as in :mod:`proxykernels.kernels.reference`.

        ``self`` has the parameters: float32 tensors [C] or [C, 1], which broadcast against the current, and numbers
        where ``scalars`` or ``v_reset`` name them. A step keeps nothing in ``self``.

        Args:
            state: the values that the neurons keep, ``states`` float32 tensors of the current's shape.
            current: float32 [N, C] or [N, C, P], for N samples, C channels and P pixels.
            fire: ``spikes, v = fire(h, threshold, v_reset)``: the spikes h >= threshold, with the surrogate derivative
                where a layer has one, and the potentials after them: v_reset, or h - threshold where v_reset is None.

        Returns:
            The spikes, 0 and 1, and the state after the step, both of the current's shape.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step in Python")

    def check(self) -> None:
        """Check the parameters. A model of your own may check more than that they are finite numbers.

        Raises:
            TypeError, ValueError: a parameter has the wrong type or value; the message names it.
        """
        for name in self.names():
            value = getattr(self, name)
            if name in self.channelwise:
                neuron_checks.finite(name, value)
            elif not (name == "v_reset" and value is None):
                neuron_checks.number(name, value)

    def check_once(self) -> Sequence[Tensor]:
        """:meth:`check`, which numbers, since they cannot change, need only once. Returns the tensors."""
        self.check()
        tensors = self.tensors()
        if not (tensors or torch.compiler.is_compiling()):
            self.__dict__["is_checked"] = True
        return tensors

    def on(self, channels: int, device: torch.device, *, kept: bool = False) -> Neuron:
        """The parameters as the kernels take them, for ``channels`` channels.

        ``kept``: whether the same tensor may serve several calls: of numbers, on a CPU, not while operators are traced.
        """
        if self.in_python:
            _warn_once(type(self))
        if kept:
            return _of_numbers(self, channels)
        operands = self._operands(channels, device)
        if device.type == "cuda" and not self.tensors() and value_checks_cache.can_be_kept_on(device):
            # In the block's cache too: a graph that is captured in it makes none.
            return weight_cache.made_as(_ready, lambda *_: _of_numbers_on(self, channels, device), *operands)
        return weight_cache.made(_ready, *operands)

    def _operands(self, channels: int, device: torch.device) -> tuple:
        values = [getattr(self, name) for name in self.channelwise]
        others = tuple(float(getattr(self, name)) for name in self.scalars)
        return type(self), getattr(self, "v_reset", None), others, channels, device, *values

    def tensors(self) -> list[Tensor]:
        """The fields that are tensors."""
        return [value for name in self.channelwise if isinstance(value := getattr(self, name), Tensor)]

    def detach(self) -> "AnyNeuron":
        """The same neuron with detached tensors."""
        tensors = self.tensors()
        if not tensors or not any(value.requires_grad for value in tensors):
            return self
        values = {name: getattr(self, name) for name in self.channelwise}
        return replace(self, **{name: v.detach() for name, v in values.items() if isinstance(v, Tensor)})

    def repeats(self, device: torch.device, T: int) -> bool:
        """Whether spikes from rest on a constant current are stored as periods: for neurons that reset to rest."""
        at_rest = self.states == 1 and getattr(self, "v_reset", None) == self.rest and not self.in_python
        return at_rest and device.type == "cpu" and 1 < T <= backends.PERIODS


def _ready(kind: type[AnyNeuron], v_reset: float | None, others: tuple, channels: int, device, *values) -> Neuron:
    named = zip(kind.channelwise, values, strict=True)
    rows = [neuron_checks.per_channel(name, value, channels, device) for name, value in named]
    stacked = torch.stack(rows) if rows else torch.empty(0, channels, dtype=torch.float32, device=device)
    return neuron(kind.family, v_reset, stacked, *others)


@lru_cache(256)
def _of_numbers(neuron: AnyNeuron, channels: int) -> Neuron:
    """:func:`_ready` for numbers only, on a CPU, cached. The result is never written to."""
    with torch.inference_mode(False):
        return Constant(*_ready(*neuron._operands(channels, torch.device("cpu"))))


@lru_cache(256)
def _of_numbers_on(neuron: AnyNeuron, channels: int, device: torch.device) -> Neuron:
    """:func:`_of_numbers` on a GPU. The copy is waited for, so that any stream may read it."""
    made = _of_numbers(neuron, channels)
    with torch.inference_mode(False):
        return made._replace(channels=made.channels.to(device))


def warn_of_positions(kind: str, names: Sequence[str], given: Sequence[Any]) -> None:
    """Warn at the caller's caller that arguments should be given by name."""
    shown = ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=False))
    warnings.warn(
        f"{kind} was given {', '.join(names[: len(given)])} by position, which the next version refuses: write {shown}",
        DeprecationWarning,
        stacklevel=3,
    )


_warned: set[str] = set()  # families of which it was said that they are slow


def _add_family(kind: Any) -> None:
    """Make a class of neurons, whose method ``step`` is its own, a family of models: with and without ``v_reset``.

    Raises:
        TypeError: the class is no dataclass, has a field that is no parameter, or no states, or never fires.
    """
    fields = [name for name, note in inspect.get_annotations(kind).items() if "ClassVar" not in str(note)]
    if fields and "__dataclass_fields__" not in vars(kind):
        raise TypeError(f"{kind.__name__} has the fields {', '.join(fields)}: write @dataclass(frozen=True) above it")
    unknown = sorted({*kind.channelwise, *kind.scalars, "v_reset"} ^ {*kind.names(), "v_reset"})
    if unknown:
        raise TypeError(f"channelwise and scalars of {kind.__name__} must have its fields, got {unknown} in one only")
    if not isinstance(kind.states, int) or kind.states < 1:
        raise TypeError(f"states of {kind.__name__} must be a number of states, at least 1, got {kind.states!r}")
    if not kind.fires:
        raise TypeError(f"{kind.__name__} has a step, which must fire; LINeuron is the only readout")
    name = family = f"{kind.__module__}.{kind.__qualname__}"
    count = 1
    while f"{family}SoftReset" in IN_PYTHON:  # a class of that name which was defined before, as notebooks do
        count += 1
        family = f"{name}#{count}"
    step = _step_of(kind)
    IN_PYTHON[f"{family}SoftReset"] = Model(kind.states, kind.channelwise, kind.scalars, step)
    IN_PYTHON[f"{family}HardReset"] = Model(kind.states, kind.channelwise, ("v_reset", *kind.scalars), step)
    kind.family, kind._added = family, kind
    kind.channelwise = kind.channelwise  # as a value of its own: torch.compile guards it by identity


def _warn_once(kind: Any) -> None:
    """Say that a class of neurons is slow, unless its caller has asked for the reference code."""
    if kind.family in _warned or torch.compiler.is_compiling() or backends.reference_is_asked():
        return
    _warned.add(kind.family)
    warnings.warn(
        f"{kind.__name__} is written in Python, and no kernel knows it: its layers run by the reference code, one time "
        "step after another, which is slow. CONTRIBUTING.md, 'Add a neuron', says how kernels learn it; within "
        "pk.use_reference() this warning is not given",
        UserWarning,
        stacklevel=3,
    )


def _step_of(kind: Any) -> Callable:
    """``kind.step`` as the reference code calls it."""
    channels: tuple[str, ...] = kind.channelwise

    def step(state: tuple[Tensor, ...], current: Tensor, *values: Tensor, fire: Callable, **scalars: float):
        neuron = object.__new__(kind)  # its parameters are of all channels here: nothing is checked again
        without = {"v_reset": None} if "v_reset" in kind.names() else {}
        vars(neuron).update(without, **dict(zip(channels, values, strict=True)), **scalars)

        def compare(h: Tensor, threshold: Any, v_reset: Any) -> tuple[Tensor, Tensor]:
            return fire(h, torch.as_tensor(threshold, dtype=torch.float32, device=h.device), v_reset)

        # Copies: a step that changes its arguments in place would change what the caller of the layer has.
        return _checked(kind, neuron.step(tuple(v.clone() for v in state), current.clone(), compare), current)

    return step


def _checked(kind: Any, found: Any, current: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a step has returned, spikes and states, in float32.

    Raises:
        TypeError, ValueError: it is something else.
    """
    states = "(v,)" if kind.states == 1 else f"{kind.states} states"
    where = f"{kind.__name__}.step must return (spikes, {states})"
    spike, after = found if isinstance(found, tuple | list) and len(found) == 2 else (None, None)
    after = (after,) if isinstance(after, Tensor) and kind.states == 1 else after
    if not isinstance(spike, Tensor) or not isinstance(after, tuple | list) or len(after) != kind.states:
        raise TypeError(f"{where}, got {_described(found)}")
    for value in (spike, *after):
        if not isinstance(value, Tensor) or value.shape != current.shape:
            raise ValueError(f"{where}, all of the current's shape {list(current.shape)}; got {_described(found)}")
    can_look = spike.dtype != torch.bool and spike.is_cpu and nobody_follows()
    if can_look and not torch.equal(spike, spike.bool().to(spike.dtype)):
        raise ValueError(f"{where}, and spikes of 0 and 1; got {spike.min().item():g} to {spike.max().item():g}")
    return spike, tuple(v.float() for v in after)


def _described(found: Any) -> str:
    """A result of a step: its tensors by their shapes."""
    if isinstance(found, Tensor):
        return str(list(found.shape))
    return f"({', '.join(map(_described, found))})" if isinstance(found, tuple | list) else type(found).__name__
