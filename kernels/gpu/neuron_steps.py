"""The neuron models of the Triton kernels: a function that loads a model's parameters, and one that runs one step of it
(reference.py defines the models).

A kernel takes the neurons as one tuple (:func:`arguments`), and inlines the model's two functions, which are
constexprs. A new model is therefore a new pair of functions in this file (and its C++ counterpart and its lines in
reference.py), never a new kernel. A step does not access memory: the kernel keeps the states in registers for all T
steps.

    LOAD(neuron, first, channel, mask) -> loaded
    STEP(state, current, neuron, loaded) -> (state, above_threshold)

neuron: v_reset, the model's other scalars, and pointers to its parameters [C], in the order of MODELS
(neuron_models.py).
loaded: a block of each parameter, with a value per channel; loaded before the steps.
state: a block of each state, the potential first. above_threshold: h - theta, at least +0 where a neuron fires; of
neurons that fire several times in a step it is the number of times.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import CurrentSums, Neuron, about


def arguments(neuron: Neuron) -> dict:
    """A launch's arguments for a layer's neurons: v_reset (None: soft reset), the other scalars, and the parameters."""
    if isinstance(neuron, CurrentSums):
        return {"neuron": (None, neuron.channels), "LOAD": load_if, "STEP": sums_step, "STATES": neuron.states}
    v_reset = None if neuron.v_reset is None else float(neuron.v_reset)
    names = about(neuron.model).scalars
    others = [float(value) for name, value in zip(names, neuron.scalars, strict=True) if name != "v_reset"]
    rows = (row.contiguous() for row in neuron.channels)
    return {"neuron": (v_reset, *others, *rows), **model_constants(neuron.model)}


def model_constants(model: str) -> dict:
    """The constants that a kernel is compiled with for a model."""
    load, step = FAMILIES[model.removesuffix("HardReset").removesuffix("SoftReset")]
    return {"LOAD": load, "STEP": step, "STATES": about(model).states}


def by_state(v: Tensor, neuron: Neuron) -> Tensor:
    """States [N, P, C] or [N, states, P, C] in the kernels' order: contiguous, one state after another."""
    return (v if neuron.states == 1 else v.transpose(0, 1)).contiguous()


def by_sample(v: Tensor, neuron: Neuron) -> Tensor:
    """The inverse of :func:`by_state`."""
    return v if neuron.states == 1 else v.transpose(0, 1).contiguous()


@triton.jit
def read_states(pointer, stride, offsets, mask, STATES: tl.constexpr):
    """Blocks of each state, ``stride`` apart."""
    first = tl.load(pointer + offsets, mask=mask, other=0.0)
    if STATES == 1:
        state = (first,)
    else:
        state = (first, tl.load(pointer + stride + offsets, mask=mask, other=0.0))  # type: ignore[assignment]
    return state


@triton.jit
def zero_states(like, STATES: tl.constexpr):
    """Blocks of zeros of each state."""
    zero = tl.zeros_like(like)
    if STATES == 1:
        state = (zero,)
    else:
        state = (zero, zero)  # type: ignore[assignment]
    return state


@triton.jit
def write_states(pointer, stride, offsets, state, mask, STATES: tl.constexpr):
    tl.store(pointer + offsets, state[0], mask=mask)
    if STATES == 2:
        tl.store(pointer + stride + offsets, state[1], mask=mask)


@triton.jit
def choose_states(condition, new, old, STATES: tl.constexpr):
    """``new`` where the condition holds, else ``old``."""
    first = tl.where(condition, new[0], old[0])
    if STATES == 1:
        state = (first,)
    else:
        state = (first, tl.where(condition, new[1], old[1]))  # type: ignore[assignment]
    return state


@triton.jit
def _load_row(pointer, first, channel, mask):
    """One parameter of the channels first + channel: a scalar of any width plus a block. They are passed separately,
    since a block of 64-bit numbers takes more registers (150 instead of 119 per thread on sm_90). ``mask``: which
    channels exist; None: all."""
    if mask is None:
        row = tl.load(pointer + first + channel)
    else:
        row = tl.load(pointer + first + channel, mask=mask, other=0.0)
    return row


