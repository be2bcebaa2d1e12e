"""Spikes of sigma-delta neurons: at most one signed power of two a neuron and step, as a code of one byte.

Graded neurons send values instead, float32 ``[N, T, P, C]``; those of 8 bits multiples of a unit.

A code is 0 for silence, else +-(k + 1) for a spike of +-2**-k; thresholds are 1, for the weights hold all others
(conversion/relu/scales.py). Codes are int8 ``[N, T, P, C]``. They are not packed over time or channels, as
binary spikes are: such networks are run for few steps (T up to 8), in which every second neuron sends something, and a
kernel finds what is not silent among 64 bytes in one comparison. Four planes of bits would hold as much in half the
memory, and each spike would have to be put together from four places.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import heap, reference
from .table import Most
from .unfused import exact
from .weight_cache import WHOLE_BITS

Pair = tuple[int, int]  # of height and width
Window = tuple[Pair, Pair, Pair, int]  # stride, padding, dilation, groups
State = tuple[Tensor, Tensor]  # z, what has arrived, and a, what was sent


class Senders(NamedTuple):
    """Neurons of a layer: what they send, and between what values the activation is clipped.

    Attributes:
        exponents: K, spikes are from 2**-(K-1) to 1.
        lowest: 0 for a ReLU, -infinity for an identity.
        highest: float32 [C]; infinity: not clipped.
        threshold: of graded neurons, which send values: the least that they send; None: they send powers of two.
        unit: of graded neurons of 8 bits, what their values are multiples of, a power of two; activations are then at
            most Most.CODE units apart. None: values are not rounded.
    """

    exponents: int
    lowest: float
    highest: Tensor
    threshold: float | None = None
    unit: float | None = None

    @property
    def type(self) -> torch.dtype:
        """The type of what they send."""
        return torch.int8 if self.threshold is None else torch.float32


class Counts(NamedTuple):
    """Of a layer's call: the spikes that its neurons sent, and how often a weight was added to a neuron's sum.

    On a GPU integer tensors, whose sums they are: nobody adds them up or waits for them until they are read.
    """

    spikes: int | Tensor
    additions: int | Tensor


def values_of(codes: Tensor) -> Tensor:
    """The values, float32, that codes stand for."""
    powers = 2.0 ** -torch.arange(Most.EXPONENTS, dtype=torch.float32, device=codes.device)
    table = torch.cat([-powers.flip(0), torch.zeros_like(powers[:1]), powers])
    return table[codes.int() + Most.EXPONENTS]


def codes_of(values: Tensor) -> Tensor:
    """The codes of signed powers of two, 2**-11 to 1, and of zeros."""
    size = 2 - torch.frexp(values).exponent
    return torch.where(values == 0, 0, size * values.sign()).to(torch.int8)


def arriving(
    x: Tensor, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None, window: Window
) -> tuple[Tensor, int]:
    """What a convolution by torch brings, [N, steps, P_out, C_out], and the weights added for it.

    Args:
        x: [N, steps, P, C_in] of images of ``size`` (H, W): codes, or values in float32. weight: [C_out, C_in / groups,
            kh, kw]; None: 1 from each input to itself. bias: [C_out], at the first step.
    """
    values = values_of(x) if x.dtype == torch.int8 else x
    if weight is None:
        return values, int(values.count_nonzero())
    stride, padding, dilation, groups = window
    images = values.transpose(2, 3).flatten(0, 1).unflatten(2, size)
    with exact(x.device):
        y = convolved(images, weight, window)
    not_zero = torch.count_nonzero(images, (0, 1))  # of each pixel
    reach = windows_of_pixels(size, tuple(weight.shape[2:]), stride, padding, dilation)
    additions = int((not_zero * reach.to(x.device)).sum()) * (len(weight) // groups)
    y = y.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
    if bias is not None:
        y[:, :1] += bias.float()
    return y, additions


def convolved(images: Tensor, weight: Tensor, window: Window) -> Tensor:
    """torch's convolution; in float64 of rounded weights, whose sums torch's fast algorithms would not keep exact."""
    if weight.untyped_storage() in WHOLE_BITS:
        return F.conv2d(images.double(), weight.double(), None, *window).float()
    return F.conv2d(images, weight.float(), None, *window)


@cache
def windows_of_pixels(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """How many windows of a convolution have each pixel: int64 [H, W]."""
    rows, columns = (_windows_of_places(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True))
    return rows[:, None] * columns


def _windows_of_places(places: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The same along one axis."""
    found = heap.zeros(places, dtype=torch.int64)
    for first in range(-padding, places + padding - dilation * (kernel - 1), stride):
        for place in range(first, first + dilation * (kernel - 1) + 1, dilation):
            if 0 <= place < places:
                found[place] += 1
    return found


