"""snnTorch's neurons as this package describes them.

snnTorch fires at mem > threshold and resets in the step after: of its potentials mem[t], which it has before the reset,

    mem[t] = beta mem[t-1] + I[t] - threshold (mem[t-1] > threshold)                   "subtract"
    mem[t] = beta mem[t-1] (mem[t-1] <= threshold) + I[t]                              "zero"

The second is the hard reset here, with a threshold that is the next larger float32. The first takes off the threshold,
where the soft reset here takes off what beta leaves of it. Potentials that are counted from elsewhere make them equal:
v = mem + v_rest with v_rest = threshold / beta - threshold has the threshold threshold / beta, which is what the reset
then takes off, and the decay towards v_rest. Where v_rest differs by channel, a constant current (1 - beta) v_rest and
a decay towards 0 do the same. A reset that comes a step later has no gradient.
"""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...neurons import AnyNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, RefractoryLIFNeuron, Value
from ...surrogates import ATan, FastSigmoid, Sigmoid, Surrogate
from .library_neurons import Clamped, Described, Recurrence, is_learnt, learn, parameter
from .snntorch_in_python import AlphaNeuron, SnnTorchNeuron, alpha_gain

Shift = Tensor | None  # [C], which is added to potentials: they start from it, and a constant current keeps it up
InUnits = tuple[IFNeuron, Value, Shift]  # neurons, and how many times larger their potentials are here
RECURRENT = ("SLSTM", "SConv2dLSTM")


def described(module: Any, axes: int | None) -> Described:
    """Neurons that fire in the same steps as ``module``, except for rounding.

    Args:
        axes: behind the channels of the module's input: 0 of [N, C], 2 of [N, C, H, W]; None: not known.

    Raises:
        TypeError, ValueError: there is no such neuron here; the message says what to do.
    """
    kind = next(kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("snntorch."))
    if kind not in KINDS:
        *others, last = KINDS
        why = "feeds its spikes back to itself" if kind in RECURRENT else "has no counterpart here"
        raise TypeError(f"{kind} {why}; replace it by {', '.join(others)} or {last} and continue training")
    if module.state_quant:
        raise ValueError(f"{kind} with state_quant is not supported; import the network without it, state_quant=False")
    if module.graded_spikes_factor.numel() != 1 or not 0 < graded_factor(module) < math.inf:
        raise ValueError(
            f"{kind}'s graded_spikes_factor must be one positive number, got {module.graded_spikes_factor.tolist()}; "
            "scale the weights behind it, which may differ by channel and in sign"
        )
    if module.inhibition:
        _check_inhibition(kind, module, axes)
    if kind == "RSynaptic" and not module.reset_delay:
        raise ValueError(
            "RSynaptic with reset_delay=False raises an error in snnTorch itself, which asks for spikes that it was "
            "not given; use reset_delay=True"
        )
    if module.inhibition or _is_in_python(kind, module):
        return Described(_in_python(kind, module, axes), surrogate=_surrogate(module, 1.0))
    neuron, unit, shift = KINDS[kind](module, axes)
    decay = getattr(neuron, "decay", 1.0)
    described = Described(neuron, surrogate=_surrogate(module, unit), learn=_learn(module, neuron, kind))
    if shift is None:
        return described
    shift = shift.float()
    return described._replace(v_init=shift, shift=shift * (1 - torch.as_tensor(decay)))


def graded_factor(module: Any) -> float:
    """What a spike of a neuron counts, where its library has such a factor; the next weights are multiplied by it."""
    factor = getattr(module, "graded_spikes_factor", None)
    return 1.0 if factor is None or factor.numel() != 1 else float(factor)


def _leaky(module: Any, axes: int | None) -> InUnits:
    beta = _share("beta", module.beta, axes)
    threshold = _by_channel("threshold", module.threshold, axes)
    if module.reset_mechanism == "none":
        return _without_reset(threshold, beta), 1.0, None
    if module.reset_mechanism == "zero":
        neuron = LIFNeuron(v_threshold=_next(threshold), v_reset=0.0, decay=beta)
        return (neuron if is_learnt(module.beta) else _plain(neuron)), 1.0, None
    neuron, shift = _delayed(LIFNeuron(v_threshold=threshold, v_reset=None, decay=beta))
    return _plain(neuron), 1.0, shift


def _lapicque(module: Any, axes: int | None) -> InUnits:
    """Leaky, with other names; its "zero" also drops the current of the step after a spike."""
    values = (torch.as_tensor(getattr(module, name)).double() for name in ("R", "C", "time_step"))
    R, C, step = values
    decay, factor = _by_channel("1 - time_step / (R C)", 1 - step / (R * C), axes), _by_channel("C", C / step, axes)
    threshold, shift = _by_channel("threshold", module.threshold, axes), None
    if module.reset_mechanism == "none":
        neuron: LIFNeuron = _without_reset(threshold, decay)
    elif module.reset_mechanism == "zero":
        neuron = RefractoryLIFNeuron(v_threshold=_next(threshold), v_reset=0.0, decay=decay, refractory=1)
    else:
        neuron, shift = _delayed(LIFNeuron(v_threshold=threshold, v_reset=None, decay=decay))
    return neuron.scaled(factor), factor, None if shift is None else shift * factor