@triton.jit
def _reset(above_threshold, h, v_reset, lowered):
    """The potential after the comparison. If v_reset is None, the reset is soft: to ``lowered``, h - theta."""
    if v_reset is None:
        v = tl.where(above_threshold >= 0.0, lowered, h)
    else:
        v = tl.where(above_threshold >= 0.0, v_reset, h)
    return v


@triton.jit
def load_if(neuron, first, channel, mask):
    _v_reset, theta = neuron
    return (_load_row(theta, first, channel, mask),)


@triton.jit
def if_step(state, current, neuron, loaded):
    v_reset, _thetas = neuron
    h = state[0] + current
    above_threshold = h - loaded[0]
    return (_reset(above_threshold, h, v_reset, above_threshold),), above_threshold


@triton.jit
def load_leaky(neuron, first, channel, mask):
    _v_reset, _v_rest, theta, decay = neuron
    return _load_row(theta, first, channel, mask), _load_row(decay, first, channel, mask)


@triton.jit
def _leak(v, current, decay, v_rest):
    return v_rest + decay * (v - v_rest) + current


@triton.jit
def leaky_step(state, current, neuron, loaded):
    v_reset, v_rest, _thetas, _decays = neuron
    theta, decay = loaded
    h = _leak(state[0], current, decay, v_rest)
    above_threshold = h - theta
    return (_reset(above_threshold, h, v_reset, above_threshold),), above_threshold


@triton.jit
def potential_step(state, current, neuron, loaded):
    """Leaky neurons that never fire, and give their potentials."""
    _v_reset, v_rest, _thetas, _decays = neuron
    h = _leak(state[0], current, loaded[1], v_rest)
    return (h,), h


@triton.jit
def load_synaptic(neuron, first, channel, mask):
    _v_reset, _v_rest, theta, decay, current_decay = neuron
    return (
        _load_row(theta, first, channel, mask),
        _load_row(decay, first, channel, mask),
        _load_row(current_decay, first, channel, mask),
    )


@triton.jit
def synaptic_step(state, current, neuron, loaded):
    v_reset, v_rest, _thetas, _decays, _current_decays = neuron
    theta, decay, current_decay = loaded
    v, filtered = state
    filtered = current_decay * filtered + current
    h = _leak(v, filtered, decay, v_rest)
    above_threshold = h - theta
    return (_reset(above_threshold, h, v_reset, above_threshold), filtered), above_threshold


@triton.jit
def load_adaptive(neuron, first, channel, mask):
    _v_reset, _v_rest, theta, decay, adaptation_decay, adaptation = neuron
    return (
        _load_row(theta, first, channel, mask),
        _load_row(decay, first, channel, mask),
        _load_row(adaptation_decay, first, channel, mask),
        _load_row(adaptation, first, channel, mask),
    )


@triton.jit
def adaptive_step(state, current, neuron, loaded):
    v_reset, v_rest, _thetas, _decays, _adaptation_decays, _adaptations = neuron
    theta, decay, adaptation_decay, adaptation = loaded
    v, adapted = state
    h = _leak(v, current, decay, v_rest)
    above_threshold = h - (theta + adapted) + 0.0  # turns -0 into +0, which can occur if the threshold has become 0
    adapted = adaptation_decay * adapted
    adapted = tl.where(above_threshold >= 0.0, adapted + adaptation, adapted)
    return (_reset(above_threshold, h, v_reset, h - theta), adapted), above_threshold


@triton.jit
def load_refractory(neuron, first, channel, mask):
    _v_reset, _v_rest, _steps, theta, decay = neuron
    return _load_row(theta, first, channel, mask), _load_row(decay, first, channel, mask)


