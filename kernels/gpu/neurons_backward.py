"""The neuron models of the Triton kernels back in time: one step of each, beside its step forward in neuron_steps.py.

    BACK(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE)
        -> grad_current, grad_state, grad_parameters
    DERIVATIVE(x, theta, first, second) -> the surrogate derivative at x = h - theta

``state``: before the step. ``grad_state``: after the step on entry, before it on return. ``grad_parameters``: what the
step adds to the gradients of the parameters of a channel, four of them. ``surrogate``: first and second, the parameters
of its shape, and passes (1, or 0 if the reset is detached). A kernel takes both functions as constexprs and inlines
them. The equations: cpu/src/scan_backward.h and reference_gradients.py.
"""

import triton
import triton.language as tl

from ..neuron_models import Surrogate
from .neuron_steps import _leak, loihi_potential, spike_counts


def surrogate_arguments(surrogate: Surrogate) -> dict:
    """A launch's arguments for a surrogate derivative."""
    first, second = surrogate.numbers
    return {
        "first": float(first),
        "second": float(second),
        "passes": 0.0 if surrogate.detach_reset else 1.0,
        "DERIVATIVE": SHAPES[surrogate.shape],
    }


@triton.jit
def atan(x, theta, first, second):
    at = second * x
    return tl.div_rn(first + tl.zeros_like(x), 1.0 + at * at)


@triton.jit
def fast_sigmoid(x, theta, first, second):
    below = 1.0 + tl.abs(second * x)
    return tl.div_rn(first + tl.zeros_like(x), below * below)


@triton.jit
def sigmoid(x, theta, first, second):
    e = tl.exp(tl.maximum(-tl.abs(first * x), -80.0))
    s = tl.div_rn(tl.full(x.shape, 1.0, tl.float32), 1.0 + e)
    return first * (e * s * s)


@triton.jit
def triangle(x, theta, first, second):
    w = first * theta
    scale = tl.div_rn(tl.full(x.shape, 1.0, tl.float32), w * w)
    return tl.maximum(w - tl.abs(x), 0.0) * scale


SHAPES = {"ATan": atan, "FastSigmoid": fast_sigmoid, "Sigmoid": sigmoid, "Triangle": triangle}


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
    """The gradients of h and of theta, from the spike's gradient and from that of v after the reset."""
    if v_reset is None:
        grad_h = by_spike + grad_v
        grad_theta = -by_spike - tl.where(spike, grad_v, 0.0)
    else:
        grad_h = by_spike + tl.where(spike, 0.0, grad_v)
        grad_theta = -by_spike
    return grad_h, grad_theta


@triton.jit
def if_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    v_reset, _thetas = neuron
    first, second, passes = surrogate
    theta, grad_v = loaded[0], grad_state[0]
    h = state[0] + current
    g = DERIVATIVE(h - theta, theta, first, second)
    by_spike = (grad_spike + _through_reset(h, v_reset, theta, grad_v, passes)) * g
    grad_h, grad_theta = _of_potential(h >= theta, by_spike, grad_v, v_reset)
    none = tl.zeros_like(h)
    return grad_h, (grad_h,), (grad_theta, none, none, none)


@triton.jit
def _leaky_back(v, current, v_reset, v_rest, theta, decay, grad_spike, grad_v, surrogate, DERIVATIVE: tl.constexpr):
    first, second, passes = surrogate
    h = _leak(v, current, decay, v_rest)
    g = DERIVATIVE(h - theta, theta, first, second)
    by_spike = (grad_spike + _through_reset(h, v_reset, theta, grad_v, passes)) * g
    grad_h, grad_theta = _of_potential(h >= theta, by_spike, grad_v, v_reset)
    return grad_h, decay * grad_h, grad_theta, grad_h * (v - v_rest)


@triton.jit
def leaky_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    v_reset, v_rest, _thetas, _decays = neuron
    theta, decay = loaded
    grad_h, grad_v, grad_theta, grad_decay = _leaky_back(
        state[0], current, v_reset, v_rest, theta, decay, grad_spike, grad_state[0], surrogate, DERIVATIVE
    )
    none = tl.zeros_like(grad_h)
    return grad_h, (grad_v,), (grad_theta, grad_decay, none, none)


