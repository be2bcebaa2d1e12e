"""Neuron models. Pass one to a layer:

    pk.FusedConv2d(1, 32, 3, neuron=pk.neurons.CubaLIFNeuron(decay=0.9, current_decay=0.8))

:mod:`proxykernels.kernels.reference` has all equations. A decay is a factor per step, from 0 to 1; 1 is no leak.
A model of your own is a class derived from :class:`AnyNeuron`, with a step in Python. CONTRIBUTING.md says how to add
one to the kernels.
"""

from .base import AnyNeuron, Value
from .models import (
    ALIFNeuron,
    CubaLIFNeuron,
    Graded,
    IFNeuron,
    IntegerLIFNeuron,
    LIFNeuron,
    LINeuron,
    LoihiNeuron,
    RefractoryLIFNeuron,
    SigmaDelta,
)

__all__ = [
    "ALIFNeuron",
    "AnyNeuron",
    "CubaLIFNeuron",
    "Graded",
    "IFNeuron",
    "IntegerLIFNeuron",
    "LIFNeuron",
    "LINeuron",
    "LoihiNeuron",
    "RefractoryLIFNeuron",
    "SigmaDelta",
    "Value",
]