@triton.jit
def refractory_step(state, current, neuron, loaded):
    v_reset, v_rest, steps, _thetas, _decays = neuron
    theta, decay = loaded
    v, left = state
    h = tl.where(left > 0, v, _leak(v, current, decay, v_rest))
    lowered = h - theta
    above_threshold = tl.where(left <= 0, lowered, -1.0)
    left = tl.where(above_threshold >= 0.0, steps, tl.where(left > 0, left - 1.0, 0.0))
    return (_reset(above_threshold, h, v_reset, lowered), left), above_threshold


@triton.jit
def load_loihi(neuron, first, channel, mask):
    """The last parameter is the bias of the potential."""
    _v_reset, theta, decay, current_decay, bias = neuron
    return (
        _load_row(theta, first, channel, mask),
        _load_row(decay, first, channel, mask),
        _load_row(current_decay, first, channel, mask),
        _load_row(bias, first, channel, mask),
    )


@triton.jit
def _toward_zero(x):
    """x rounded toward zero; from 2**24 on, all floats are integers."""
    return tl.where(tl.abs(x) < 16777216.0, x.to(tl.int32).to(tl.float32), x)


@triton.jit
def _decayed(x, decay):
    """decay x, rounded toward zero. It is computed in two parts, whose products are exact if x is an integer below
    2**24."""
    coarse = _toward_zero(x * 0.000244140625) * 4096.0
    return coarse * decay + _toward_zero((x - coarse) * decay)


@triton.jit
def loihi_potential(state, current, loaded):
    """The potential before the comparison, which saturates at 2**23, and the current, which wraps around there."""
    _theta, decay, current_decay, bias = loaded
    v, u = state
    u = _decayed(u, current_decay) + current
    u = u + tl.where(u <= -8388608.0, 16777216.0, tl.where(u > 8388608.0, -16777216.0, 0.0))
    h = _decayed(v, decay) + u + bias
    h = tl.where(h > 8388607.0, 8388607.0, tl.where(h < -8388607.0, -8388607.0, h))
    return h, u


@triton.jit
def loihi_step(state, current, neuron, loaded):
    v_reset, _thetas, _decays, _current_decays, _biases = neuron
    h, u = loihi_potential(state, current, loaded)
    above_threshold = h - loaded[0]
    return (_reset(above_threshold, h, v_reset, above_threshold), u), above_threshold


@triton.jit
def load_integer(neuron, first, channel, mask):
    _v_reset, _most, _rounds, theta, decay = neuron
    return _load_row(theta, first, channel, mask), _load_row(decay, first, channel, mask)


@triton.jit
def spike_counts(state, current, neuron, loaded):
    """The potential before the comparison, how many thresholds it is, and how often the neuron fires."""
    _v_reset, most, rounds, _thetas, _decays = neuron
    theta, decay = loaded
    h = decay * state[0] + current
    level = tl.div_rn(h, theta)
    rounding = rounds * 8388608.0  # from 2**23 on, all floats are integers
    count = (tl.minimum(tl.maximum(level, 0.0), most) + rounding) - rounding
    return h, level, count.to(tl.int32).to(tl.float32)


@triton.jit
def integer_step(state, current, neuron, loaded):
    h, _level, count = spike_counts(state, current, neuron, loaded)
    return (tl.where(count > 0.0, h - loaded[0] * count, h),), count


@triton.jit
def sums_step(state, current, neuron, loaded):
    """Not a neuron: sums up the currents and their squares, and never fires."""
    total, squares = state
    squares = squares + current * current
    return (total + current, squares), -1.0 - squares


FAMILIES = {
    "": (load_if, if_step),
    "Leaky": (load_leaky, leaky_step),
    "Synaptic": (load_synaptic, synaptic_step),
    "Adaptive": (load_adaptive, adaptive_step),
    "Refractory": (load_refractory, refractory_step),
    "Loihi": (load_loihi, loihi_step),
    "Integer": (load_integer, integer_step),
}
