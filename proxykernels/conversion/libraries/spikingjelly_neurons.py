"""SpikingJelly's neurons as this package describes them.

Where potentials are counted in units that are tau times smaller, a surrogate function of alpha has alpha / tau: its
derivative by the potential in these units is tau times smaller and as much wider.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import SynapseFilter
from ...neurons import AnyNeuron, CubaLIFNeuron, IFNeuron, IntegerLIFNeuron, LIFNeuron, LINeuron
from ...surrogates import ATan, FastSigmoid, Sigmoid, Surrogate, Triangle
from . import neurons_of_steps, python_neurons
from .library_neurons import Described, Divided, Left, Recurrence, is_learnt, learn, makers_of_currents, parameter
from .snntorch_neurons import graded_factor
from .valued_neurons import KINDS as VALUED

PACKAGES = "activation_based", "clock_driven"  # the second until 0.0.0.0.12
ALL_STEPS = "MultiStep"  # begins the names of clock_driven's neurons that take all steps
CONTAINERS = ("LinearRecurrentContainer", "ElementWiseRecurrentContainer")


def modules() -> tuple[tuple[type, ...], tuple[type, ...], tuple[type, ...]]:
    """Types of SpikingJelly's modules that are not looked into, of its dropouts, and of its normalisations.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from spikingjelly.activation_based import base, layer
    except ModuleNotFoundError as error:
        if error.name != "spikingjelly.activation_based":  # something that it needs, or SpikingJelly itself
            raise
        from spikingjelly.clock_driven import base, layer
    names = [name for name in vars(layer) if name.endswith(("DependentBatchNorm1d", "DependentBatchNorm2d"))]
    norms = tuple(getattr(layer, name) for name in names)
    if hasattr(base, "StepModule"):
        leaves: tuple[type, ...] = (base.StepModule,)
    else:
        leaves = base.MemoryModule, layer.SeqToANNContainer, layer.MultiStepContainer, *norms
    return leaves, (layer.Dropout, layer.Dropout2d), norms


def is_kind(kind: type) -> bool:
    """Whether a class is one of SpikingJelly's neurons."""
    return kind.__module__.startswith(tuple(f"spikingjelly.{package}.neuron" for package in PACKAGES))


def is_delay(module: Any) -> bool:
    """Whether a module is one of SpikingJelly's delays."""
    return type(module).__name__ == "Delay" and type(module).__module__.startswith("spikingjelly.")


def synapse_filter(module: Any) -> SynapseFilter | None:
    """SpikingJelly's SynapseFilter as a layer; None: it is another module."""
    kind = type(module)
    if kind.__name__ != "SynapseFilter" or not kind.__module__.startswith("spikingjelly."):
        return None
    if not module.learnable:
        return SynapseFilter(module.tau)
    layer = SynapseFilter(2.0, learnable=True)
    layer.w = nn.Parameter(module.w.detach().clone(), module.w.requires_grad)
    return layer


def described(node: Any, axes: int | None) -> Described:
    """Neurons that fire in the same steps as ``node``, except for rounding.

    Raises:
        TypeError, ValueError: there is no such neuron here; the message says what to do.
    """
    kind = next(kind.__name__ for kind in type(node).__mro__ if is_kind(kind))  # of a derived one, SpikingJelly's
    kind = kind.removeprefix(ALL_STEPS)
    if getattr(node, "is_training", False):
        raise ValueError(
            f"{kind} adds random noise, which no run repeats: set its is_training=False, and import it then"
        )
    if kind not in KINDS:
        raise TypeError(
            f"{kind} has no counterpart here; only {', '.join([*KINDS, *VALUED])} have one: "
            "replace it by one of them and continue training"
        )
    _check_spiking(kind, node)
    return KINDS[kind](node, axes) if kind == "ActivationAwareIFNode" else KINDS[kind](node)


def _check_spiking(kind: str, node: Any) -> None:
    if not getattr(getattr(node, "surrogate_function", None), "spiking", True):
        raise ValueError(f"{kind} gives values, not spikes: set its surrogate_function's spiking=True")


def _from_reset(node: Any, kind: type[AnyNeuron], **decays: float) -> Described:
    """Neurons that start from their reset potential."""
    neuron = kind(v_threshold=node.v_threshold, v_reset=node.v_reset, **decays)
    return Described(neuron, node.v_reset or 0.0, _surrogate(node))


def _half(node: Any) -> Described:
    """IF neurons that start from half their threshold."""
    return Described(IFNeuron(v_threshold=node.v_threshold, v_reset=None), node.v_threshold / 2, _surrogate(node))