def all_that_arrives(
    x: Tensor | None, size: Pair, weight: Tensor | None, bias: Tensor | None, added: Tensor | None, window: Window
) -> tuple[Tensor, int]:
    """What a convolution brings, and what is added to it, in as many steps as there are; and the weights added.

    Args: those of :func:`sigma_delta`.
    """
    arrived, additions = None, 0
    if x is not None:
        arrived, additions = arriving(x, size, weight, bias, window)
    if added is not None:
        arrived = added if arrived is None else padded(arrived, added.shape[1]) + added
    assert arrived is not None
    return arrived, additions


def padded(arrived: Tensor, T: int) -> Tensor:
    """Zeros behind the last step, so that there are T."""
    return arrived if arrived.shape[1] == T else F.pad(arrived, (0, 0, 0, 0, 0, T - arrived.shape[1]))


def running_maximum(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, state: State | None
) -> Tensor:
    """The definition of max pooling: what the maximum of all that was sent so far changes by at each step.

    Args:
        x: [N, T, P, C] of images of ``size`` (H, W): codes, or values in float32. kernel, stride, padding: the windows,
            those of ``size_out`` (H_out, W_out), which may go beyond the image.
        state: what the inputs have sent, and the maxima, contiguous float32 [N, P, C] and [N, P_out, C], replaced by
            those after the T steps; None: zeros, and not kept.

    Returns:
        float32 [N, T, P_out, C].
    """
    sums = sums_so_far(x, None if state is None else state[0])
    return changes_of(maxima_of(sums, size, size_out, kernel, stride, padding), state)


def changes_of(maxima: Tensor, state: State | None) -> Tensor:
    """What maxima [N, T, P_out, C] change by at each step; of ``state`` those before, replaced by those after."""
    before = torch.zeros_like(maxima[:, :1]) if state is None else state[1].unsqueeze(1).clone()
    if state is not None:
        state[1].copy_(maxima[:, -1])
    return torch.diff(maxima, dim=1, prepend=before)


def sums_so_far(x: Tensor, sent: Tensor | None, T: int | None = None) -> Tensor:
    """The sums of all that was sent up to each step, float32 [N, T, P, C], of x [N, steps, P, C], codes or values.

    Args:
        sent: before, float32 [N, P, C], replaced by that after the steps; None: nothing, and not kept.
        T: steps, after those of x nothing is sent; None: as many as x has.
    """
    sums = padded(values_of(x) if x.dtype == torch.int8 else x, x.shape[1] if T is None else T)
    sums = sums.clone() if sums is x else sums
    if sent is not None:
        sums[:, 0] += sent
    for t in range(
        1, sums.shape[1]
    ):  # in float32 and in order, whatever the chunk; torch's cumsum takes ten times as long
        sums[:, t] += sums[:, t - 1]
    if sent is not None:
        sent.copy_(sums[:, -1])
    return sums


