"""Another library's neurons in terms of this package: what they are, what comes back to them, and what they learn."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...layers import FusedSum, Neurons
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


class Recurrence(NamedTuple):
    """What comes back to the neurons of a module.

    Attributes:
        module: the library's. neuron: the one whose spikes these are: itself, or one in it.
        weight: [C, C], of which row i has what neuron i receives; one value a neuron [C]; or one for all []. bias: [C].
        synapse: what the module puts in front of its neurons; None: nothing.
        learnt: whether the weights are trained.
    """

    module: nn.Module
    neuron: Any
    weight: Tensor
    bias: Tensor | None = None
    synapse: nn.Linear | None = None
    learnt: bool = True


Find = Callable[[nn.Module], Recurrence | None]  # None: nothing comes back to a module


class Left(nn.Module):
    """The decay of neurons whose reciprocal time constant is sigmoid(w)."""

    def __init__(self, w: nn.Parameter):
        super().__init__()
        self.w = w

    def forward(self, decay: Tensor) -> Tensor:
        return (-self.w).sigmoid().expand_as(decay)


class Divided(nn.Module):
    """Weights and biases divided by the time constant 1 / sigmoid(w)."""

    def __init__(self, w: nn.Parameter):
        super().__init__()
        self.w = w

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.w.sigmoid()


class Clamped(nn.Module):
    """A share, which stays from 0 to 1."""

    def forward(self, share: Tensor) -> Tensor:
        return share.clamp(0, 1)


def learn(layer: nn.Module, name: str, value: Tensor, rule: nn.Module | None = None) -> None:
    """Make a layer's parameter learnable: ``value``, or what ``rule`` computes from it.

    Args:
        value: of the shape [] or [C]; an nn.Parameter is learnt itself, another tensor is a constant of the rule's.
    """
    if isinstance(layer, Neurons):
        layer._forget(name)
    else:
        delattr(layer, name)
    if isinstance(value, nn.Parameter):
        layer.register_parameter(name, value)
    else:
        layer.register_buffer(name, value)
    if rule is not None:
        parametrize.register_parametrization(layer, name, rule, unsafe=True)


def makers_of_currents(layer: Any) -> list[nn.Module] | None:
    """The modules whose weights and biases scale a layer's currents; None if it also takes inputs without weights."""
    if getattr(layer, "bn", None) is not None:
        return [layer.bn]
    if isinstance(layer, FusedSum):
        synapses = list(layer.synapses)
        return None if any(isinstance(synapse, nn.Identity) for synapse in synapses) else synapses
    return [layer] if hasattr(layer, "weight") else None


def gain(layer: Any) -> float:
    """The factor of a layer's currents, after its neurons' time constant was made learnable."""
    for maker in makers_of_currents(layer) or ():
        for rules in getattr(maker, "parametrizations", {}).values():
            for rule in rules:
                if isinstance(rule, Divided):
                    return rule.w.detach().sigmoid().item()
    return 1.0


def parameter(value: Tensor) -> nn.Parameter:
    """A copy of its own: float32 [] or [C]."""
    value = value.detach().float().clone()
    return nn.Parameter(value.reshape(()) if value.numel() == 1 else value.flatten())


def constants(neuron: nn.Module, learnt: Sequence[str]) -> list[str]:
    """The names of a neuron's learnable parameters that are not among those that are ``learnt`` here."""
    return [name for name, p in neuron.named_parameters(recurse=False) if p.requires_grad and name not in learnt]


def is_learnt(value: object) -> bool:
    return isinstance(value, nn.Parameter) and value.requires_grad
