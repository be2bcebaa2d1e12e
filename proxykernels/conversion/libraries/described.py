"""The description of another library's neuron in terms of this package."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from ...neurons import AnyNeuron
from ...surrogates import Surrogate


class Described(NamedTuple):
    """Neurons, and how they start and are trained.

    Attributes:
        neuron: what they are.
        v_init: the potential that they start from; None: at rest.
        surrogate: what stands for the derivative of their spikes; None: nothing that is known here.
        gain: what the weights in front of them are multiplied by; of a readout, whose potentials are what it is for.
        learn: makes a layer of them learn what was learnt there, and gives the names of these parameters there; None:
            nothing is learnt here.
    """

    neuron: AnyNeuron
    v_init: float | None = None
    surrogate: Surrogate | None = None
    learn: Callable[[nn.Module], list[str]] | None = None
    gain: float = 1.0
