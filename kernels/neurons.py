"""A layer's neurons as one value, which travels whole from the layers down to the kernels.

A new parameter is a field here; a new model is a line in MODELS as well, and in cpu/src/models.h. Their steps are in
reference.py, cpu/src/neurons.h and gpu/neurons.py.
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

    @property
    def model(self) -> str:
        """The name of its step in cpu/src/neurons.h."""
        return "SoftReset" if self.v_reset is None else "HardReset"

    @property
    def parameters(self) -> tuple[float, ...]:
        """What that step takes besides theta."""
        return () if self.v_reset is None else (self.v_reset,)

    def chunk(self, parts: int) -> Iterator["Neuron"]:
        """The neurons of so many groups of channels, one after another."""
        return (self._replace(theta=theta) for theta in self.theta.chunk(parts))


MODELS = ("HardReset", "SoftReset")  # cpu/src/models.h; compared when the library is loaded
SCHEMA = "Tensor theta, float? v_reset"  # of its fields, in an operator's schema
