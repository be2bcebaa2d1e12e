"""The base of all neuron models: their parameters, as the kernels take them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..checks import keywords, neuron_checks
from ..kernels import backends, constant_cache, value_checks_cache
from ..kernels.neuron_models import Neuron, neuron
from ..kernels.weight_cache import CONSTANTS

Value = float | Tensor  # a number, or a float tensor of one value a channel [C]


@dataclass(frozen=True)
class AnyNeuron:
    """Base of all neuron models. The fields are the parameters, which are given by name."""

    family: ClassVar[str]  # name of the model in kernels/reference.py
    channelwise: ClassVar[tuple[str, ...]]  # fields that may differ by channel
    scalars: ClassVar[tuple[str, ...]] = ()  # fields that all channels share, except v_reset
    states: ClassVar[int] = 1  # number of state variables
    fires: ClassVar[bool] = True  # False: the output are the potentials

    def __new__(cls, *by_position: Any, **by_name: Any) -> Self:
        if by_position:
            keywords.warn_of_positions(cls.__name__, cls.names(), by_position)
        return super().__new__(cls)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all fields."""
        return cls.__match_args__  # torch.compile cannot trace dataclasses.fields

    @property
    def rest(self) -> float:
        """The initial potential of a call without a state."""
        return 0.0

    def check(self) -> None:
        """Check the parameters.

        Raises:
            TypeError, ValueError: a parameter has the wrong type or value; the message names it.
        """

    def check_once(self) -> Sequence[Tensor]:
        """:meth:`check`; of numbers, which cannot change, only the first time. Returns the tensors."""
        if "_checked" in self.__dict__:
            return ()
        self.check()
        tensors = self.tensors()
        if not (tensors or torch.compiler.is_compiling()):
            self.__dict__["_checked"] = True
        return tensors

    def on(self, channels: int, device: torch.device, *, kept: bool = False) -> Neuron:
        """The parameters as the kernels take them, for ``channels`` channels.

        ``kept``: whether the same tensor may serve several calls: of numbers, on a CPU where nobody follows.
        """
        if kept:
            return _of_numbers(self, channels)
        operands = self._operands(channels, device)
        if device.type == "cuda" and not self.tensors() and value_checks_cache.can_be_kept_on(device):
            # In the block's cache too: a graph that is captured in it makes none.
            return constant_cache.made_as(_ready, lambda *_: _of_numbers_on(self, channels, device), *operands)
        return constant_cache.made(_ready, *operands)

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
        at_rest = self.states == 1 and getattr(self, "v_reset", None) == self.rest
        return at_rest and device.type == "cpu" and 1 < T <= backends.PERIODS


def _ready(kind: type[AnyNeuron], v_reset: float | None, others: tuple, channels: int, device, *values) -> Neuron:
    named = zip(kind.channelwise, values, strict=True)
    rows = [neuron_checks.per_channel(name, value, channels, device) for name, value in named]
    return neuron(kind.family, v_reset, rows, *others)


@lru_cache(256)
def _of_numbers(neuron: AnyNeuron, channels: int) -> Neuron:
    """:func:`_ready` for numbers only, on a CPU, cached. The result is never written to."""
    with torch.inference_mode(False):
        made = _ready(*neuron._operands(channels, torch.device("cpu")))
    CONSTANTS.add(made.channels.untyped_storage())
    return made


@lru_cache(256)
def _of_numbers_on(neuron: AnyNeuron, channels: int, device: torch.device) -> Neuron:
    """The same on a GPU. The copy is waited for, so that any stream may read it."""
    made = _of_numbers(neuron, channels)
    with torch.inference_mode(False):
        return made._replace(channels=made.channels.to(device))