def _activation_aware(node: Any, axes: int | None) -> Described:
    """IF neurons whose potentials are counted from an offset, one or one a channel."""
    threshold, offset = (value.detach().float() for value in (node.v_threshold, node.v_offset))
    of_channels = axes is not None and node.channel_dim in (1, -1 - axes)
    if (threshold.ndim or offset.ndim) and not of_channels:
        raise ValueError(
            f"ActivationAwareIFNode with channel_dim={node.channel_dim} must have one threshold and offset, or one for "
            "each channel behind weights; use channel_dim=1"
        )
    v_reset = node.v_reset
    if v_reset is not None and offset.numel() > 1 and bool((offset != offset.flatten()[0]).any()):
        raise ValueError(
            f"ActivationAwareIFNode with v_reset={v_reset} and an offset for each channel would reset to potentials "
            "that differ by channel, which no neuron here does; use v_reset=None"
        )
    start = offset + (v_reset or 0.0)
    if v_reset is not None:
        v_reset = start.flatten()[0].item()
    made = IFNeuron(v_threshold=threshold if threshold.ndim else threshold.item(), v_reset=v_reset)
    return Described(made, start if start.ndim else start.item(), _surrogate(node))


def _leaky(node: Any) -> Described:
    return _of_tau(node, node.tau)


def _integer(node: Any) -> Described:
    """I-LIF, which has one derivative: with another window of it, it is not differentiable here."""
    levels = node.surrogate_function
    most = int(levels.max_spike_count)
    neuron = IntegerLIFNeuron(v_threshold=node.v_threshold, decay=1 - 1 / node.tau, max_spike_count=most, rounds=True)
    straight = (levels.grad_min, levels.grad_max) == (0, most)
    return Described(neuron, surrogate=ATan(detach_reset=node.detach_reset) if straight else None)


def _parametric(node: Any) -> Described:
    """If its w is learnt, weights are divided by the time constant; otherwise potentials are larger here."""
    tau = 1 / node.w.detach().float().sigmoid().item()

    def learn_tau(layer: Any) -> list[str]:
        makers = makers_of_currents(layer) if node.decay_input else []
        if makers is None:
            return []
        w = parameter(node.w)
        neuron = _leaky_neuron(node, tau, decay_input=False)
        layer._set_neurons(neuron)
        layer.surrogate = _surrogate(node)
        learn(layer, "decay", torch.tensor(neuron.decay), Left(w))
        for maker in makers:
            for name, value in list(maker.named_parameters(recurse=False)):
                learn(maker, name, value, Divided(w))
        return ["w"]

    return _of_tau(node, tau)._replace(learn=learn_tau if is_learnt(node.w) else None)


def _readout(node: Any) -> Described:
    """A readout, which returns its potentials; its ``decode`` is left to the caller."""
    tau = getattr(node, "tau", None)
    if tau is None:
        return Described(LINeuron())
    return Described(LINeuron(decay=1 - 1 / tau), gain=1 / tau)


def _of_tau(node: Any, tau: float) -> Described:
    neuron = _leaky_neuron(node, tau, node.decay_input)
    return Described(neuron, surrogate=_surrogate(node, tau if node.decay_input else 1.0))


def _leaky_neuron(node: Any, tau: float, decay_input: bool) -> LIFNeuron:
    """It decays towards v_reset, from which it starts; both are 0 with soft reset."""
    potentials = {"v_threshold": node.v_threshold, "v_reset": node.v_reset, "v_rest": node.v_reset or 0.0}
    return LIFNeuron.from_tau(tau, decay_input=decay_input, **potentials)


def _surrogate(node: Any, unit: float = 1.0) -> Surrogate | None:
    """The surrogate derivative of potentials that are ``unit`` times larger here, where it is one of this package's."""
    function, detached = getattr(node, "surrogate_function", None), getattr(node, "detach_reset", False)
    kind = type(function).__name__
    alpha = float(getattr(function, "alpha", 0.0))
    if kind == "ATan":
        return ATan(alpha / unit, detached)
    if kind == "Sigmoid":
        return Sigmoid(alpha / unit, detached)
    if kind == "PiecewiseQuadratic":  # whose base is counted in thresholds here
        return Triangle(1 / (alpha * node.v_threshold), detached)
    if kind == "SoftSign":
        return FastSigmoid(alpha / unit, alpha / (2 * unit), detached)
    return FastSigmoid(1 / unit, alpha / unit, detached) if kind == "SuperSpike" else None


def _in_python(node: Any, described: Callable[..., Described]) -> Described:
    return described(node, _surrogate(node))


