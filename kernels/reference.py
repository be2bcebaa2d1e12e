"""The definition: what every kernel must compute, as a loop over time that a person can read.

One neuron, for t = 0 .. T-1 (``theta`` is the threshold; a product is rounded before it is added):

    h[t] = v[t-1] + I[t]                                        integrate and fire
    h[t] = v_rest + decay (v[t-1] - v_rest) + I[t]              leaky
    s[t] = 1 if h[t] >= theta else 0
    v[t] = v_reset if s[t] else h[t]                            hard reset
    v[t] = h[t] - theta s[t]                                    soft reset (``v_reset`` is None)

Leaky neurons with a second state:

    i[t] = current_decay i[t-1] + I[t], instead of I[t]    synaptic: a filter of the current
    s[t] = 1 if h[t] >= theta + a[t-1], and
    a[t] = adaptation_decay a[t-1] + adaptation s[t]            adaptive: each spike raises the threshold
    after a spike, for some steps h[t] = v[t-1], s[t] = 0    refractory

Integer neurons, which fire up to D times in a step (I-LIF); floor(h / theta), or that rounded, half to even:

    h[t] = decay v[t-1] + I[t]
    s[t] = h[t] / theta as an integer from 0 to D
    v[t] = h[t] - theta s[t]

Loihi's integer neurons, whose products are rounded toward zero. Decays are multiples of 1/4096. Currents wrap around at
2**23, potentials end at +-(2**23 - 1):

    u[t] = trunc(current_decay u[t-1]) + I[t]                   as ``lava.proc.lif`` of Lava, "fixed_pt" (LIF)
    h[t] = trunc(decay v[t-1]) + u[t] + v_bias

Recurrent neurons of any of these models also take what the layer fired one step before:

    I[t] = (W * x[t]) + b + R s[t-1]                            R [C, C], or one value a neuron [C]; s[-1] = 0 or given

Sigma-delta neurons send what their activation has become, less what they have sent, in signed powers of two
(``theta`` is the largest; ``f`` is a ReLU, clipped or not, or an identity):

    z[t] = z[t-1] + what arrives at step t                      of a constant input all of it at t = 0, with the bias
    s[t] = q(f(z[t]) - a[t-1])
    a[t] = a[t-1] + s[t]

q(x) is the one nearest to x of +-theta 2**-k, 0 <= k < K (3/4 of a power is rounded up to it), and 0 where |x| is less
than 3/4 of the smallest. So a comes as near as that to the ReLU network's activation, and the neuron is silent then.

Graded neurons send the change itself, as a value, where it is large enough:

    s[t] = f(z[t]) - a[t-1] where that is at least theta in size, else 0
    a[t] = f(z[t]) where a value is sent, else a[t-1]

Of a constant input that is one pass of the ReLU network in which activations below theta count as 0.

Graded neurons of 8 bits send whole multiples of a unit, a power of two: the same equations with f(z) rounded to the
nearest multiple, half a unit to the even one. From its lowest to its highest value f has at most 127 units.

Gates in networks of these neurons compute a function g, or the product, of what has arrived, and send its changes:

    z[t] = z[t-1] + what arrives at step t                      z[-1] = 0; likewise y of a second input
    s[t] = g(z[t]) - g(z[t-1])                                  at t = 0 just g(z[0])
    s[t] = z[t] y[t] - z[t-1] y[t-1]

g is computed in float64 and rounded once to float32, so that it does not depend on who computes it.

Spikes are dense float32 tensors ``[T, N, C, ...]`` of 0 and 1 here, or of integers; states are float32 whatever the
input's type, ``[N, C, ...]``, or of two states ``[N, 2, C, ...]``. On exactly representable data every kernel is
bit-equal to these functions.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .neuron_models import Neuron, about, if_neuron

State = tuple[Tensor, ...]  # of one neuron model: the potential, and a second one


def fire(
    h: Tensor, theta: Tensor, v_reset: float | None, subtracted: Tensor | None = None,
    whole: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Spikes (bool) and potentials; the soft reset subtracts ``theta``, or ``subtracted``.

    ``whole``: of h / theta to the number of spikes, of neurons that fire several times.
    """
    spike = h >= theta if whole is None else whole(h / theta)
    subtracted = theta if subtracted is None else subtracted
    return spike, h - subtracted * spike if v_reset is None else torch.where(spike, v_reset, h)


def leak(v: Tensor, current: Tensor, decay: Tensor, v_rest: float) -> Tensor:
    """The potential before the comparison."""
    return v_rest + decay * (v - v_rest) + current


