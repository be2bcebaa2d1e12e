"""The neurons of a layer as one value, which is passed from the layers to the kernels.

A new model is a line in MODELS, as in cpu/src/models.h, and a step in reference.py, cpu/src/neurons.h and
gpu/neuron_steps.py. Operators and kernels take any of them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Model(NamedTuple):
    """What one step of a model's neurons takes and keeps; the equations are in reference.py.

    Attributes:
        states: values that a neuron keeps from step to step, the potential first.
        channels: the parameters that each channel has a value of, the threshold first.
        scalars: the parameters that all neurons share.
    """

    states: int
    channels: tuple[str, ...]
    scalars: tuple[str, ...]


# Where a model has two resets, "hard" comes first: it has v_reset, and "soft" has not.
MODELS = {
    "HardReset": Model(1, ("theta",), ("v_reset",)),
    "SoftReset": Model(1, ("theta",), ()),
    "LeakyHardReset": Model(1, ("theta", "decay"), ("v_reset", "v_rest")),
    "LeakySoftReset": Model(1, ("theta", "decay"), ("v_rest",)),
    "SynapticHardReset": Model(2, ("theta", "decay", "current_decay"), ("v_reset", "v_rest")),
    "SynapticSoftReset": Model(2, ("theta", "decay", "current_decay"), ("v_rest",)),
    "AdaptiveHardReset": Model(2, ("theta", "decay", "adaptation_decay", "adaptation"), ("v_reset", "v_rest")),
    "AdaptiveSoftReset": Model(2, ("theta", "decay", "adaptation_decay", "adaptation"), ("v_rest",)),
    "RefractoryHardReset": Model(2, ("theta", "decay"), ("v_reset", "v_rest", "refractory")),
    "RefractorySoftReset": Model(2, ("theta", "decay"), ("v_rest", "refractory")),
    "LoihiHardReset": Model(2, ("theta", "decay", "current_decay", "v_bias"), ("v_reset",)),
}
SCHEMA = "str model, Tensor channels, float[] scalars"  # of a Neuron's fields, in an operator's schema


class Neuron(NamedTuple):
    """What a step of a layer's neurons needs besides their states and currents.

    Attributes:
        model: a name in MODELS.
        channels: float32 [parameters of a channel, C], in the model's order.
        scalars: in the model's order.
    """

    model: str
    channels: Tensor
    scalars: Sequence[float]

    @property
    def states(self) -> int:
        """Values that a neuron keeps. Of one, states are [N, P, C]; of more, [N, states, P, C]."""
        return MODELS[self.model].states

    @property
    def theta(self) -> Tensor:
        """Thresholds, [C]."""
        return self.channels[0]

    def scalar(self, name: str) -> float | None:
        """A parameter that all neurons share; None: the model has no such (without v_reset, it is reset softly)."""
        names = MODELS[self.model].scalars
        return self.scalars[names.index(name)] if name in names else None

    @property
    def v_reset(self) -> float | None:
        """The potential after a spike; None: the threshold is subtracted."""
        return self.scalar("v_reset")

    def detach(self) -> "Neuron":
        """The same, without a gradient."""
        return self._replace(channels=self.channels.detach())

    def chunk(self, parts: int) -> Iterator["Neuron"]:
        """The neurons of so many groups of channels, one after another."""
        return (self._replace(channels=channels) for channels in self.channels.chunk(parts, 1))


class CurrentSums(Neuron):
    """In the place of neurons: sums of the currents [N, 2, P, C], and of their squares, and no spikes.

    ``channels`` [1, C] are infinite thresholds.
    """

    __slots__ = ()

    @property
    def states(self) -> int:
        """The two sums."""
        return 2

    @property
    def v_reset(self) -> None:
        """Nothing is reset."""


def current_sums(C: int, device: torch.device) -> CurrentSums:
    """Of so many channels."""
    return CurrentSums("CurrentSums", torch.full((1, C), torch.inf, dtype=torch.float32, device=device), ())


def neuron(family: str, v_reset: float | None, channels: Sequence[Tensor], *others: float) -> Neuron:
    """A Neuron of a family of models ("" integrates and fires; "Leaky", ...), with the reset that ``v_reset`` asks for.

    ``channels``: [C] each; ``others``: the scalars but for v_reset.
    """
    reset = () if v_reset is None else (v_reset,)
    return Neuron(family + ("HardReset" if reset else "SoftReset"), torch.stack(list(channels)), (*reset, *others))


def if_neuron(theta: Tensor, v_reset: float | None) -> Neuron:
    """Integrate-and-fire neurons of thresholds [C]."""
    return neuron("", v_reset, [theta])