def is_container(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's recurrent containers."""
    return type(module).__module__.startswith("spikingjelly.") and type(module).__name__ in CONTAINERS


def of_population(module: nn.Module) -> bool:
    """Whether a module is neurons with inter-layer connections, whose spikes come back to groups of neighbours."""
    return is_kind(type(module)) and type(module).__name__.removeprefix("Noisy").startswith("ILC")


def valued_neurons(neuron: Any) -> nn.Module | None:
    """The layer of SpikingJelly's neurons that hand on values, not spikes; None: they are others."""
    kind = next((kind.__name__ for kind in type(neuron).__mro__ if is_kind(kind)), "")
    if kind not in VALUED:
        return None
    _check_spiking(kind, neuron)
    return VALUED[kind](neuron, _surrogate(neuron))


def factor_of_spikes(neuron: Any) -> float:
    """What a spike of a neuron counts, where its library has such a factor; the next weights are multiplied by it."""
    if not is_kind(type(neuron)) or not type(neuron).__name__.startswith("DSR"):
        return graded_factor(neuron)
    threshold = python_neurons.threshold_of_dsr(neuron)
    return (threshold / neuron.delta_t if hasattr(neuron, "delta_t") else threshold).item()


def recurrence(module: Any) -> Recurrence | None:
    """What comes back to the neurons of a recurrent container, or to groups; None for other modules."""
    if of_population(module):
        rows, n = module.conn.weight.detach()[:, 0], module.dec_pop_dim
        groups = torch.arange(len(rows)) // n
        weight = torch.zeros(len(rows), len(rows)).to(rows)
        weight[torch.arange(len(rows))[:, None], groups[:, None] * n + torch.arange(n)] = rows
        return Recurrence(module, module, weight, learnt=module.conn.weight.requires_grad)
    if not is_container(module):
        return None
    kind, neuron = type(module).__name__, module.sub_module
    if not is_kind(type(neuron)):
        raise TypeError(
            f"{kind} must hold only neurons, such as IFNode, got {type(neuron).__name__}; put others outside"
        )
    if kind == CONTAINERS[1]:
        return Recurrence(module, neuron, _factor(module.element_wise_function), learnt=False)
    split, rc = module.rc.in_features - module.sub_module_out_features, module.rc
    synapse = nn.Linear(split, rc.out_features, rc.bias is not None, device="meta")
    synapse.weight = nn.Parameter(rc.weight.detach()[:, :split].clone(), rc.weight.requires_grad)
    if rc.bias is not None:
        synapse.bias = nn.Parameter(rc.bias.detach().clone(), rc.bias.requires_grad)
    weight = rc.weight.detach()[:, split:].clone()
    return Recurrence(module, neuron, weight, synapse=synapse, learnt=rc.weight.requires_grad)


def _factor(function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """r, of a function r y + x of spikes y and an input x."""
    x = torch.linspace(-2, 2, 9)
    silent, fired = (function(torch.full_like(x, y), x) for y in (0.0, 1.0))
    known = isinstance(silent, Tensor) and isinstance(fired, Tensor) and silent.shape == fired.shape == x.shape
    r = (fired - x)[0] if known else x[0]
    if not known or not torch.allclose(silent, x) or not torch.allclose(fired, x + r):
        raise TypeError(
            "ElementWiseRecurrentContainer's element_wise_function must add the spikes to the input, or a multiple of "
            "them, such as lambda x, y: x + y"
        )
    return r


KINDS: dict[str, Callable[..., Described]] = {  # of a node; of ActivationAwareIFNode also of the axes behind channels
    "IFNode": lambda node: _from_reset(node, IFNeuron),
    "HalfThresholdIFNode": _half,
    "ActivationAwareIFNode": _activation_aware,
    "LIFNode": _leaky,
    "SLTTLIFNode": _leaky,  # which differ only in what they learn by
    "OTTTLIFNode": _leaky,
    "ParametricLIFNode": _parametric,
    "ILIFNode": _integer,
    "CUBALIFNode": lambda node: _from_reset(node, CubaLIFNeuron, decay=node.v_decay, current_decay=node.c_decay),
    "NoisyCUBALIFNode": lambda node: _from_reset(node, CubaLIFNeuron, decay=node.v_decay, current_decay=node.c_decay),
    "NoisyNonSpikingIFNode": _readout,
    "NonSpikingIFNode": _readout,
    "NonSpikingLIFNode": _readout,
    **{name: partial(_in_python, described=of) for name, of in (python_neurons.KINDS | neurons_of_steps.KINDS).items()},
}