def _integrate_and_fire(state: State, current: Tensor, theta, *, fire, v_reset=None) -> tuple[Tensor, State]:
    (v,) = state
    spike, v = fire(v + current, theta, v_reset)
    return spike, (v,)


def _leaky(state: State, current: Tensor, theta, decay, *, fire, v_rest, v_reset=None) -> tuple[Tensor, State]:
    (v,) = state
    spike, v = fire(leak(v, current, decay, v_rest), theta, v_reset)
    return spike, (v,)


def _synaptic(
    state: State, current, theta, decay, current_decay, *, fire, v_rest, v_reset=None
) -> tuple[Tensor, State]:
    v, i = state
    i = current_decay * i + current
    spike, v = fire(leak(v, i, decay, v_rest), theta, v_reset)
    return spike, (v, i)


def _adaptive(
    state: State, current, theta, decay, adaptation_decay, adaptation, *, fire, v_rest, v_reset=None
) -> tuple[Tensor, State]:
    v, a = state
    spike, v = fire(leak(v, current, decay, v_rest), theta + a, v_reset, subtracted=theta)
    return spike, (v, adaptation_decay * a + adaptation * spike)


def _refractory(state: State, current, theta, decay, *, fire, v_rest, refractory, v_reset=None) -> tuple[Tensor, State]:
    v, left = state
    resting = left > 0
    spike, after = fire(leak(v, current, decay, v_rest), theta, v_reset)
    spike = spike * ~resting
    left = torch.where(resting, left - 1, torch.where(spike.bool(), refractory, 0.0))
    return spike, (torch.where(resting, v, after), left)


def whole_number(level: Tensor, most: float, rounds: float) -> Tensor:
    """The integer from 0 to ``most`` that is nearest to ``level``, or without ``rounds`` the next one below.

    Its gradient is 1 where ``level`` is from 0 to ``most``: the straight-through estimator of I-LIF.
    """
    level = level.clamp(0, most)
    return level + ((level.round() if rounds else level.floor()) - level).detach()  # this difference is exact


def _integer(
    state: State, current: Tensor, theta, decay, *, fire, max_spike_count: float, rounds: float
) -> tuple[Tensor, State]:
    (v,) = state
    spikes, v = fire(decay * v + current, theta, None, whole=partial(whole_number, most=max_spike_count, rounds=rounds))
    return spikes, (v,)


HALF_RANGE = 2.0**23  # of Loihi's states, which have 24 bits


def decayed(x: Tensor, decay: Tensor) -> Tensor:
    """decay x, rounded toward zero. Of whole x below 2**24 and decays of 12 bits no product here is rounded.

    Its gradient is the product's.
    """
    coarse = torch.trunc(x / 4096) * 4096
    product = decay * x
    return (coarse * decay + torch.trunc((x - coarse) * decay)).detach() + (product - product.detach())


def _loihi(
    state: State, current: Tensor, theta, decay, current_decay, v_bias, *, fire, v_reset
) -> tuple[Tensor, State]:
    v, u = state
    u = decayed(u, current_decay) + current
    u = u + 2 * HALF_RANGE * ((u <= -HALF_RANGE).float() - (u > HALF_RANGE).float())
    h = decayed(v, decay) + u + v_bias
    h = h + (h.clamp(1 - HALF_RANGE, HALF_RANGE - 1) - h).detach()
    spike, v = fire(h, theta, v_reset)
    return spike, (v, u)


FAMILIES: dict[str, Callable] = {
    "": _integrate_and_fire,
    "Leaky": _leaky,
    "Synaptic": _synaptic,
    "Adaptive": _adaptive,
    "Refractory": _refractory,
    "Loihi": _loihi,
    "Integer": _integer,
}


def step(state: State, current: Tensor, neuron: Neuron, fire: Callable = fire) -> tuple[Tensor, State]:
    """One step of any neurons, whose parameters broadcast against ``current``: spikes, and the new state.

    ``fire``: the comparison and the reset; of another kind in reference_gradients.py.
    """
    model = about(neuron.model)
    run = model.step or FAMILIES[neuron.model.removesuffix("HardReset").removesuffix("SoftReset")]
    scalars = dict(zip(model.scalars, neuron.scalars, strict=True))
    spike, state = run(state, current, *neuron.channels, fire=fire, **scalars)
    return spike.float(), state


