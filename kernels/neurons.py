"""A layer's neurons as one value, which travels whole from the layers down to the kernels.

A new neuron model is one more class here, and its step in reference.py, cpu/src/neurons.h and gpu/neurons.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Neuron(NamedTuple):
    """What a step of integrate-and-fire neurons needs besides their potentials and currents.

    Attributes:
        theta: thresholds, float32 [C].
        v_reset: the potential after a spike; None for the soft reset, which subtracts theta.
    """

    theta: Tensor
    v_reset: float | None

    def chunk(self, parts: int) -> Iterator["Neuron"]:
        """The neurons of so many groups of channels, one after another."""
        return (self._replace(theta=theta) for theta in self.theta.chunk(parts))


SCHEMA = "Tensor theta, float? v_reset"  # of its fields, in an operator's schema
