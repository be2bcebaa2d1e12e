"""Another library's neurons in terms of this package: what they are, what comes back to them, and what they learn."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...layers import FusedSum, Neurons
from ...neurons import AnyNeuron, Value
from ...surrogates import Surrogate


class Described(NamedTuple):
    """Neurons of another library in terms of this package.

    Attributes:
        neuron: the neuron model here.
        v_init: the initial potential, one or one a channel; None: at rest.
        surrogate: the surrogate derivative of their spikes; None: it has no counterpart here.
        learn: makes the parameters of a layer trainable that were trainable there, and returns their names there; None:
            there are none.
        gain: factor of the weights in front of them, needed for a readout, whose potentials are its result.
        shift: a constant current that is added, float32 [C]; None: none.
    """

    neuron: AnyNeuron
    v_init: Value | None = None
    surrogate: Surrogate | None = None
    learn: Callable[[nn.Module], list[str]] | None = None
    gain: float = 1.0
    shift: Tensor | None = None


class Recurrence(NamedTuple):
    """The recurrent connection of a module.

    Attributes:
        module: the library's module. neuron: the neurons in it, or the module itself.
        weight: [C, C], whose row i is what neuron i receives; one value a neuron [C]; or one for all []; that of a
            convolution. bias: [C].
        synapse: the layer that the module has in front of its neurons; None: there is none.
        learnt: whether the weights are trained.
        is_own: whether the forward pass of the model brings it back, not the module.
        convolution: through which spikes come back; None: they come back through no convolution.
    """

    module: nn.Module
    neuron: Any
    weight: Tensor
    bias: Tensor | None = None
    synapse: nn.Linear | None = None
    learnt: bool = True
    is_own: bool = False
    convolution: nn.Conv2d | None = None


Find = Callable[[nn.Module], Recurrence | None]  # None: the module is not recurrent


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
    """Make a layer's parameter learnable: ``value`` [] or [C], or what ``rule`` computes from it.

    A ``value`` that is no nn.Parameter is a constant, from which the rule computes.
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
    """The modules whose weights and biases scale a layer's currents; None if it also has inputs without weights."""
    if getattr(layer, "bn", None) is not None:
        return [layer.bn]
    if isinstance(layer, FusedSum):
        synapses = list(layer.synapses)
        return None if any(isinstance(synapse, nn.Identity) for synapse in synapses) else synapses
    return [layer] if hasattr(layer, "weight") else None


def gain(layer: Any) -> float:
    """The factor of a layer's currents, after its neurons' time constant was made learnable."""
    lists = [getattr(maker, "parametrizations", {}).values() for maker in makers_of_currents(layer) or ()]
    divided = (rule for rules in itertools.chain(*lists) for rule in rules if isinstance(rule, Divided))
    return next((rule.w.detach().sigmoid().item() for rule in divided), 1.0)


def parameter(value: Tensor) -> nn.Parameter:
    """A copy as a parameter, float32 [] or [C]."""
    value = value.detach().float().clone()
    return nn.Parameter(value.reshape(()) if value.numel() == 1 else value.flatten())


def constants(neuron: nn.Module, learnt: Sequence[str]) -> list[str]:
    """The names of a neuron's learnable parameters, except those that are ``learnt`` here."""
    return [name for name, p in neuron.named_parameters(recurse=False) if p.requires_grad and name not in learnt]


def is_learnt(value: object) -> bool:
    return isinstance(value, nn.Parameter) and value.requires_grad


def reset(net: nn.Module) -> None:
    for module in net.modules():
        its_reset: Any = getattr(module, "reset_mem", getattr(module, "reset", None))
        if callable(its_reset):  # snnTorch's neurons have a tensor of that name
            its_reset()
