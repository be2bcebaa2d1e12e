"""The neuron models of the Triton kernels back in time: one step of each, beside its step forward in neurons.py.

    BACK(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE)
        -> grad_current, grad_state, grad_parameters

``state``: before the step. ``grad_state``: after the step on entry, before it on return. ``grad_parameters``: what the
step adds to the gradients of the parameters of a channel, four of them. ``surrogate``: first, second, passes (1, or 0
if the reset is detached). The equations: cpu/src/scan_backward.h.
"""

import triton
import triton.language as tl

from .neuron_steps import _leak, loihi_potential


@triton.jit
def _through_reset(h, v_reset, theta, grad_v, passes):
    """What the reset hands to the spike's gradient."""
    if v_reset is None:
        jump = -theta
    else:
        jump = v_reset - h
    return passes * (grad_v * jump)


@triton.jit
def _of_potential(spike, by_spike, grad_v, v_reset):
    """The gradients of h and of theta, of the spike's part and of that of v after the reset."""
    if v_reset is None:
        grad_h = by_spike + grad_v
        grad_theta = -by_spike - tl.where(spike, grad_v, 0.0)
    else:
        grad_h = by_spike + tl.where(spike, 0.0, grad_v)
        grad_theta = -by_spike
    return grad_h, grad_theta


@triton.jit
def if_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    h = state[0] + current
    theta = loaded[0]
    g = DERIVATIVE(h - theta, theta, surrogate[0], surrogate[1])
    by_spike = (grad_spike + _through_reset(h, neuron[0], theta, grad_state[0], surrogate[2])) * g
    grad_h, grad_theta = _of_potential(h >= theta, by_spike, grad_state[0], neuron[0])
    none = tl.zeros_like(h)
    return grad_h, (grad_h,), (grad_theta, none, none, none)


@triton.jit
def _leaky_back(v, current, neuron, loaded, grad_spike, grad_v, surrogate, DERIVATIVE: tl.constexpr):
    h = _leak(v, current, loaded[1], neuron[1])
    theta = loaded[0]
    g = DERIVATIVE(h - theta, theta, surrogate[0], surrogate[1])
    by_spike = (grad_spike + _through_reset(h, neuron[0], theta, grad_v, surrogate[2])) * g
    grad_h, grad_theta = _of_potential(h >= theta, by_spike, grad_v, neuron[0])
    return grad_h, loaded[1] * grad_h, grad_theta, grad_h * (v - neuron[1])


@triton.jit
def leaky_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    grad_h, grad_v, grad_theta, grad_decay = _leaky_back(
        state[0], current, neuron, loaded, grad_spike, grad_state[0], surrogate, DERIVATIVE
    )
    none = tl.zeros_like(grad_h)
    return grad_h, (grad_v,), (grad_theta, grad_decay, none, none)


@triton.jit
def synaptic_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    filtered = loaded[2] * state[1] + current
    grad_h, grad_v, grad_theta, grad_decay = _leaky_back(
        state[0], filtered, neuron, loaded, grad_spike, grad_state[0], surrogate, DERIVATIVE
    )
    grad_filtered = grad_h + grad_state[1]
    none = tl.zeros_like(grad_h)
    parameters = (grad_theta, grad_decay, grad_filtered * state[1], none)
    return grad_filtered, (grad_v, loaded[2] * grad_filtered), parameters


@triton.jit
def adaptive_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    h = _leak(state[0], current, loaded[1], neuron[1])
    theta = loaded[0]
    bar = theta + state[1]
    spike = h >= bar
    grad_spike += _through_reset(h, neuron[0], theta, grad_state[0], surrogate[2]) + loaded[3] * grad_state[1]
    by_spike = grad_spike * DERIVATIVE(h - bar, theta, surrogate[0], surrogate[1])
    grad_h, grad_theta = _of_potential(spike, by_spike, grad_state[0], neuron[0])
    grad_adaptation = tl.where(spike, grad_state[1], 0.0)
    parameters = (grad_theta, grad_h * (state[0] - neuron[1]), grad_state[1] * state[1], grad_adaptation)
    return grad_h, (loaded[1] * grad_h, loaded[2] * grad_state[1] - by_spike), parameters


@triton.jit
def refractory_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    resting = state[1] > 0
    awake = tl.where(resting, 0.0, 1.0)
    grad_h, grad_v, grad_theta, grad_decay = _leaky_back(
        state[0], current, neuron, loaded, awake * grad_spike, awake * grad_state[0], surrogate, DERIVATIVE
    )
    none = tl.zeros_like(grad_h)
    grad_v += tl.where(resting, grad_state[0], 0.0)
    return grad_h, (grad_v, tl.where(resting, grad_state[1], 0.0)), (grad_theta, grad_decay, none, none)


@triton.jit
def loihi_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    """Gradients pass the roundings as if there were none."""
    h, _ = loihi_potential(state, current, loaded)
    theta = loaded[0]
    g = DERIVATIVE(h - theta, theta, surrogate[0], surrogate[1])
    by_spike = (grad_spike + _through_reset(h, neuron[0], theta, grad_state[0], surrogate[2])) * g
    grad_h, grad_theta = _of_potential(h >= theta, by_spike, grad_state[0], neuron[0])
    grad_u = grad_h + grad_state[1]
    parameters = (grad_theta, grad_h * state[0], grad_u * state[1], grad_h)
    return grad_u, (loaded[1] * grad_h, loaded[2] * grad_u), parameters


FAMILIES = {
    "": if_back,
    "Leaky": leaky_back,
    "Synaptic": synaptic_back,
    "Adaptive": adaptive_back,
    "Refractory": refractory_back,
    "Loihi": loihi_back,
}


def back_of(model: str):
    """The step back of a model."""
    return FAMILIES[model.removesuffix("HardReset").removesuffix("SoftReset")]
