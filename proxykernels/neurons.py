"""Neuron models. Pass one to a layer:

    pk.FusedConv2d(1, 32, 3, neuron=pk.neurons.CubaLIFNeuron(decay=0.9, current_decay=0.8))

:mod:`proxykernels.kernels.reference` has all equations. A decay is a factor per step, from 0 to 1; 1 is no leak.
CONTRIBUTING.md says how to add a model.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from . import checks
from .checks import neuron_checks
from .kernels import backends, constants
from .kernels.neurons import Neuron, neuron
from .kernels.sigma_delta import MOST_EXPONENTS
from .kernels.value_checks_cache import nobody_follows
from .kernels.weight_cache import CONSTANTS

Value = float | Tensor  # a number, or a float tensor of one value a channel [C]


@dataclass(frozen=True)
class AnyNeuron:
    """Base of all neuron models. The fields are the parameters."""

    family: ClassVar[str]  # name of the model in kernels/reference.py
    channelwise: ClassVar[tuple[str, ...]]  # fields that may differ by channel
    scalars: ClassVar[tuple[str, ...]] = ()  # fields that all channels share, except v_reset
    states: ClassVar[int] = 1  # number of state variables
    fires: ClassVar[bool] = True  # False: the output are the potentials

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

    def check_once(self) -> None:
        """:meth:`check`; of numbers, which cannot change, only the first time."""
        if torch.compiler.is_compiling() or "_checked" not in self.__dict__:
            self.check()
            if not (torch.compiler.is_compiling() or self.tensors()):
                self.__dict__["_checked"] = True

    def on(self, channels: int, device: torch.device) -> Neuron:
        """The parameters as the kernels take them, for ``channels`` channels."""
        if device.type == "cpu" and nobody_follows() and not self.tensors():
            return _of_numbers(self, channels)
        return constants.made(_ready, *self._operands(channels, device))

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


@dataclass(frozen=True)
class IFNeuron(AnyNeuron):
    """Integrate-and-fire neurons: h = v + I.

    Attributes:
        v_threshold: threshold > 0, a number or one value a channel [C].
        v_reset: potential after a spike, below the threshold; None subtracts the threshold instead.
    """

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0

    family: ClassVar[str] = ""
    channelwise: ClassVar[tuple[str, ...]] = ("v_threshold",)

    def check(self) -> None:
        neuron_checks.neuron(self.v_threshold, self.v_reset)


@dataclass(frozen=True)
class LIFNeuron(IFNeuron):
    """Leaky integrate-and-fire neurons: h = v_rest + decay (v - v_rest) + I.

    Attributes:
        v_threshold, v_reset: as in :class:`IFNeuron`.
        decay: factor of the potential per step, from 0 to 1: a number or one value per channel [C].
        v_rest: resting potential, which is also the initial potential; below the threshold.
    """

    decay: Value = 0.5
    v_rest: float = 0.0

    family: ClassVar[str] = "Leaky"
    channelwise: ClassVar[tuple[str, ...]] = ("v_threshold", "decay")
    scalars: ClassVar[tuple[str, ...]] = ("v_rest",)

    @classmethod
    def from_tau(cls, tau: Value, *, decay_input: bool = True, **others) -> "LIFNeuron":
        """A neuron with a time constant, as in SpikingJelly, Norse and NIR: h = v + (v_rest - v + I) / tau.

        These libraries divide the current by tau. Here threshold, reset and resting potential are multiplied by tau
        instead. Spikes and weights are the same; potentials are tau times as large.

        Args:
            tau: time constant in steps (tau_mem / dt), at least 1: decay = 1 - 1 / tau; a number or [C].
            decay_input: whether the other library divides the current by tau. If not, nothing is multiplied.
            others: v_threshold, v_reset and v_rest, in the units of the other library.

        Raises:
            TypeError, ValueError: tau is below 1 or NaN, or one tau a channel would need one v_reset a channel.
        """
        neuron_checks.at_least_one("tau", tau)
        plain = cls(decay=1 - 1 / tau, **others)
        return plain.scaled(tau) if decay_input else plain

    @classmethod
    def from_beta(cls, beta: Value, **others) -> "LIFNeuron":
        """A neuron with a decay, as snnTorch's ``Leaky(beta)``: h = beta v + I. ``others``: v_threshold, v_reset."""
        return cls(decay=beta, **others)

    @classmethod
    def from_tau_mem(cls, tau_mem: Value, dt: float = 1.0, *, norm_input: bool = True, **others) -> "LIFNeuron":
        """A neuron with a time constant and exact integration, as in sinabs: decay = exp(-dt / tau_mem).

        Args:
            tau_mem: time constant, above 0; a number or [C]. dt: length of a step, in the same unit.
            norm_input: whether sinabs multiplies the current by 1 - decay. Potentials are then scaled as in
                :meth:`from_tau`.
            others: v_threshold, v_reset and v_rest, in the units of the other library.

        Raises:
            TypeError, ValueError: tau_mem or dt is not above 0, or one a channel would need one v_reset a channel.
        """
        neuron_checks.above_zero("tau_mem", tau_mem)
        neuron_checks.above_zero("dt", dt)
        decay = torch.exp(-dt / tau_mem) if isinstance(tau_mem, Tensor) else math.exp(-dt / tau_mem)
        plain = cls(decay=decay, **others)
        return plain.scaled(1 / (1 - decay)) if norm_input else plain

    def scaled(self, factor: Value) -> "LIFNeuron":
        """Neurons with the spikes that these would have if their currents were divided by ``factor``."""
        shared = {name: getattr(self, name) for name in ("v_reset", "v_rest")}
        if isinstance(factor, Tensor) and factor.ndim:
            if any(shared.values()):
                raise ValueError(
                    f"v_reset = {self.v_reset} and v_rest = {self.v_rest} would have to differ by channel, as the time "
                    "constants do; take one time constant for all channels, or 0 for both"
                )
        else:
            shared = {name: None if value is None else value * float(factor) for name, value in shared.items()}
        return replace(self, v_threshold=self.v_threshold * factor, **shared)

    @property
    def rest(self) -> float:
        return self.v_rest

    def check(self) -> None:
        super().check()
        neuron_checks.resting(self.v_rest, self.v_threshold)
        for name in self.channelwise:
            if name.endswith("decay"):
                neuron_checks.share(name, getattr(self, name))