@triton.jit
def synaptic_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    v_reset, v_rest, _thetas, _decays, _current_decays = neuron
    theta, decay, current_decay = loaded
    filtered = current_decay * state[1] + current
    grad_h, grad_v, grad_theta, grad_decay = _leaky_back(
        state[0], filtered, v_reset, v_rest, theta, decay, grad_spike, grad_state[0], surrogate, DERIVATIVE
    )
    grad_filtered = grad_h + grad_state[1]
    none = tl.zeros_like(grad_h)
    parameters = (grad_theta, grad_decay, grad_filtered * state[1], none)
    return grad_filtered, (grad_v, current_decay * grad_filtered), parameters


@triton.jit
def adaptive_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    v_reset, v_rest, _thetas, _decays, _adaptation_decays, _adaptations = neuron
    theta, decay, adaptation_decay, adaptation = loaded
    first, second, passes = surrogate
    v, adapted = state
    grad_v, grad_adapted = grad_state
    h = _leak(v, current, decay, v_rest)
    bar = theta + adapted
    spike = h >= bar
    grad_spike += _through_reset(h, v_reset, theta, grad_v, passes) + adaptation * grad_adapted
    by_spike = grad_spike * DERIVATIVE(h - bar, theta, first, second)
    grad_h, grad_theta = _of_potential(spike, by_spike, grad_v, v_reset)
    grad_adaptation = tl.where(spike, grad_adapted, 0.0)
    parameters = (grad_theta, grad_h * (v - v_rest), grad_adapted * adapted, grad_adaptation)
    return grad_h, (decay * grad_h, adaptation_decay * grad_adapted - by_spike), parameters


@triton.jit
def refractory_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    v_reset, v_rest, _steps, _thetas, _decays = neuron
    theta, decay = loaded
    v, left = state
    grad_last, grad_left = grad_state
    resting = left > 0
    awake = tl.where(resting, 0.0, 1.0)
    grad_h, grad_v, grad_theta, grad_decay = _leaky_back(
        v, current, v_reset, v_rest, theta, decay, awake * grad_spike, awake * grad_last, surrogate, DERIVATIVE
    )
    none = tl.zeros_like(grad_h)
    grad_v += tl.where(resting, grad_last, 0.0)
    return grad_h, (grad_v, tl.where(resting, grad_left, 0.0)), (grad_theta, grad_decay, none, none)


@triton.jit
def loihi_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    """Gradients pass the roundings as if there were none."""
    v_reset, _thetas, _decays, _current_decays, _biases = neuron
    theta, decay, current_decay, _bias = loaded
    first, second, passes = surrogate
    v, u = state
    grad_v, grad_u = grad_state
    h, _ = loihi_potential(state, current, loaded)
    g = DERIVATIVE(h - theta, theta, first, second)
    by_spike = (grad_spike + _through_reset(h, v_reset, theta, grad_v, passes)) * g
    grad_h, grad_theta = _of_potential(h >= theta, by_spike, grad_v, v_reset)
    grad_u += grad_h
    parameters = (grad_theta, grad_h * v, grad_u * u, grad_h)
    return grad_u, (decay * grad_h, current_decay * grad_u), parameters


@triton.jit
def integer_back(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE: tl.constexpr):
    """The straight-through estimator, whatever the surrogate derivative."""
    _v_reset, most, _rounds, _thetas, _decays = neuron
    theta, decay = loaded
    _first, _second, passes = surrogate
    grad_v = grad_state[0]
    _h, level, count = spike_counts(state, current, neuron, loaded)
    by_level = grad_spike - passes * (grad_v * theta)
    by_level = tl.where((level >= 0.0) & (level <= most), by_level, 0.0)
    grad_h = tl.div_rn(by_level, theta) + grad_v
    grad_theta = -by_level * tl.div_rn(level, theta) - grad_v * count
    none = tl.zeros_like(grad_h)
    return grad_h, (decay * grad_h,), (grad_theta, grad_h * state[0], none, none)


FAMILIES = {
    "": if_back,
    "Leaky": leaky_back,
    "Synaptic": synaptic_back,
    "Adaptive": adaptive_back,
    "Refractory": refractory_back,
    "Loihi": loihi_back,
    "Integer": integer_back,
}


def back_of(model: str):
    """The step back of a model."""
    return FAMILIES[model.removesuffix("HardReset").removesuffix("SoftReset")]
