"""The functions: IF neurons, convolutions and matrix products with IF neurons, over all time steps in one call.

One neuron, for t = 0 .. T-1 (theta is ``v_threshold``; the neuron of arXiv:2109.13208):

    h[t] = v[t-1] + I[t]                  I[t] = (W * x[t]) + b, summed in any order, in float32
    s[t] = 1 if h[t] >= theta else 0
    v[t] = v_reset if s[t] else h[t]      hard reset (v_reset is a number)
    v[t] = h[t] - theta s[t]              soft reset (v_reset is None)

v[-1] is 0 or the state ``v`` that is passed in. Potentials are float32 whatever the input's type. None of the
``if_*`` functions is differentiable: training goes through :class:`proxykernels.ProxyNet` or
:class:`proxykernels.SurrogateNet`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks, known, ops, packed, window_checks
from .channels_last import channels, start, state_of, to_channels_last
from .gradients import inputs
from .gradients.calls import carrying, convolved, wants_gradient, with_gradient
from .kernels import constants, reference, unfused
from .neurons import AnyNeuron, IFNeuron, LINeuron
from .padding import symmetric
from .spikes import Spikes
from .storage import Periods, PooledWords
from .surrogates import Surrogate

Pair = tuple[int, int]  # of height and width
Fired = tuple[Any, Tensor]  # Spikes, or the potentials [T, N, ...] of neurons that do not fire; and the state


def if_scan(
    current: Tensor,
    v: Tensor | float | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """IF neurons on given currents (equations: :mod:`proxykernels.functional`).

    Args:
        current: [T, N, ...] of any float dtype, in units of the threshold. A channels-last memory order,
            [T, N, H, W, C] inside, saves a copy.
        v: potentials to start from, [N, ...] or one number for all; default: at rest, 0.
        v_threshold: threshold > 0, a number or one value a channel [C].
        v_reset: potential after a spike, below the threshold; None subtracts the threshold instead.

    Returns:
        Spikes (T, N, ...) and the float32 potentials [N, ...] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    return scan(current, v, IFNeuron(v_threshold, v_reset))


def scan(current: Tensor, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None = None) -> Fired:
    """:func:`if_scan` for neurons of any model, differentiable with a surrogate derivative."""
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
        return with_gradient(inputs.Currents(), pixels, pixels, None, None, state, parameters, surrogate, shape, neuron)
    words, after = ops.if_scan(pixels.detach(), state.detach(), parameters.detach())
    return Spikes(words, shape), state_of(after, shape[1:], neuron)