@dataclass(frozen=True)
class CubaLIFNeuron(LIFNeuron):
    """Current-based leaky neurons: i = current_decay i + I filters the current, h = v_rest + decay (v - v_rest) + i.

    Their state is [N, 2, ...]: potentials v[:, 0] and filtered currents v[:, 1].

    Attributes:
        v_threshold, v_reset, decay, v_rest: as in :class:`LIFNeuron`.
        current_decay: factor of the filtered current per step, from 0 to 1; a number or [C].
    """

    current_decay: Value = 0.5

    family: ClassVar[str] = "Synaptic"
    channelwise: ClassVar[tuple[str, ...]] = ("v_threshold", "decay", "current_decay")
    states: ClassVar[int] = 2


@dataclass(frozen=True)
class ALIFNeuron(LIFNeuron):
    """Leaky neurons whose threshold adapts: s = h >= v_threshold + a, then a = adaptation_decay a + adaptation s.

    Their state is [N, 2, ...]: potentials v[:, 0] and adaptations v[:, 1]. A soft reset subtracts v_threshold.
    Source: Bellec et al., "Long short-term memory and learning-to-learn in networks of spiking neurons", 2018.

    Attributes:
        v_threshold, v_reset, decay, v_rest: as in :class:`LIFNeuron`.
        adaptation_decay: factor of the adaptation per step, from 0 to 1; a number or [C].
        adaptation: rise of the threshold per spike; at least 0, a number or [C].
    """

    adaptation_decay: Value = 0.9
    adaptation: Value = 0.1

    family: ClassVar[str] = "Adaptive"
    channelwise: ClassVar[tuple[str, ...]] = ("v_threshold", "decay", "adaptation_decay", "adaptation")
    states: ClassVar[int] = 2

    def check(self) -> None:
        super().check()
        neuron_checks.not_below_zero("adaptation", self.adaptation)