def maxima_of(sums: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """The maxima [N, T, P_out, C] of sums [N, T, P, C] of images of ``size``."""
    N, T, _, C = sums.shape
    images = sums.reshape(N * T, *size, C).movedim(-1, 1)
    maxima = _maxima(images, size_out, kernel, stride, padding)
    return maxima.unflatten(0, (N, T)).flatten(3).transpose(2, 3).contiguous()


def _maxima(images: Tensor, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """The largest values of the windows of images [N, C, H, W]."""
    beyond = [(out - 1) * step + window - padded - length for length, out, window, step, padded in zip(
        images.shape[2:], size_out, kernel, stride, padding, strict=True)]  # fmt: skip
    if not any(max(0, most) > least for most, least in zip(beyond, padding, strict=True)):
        return F.max_pool2d(images, kernel, stride, padding)[:, :, : size_out[0], : size_out[1]]
    edges = padding[1], max(0, beyond[1]), padding[0], max(0, beyond[0])
    return F.max_pool2d(F.pad(images, edges, value=-torch.inf), kernel, stride)[:, :, : size_out[0], : size_out[1]]


def pooled_sigma_delta(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int, neuron: Senders,
    state: State | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """The definition of neurons behind a max pooling: each takes the maximum of what has arrived so far in its window.

    Args:
        x: what arrives, float32 [N, steps, P, C]; or codes. Nothing does after these steps, of ``T``.
        size, size_out, kernel, stride, padding: as in :func:`running_maximum`.
        state: z [N, P, C], what has arrived, and a [N, P_out, C], what was sent: as in :func:`sigma_delta`.

    Returns:
        Codes int8 [N, T, P_out, C], or values of graded neurons, float32; and the number of spikes.
    """
    arrived = padded(values_of(x) if x.dtype == torch.int8 else x, T)
    sent = _sent(
        neuron, arrived.permute(1, 0, 3, 2).unflatten(3, size),
        None if state is None else (_as_images(state[0], size), _as_images(state[1], size_out)),
        pool=lambda z: _maxima(z, size_out, kernel, stride, padding),
    )  # fmt: skip
    sent = sent.flatten(3).permute(1, 0, 3, 2).contiguous()
    return sent, int(sent.count_nonzero())


def _sent(neuron: Senders, arrived: Tensor, state: State | None, **pool: Callable) -> Tensor:
    """Codes of what neurons send, or the values of graded ones, of ``arrived`` [T, N, C, ...]."""
    options: dict[str, Any] = {"lowest": neuron.lowest, "highest": neuron.highest, "state": state} | pool
    if neuron.threshold is None:
        return codes_of(reference.sigma_delta(arrived, neuron.exponents, **options))
    return reference.graded(arrived, neuron.threshold, unit=neuron.unit, **options)


def _as_images(state: Tensor, size: Pair) -> Tensor:
    """[N, C, H, W] of [N, P, C], of the same memory."""
    return state.transpose(1, 2).unflatten(2, size)


def sigma_delta(
    x: Tensor | None, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None, added: Tensor | None, T: int,
    neuron: Senders | None, window: Window, state: State | None = None,
) -> tuple[Tensor, Counts]:  # fmt: skip
    """The definition, and any convolution: what a backend's ``sigma_delta`` computes.

    Args:
        x, size, weight, bias, window: as in :func:`arriving`; x has T steps, or fewer, after which nothing arrives.
            x None: ``added`` is all that arrives.
        added: what else arrives, float32 [N, T, P_out, C_out]; or None.
        neuron: None: no neurons.
        state: z and a of the neurons, contiguous float32 [N, P_out, C_out], replaced by those after the T steps;
            None: zeros, and not kept.

    Returns:
        Codes int8 [N, T, P_out, C_out]; of graded neurons values, without neurons what arrives, float32 of that shape.
    """
    arrived, additions = all_that_arrives(x, size, weight, bias, added, window)
    arrived = padded(arrived, T)
    if neuron is None:
        result = arrived.contiguous()
        return result.clone() if result is x or result is added else result, Counts(0, additions)
    state = None if state is None else (state[0].transpose(1, 2), state[1].transpose(1, 2))
    sent = _sent(neuron, arrived.permute(1, 0, 3, 2), state).permute(1, 0, 3, 2).contiguous()
    return sent, Counts(int(sent.count_nonzero()), additions)
