"""Neurons as their owner describes them: one value that layers hold and hand on whole.

A new model is one more class here, beside its step in kernels/reference.py, kernels/cpu/src/neurons.h and
kernels/gpu/neurons.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import checks
from .kernels import backends
from .kernels.neurons import Neuron


class IFNeuron(NamedTuple):
    """Integrate-and-fire neurons.

    Attributes:
        v_threshold: threshold > 0, a number or one value a channel [C].
        v_reset: potential after a spike, below the threshold; None subtracts the threshold instead.
    """

    v_threshold: float | Tensor = 1.0
    v_reset: float | None = 0.0

    def checked(self) -> "IFNeuron":
        """The same, with numbers as float32 has them.

        Raises:
            TypeError, ValueError: a value is not sound; the message names it.
        """
        return IFNeuron(self.v_threshold, checks.neuron(self.v_threshold, self.v_reset))

    def on(self, channels: int, device: torch.device) -> Neuron:
        """What the kernels take, for so many channels."""
        return Neuron(checks.thresholds(self.v_threshold, channels, device), self.v_reset)

    def repeats(self, device: torch.device, T: int) -> bool:
        """Whether, from rest on a held current, they repeat themselves and are kept as periods: if reset to rest."""
        return device.type == "cpu" and self.v_reset == 0 and T <= backends.PERIODS