def scan(current: Tensor, v: Tensor | None, neuron: Neuron, fire: Callable = fire) -> tuple[Tensor, Tensor]:
    """Run currents [T, N, C, ...] through neurons: spikes [T, N, C, ...] and the last states [N, C, ...].

    ``v`` None: all states are 0; ``fire``: see :func:`step`.
    """
    neuron = neuron._replace(channels=neuron.channels.view(*neuron.channels.shape, *[1] * (current.ndim - 3)))
    current = current.float()
    zero = torch.zeros(current.shape[1:], dtype=torch.float32, device=current.device)
    state: State = (zero,) * neuron.states
    if v is not None:
        state = (v.float(),) if neuron.states == 1 else v.float().unbind(1)
    spikes = []
    for step_current in current:
        spike, state = step(state, step_current, neuron, fire)
        spikes.append(spike)
    return torch.stack(spikes), state[0] if neuron.states == 1 else torch.stack(state, 1)


def feedback(spike: Tensor, recurrent: Tensor) -> Tensor:
    """R s: what spikes [N, C] of one step add to the currents of the next."""
    return recurrent * spike if recurrent.ndim == 1 else F.linear(spike, recurrent)


def recurrent_scan(
    current: Tensor, v: Tensor | None, neuron: Neuron, recurrent: Tensor, fire: Callable = fire
) -> tuple[Tensor, Tensor]:
    """:func:`scan` of neurons that their own layer's spikes come back to: currents [T, N, C].

    Args:
        v: [N, states + 1, C], of which the last are the spikes of the step before the first; None: all 0.
        recurrent: [C, C], of which row i has the weights of what neuron i receives, or one value a neuron [C].
    """
    zero = torch.zeros(current.shape[1:], dtype=torch.float32, device=current.device)
    *first, spike = (zero,) * (neuron.states + 1) if v is None else v.float().unbind(1)
    state: State = tuple(first)
    spikes = []
    for step_current in current.float():
        spike, state = step(state, step_current + feedback(spike, recurrent.float()), neuron, fire)
        spikes.append(spike)
    return torch.stack(spikes), torch.stack([*state, spike], 1)


def integrate(current: Tensor, v: Tensor | float, neuron: Neuron) -> Tensor:
    """The potentials [T, N, C, ...] of leaky neurons that never fire."""
    decay = neuron.channels[1].view(-1, *[1] * (current.ndim - 3))
    v_rest, potentials = neuron.scalar("v_rest") or 0.0, []
    v = v if isinstance(v, Tensor) else torch.full_like(current[0], v, dtype=torch.float32)
    for step in current.float():
        v = leak(v, step, decay, v_rest)
        potentials.append(v)
    return torch.stack(potentials)