@dataclass(frozen=True)
class RefractoryLIFNeuron(LIFNeuron):
    """Leaky neurons with a refractory period: for ``refractory`` steps after a spike v stays and they cannot fire.

    Their state is [N, 2, ...]: potentials v[:, 0] and remaining refractory steps v[:, 1].

    Attributes:
        v_threshold, v_reset, decay, v_rest: as in :class:`LIFNeuron`.
        refractory: number of steps, at least 0.
    """

    refractory: int = 2

    family: ClassVar[str] = "Refractory"
    scalars: ClassVar[tuple[str, ...]] = ("v_rest", "refractory")
    states: ClassVar[int] = 2

    def check(self) -> None:
        super().check()
        neuron_checks.whole_steps("refractory", self.refractory)


@dataclass(frozen=True)
class LINeuron(AnyNeuron):
    """Leaky integrators, which never fire and give their potentials: v = v_rest + decay (v - v_rest) + I.

    For the last layer of a network, whose output is then a tensor of potentials.

    Attributes:
        decay: share of the potential that is left after a step, from 0 to 1 (an integrator): a number or [C].
        v_rest: the potential that they decay to, and start from.
    """

    decay: Value = 1.0
    v_rest: float = 0.0

    family: ClassVar[str] = "Leaky"
    channelwise: ClassVar[tuple[str, ...]] = ("decay",)
    scalars: ClassVar[tuple[str, ...]] = ("v_rest",)
    fires: ClassVar[bool] = False

    @property
    def rest(self) -> float:
        return self.v_rest

    def check(self) -> None:
        neuron_checks.share("decay", self.decay)
        checks.start("v_rest", self.v_rest)

    def check_once(self) -> None:
        """:meth:`check`; of numbers, which cannot change, only the first time."""
        if torch.compiler.is_compiling() or "_checked" not in self.__dict__:
            self.check()
            if not (torch.compiler.is_compiling() or self.tensors()):
                self.__dict__["_checked"] = True

    def on(self, channels: int, device: torch.device) -> Neuron:
        """As leaky neurons whose threshold no potential reaches."""
        return constants.made(_ready_integrators, self.decay, float(self.v_rest), channels, device)


def _ready_integrators(decay: Value, v_rest: float, channels: int, device: torch.device) -> Neuron:
    never = torch.full((channels,), math.inf, device=device)
    return neuron("Leaky", 0.0, [never, neuron_checks.per_channel("decay", decay, channels, device)], v_rest)


@dataclass(frozen=True)
class SigmaDelta:
    """Sigma-delta neurons, for :func:`convert`: each sends the change of its activation in signed powers of two.

    z adds up what arrives; a is what the neuron has sent; the threshold theta is a channel's largest activation on the
    calibration data:

        s[t] = the one of +-theta 2**-k, 0 <= k < exponents, nearest to relu(z[t]) - a[t-1]; 0 if that is too small
        a[t] = a[t-1] + s[t]

    So a neuron is silent once it has sent its activation, up to 3/4 of the smallest power. Sources: the sigma-delta
    neurons of Intel's Lava and Loihi 2; O'Connor and Welling, "Sigma delta quantized networks", ICLR 2017,
    arXiv:1611.02024. No layer takes them as its ``neuron``.

    Attributes:
        exponents: K, from 1 to 8.

    Raises:
        TypeError, ValueError: exponents is no such integer.
    """

    exponents: int = 8

    fires: ClassVar[bool] = True

    def __post_init__(self):
        if not checks.is_integer(self.exponents):
            raise TypeError(f"exponents must be an integer, got {self.exponents!r}")
        if not 1 <= self.exponents <= MOST_EXPONENTS:
            raise ValueError(f"exponents must be from 1 to {MOST_EXPONENTS}, got {self.exponents}")
