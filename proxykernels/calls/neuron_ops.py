"""Neurons of any model over all time steps in one call: what functional.py offers of IF neurons, and layers run.

Differentiable with a surrogate derivative, if one is given. A neuron that does not fire has potentials in the place of
spikes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..checks import window_checks
from ..checks.window_checks import symmetric
from ..kernels import constants, ops, reference, unfused
from ..neurons import AnyNeuron, LINeuron
from ..spikes import Spikes, word_ops
from ..spikes.channels_last import channels, start, state_of, to_channels_last
from ..spikes.storage import Periods, PooledWords
from ..surrogates import Surrogate
from .currents import currents_in_parts, scaled
from .gradients import inputs
from .gradients.calls import carrying, wants_gradient, with_gradient

Fired = tuple[Any, Tensor]  # Spikes, or the potentials [T, N, ...] of neurons that do not fire; and the state


def scan(current: Tensor, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None = None) -> Fired:
    """:func:`proxykernels.if_scan`."""
    neuron.check()
    checks.currents(current, "T, N")
    shape = current.shape
    checks.room(shape[0], shape[1:], current.device)
    checks.state(v, shape[1:], neuron.states, current.device)
    parameters = neuron.on(channels(shape[1:]), current.device)
    if not neuron.fires:
        return _integrate([current], shape[1:], v, neuron, surrogate)
    state = start(v, shape[1:], current.device, neuron)
    pixels = to_channels_last(current, 2)
    if wants_gradient(surrogate, current, state, parameters.channels):
        return with_gradient(
            inputs.Currents(len(pixels)), None, pixels, None, None, state, parameters, surrogate, shape, neuron
        )
    words, after = ops.if_scan(pixels.detach(), state.detach(), parameters.detach())
    return Spikes(words, shape), state_of(after, shape[1:], neuron)


def hold(
    current: Tensor, T: int, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None = None
) -> Fired:
    """:func:`proxykernels.if_hold`."""
    T = checks.steps(T)
    neuron.check()
    checks.currents(current, "N")
    shape = current.shape
    checks.state(v, shape, neuron.states, current.device)
    if not neuron.fires:
        return _integrate([current.expand(T, *shape)], shape, v, neuron, surrogate)
    pixels, device = to_channels_last(current), current.device
    state, parameters = start(v, shape, device, neuron), neuron.on(channels(shape), device)
    if wants_gradient(surrogate, current, state, parameters.channels):
        given = inputs.ConstantCurrents(T, v is None and neuron.repeats(device, T))
        return with_gradient(given, None, pixels, None, None, state, parameters, surrogate, (T, *shape), neuron)
    v = v.detach() if isinstance(v, Tensor) else v
    return _fire_constant(pixels.detach(), T, shape, v, neuron.detach())


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
    ``shortcut``, where :func:`takes_shortcut` allows it: spikes of the output's shape that each add 1 to their neuron's
    current.
    """
    neuron.check()
    x = carrying(x, 5, "[T, N, C_in, H, W]", surrogate)
    C_in, *size = x.shape[2:]
    checks.parameters(weight, bias, 4, "[C_out, C_in / groups, kernel_h, kernel_w]", x.device)
    stride, dilation = window_checks.pair("stride", stride, 1), window_checks.pair("dilation", dilation, 1)
    groups = window_checks.groups(groups, C_in, weight)
    weight, padding, dilation = symmetric(weight, padding, stride, dilation)
    window_checks.fits(size, weight.shape[2:], padding, dilation)
    shape = x.shape[1], len(weight), *unfused.output_size(size, weight.shape[2:], stride, padding, dilation)
    window = stride, padding, dilation, groups
    return _behind(weight, bias, window, x, size, shape, v, neuron, surrogate, shortcut, pool_follows)


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
    neuron.check()
    x = carrying(x, 3, "[T, N, features]", surrogate)
    features = x.shape[2]
    checks.parameters(weight, bias, 2, "[out, in]", x.device)
    if weight.shape[1] != features:
        raise ValueError(
            f"x must have {weight.shape[1]} features, as weights {list(weight.shape)} take them, got {features}"
        )
    x = x._sized(1, 1) if isinstance(x, Spikes) else x[..., None, None]
    window = (1, 1), (0, 0), (1, 1), 1
    return _behind(weight, bias, window, x, (1, 1), (x.shape[1], len(weight)), v, neuron, surrogate, shortcut)


def takes_shortcut(x: Spikes, neuron: AnyNeuron) -> bool:
    """Whether spikes x may be the shortcut of a call without a gradient and without groups: on a CPU."""
    return x.device.type == "cpu" and x.scale == 1 and neuron.fires


