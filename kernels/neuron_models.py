"""The neurons of a layer, and a surrogate derivative, as one value each, passed from the layers to the kernels.

table.py lists the models and the shapes of derivatives. Each model has a step in reference.py, cpu/src/neurons.h and
gpu/neuron_steps.py, each shape a derivative in reference_gradients.py, cpu/src/scan_backward.h and
gpu/neurons_backward.py.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .table import COUNTING_MODELS, MODELS, Model

IN_PYTHON: dict[str, Model] = {}  # models with a step in Python, by names of their own; they run by the reference code
SCHEMA = "str model, Tensor channels, float[] scalars"  # of a Neuron's fields, in an operator's schema
SURROGATE_SCHEMA = "str shape, float[] numbers, bool detach_reset"  # of its fields, in an operator's schema


def about(model: str) -> Model:
    """What a model's neurons take and keep.

    Raises:
        ValueError: no neuron of this process has that model.
    """
    found = MODELS.get(model) or COUNTING_MODELS.get(model) or IN_PYTHON.get(model)
    if found is None:
        raise ValueError(
            f"the neuron model {model!r} is not known here; give its class, a subclass of pk.neurons.AnyNeuron, a "
            "method step(self, state, current, fire), or add the model to the package as CONTRIBUTING.md says"
        )
    return found


class Neuron(NamedTuple):
    """What a step of a layer's neurons needs in addition to their states and currents.

    Attributes:
        model: a name in MODELS, COUNTING_MODELS or IN_PYTHON.
        channels: float32 [parameters of a channel, C], in the model's order.
        scalars: in the model's order.
    """

    model: str
    channels: Tensor
    scalars: Sequence[float]

    @property
    def states(self) -> int:
        """How many values a neuron keeps. If one, states are [N, P, C]; if more, [N, states, P, C]."""
        return about(self.model).states

    @property
    def counts(self) -> bool:
        """Whether a neuron may fire several times in a step: it then gives integers, float32, instead of bits."""
        return self.model in COUNTING_MODELS

    @property
    def theta(self) -> Tensor:
        """Thresholds, [C]."""
        return self.channels[0]

    def scalar(self, name: str) -> float | None:
        """A parameter that all neurons share; None: the model has no such (without v_reset, it is reset softly)."""
        names = about(self.model).scalars
        return self.scalars[names.index(name)] if name in names else None

    @property
    def v_reset(self) -> float | None:
        """The potential after a spike; None: the threshold is subtracted."""
        return self.scalar("v_reset")

    def detach(self) -> "Neuron":
        """The same, without a gradient."""
        return self._replace(channels=self.channels.detach())

    def chunk(self, parts: int) -> Iterator["Neuron"]:
        """The neurons of this many groups of channels, one after another."""
        return (self._replace(channels=channels) for channels in self.channels.chunk(parts, 1))


class Constant(Neuron):
    """Neurons that serve several calls, and whose channels are never written to.

    Attributes:
        in_library: their form for the C++ library.
    """

    in_library: Any = None  # until their first use

    def __reduce__(self) -> tuple:
        return Neuron, tuple(self)


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
    """Neurons of ``C`` channels whose potential is the sum of their currents."""
    return CurrentSums("CurrentSums", torch.full((1, C), torch.inf, dtype=torch.float32, device=device), ())


def beside_currents(neuron: Neuron) -> Neuron:
    """Neurons for a kernel of a convolution that runs some beside the currents that are asked for."""
    return neuron._replace(model="LeakySoftReset", scalars=(0.0,)) if neuron.counts else neuron


def neuron(family: str, v_reset: float | None, channels: Tensor, *others: float) -> Neuron:
    """A Neuron of a family of models ("" integrates and fires; "Leaky", ...), with the reset that ``v_reset`` asks for.

    ``channels``: [parameters, C]; ``others``: the scalars except v_reset.
    """
    reset = () if v_reset is None else (v_reset,)
    model = family + ("HardReset" if reset else "SoftReset")
    about(model)  # or says that there is none
    return Neuron(model, channels, (*reset, *others))


def if_neuron(theta: Tensor, v_reset: float | None) -> Neuron:
    """Integrate-and-fire neurons of thresholds [C]."""
    return neuron("", v_reset, theta.unsqueeze(0))


class Surrogate(NamedTuple):
    """A surrogate derivative.

    Attributes:
        shape: one of SURROGATES of table.py.
        numbers: two that the shape takes: ATan a and pi a (a = alpha / 2), FastSigmoid height and slope, Sigmoid alpha
            and 0, Triangle width and 0.
        detach_reset: whether gradients do not pass through the reset.
    """

    shape: str
    numbers: Sequence[float]
    detach_reset: bool
