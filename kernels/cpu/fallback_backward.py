"""Backpropagation through time in plain torch, for CPU tensors where the C++ library was not built.

One step back of each family of models (the equations: src/scan_backward.h) takes the state before the step, the
current, the gradient of the spikes, and those of the state after the step. It gives the gradient of the current, those
of the state before, and those of the parameters of a channel.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import reference
from ..neurons import MODELS, Neuron
from ..reference_gradients import derivative
from ..surrogates import Surrogate

Back = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


def _fired(h, bar, theta, v_reset, grad_spike, grad_v, surrogate: Surrogate) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of h by the spike, of h in all, and of theta; ``bar``: what h is compared with."""
    if not surrogate.detach_reset:
        grad_spike = grad_spike + grad_v * (-theta if v_reset is None else v_reset - h)
    by_spike, spike = grad_spike * derivative(h - bar, theta, surrogate), h >= bar
    if v_reset is None:
        return by_spike, by_spike + grad_v, -by_spike - torch.where(spike, grad_v, 0)
    return by_spike, by_spike + torch.where(spike, 0, grad_v), -by_spike


def _integrate_and_fire(state, current, grad_spike, grad_state, surrogate, theta, *, v_reset=None) -> Back:
    h = state[0] + current
    _, grad, grad_theta = _fired(h, theta, theta, v_reset, grad_spike, grad_state[0], surrogate)
    return grad, (grad,), (grad_theta,)


def _leaky(state, current, grad_spike, grad_state, surrogate, theta, decay, *, v_rest, v_reset=None) -> Back:
    h = reference.leak(state[0], current, decay, v_rest)
    _, grad, grad_theta = _fired(h, theta, theta, v_reset, grad_spike, grad_state[0], surrogate)
    return grad, (decay * grad,), (grad_theta, grad * (state[0] - v_rest))


def _synaptic(
    state, current, grad_spike, grad_state, surrogate, theta, decay, current_decay, *, v_rest, v_reset=None
) -> Back:
    v, i = state
    grad, (grad_v,), parameters = _leaky(
        (v,), current_decay * i + current, grad_spike, grad_state[:1], surrogate, theta, decay, v_rest=v_rest,
        v_reset=v_reset,
    )  # fmt: skip
    grad = grad + grad_state[1]
    return grad, (grad_v, current_decay * grad), (*parameters, grad * i)


def _adaptive(
    state, current, grad_spike, grad_state, surrogate, theta, decay, adaptation_decay, adaptation, *, v_rest,
    v_reset=None,
) -> Back:  # fmt: skip
    v, a = state
    h, (grad_v, grad_a) = reference.leak(v, current, decay, v_rest), grad_state
    grad_spike = grad_spike + adaptation * grad_a
    by_spike, grad, grad_theta = _fired(h, theta + a, theta, v_reset, grad_spike, grad_v, surrogate)
    grad_adaptation = torch.where(h >= theta + a, grad_a, 0)
    parameters = grad_theta, grad * (v - v_rest), grad_a * a, grad_adaptation
    return grad, (decay * grad, adaptation_decay * grad_a - by_spike), parameters


def _refractory(
    state, current, grad_spike, grad_state, surrogate, theta, decay, *, v_rest, refractory, v_reset=None
) -> Back:
    resting = state[1] > 0
    awake = [torch.where(resting, 0, x) for x in (grad_spike, grad_state[0])]
    grad, (grad_v,), parameters = _leaky(
        state[:1], current, awake[0], (awake[1],), surrogate, theta, decay, v_rest=v_rest, v_reset=v_reset
    )
    kept = [torch.where(resting, x, 0) for x in grad_state]
    return grad, (grad_v + kept[0], kept[1]), parameters


FAMILIES: dict[str, Callable[..., Back]] = {
    "": _integrate_and_fire,
    "Leaky": _leaky,
    "Synaptic": _synaptic,
    "Adaptive": _adaptive,
    "Refractory": _refractory,
}


def scan_backward(
    grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron, surrogate: Surrogate
) -> tuple[Tensor, Tensor, Tensor]:
    """See backends.Backend."""
    family = FAMILIES[neuron.model.removesuffix("HardReset").removesuffix("SoftReset")]
    scalars = dict(zip(MODELS[neuron.model].scalars, neuron.scalars, strict=True))
    held, current, before = current.ndim == 3, current.float(), [_parts(v, neuron)]
    current = current.expand(grad_spikes.shape) if held else current
    for step in current[:-1]:
        _, state = reference.step(before[-1], step, neuron)
        before.append(tuple(state))
    grad_state = _parts(torch.zeros_like(v) if grad_v is None else grad_v, neuron)
    gradients: list[Tensor] = []
    sums: list[Tensor] = [torch.zeros(current.shape[1:], dtype=torch.float32, device=v.device)] * (
        1 + len(neuron.channels)
    )
    for t in reversed(range(len(current))):
        given = before[t], current[t], grad_spikes[t].float(), grad_state, surrogate
        grad, grad_state, parameters = family(*given, *neuron.channels, **scalars)
        gradients.append(grad)
        sums = [total + part for total, part in zip(sums, (grad, *parameters), strict=True)]
    grad_current = sums[0] if held else torch.stack(gradients[::-1])
    grad_start = grad_state[0] if neuron.states == 1 else torch.stack(grad_state, 1)
    return grad_current, grad_start, torch.stack([part.double().flatten(0, -2).sum(0) for part in sums])


def _parts(v: Tensor, neuron: Neuron) -> tuple[Tensor, ...]:
    """The states of [N, P, C] or [N, states, P, C], one by one."""
    return (v.float(),) if neuron.states == 1 else v.float().unbind(1)