def _behind(
    weight: Tensor,
    bias: Tensor | None,
    window: tuple,
    x: Spikes | Tensor,
    size: Sequence[int],
    shape: Sequence[int],
    v: Tensor | float | None,
    neuron: AnyNeuron,
    surrogate: Surrogate | None,
    shortcut: Spikes | None,
    pool_follows: bool = False,
) -> Fired:
    """Neurons of ``shape`` [N, C, ...] behind a convolution of x (T, N, C_in, *size), whose arguments are good.

    ``weight``: of a convolution, or of a matrix product, which is one of images of one pixel. ``window``: stride,
    padding, dilation and groups.
    """
    T, device, (*pairs, groups) = x.shape[0], x.device, window
    checks.room(T, shape, device)
    checks.state(v, shape, neuron.states, device)
    if not neuron.fires:
        return _integrate(currents_in_parts(x, _taps(weight), bias, window, surrogate), shape, v, neuron, surrogate)
    if wants_gradient(surrogate, x, weight, bias, v, *neuron.tensors()):
        weight = scaled(weight, x) if isinstance(x, Spikes) else weight
        operands = _taps(weight), bias, start(v, shape, device, neuron), neuron.on(shape[1], device), surrogate
        repeats = v is None and neuron.repeats(device, T)
        given, handle, x = inputs.input_of(x, inputs.Window(tuple(size), *window), repeats)
        return with_gradient(given, handle, x, *operands, (T, *shape), neuron)
    weight, bias, neuron = weight.detach(), None if bias is None else bias.detach(), neuron.detach()
    v = v.detach() if isinstance(v, Tensor) else v
    if not isinstance(x, Spikes):
        return _fire_real(x, _taps(weight), bias, window, shape, v, neuron)
    weight, bias = scaled(weight, x), None if bias is None else bias.float()
    state, parameters, kept = start(v, shape, device, neuron), neuron.on(shape[1], device), x._kept
    layer = size, _taps(weight), bias, state, parameters, *pairs
    if shortcut is not None:
        words, after = ops.if_shortcut_conv2d(kept.words, T, *layer, shortcut._words)
    elif isinstance(kept, Periods) and groups == 1:
        words, after = ops.if_period_conv2d(kept.periods, kept.start, T, *layer)
    elif weight.ndim == 2:
        words, after = ops.if_linear(kept.words, T, weight, bias, state, parameters)
    elif pool_follows and word_ops.over_time(kept.words) and shape[2] % 2 == shape[3] % 2 == 0:
        words, pooled, after = ops.if_conv2d_pooled(kept.words, T, *layer, groups)
        return Spikes(PooledWords(words, T, pooled), (T, *shape)), state_of(after, shape, neuron)
    else:
        words, after = ops.if_conv2d(kept.words, T, *layer, groups)
    return Spikes(words, (T, *shape)), state_of(after, shape, neuron)


def _taps(weight: Tensor) -> Tensor:
    """A matrix as the weight of a convolution."""
    return weight if weight.ndim == 4 else weight[:, :, None, None]


def _integrate(
    currents: Iterable[Tensor],
    shape: Sequence[int],
    v: Tensor | float | None,
    neuron: AnyNeuron,
    surrogate: Surrogate | None,
) -> tuple[Tensor, Tensor]:
    """The potentials [T, N, ...] of neurons of ``shape`` that never fire, and the last ones.

    They are differentiable where the layer is, though no spike needs its ``surrogate``.
    """
    state, parts = v if isinstance(v, Tensor) else neuron.rest if v is None else v, []
    forgets = isinstance(neuron, LINeuron) and not isinstance(neuron.decay, Tensor) and neuron.decay == neuron.rest == 0
    for current in currents:
        current = current.reshape(len(current), *shape)
        if not wants_gradient(surrogate, current, state, *neuron.tensors()):
            state = state.detach() if isinstance(state, Tensor) else state
            current, neuron = current.detach(), neuron.detach()
        if forgets:  # potentials are currents
            parts.append(current.float())
            continue
        parts.append(reference.integrate(current, state, neuron.on(channels(shape), current.device)))
        state = parts[-1][-1]
    return parts[0] if len(parts) == 1 else torch.cat(parts), parts[-1][-1]


def _fire_real(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: tuple,
    shape: Sequence[int],
    v: Tensor | float | None,
    neuron: AnyNeuron,
) -> tuple[Spikes, Tensor]:
    """Spikes and potentials of neurons of ``shape`` for real-valued inputs x [T, N, C_in, H, W].

    ``window``: stride, padding, dilation and groups of their convolution by ``weight``.
    """
    x, T = x.detach(), x.shape[0]
    if checks.is_constant(x):
        operands = x[:1], weight, bias, *window
        currents = constants.made(unfused.conv2d, *operands) if constants.include(x) else unfused.conv2d(*operands)
        return _fire_constant(currents[0], T, shape, v, neuron)
    parameters = neuron.on(shape[1], x.device)
    words, after = ops.if_conv2d_real(x, weight, bias, start(v, shape, x.device, neuron), parameters, *window)
    return Spikes(words, (T, *shape)), state_of(after, shape, neuron)


def _fire_constant(
    currents: Tensor, T: int, shape: Sequence[int], v: Tensor | float | None, neuron: AnyNeuron
) -> tuple[Spikes, Tensor]:
    """Spikes and potentials of neurons of ``shape`` on currents [N, P, C] that are held for T steps."""
    parameters = neuron.on(channels(shape), currents.device)
    if v is None and neuron.repeats(currents.device, T):
        periods, after = ops.find_periods(currents, T, parameters)
        return Spikes(Periods(periods, T), (T, *shape)), state_of(after, shape, neuron)
    checks.room(T, shape, currents.device)
    words, after = ops.if_hold(currents, T, start(v, shape, currents.device, neuron), parameters)
    return Spikes(words, (T, *shape)), state_of(after, shape, neuron)
