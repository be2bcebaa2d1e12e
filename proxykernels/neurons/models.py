"""The models, each with its equation."""

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import checks
from ..kernels import weight_cache
from ..kernels.neuron_models import Neuron, neuron
from ..kernels.table import Most
from . import neuron_checks
from .base import AnyNeuron, Value


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

        These libraries divide the current by tau. Here threshold, reset, resting potential and adaptation are
        multiplied by tau instead. Spikes and weights are the same; potentials are tau times as large.

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
    def rest(self) -> float:  # type: ignore[override]  # of the class in other models
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

    def scaled(self, factor: Value) -> LIFNeuron:
        scaled: Any = super().scaled(factor)
        return replace(scaled, adaptation=self.adaptation * factor)

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
class LoihiNeuron(AnyNeuron):
    """Loihi's integer neurons: u = trunc(current_decay u) + I, h = trunc(decay v) + u + v_bias; a spike resets to 0.

    All values are whole numbers; products with a decay are rounded toward zero. Currents have 24 bits and wrap around,
    potentials end at +-(2**23 - 1). Their state is [N, 2, ...]: potentials v[:, 0] and currents v[:, 1]. Lava's LIF
    process computes the same, "fixed_pt" (source: lava.proc.lif.models of lava-nc, AbstractPyLifModelFixed); it fires
    at v > 64 vth, counts weights and biases in 64ths, and has decays of 4096 parts. :func:`proxykernels.from_lava`
    reads its files.

    Attributes:
        v_threshold: 64 vth + 1 of Lava's, a whole number, at least 1; a number or [C].
        decay: factor of the potential per step, 1 - dv / 4096: a multiple of 1/4096 from 0 to 1; a number or [C].
        current_decay: the same of the current.
        v_bias: added to the potential in each step, 64 bias of Lava's; a whole number below 2**23, or [C].

    Currents must be whole numbers, too: weights are 64 times Lava's. It is not checked, and others are not rounded.
    """

    v_threshold: Value = 641.0
    decay: Value = 0.75
    current_decay: Value = 0.0
    v_bias: Value = 0.0

    family: ClassVar[str] = "Loihi"
    channelwise: ClassVar[tuple[str, ...]] = ("v_threshold", "decay", "current_decay", "v_bias")
    states: ClassVar[int] = 2
    v_reset: ClassVar[float] = 0.0

    def check(self) -> None:
        neuron_checks.neuron(self.v_threshold, self.v_reset)
        neuron_checks.multiple("v_threshold", self.v_threshold, 1.0, "a whole number")
        neuron_checks.bias_of_loihi("v_bias", self.v_bias)
        for name in ("decay", "current_decay"):
            neuron_checks.share(name, getattr(self, name))
            neuron_checks.multiple(name, getattr(self, name), neuron_checks.DECAY_UNIT, "a multiple of 1/4096")


@dataclass(frozen=True)
class IntegerLIFNeuron(AnyNeuron):
    """Neurons that fire up to D times in a step, and so give integers: h = decay v + I, v = h - v_threshold s.

        s = h / v_threshold, rounded down to an integer from 0 to max_spike_count

    That is what D steps of binary IF neurons add up to whose currents come in the first of them. A layer of them gives
    float32 tensors of 0, 1, .. D, in the place of Spikes. Trained as integers and run as D binary steps they are I-LIF
    (source: Luo et al., "Integer-valued training and spike-driven inference spiking neural network for high-performance
    and energy-efficient object detection", ECCV 2024, arXiv:2407.20708), SpikingJelly's ILIFNode; sinabs has the same
    as MultiSpike. Their gradient is the straight-through estimator, 1 / v_threshold where h is from 0 to D thresholds,
    in any layer that has a surrogate derivative: of that only ``detach_reset`` matters.

    Attributes:
        v_threshold: what a spike takes off the potential, > 0: a number or one value a channel [C].
        decay: factor of the potential per step, from 0 to 1; 1 integrates and fires: a number or one value a channel
            [C].
        max_spike_count: D, from 1 to 255.
        rounds: whether s is the nearest integer, half to even, as I-LIF has it, instead of the next one below.
    """

    v_threshold: Value = 1.0
    decay: Value = 1.0
    max_spike_count: int = 4
    rounds: bool = False

    family: ClassVar[str] = "Integer"
    channelwise: ClassVar[tuple[str, ...]] = ("v_threshold", "decay")
    scalars: ClassVar[tuple[str, ...]] = ("max_spike_count", "rounds")
    counts: ClassVar[bool] = True

    def check(self) -> None:
        neuron_checks.neuron(self.v_threshold, None)
        neuron_checks.share("decay", self.decay)
        neuron_checks.most_spikes("max_spike_count", self.max_spike_count)
        if not isinstance(self.rounds, bool):
            raise TypeError(f"rounds must be True or False, got {self.rounds!r}")


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
    def rest(self) -> float:  # type: ignore[override]  # of the class in other models
        return self.v_rest

    def check(self) -> None:
        neuron_checks.share("decay", self.decay)
        checks.start("v_rest", self.v_rest)

    def on(self, channels: int, device: torch.device, *, kept: bool = False) -> Neuron:
        """As leaky neurons whose threshold no potential reaches."""
        return weight_cache.made(_ready_integrators, self.decay, float(self.v_rest), channels, device)


