"""Synaptic operations: what a simulation would cost on hardware that works spike by spike."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import checks
from ..layers.synapses import Synapse

# 32-bit floating point in 45 nm CMOS, 0.9 V: an addition takes 0.9 pJ, a multiplication 3.7 pJ. Horowitz, "Computing's
# energy problem (and what we can do about it)", ISSCC 2014, doi 10.1109/ISSCC.2014.6757323. Memory is not counted.
ACCUMULATE_JOULES = 0.9e-12
MULTIPLY_ACCUMULATE_JOULES = 4.6e-12


@dataclass
class SynOps:
    """Operations of a simulation, over all its samples and steps.

    Attributes:
        accumulates: layer name -> additions of a weight to a potential: one for each spike and each neuron that it
            reaches (padding is not reached).
        multiply_accumulates: layer name -> multiplications of a real-valued input (an image, averages) by a weight,
            with the addition; an input that is held is multiplied once for all steps.
    """

    accumulates: dict[str, int] = field(default_factory=dict)
    multiply_accumulates: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.accumulates.values()) + sum(self.multiply_accumulates.values())

    @property
    def joules(self) -> float:
        """The energy estimate usual in the field: 0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate (45 nm CMOS,
        Horowitz, ISSCC 2014), memory not counted."""
        additions, products = sum(self.accumulates.values()), sum(self.multiply_accumulates.values())
        return ACCUMULATE_JOULES * additions + MULTIPLY_ACCUMULATE_JOULES * products


def multiply_accumulates(synapse: Synapse, x: Tensor, y_shape: tuple[int, ...]) -> int:
    """Products of real values x [T, N, ...] that give currents of ``y_shape`` (T, N, ...): none for an identity."""
    steps = 1 if checks.is_held(x) else len(x)
    return steps * torch.Size(y_shape[1:]).numel() * synapse.fan_in