def _recurrent_leaky(module: Any, axes: int | None) -> InUnits:
    """Leaky, whose "zero" drops the current of the step after a spike, unless it resets at once."""
    if module.reset_mechanism != "zero" or not module.reset_delay:
        return _leaky(module, axes)
    beta, threshold = _share("beta", module.beta, axes), _by_channel("threshold", module.threshold, axes)
    return RefractoryLIFNeuron(v_threshold=_next(threshold), v_reset=0.0, decay=beta, refractory=1), 1.0, None


def _synaptic(module: Any, axes: int | None) -> InUnits:
    beta, alpha = _share("beta", module.beta, axes), _share("alpha", module.alpha, axes)
    threshold = _by_channel("threshold", module.threshold, axes)
    if module.reset_mechanism == "subtract":
        neuron, shift = _delayed(CubaLIFNeuron(v_threshold=threshold, v_reset=None, decay=beta, current_decay=alpha))
        assert shift is None  # a constant current, which the filter would let in slowly
        return neuron, 1.0, None
    return CubaLIFNeuron(v_threshold=_next(threshold), v_reset=0.0, decay=beta, current_decay=alpha), 1.0, None


def _check_inhibition(kind: str, module: Any, axes: int | None) -> None:
    if kind == "Lapicque":
        raise ValueError(
            "Lapicque with inhibition=True has no counterpart here; use Leaky, whose beta is 1 - time_step / (R C)"
        )
    if axes != 0:
        raise ValueError(
            f"{kind} with inhibition=True must stand behind an nn.Linear, as snnTorch has tested it: of images it "
            "compares channels, and cannot run batches; use inhibition=False"
        )
    if graded_factor(module) != 1:
        raise ValueError(
            f"{kind} with inhibition=True and graded_spikes_factor={graded_factor(module):g} is not supported, since "
            "snnTorch leaves out the factor; use graded_spikes_factor=1"
        )


def _is_in_python(kind: str, module: Any) -> bool:
    """Whether no kernel has the equations of a neuron."""
    at_once = not getattr(module, "reset_delay", True)
    beta = torch.as_tensor(module.beta).clamp(0, 1)
    if module.reset_mechanism == "subtract" and kind not in ("Alpha", "Lapicque"):
        differs = any(
            bool((values != values.flatten()[0]).any()) for values in (beta, torch.as_tensor(module.threshold))
        )
        filtered = "Synaptic" in kind and differs and not bool((beta == 1).all())
        return at_once or filtered or bool((beta == 0).any())
    return kind in ("Alpha", "RSynaptic") or kind == "Synaptic" and not (module.reset_mechanism == "zero" and at_once)


def _in_python(kind: str, module: Any, axes: int | None) -> AnyNeuron:
    threshold = _by_channel("threshold", module.threshold, axes)
    reset, inhibition = module.reset_mechanism, float(bool(module.inhibition))
    options: dict[str, Any] = {
        "v_threshold": threshold,
        "inhibition": inhibition,
        "subtracts": float(reset == "subtract"),
    }
    if kind == "Alpha":
        alpha, beta = (torch.as_tensor(value) for value in (module.alpha, module.beta))
        gain = _by_channel("alpha and beta", alpha_gain(alpha, beta), axes)
        options |= {"alpha": _share("alpha", alpha, axes), "beta": _share("beta", beta, axes)}
        return AlphaNeuron(tau=gain, drops=float(reset == "zero"), **options)
    synaptic, of_zero = "Synaptic" in kind, reset == "zero"
    return SnnTorchNeuron(
        decay=_share("beta", module.beta, axes),
        current_decay=_share("alpha", module.alpha, axes) if synaptic else 0.0,
        drops=float(of_zero and kind != "Leaky"),
        keeps=float(of_zero and kind == "Leaky"),
        at_once=float(not module.reset_delay),
        **options,
    )


def _learn(module: Any, neuron: IFNeuron, kind: str) -> Callable[[nn.Module], list[str]] | None:
    """Make its beta, alpha and threshold learnt where one of our fields stands for nothing else."""
    if module.reset_mechanism == "subtract" and type(neuron) is not IFNeuron or kind == "Lapicque":
        return None
    names = {"alpha": "current_decay", "beta": "current_decay" if module.reset_mechanism == "none" else "decay"}
    names = {name: field for name, field in names.items() if field in neuron.names()}
    names = {name: field for name, field in names.items() if is_learnt(getattr(module, name, None))}

    def learn_them(layer: nn.Module) -> list[str]:
        for name, field in names.items():
            learn(layer, field, parameter(getattr(module, name)), Clamped())
        if is_learnt(module.threshold):
            learn(layer, "v_threshold", parameter(torch.as_tensor(neuron.v_threshold)))
        return [*names, "threshold"]

    return learn_them