def hold(current: Tensor, T: int, v: Tensor | None, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """Run a constant current [N, C, ...] for ``T`` steps through any neurons."""
    return scan(current.unsqueeze(0).expand(T, *current.shape), v, neuron)


def nearest_power(x: Tensor, exponents: int) -> Tensor:
    """q(x) with theta = 1: the signed power of two, from 1 down to 2**(1 - exponents), that is nearest to x; or 0."""
    mantissa, exponent = torch.frexp(x.abs())  # of which the first is from 1/2 to 1
    k = torch.where(mantissa < 0.75, 1 - exponent, -exponent).clamp(min=0)
    return torch.where((x != 0) & (k < exponents), torch.ldexp(x.sign(), -k), 0.0)


def sigma_delta(
    arrived: Tensor,
    exponents: int,
    theta: float | Tensor = 1.0,
    lowest: float = 0.0,
    highest: float | Tensor = math.inf,
    state: tuple[Tensor, Tensor] | None = None,
    pool: Callable[[Tensor], Tensor] = lambda z: z,
) -> Tensor:
    """Sigma-delta neurons on what arrives, [T, N, C, ...]: what they send, of the same shape.

    ``theta`` and ``highest``: numbers, or one a channel [C]; the activation is z, from ``lowest`` to ``highest``.
    ``state``: z and a, [N, C, ...], replaced in place by those after the last step; None: zeros.
    ``pool``: max pooling of z, whose maxima have the neurons; since it changes places with any activation that grows
    with z, it is that of the activations. Then a and what they send are of the pooled shape.
    """
    theta = _of_channels(theta, arrived)

    def send(activation: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        s = theta * nearest_power((activation - a) / theta, exponents)
        return s, a + s

    return _changes(arrived, send, lowest, highest, state, pool)


def graded(
    arrived: Tensor,
    theta: float | Tensor = 0.0,
    lowest: float = 0.0,
    highest: float | Tensor = math.inf,
    state: tuple[Tensor, Tensor] | None = None,
    pool: Callable[[Tensor], Tensor] = lambda z: z,
    unit: float | None = None,
) -> Tensor:
    """Graded neurons on what arrives: as :func:`sigma_delta`, with the least change that is sent for ``theta``.

    ``unit``: of neurons of 8 bits; None: values are not rounded.
    """
    theta = _of_channels(theta, arrived)

    def send(activation: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        if unit is not None:
            activation = torch.round(activation / unit) * unit
        change = activation - a
        sends = change.abs() >= theta
        return torch.where(sends, change, 0.0), torch.where(sends, activation, a)

    return _changes(arrived, send, lowest, highest, state, pool)


def _of_channels(value: float | Tensor, arrived: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.float32, device=arrived.device)
    return value.view(-1, *[1] * (arrived.ndim - 3))


def _changes(
    arrived: Tensor, send: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], lowest: float, highest: float | Tensor,
    state: tuple[Tensor, Tensor] | None, pool: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Neurons that send changes; ``send``: of an activation, and of what was sent before, to what is sent, and a."""
    highest = _of_channels(highest, arrived)
    rest = torch.zeros(arrived.shape[1:], dtype=torch.float32, device=arrived.device)
    z, a = state or (rest, torch.zeros_like(pool(rest)))
    sent = []
    for step in arrived.float():
        z = z + step
        s, a = send(pool(z).minimum(highest).clamp(min=lowest), a)
        sent.append(s)
    if state is not None:
        state[0].copy_(z), state[1].copy_(a)
    return torch.stack(sent)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor | None, neuron: Neuron,
    stride=1, padding=0, dilation=1, groups: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Convolve x [T, N, C_in, H, W] at every step, then fire: spikes [T, N, C_out, H_out, W_out] and states."""
    bias = None if bias is None else bias.float()
    current = F.conv2d(x.flatten(0, 1).float(), weight.float(), bias, stride, padding, dilation, groups)
    return scan(current.unflatten(0, x.shape[:2]), v, neuron)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor | None, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """Multiply x [T, N, in] by weight [out, in] at every step, then fire: spikes [T, N, out] and states."""
    current = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return scan(current, v, neuron)


def max_pool2d(x: Tensor, kernel_size, stride=None, padding=0) -> Tensor:
    """Max pooling of every step of x [T, N, C, H, W]; the maximum of spikes is their OR."""
    return F.max_pool2d(x.flatten(0, 1), kernel_size, stride, padding).unflatten(0, x.shape[:2])


def avg_pool2d(x: Tensor, kernel_size, stride=None, padding=0) -> Tensor:
    """Average pooling of every step of x [T, N, C, H, W]; the result is not spikes any more."""
    return F.avg_pool2d(x.flatten(0, 1), kernel_size, stride, padding).unflatten(0, x.shape[:2])


def attention(x: Tensor, heads: int) -> Tensor:
    """(V K^T) Q of each head: ``x`` [N, 3 C, tokens ...] has Q, K and V side by side; [N, C, tokens ...]."""
    q, k, v = x.flatten(2).unflatten(1, (3, heads, -1)).unbind(1)
    return (v @ k.transpose(2, 3) @ q).reshape(len(x), x.shape[1] // 3, *x.shape[2:])


def product(x: Tensor, y: Tensor) -> Tensor:
    """x [T, N, C, ...] times y, of which each channel counts for several neighbouring ones of x."""
    return x * y.repeat_interleave(x.shape[2] // y.shape[2], 2)


def function_of_sums(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A smooth function of one value, such as a sigmoid: computed in float64, and rounded once."""
    return function(x.double()).float()


def average_of_values(average: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An average pooling of values in networks of sigma-delta neurons: the same."""
    return average(x.double()).float()


def _of_if_neurons(function: Callable) -> Callable:
    """The same of IF neurons, given by ``v_threshold``, a number or one a channel [C], and ``v_reset``."""

    def run(*operands, v=None, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, **window):
        theta = torch.as_tensor(v_threshold, dtype=torch.float32, device=operands[0].device)
        neuron = if_neuron(theta.reshape(-1), v_reset)
        names = [name for name in inspect.signature(function).parameters if name != "neuron"]
        given = {"bias": None, "v": v} | dict(zip(names, operands, strict=False)) | window
        return function(**{name: given[name] for name in names if name in given}, neuron=neuron)

    return run


if_scan, if_hold, if_conv2d, if_linear = [_of_if_neurons(function) for function in (scan, hold, conv2d, linear)]
