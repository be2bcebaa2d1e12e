"""Neurons of any model over all time steps in one call. Layers call these functions; functional.py wraps them for IF.

Differentiable if a surrogate derivative is given. Neurons that never fire give potentials instead of spikes, and those
that fire several times in a step give integers.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import ops, reference, unfused, weight_cache
from ..neurons import AnyNeuron, LINeuron
from ..spikes import Spikes, storage
from ..spikes.storage import Periods, PooledWords, channels, to_channels_last
from ..surrogates import Surrogate
from . import window_checks
from .currents import (
    ConstantCurrents,
    Currents,
    ImageWindow,
    SpikeWords,
    carrying,
    currents_in_parts,
    fire_several_times,
    input_of,
    scaled,
    wants_gradient,
)
from .gradients import RecurrentInput, RecurrentOperands, fire_recurrent, run_recurrent
from .neuron_values import Fired, NeuronsOfCall, neurons_of
from .potentials import potentials

_window = lru_cache(256)(ImageWindow)
_ONE_PIXEL = ImageWindow((1, 1), (1, 1), (0, 0), (1, 1), 1)


def scan(current: Tensor, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None = None) -> Fired:
    """:func:`proxykernels.if_scan`."""
    tensors = () if neuron.is_checked else neuron.check_once()
    checks.currents(current, "T, N")
    T, *shape = current.shape
    kernels = ops.direct(current, v, *tensors, in_python=neuron.in_python) or ops
    differentiable = surrogate is not None and wants_gradient(surrogate, current, v, *tensors)
    neurons = neurons_of(neuron, shape, v, current.device, kernels, not tensors, T=T, differentiable=differentiable)
    if not neuron.fires:
        return _integrate([current], neurons, surrogate, own=False)
    pixels = to_channels_last(current, 2)
    if differentiable:
        return neurons.with_gradient(Currents(T), None, pixels, surrogate)
    return neurons.fired(T, *neurons.kernels.if_scan(pixels.detach(), neurons.start, neurons.parameters))


def hold(
    current: Tensor, T: int, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None = None
) -> Fired:
    """:func:`proxykernels.if_hold`."""
    T = checks.steps(T)
    tensors = () if neuron.is_checked else neuron.check_once()
    checks.currents(current, "N")
    kernels = ops.direct(current, v, *tensors, in_python=neuron.in_python) or ops
    differentiable = surrogate is not None and wants_gradient(surrogate, current, v, *tensors)
    neurons = neurons_of(
        neuron, current.shape, v, current.device, kernels, not tensors, T=T, differentiable=differentiable
    )
    if not neuron.fires:
        return _integrate([checks.repeated(current, T)], neurons, surrogate, own=False)
    pixels = to_channels_last(current)
    if differentiable:
        return neurons.with_gradient(ConstantCurrents(T, neurons.repeat(T)), None, pixels, surrogate)
    return _fire_constant(pixels.detach(), T, neurons)


def conv2d(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor | float | None,
    neuron: AnyNeuron,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    pool_follows: bool = False,
    shortcut: Spikes | None = None,
    surrogate: Surrogate | None = None,
) -> Fired:
    """:func:`proxykernels.if_conv2d`.

    ``pool_follows``: whether :func:`proxykernels.max_pool2d` by 2 x 2 comes next; a GPU then pools in the same launch.
    ``shortcut``: spikes of the output's shape that each add 1 to their neuron's current. Only if x is packed and
    :func:`takes_shortcut` allows it.
    """
    tensors = () if neuron.is_checked else neuron.check_once()
    held: Any = x._kept.tensor if isinstance(x, Spikes) else x
    kernels: Any = ops.direct(held, weight, bias, v, *tensors, in_python=neuron.in_python)
    if kernels is None or type(x) is not Spikes or len(x.shape) != 5:
        x, kernels = carrying(x, 5, "[T, N, C_in, H, W]", surrogate, kernels), kernels or ops
    (C_in, *size), device = x.shape[2:], held.device
    checks.parameters(weight, bias, 4, "[C_out, C_in / groups, kernel_h, kernel_w]", device)
    weight, stride, padding, dilation, groups, size_out = window_checks.convolution(
        size, C_in, weight, stride, padding, dilation, groups
    )  # fmt: skip
    shape = x.shape[1], weight.shape[0], *size_out
    window = (ImageWindow if kernels is ops else _window)(tuple(size), stride, padding, dilation, groups)
    differentiable = surrogate is not None and wants_gradient(surrogate, x, weight, bias, v, *tensors)
    neurons = neurons_of(neuron, shape, v, device, kernels, not tensors, T=x.shape[0], differentiable=differentiable)
    if differentiable or not neuron.fires:
        return _behind_with_gradient(x, weight, bias, window, neurons, surrogate)
    return _behind(x, weight, bias, window, neurons, shortcut, pool_follows)


def linear(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor | float | None,
    neuron: AnyNeuron,
    surrogate: Surrogate | None = None,
    shortcut: Spikes | None = None,
) -> Fired:
    """:func:`proxykernels.if_linear`; ``shortcut``: as in :func:`conv2d`."""
    tensors = () if neuron.is_checked else neuron.check_once()
    held: Any = x._kept.tensor if isinstance(x, Spikes) else x
    kernels: Any = ops.direct(held, weight, bias, v, *tensors, in_python=neuron.in_python)
    if kernels is None or type(x) is not Spikes or len(x.shape) != 3:
        x, kernels = carrying(x, 3, "[T, N, features]", surrogate, kernels), kernels or ops
    device = held.device
    checks.parameters(weight, bias, 2, "[out, in]", device)
    if x.shape[2] != weight.shape[1]:
        checks.features(x.shape, weight)
    x = x if isinstance(x, Spikes) else x[..., None, None]
    differentiable = surrogate is not None and wants_gradient(surrogate, x, weight, bias, v, *tensors)
    neurons = neurons_of(
        neuron,
        (x.shape[1], weight.shape[0]),
        v,
        device,
        kernels,
        not tensors,
        T=x.shape[0],
        differentiable=differentiable,
    )
    if differentiable or not neuron.fires:
        return _behind_with_gradient(x, weight, bias, _ONE_PIXEL, neurons, surrogate)
    return _behind(x, weight, bias, _ONE_PIXEL, neurons, shortcut)


def takes_shortcut(x: Spikes, neuron: AnyNeuron) -> bool:
    """Whether spikes x may be the shortcut of a call without a gradient and without groups."""
    return x.scale == 1 and neuron.fires and not neuron.counts


def _behind(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: ImageWindow,
    neurons: NeuronsOfCall,
    shortcut: Spikes | None = None,
    pool_follows: bool = False,
) -> Fired:
    """Neurons behind a convolution of x (T, N, C_in, H, W). The arguments are already checked.

    ``weight``: of a convolution, or of a matrix product, which is treated as one on images of one pixel.
    """
    T = x.shape[0]
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    weight = weight if weight.ndim == 4 else weight[:, :, None, None]
    if neurons.neuron.counts and (isinstance(x, Spikes) or neurons.kernels is ops):
        weight, bias = scaled(weight, x) if isinstance(x, Spikes) else weight, None if bias is None else bias.float()
        given, _, values = input_of(x, window, False)
        operands = values.detach(), weight, bias, neurons.start, neurons.parameters
        return neurons.fired(T, *fire_several_times(given, *operands))
    if not isinstance(x, Spikes):
        if shortcut is not None:
            raise TypeError("x must be Spikes beside a shortcut, got a tensor; add the shortcut to its currents")
        return _fire_real(x, weight, bias, window, neurons)
    weight, bias, kept = weight if x.scale == 1 else scaled(weight, x), None if bias is None else bias.float(), x._kept
    state, parameters, kernels = neurons.start, neurons.parameters, neurons.kernels
    layer = window.size, weight, bias, state, parameters, window.stride, window.padding, window.dilation
    if shortcut is not None:
        return neurons.fired(T, *kernels.if_conv2d(kept.words, T, *layer, window.groups, shortcut._words))
    if isinstance(kept, Periods) and window.groups == 1:
        return neurons.fired(T, *kernels.if_period_conv2d(kept.periods, kept.start, T, *layer))
    if pool_follows and storage.over_time(kept.words) and neurons.shape[2] % 2 == neurons.shape[3] % 2 == 0:
        words, pooled, after = kernels.if_conv2d_pooled(kept.words, T, *layer, window.groups)
        return neurons.fired(T, PooledWords(words, T, pooled), after)
    return neurons.fired(T, *kernels.if_conv2d(kept.words, T, *layer, window.groups))


def _behind_with_gradient(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: ImageWindow,
    neurons: NeuronsOfCall,
    surrogate: Surrogate | None,
) -> Fired:
    """:func:`_behind` with a gradient, or for neurons that never fire, which are differentiable anyway."""
    weight = weight if weight.ndim == 4 else weight[:, :, None, None]
    if not neurons.neuron.fires:
        x = x._sized(*window.size) if isinstance(x, Spikes) else x
        currents = currents_in_parts(x, weight, bias, window.convolution, surrogate)
        return _integrate(currents, neurons, surrogate)
    weight = scaled(weight, x) if isinstance(x, Spikes) else weight
    given = input_of(x, window, neurons.repeat(x.shape[0]))
    return neurons.with_gradient(*given, surrogate, weight, bias)


def _integrate(
    currents: Iterable[Tensor], neurons: NeuronsOfCall, surrogate: Surrogate | None, *, own: bool = True
) -> tuple[Tensor, Tensor]:
    """The potentials [T, N, ...] of neurons that never fire, and the last ones, in memory of their own.

    They are differentiable if the layer has a surrogate derivative, although it is not used. ``own``: whether the
    currents were made in this call and may be returned; otherwise they belong to the caller.
    """
    neuron, shape, v = neurons.neuron, neurons.shape, neurons.v
    state, parts = v if isinstance(v, Tensor) else neuron.rest if v is None else v, []
    forgets = isinstance(neuron, LINeuron) and not isinstance(neuron.decay, Tensor) and neuron.decay == neuron.rest == 0
    for current in currents:
        if checks.is_repeated(current):
            current = checks.repeated(current[0].reshape(shape), len(current))
        else:
            current = current.reshape(len(current), *shape)
        if not wants_gradient(surrogate, current, state, *neuron.tensors()):
            state = state.detach() if isinstance(state, Tensor) else state
            current, neuron = current.detach(), neuron.detach()
        if forgets:  # potentials are currents
            parts.append(current.float() if own else _copied(current))
            continue
        of_call = neuron.on(channels(shape), current.device)
        if current.is_cuda:
            start = storage.start(state, shape, current.device, neuron)
            found = potentials(to_channels_last(current, 2), start, of_call).flatten(0, 1)
            found = storage.from_channels_last(found, (len(current) * shape[0], *shape[1:]))
            parts.append(found.unflatten(0, (len(current), shape[0])))
        else:
            parts.append(reference.integrate(current, state, of_call))
        state = parts[-1][-1]
    return parts[0] if len(parts) == 1 else torch.cat(parts), parts[-1][-1].clone()


def _copied(current: Tensor) -> Tensor:
    """A copy in float32; constant currents are copied once and stay constant."""
    if checks.is_repeated(current):
        return checks.repeated(current[0].to(torch.float32, copy=True), len(current))
    return current.to(torch.float32, copy=True)


def _fire_real(x: Tensor, weight: Tensor, bias: Tensor | None, window: ImageWindow, neurons: NeuronsOfCall) -> Fired:
    """Spikes and potentials of neurons for real-valued inputs x [T, N, C_in, H, W]."""
    x, T = x.detach(), x.shape[0]
    followed = neurons.kernels is ops
    if checks.is_constant(x) if followed else x.stride(0) == 0:
        operands = x[:1], weight, bias, *window.convolution
        convolve = unfused.conv2d if followed else unfused.convolve
        kept = weight_cache.include(x, followed=followed)
        currents = weight_cache.made(convolve, *operands) if kept else convolve(*operands)
        return _fire_constant(currents[0], T, neurons)
    operands = x, weight, bias, neurons.start, neurons.parameters, *window.convolution
    return neurons.fired(T, *neurons.kernels.if_conv2d_real(*operands))


def _fire_constant(currents: Tensor, T: int, neurons: NeuronsOfCall) -> Fired:
    """Spikes and potentials of neurons on currents [N, P, C] that are the same at all T steps."""
    if neurons.repeat(T):
        periods, after = neurons.kernels.find_periods(currents, T, neurons.parameters)
        return neurons.fired(T, Periods(periods, T), after)
    return neurons.fired(T, *neurons.kernels.if_scan(currents, neurons.start, neurons.parameters, T))


def recurrent_linear(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    recurrent_weight: Tensor,
    v: Tensor | float | None,
    neuron: AnyNeuron,
    surrogate: Surrogate | None = None,
) -> Fired:
    """A matrix product and recurrent neurons: I[t] = W x[t] + b + R s[t-1].

    Args:
        x: Spikes (T, N, in), or a tensor of that shape. weight: [out, in]. bias: [out].
        recurrent_weight: R, [out, out], where row i has the weights of what neuron i receives; or [out], if each neuron
            receives only its own spikes.
        v: the initial state [N, states + 1, out], whose last entry is the spikes s[-1]; or a potential, or None (at
            rest), with s[-1] = 0.

    Returns:
        Spikes (T, N, out) and the state after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    tensors = () if neuron.is_checked else neuron.check_once()
    x = carrying(x, 3, "[T, N, features]", surrogate, None)
    checks.parameters(weight, bias, 2, "[out, in]", x.device)
    checks.features(x.shape, weight)
    checks.recurrent(recurrent_weight, len(weight), x.device)
    if not neuron.fires or neuron.counts:
        raise TypeError(
            f"neuron must fire, once at most in a step, for its spikes come back to it; got {type(neuron).__name__}"
        )
    shape = x.shape[1], len(weight)
    checks.room(x.shape[0], shape, x.device)
    checks.recurrent_state(v, shape, neuron.states, x.device)
    start, ready = _recurrent_start(v, shape, neuron, x.device), neuron.on(shape[1], x.device)
    if isinstance(x, Spikes):
        given: RecurrentInput = SpikeWords(x.T, _ONE_PIXEL)
        handle, values, weight = x._handle, x._words, scaled(weight, x)
    else:
        values = x[..., None, None]
        given, handle, values = input_of(values, _ONE_PIXEL, False)  # type: ignore[assignment]
    operands: Any = RecurrentOperands(
        handle, values, weight[:, :, None, None], None if bias is None else bias.float(), start, ready.channels,
        recurrent_weight,
    )  # fmt: skip
    if wants_gradient(surrogate, x, weight, bias, v, recurrent_weight, *tensors):
        words, handle, after = fire_recurrent(given, operands, ready, surrogate.kernel)  # type: ignore[union-attr]
        return Spikes(words, (x.shape[0], *shape), handle=handle), after.squeeze(2)
    detached: Any = [operand if operand is None else operand.detach() for operand in operands]
    plain = RecurrentOperands(*detached)
    words, after, _ = run_recurrent(given, plain.x, plain.weight, plain.bias, plain.v, ready.detach(), plain.recurrent)
    return Spikes(words, (x.shape[0], *shape)), after.squeeze(2)


def _recurrent_start(
    v: Tensor | float | None, shape: tuple[int, int], neuron: AnyNeuron, device: torch.device
) -> Tensor:
    """The initial state, [N, states + 1, 1, C]."""
    if isinstance(v, Tensor):
        return v.float().unsqueeze(2)
    start = torch.zeros(shape[0], neuron.states + 1, 1, shape[1], dtype=torch.float32, device=device)
    start[:, 0] = float(neuron.rest if v is None else v)
    return start