def _surrogate(module: Any, unit: Value) -> Surrogate | None:
    """Its spike_grad, of potentials that are ``unit`` times larger here, where it is one of this package's."""
    function = module.spike_grad  # a function that snntorch.surrogate.atan(alpha), for example, has made
    kind = getattr(function, "__qualname__", "").split(".")[0]
    if getattr(function, "__module__", None) != "snntorch.surrogate" or isinstance(unit, Tensor):
        return None
    options = inspect.getclosurevars(function).nonlocals
    detached = getattr(module, "reset_delay", True)
    if kind == "atan":
        return ATan(options["alpha"] / unit, detached)
    if kind == "fast_sigmoid":
        return FastSigmoid(options["slope"] / unit, 1 / unit, detached)
    return Sigmoid(options["slope"] / unit, detached) if kind == "sigmoid" else None


def _without_reset(threshold: Value, beta: Value) -> CubaLIFNeuron:
    """Only a filtered current, which no reset touches: nothing of the potential is left."""
    return CubaLIFNeuron(v_threshold=_next(threshold), v_reset=0.0, decay=0.0, current_decay=beta)


def _delayed(neuron: LIFNeuron) -> tuple[LIFNeuron, Shift]:
    """Neurons that subtract their threshold one step later: the same neurons with shifted potentials.

    The threshold and what is left of what the reset takes off, beta times it, are then the same. One shift of all
    neurons is their resting potential.
    """
    if torch.as_tensor(neuron.decay).min() == 0:
        raise ValueError("a reset by 'subtract' a step later has no counterpart here where a decay is 0; use 'zero'")
    raised = neuron.v_threshold / neuron.decay
    rest = raised - neuron.v_threshold
    if isinstance(rest, Tensor):
        if not bool((rest == rest[0]).all()):
            return replace(neuron, v_threshold=raised), rest
        rest = rest[0].item()
    return replace(neuron, v_threshold=raised, v_rest=rest), None


def _plain(neuron: LIFNeuron) -> IFNeuron:
    """Neurons of decay 1 are IF neurons."""
    kept = torch.as_tensor(neuron.decay)
    return IFNeuron(v_threshold=neuron.v_threshold, v_reset=neuron.v_reset) if bool((kept == 1).all()) else neuron


def _next(threshold: Value) -> Value:
    """The next larger float32: h >= it where h > threshold."""
    value = torch.as_tensor(threshold, dtype=torch.float32)
    value = torch.nextafter(value, torch.full_like(value, torch.inf))
    return value if value.ndim else value.item()


def _share(name: str, value: Any, axes: int | None) -> Value:
    return _by_channel(name, torch.as_tensor(value).clamp(0, 1), axes)


def _by_channel(name: str, value: Any, axes: int | None) -> Value:
    """A number, or float [C] of one value a channel."""
    tensor = torch.as_tensor(value).detach()
    if tensor.numel() == 1:
        return tensor.item()
    shape = tuple(tensor.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]  # of the batch
    if axes is None or len(shape) != axes + 1 or any(n > 1 for n in shape[1:]):
        wanted = "" if axes is None else f", in the shape {['C'] + [1] * axes}"
        raise ValueError(
            f"{name} must be one number, or behind weights one value a channel{wanted}; got {list(tensor.shape)}"
        )
    return tensor.flatten().clone()


def recurrence(module: Any) -> Recurrence | None:
    """What comes back to RLeaky and RSynaptic; None for other modules."""
    back = getattr(module, "recurrent", None)
    if not type(module).__module__.startswith("snntorch.") or back is None:
        return None
    kind, factor = type(module).__name__, graded_factor(module)
    if isinstance(back, nn.Linear):
        bias = None if back.bias is None else back.bias.detach()
        return Recurrence(module, module, back.weight.detach() * factor, bias, learnt=back.weight.requires_grad)
    if isinstance(back, nn.Conv2d):
        back = copy.deepcopy(back)
        back.weight.data *= factor
        offset: Tensor | None = back.bias
        offset = None if offset is None else offset.detach()
        return Recurrence(module, module, back.weight.detach(), offset, convolution=back)
    if type(back).__name__ != "RecurrentOneToOne":
        raise TypeError(
            f"{kind} with a recurrent {type(back).__name__} has no counterpart here; use linear_features, or "
            "all_to_all=False"
        )
    V = torch.as_tensor(back.V)
    return Recurrence(module, module, V.detach().squeeze() * factor, learnt=V.requires_grad)


KINDS: dict[str, Callable[[Any, int | None], InUnits]] = {
    "Leaky": _leaky,
    "Lapicque": _lapicque,
    "Synaptic": _synaptic,
    "RLeaky": _recurrent_leaky,
    "RSynaptic": _synaptic,
    "Alpha": _synaptic,  # never called: no kernel has Alpha, whatever its reset
}