def _ready_integrators(decay: Value, v_rest: float, channels: int, device: torch.device) -> Neuron:
    never = torch.full((channels,), math.inf, dtype=torch.float32, device=device)
    rows = never, neuron_checks.per_channel("decay", decay, channels, device)
    return neuron("Leaky", 0.0, torch.stack(rows), v_rest)


@dataclass(frozen=True)
class SigmaDelta:
    """Sigma-delta neurons, for :func:`convert`: each sends the change of its activation in signed powers of two.

    z adds up what arrives; a is what the neuron has sent; the threshold theta is a channel's largest activation on the
    calibration data, at least a quarter of its layer's:

        s[t] = the one of +-theta 2**-k, 0 <= k < exponents, nearest to relu(z[t]) - a[t-1]; 0 if that is too small
        a[t] = a[t-1] + s[t]

    So a neuron is silent once it has sent its activation, up to 3/4 of the smallest power. Sources: O'Connor and
    Welling, "Sigma delta quantized networks", ICLR 2017, arXiv:1611.02024; the sigma-delta neurons of Intel's Lava and
    Loihi 2; of signed powers of two, Huang et al., "Differential coding for training-free ANN-to-SNN conversion", ICML
    2025, arXiv:2503.00301. docs/few_steps.md has more. No layer takes them as its ``neuron``.

    Attributes:
        exponents: K, from 1 to 12.
        signed: whether layers without a ReLU, such as linear bottlenecks, become neurons too, with z[t] instead of
            relu(z[t]), and the largest absolute value for theta. False: they pass real values on, which are multiplied
            at each step; the outputs come in fewer steps. The last layer passes real values on in any case.

    Raises:
        TypeError, ValueError: exponents is no such integer, or signed no bool.
    """

    exponents: int = 9
    signed: bool = False

    fires: ClassVar[bool] = True

    def __post_init__(self):
        if not checks.is_integer(self.exponents):
            raise TypeError(f"exponents must be an integer, got {self.exponents!r}")
        if not 1 <= self.exponents <= Most.EXPONENTS:
            raise ValueError(f"exponents must be from 1 to {Most.EXPONENTS}, got {self.exponents}")
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be a bool, got {self.signed!r}")


@dataclass(frozen=True)
class Graded:
    """Neurons that send the change of their activation as one value, for :func:`convert`: graded spikes.

    z adds up what arrives; a is what the neuron has sent; theta is ``threshold`` times the layer's ``scale``, the power
    of two nearest to the activation that 99 % are not above on the calibration data:

        s[t] = relu(z[t]) - a[t-1] where that is at least theta in size, else 0
        a[t] = relu(z[t]) where a value is sent, else a[t-1]

    A constant input is answered in one step: that is a pass of the ReLU network in which activations below theta count
    as 0, and what is 0 is not computed with. Of frames, only what changes is sent. Sources: Kurtz et al., "Inducing and
    exploiting activation sparsity for fast inference on deep neural networks", ICML 2020 (a threshold in a ReLU);
    Loihi 2's graded spikes. No layer takes them as its ``neuron``.

    Attributes:
        threshold: theta in scales of the layer, at least 0; 0 sends everything that is not 0.

    Raises:
        TypeError, ValueError: threshold is no such number.
    """

    threshold: float = 0.0

    fires: ClassVar[bool] = True
    signed: ClassVar[bool] = False

    def __post_init__(self):
        if not isinstance(self.threshold, numbers.Real) or isinstance(self.threshold, bool):
            raise TypeError(f"threshold must be a number, got {self.threshold!r}")
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold must be at least 0 and finite, got {self.threshold!r}")
        object.__setattr__(self, "threshold", float(self.threshold))