def if_hold(
    current: Tensor,
    T: int,
    v: Tensor | float | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """IF neurons on a current that is the same at every step.

    Args:
        current: [N, ...] of any float dtype, in units of the threshold.
        T: number of steps.
        v, v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes (T, N, ...) and the float32 potentials [N, ...] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    return hold(current, T, v, IFNeuron(v_threshold, v_reset))


def hold(
    current: Tensor, T: int, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None = None
) -> Fired:
    """:func:`if_hold` for neurons of any model, differentiable with a surrogate derivative."""
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
        given = inputs.HeldCurrents(T, v is None and neuron.repeats(device, T))
        return with_gradient(given, pixels, pixels, None, None, state, parameters, surrogate, (T, *shape), neuron)
    v = v.detach() if isinstance(v, Tensor) else v
    return _fire_held(pixels.detach(), T, shape, v, neuron.detach())


def if_conv2d(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    v: Tensor | float | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """Convolution and IF neurons over all steps (equations: :mod:`proxykernels.functional`).

    Args:
        x: Spikes (T, N, C_in, H, W), or a tensor of that shape: spikes or real values. One image repeated by
            ``image.expand(T, ...)`` is convolved once.
        weight: [C_out, C_in / groups, kernel_h, kernel_w], taken as float32; if it is float64, real-valued x are
            convolved in float64.
        bias: [C_out], added at every step.
        v: potentials to start from, [N, C_out, H_out, W_out] or one number for all; default: at rest, 0.
        stride, padding, dilation, groups: as in torch.nn.functional.conv2d, 'same' and 'valid' included.
        v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes (T, N, C_out, H_out, W_out) and the float32 potentials [N, C_out, H_out, W_out] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    window = stride, padding, dilation, groups
    return conv2d(x, weight, bias, v, IFNeuron(v_threshold, v_reset), *window)


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
    """:func:`if_conv2d` for neurons of any model, differentiable with a surrogate derivative.

    ``pool_follows``: whether :func:`max_pool2d` by 2 x 2 comes next; a GPU then pools in the same launch. ``shortcut``,
    where :func:`takes_shortcut` allows it: spikes of the output's shape that each add 1 to their neuron's current.
    """
    neuron.check()
    x = carrying(x, 5, "[T, N, C_in, H, W]", surrogate)
    (T, N, C_in, *size), device = x.shape, x.device
    checks.parameters(weight, bias, 4, "[C_out, C_in / groups, kernel_h, kernel_w]", device)
    stride, dilation = window_checks.pair("stride", stride, 1), window_checks.pair("dilation", dilation, 1)
    groups = window_checks.groups(groups, C_in, weight)
    weight, padding, dilation = symmetric(weight, padding, stride, dilation)
    window_checks.fits(size, weight.shape[2:], padding, dilation)
    shape = N, len(weight), *unfused.output_size(size, weight.shape[2:], stride, padding, dilation)
    checks.room(T, shape, device)
    checks.state(v, shape, neuron.states, device)
    window = stride, padding, dilation
    if not neuron.fires:
        return _integrate(_currents(x, weight, bias, (*window, groups), surrogate), shape, v, neuron, surrogate)
    if wants_gradient(surrogate, x, weight, bias, v, *neuron.tensors()):
        weight = _scaled(weight, x) if isinstance(x, Spikes) else weight
        operands = weight, bias, start(v, shape, device, neuron), neuron.on(shape[1], device), surrogate
        repeats = v is None and neuron.repeats(device, T)
        given, source, x = inputs.of(x, inputs.Window(tuple(size), *window, groups), repeats)
        return with_gradient(given, source, x, *operands, (T, *shape), neuron)
    weight, bias, v, neuron = _detached(weight, bias, v, neuron)
    if not isinstance(x, Spikes):
        return _fire_real(x, weight, bias, (*window, groups), shape, v, neuron)
    weight, bias = _scaled(weight, x), None if bias is None else bias.float()
    parameters = size, weight, bias, start(v, shape, device, neuron), neuron.on(shape[1], device), *window
    kept = x._kept
    if shortcut is not None:
        words, after = ops.if_shortcut_conv2d(kept.words, T, *parameters, shortcut._words)
    elif isinstance(kept, Periods) and groups == 1:
        words, after = ops.if_period_conv2d(kept.periods, kept.start, T, *parameters)
    elif pool_follows and packed.over_time(kept.words) and shape[2] % 2 == shape[3] % 2 == 0:
        words, pooled, after = ops.if_conv2d_pooled(kept.words, T, *parameters, groups)
        return Spikes(PooledWords(words, T, pooled), (T, *shape)), state_of(after, shape, neuron)
    else:
        words, after = ops.if_conv2d(kept.words, T, *parameters, groups)
    return Spikes(words, (T, *shape)), state_of(after, shape, neuron)


def if_linear(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    v: Tensor | float | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """Matrix product and IF neurons over all steps (equations: :mod:`proxykernels.functional`).

    Args:
        x: Spikes (T, N, in), or a tensor of that shape: spikes or real values.
        weight: [out, in], as in :func:`if_conv2d`.
        bias: [out], added at every step.
        v: potentials to start from, [N, out] or one number for all; default: at rest, 0.
        v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes (T, N, out) and the float32 potentials [N, out] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    return linear(x, weight, bias, v, IFNeuron(v_threshold, v_reset))


def linear(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor | float | None,
    neuron: AnyNeuron,
    surrogate: Surrogate | None = None,
    shortcut: Spikes | None = None,
) -> Fired:
    """:func:`if_linear` for neurons of any model, differentiable with a surrogate derivative.

    ``shortcut``: as in :func:`conv2d`.
    """
    neuron.check()
    x = carrying(x, 3, "[T, N, features]", surrogate)
    (T, N, features), device = x.shape, x.device
    checks.parameters(weight, bias, 2, "[out, in]", device)
    if weight.shape[1] != features:
        raise ValueError(
            f"weight must have the shape [out, {features}] for x of {features} features, got {list(weight.shape)}"
        )
    shape = N, len(weight)
    checks.room(T, shape, device)
    checks.state(v, shape, neuron.states, device)
    one, window = (1, 1), ((1, 1), (0, 0), (1, 1))  # of a convolution of images of one pixel
    if not neuron.fires:
        images = x._sized(1, 1) if isinstance(x, Spikes) else x[..., None, None]
        currents = _currents(images, weight[:, :, None, None], bias, (*window, 1), surrogate)
        return _integrate(currents, shape, v, neuron, surrogate)
    if wants_gradient(surrogate, x, weight, bias, v, *neuron.tensors()):
        weight = _scaled(weight, x) if isinstance(x, Spikes) else weight
        operands = bias, start(v, shape, device, neuron), neuron.on(shape[1], device), surrogate
        repeats = v is None and neuron.repeats(device, T)
        x = x[..., None, None] if isinstance(x, Tensor) else x
        given, source, x = inputs.of(x, inputs.Window(one, *window, 1), repeats)
        return with_gradient(given, source, x, weight[:, :, None, None], *operands, (T, *shape), neuron)
    weight, bias, v, neuron = _detached(weight, bias, v, neuron)
    if not isinstance(x, Spikes):
        return _fire_real(x[..., None, None], weight[:, :, None, None], bias, (*window, 1), shape, v, neuron)
    weight, bias = _scaled(weight, x), None if bias is None else bias.float()
    v = start(v, shape, device, neuron)
    parameters = neuron.on(shape[1], device)
    kept, layer = x._kept, (one, weight[:, :, None, None], bias, v, parameters, *window)
    if shortcut is not None:
        words, after = ops.if_shortcut_conv2d(kept.words, T, *layer, shortcut._words)
    elif isinstance(kept, Periods):
        words, after = ops.if_period_conv2d(kept.periods, kept.start, T, *layer)
    else:
        words, after = ops.if_linear(kept.words, T, weight, bias, v, parameters)
    return Spikes(words, (T, *shape)), state_of(after, shape, neuron)


def takes_shortcut(x: Spikes, neuron: AnyNeuron) -> bool:
    """Whether spikes x may be the shortcut of a call without a gradient and without groups: on a CPU."""
    return x.device.type == "cpu" and x.scale == 1 and neuron.fires


def currents_of(
    x: Spikes, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """The currents [T, N, C_out, H_out, W_out], channels last in memory, of a convolution of spikes."""
    T, N, _, *size = x.shape
    shape = N, len(weight), *unfused.output_size(size, weight.shape[2:], stride, padding, dilation)
    silent = IFNeuron(math.inf, None).on(shape[1], x.device)  # the kernels fire neurons as well
    v = start(0.0, shape, x.device, silent)
    operands = size, _scaled(weight, x), None if bias is None else bias.float(), v, silent, stride, padding, dilation
    kept = x._kept
    if isinstance(kept, Periods) and groups == 1:
        currents = ops.period_conv2d_currents(kept.periods, kept.start, T, *operands)
    else:
        currents = ops.conv2d_currents(kept.words, T, *operands, groups)
    return currents.transpose(2, 3).unflatten(3, shape[2:])


def batch_moments(
    x: Spikes, weight: Tensor, bias: Tensor, stride: Pair, padding: Any, dilation: Pair, groups: int
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of a convolution's currents of spikes over time, float64 [C_out], and of how many they are.

    One launch sums up currents and squares; ``bias`` should lie near the negative mean, or the variance loses digits.
    The currents are never in memory. On a GPU only.
    """
    T, N, _, *size = x.shape
    weight, padding, dilation = symmetric(weight, padding, stride, dilation)
    pixels = math.prod(unfused.output_size(size, weight.shape[2:], stride, padding, dilation))
    window = stride, padding, dilation, groups
    sums = ops.conv2d_current_sums(x._kept.words, T, size, _scaled(weight, x), bias, *window)
    mean, square = sums / (T * N * pixels)
    return mean, square - mean * mean, T * N * pixels


def _detached(weight: Tensor, bias: Tensor | None, v: Tensor | float | None, neuron: AnyNeuron) -> tuple:
    """The operands of a call without a gradient."""
    v = v.detach() if isinstance(v, Tensor) else v
    return weight.detach(), None if bias is None else bias.detach(), v, neuron.detach()


def _scaled(weight: Tensor, x: Spikes) -> Tensor:
    """The weight by what a spike of x counts."""
    return weight if x.scale == 1 else constants.made(_times, weight, x.scale)


def _times(weight: Tensor, scale: float) -> Tensor:
    return known.made_of(weight * scale, weight)


def _currents(
    x: Spikes | Tensor, weight: Tensor, bias: Tensor | None, window: tuple, surrogate: Surrogate | None
) -> Iterator[Tensor]:
    """The currents [t, N, C_out, P] of inputs (T, N, C_in, H, W), of real values a chunk of steps at a time."""
    if wants_gradient(surrogate, x, weight, bias):
        yield convolved(x, weight, bias, window)
        return
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if isinstance(x, Spikes):
        yield currents_of(x, weight, bias, *window).flatten(3)
        return
    if checks.is_held(x):
        current = unfused.conv2d(x[:1].detach(), weight, bias, *window).transpose(2, 3)
        yield current.expand(len(x), *current.shape[1:])
        return
    steps = len(x) if torch.compiler.is_compiling() else unfused.chunk_steps(math.prod(x.shape[1:]), x.device)
    for first in range(0, len(x), steps):
        yield unfused.conv2d(x[first : first + steps].detach(), weight, bias, *window).transpose(2, 3)


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
    if checks.is_held(x):
        operands = x[:1], weight, bias, *window
        currents = constants.made(unfused.conv2d, *operands) if constants.include(x) else unfused.conv2d(*operands)
        return _fire_held(currents[0], T, shape, v, neuron)
    parameters = neuron.on(shape[1], x.device)
    words, after = ops.if_conv2d_real(x, weight, bias, start(v, shape, x.device, neuron), parameters, *window)
    return Spikes(words, (T, *shape)), state_of(after, shape, neuron)


def _fire_held(
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
