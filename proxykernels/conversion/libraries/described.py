"""The description of another library's neuron in terms of this package."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ...neurons import AnyNeuron, Value
from ...surrogates import Surrogate


class Described(NamedTuple):
    """Neurons, and how they start and are trained.

    Attributes:
        neuron: what they are.
        v_init: the potential that they start from, one or one a channel; None: at rest.
        surrogate: what stands for the derivative of their spikes; None: nothing that is known here.
        shift: float32 [C], a constant current beside what they take, or None.
        gain: what the weights in front of them are multiplied by; of a readout, whose potentials are what it is for.
        learn: makes a layer of them learn what was learnt there, and gives the names of these parameters there; None:
            nothing is learnt here.
    """

    neuron: AnyNeuron
    v_init: Value | None = None
    surrogate: Surrogate | None = None
    learn: Callable[[nn.Module], list[str]] | None = None
    gain: float = 1.0
    shift: Tensor | None = None
