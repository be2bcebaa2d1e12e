"""The oracle on packed spikes, in plain torch: what CPU tensors take where the C++ library was not built.

The functions and the layout are those of cpu.CpuKernels. Nothing here is fast.
"""

import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference, unfused
from ..neurons import Neuron


def pack(dense: Tensor) -> Tensor:
    """Bool [T, N, C, P] to packed spikes uint8 [N, T, P, ceil(C / 8)]."""
    x = F.pad(dense.permute(1, 0, 3, 2).to(torch.uint8), (0, -dense.shape[2] % 8))
    return (x.unflatten(3, (-1, 8)) << _bit(x)).sum(-1, dtype=torch.uint8)


def unpack(words: Tensor, T: int, C: int) -> Tensor:
    """Packed spikes to bool [T, N, C, P]."""
    x = ((words.unsqueeze(-1) >> _bit(words)) & 1).flatten(3)
    return x[..., :C].permute(1, 0, 3, 2).bool().contiguous()


def count(words: Tensor, C: int, until: int) -> Tensor:
    """Spikes of each neuron before step ``until``: int32 [N, C, P]."""
    return unpack(words, words.shape[1], C)[:until].sum(0, dtype=torch.int32)


def total(words: Tensor) -> Tensor:
    """All spikes: int64, no dimensions."""
    return ((words.unsqueeze(-1) >> _bit(words)) & 1).sum()


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """The steps start .. stop - 1."""
    return words[:, start:stop].contiguous()


def cat(words: list[Tensor], steps: list[int]) -> Tensor:
    """Spikes one after another in time."""
    return words[0] if len(words) == 1 else torch.cat(words, 1)


def flatten(words: Tensor, C: int) -> Tensor:
    """[N, T, P, ceil(C / 8)] to [N, T, 1, ceil(C * P / 8)], in the order of torch's flatten."""
    return pack(unpack(words, words.shape[1], C).flatten(2).unsqueeze(3))


def max_pool2d(words: Tensor, C: int, size, kernel_size, stride, padding) -> Tensor:
    """The OR over each window of images of ``size`` (H, W)."""
    x = unpack(words, words.shape[1], C).float().unflatten(3, size)
    return pack(reference.max_pool2d(x, kernel_size, stride, padding).flatten(3).bool())


def if_scan(current: Tensor, v: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """IF on currents [T, N, P, C]: spikes, and potentials [N, P, C] after the last step."""
    options = {"v_threshold": neuron.theta, "v_reset": neuron.v_reset}
    spikes, v = reference.if_scan(current.transpose(2, 3), v.transpose(1, 2), **options)
    return pack(spikes.bool()), v.transpose(1, 2).contiguous()


def if_hold(current: Tensor, T: int, v: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """IF on a current [N, P, C] held for T steps."""
    return if_scan(current.expand(T, *current.shape), v, neuron)


def fingerprint(values: Tensor) -> int:
    """A hash of the bytes of a contiguous tensor."""
    return hash(values.detach().cpu().view(torch.uint8).numpy().tobytes())


def find_periods(current: Tensor, T: int, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """IF with hard reset to 0, from rest, on a current [N, P, C] held for T steps: int16 periods, and potentials."""
    words, v = if_hold(current, T, torch.zeros_like(current, dtype=torch.float32), neuron)
    spikes = unpack(words, T, current.shape[2]).permute(0, 1, 3, 2).byte()
    return torch.where(spikes.any(0).bool(), spikes.argmax(0) + 1, 0).short(), v


def expand_periods(periods: Tensor, start: int, T: int) -> Tensor:
    """Periods [N, P, C] to packed spikes of the steps start .. start + T - 1."""
    steps = torch.arange(start + 1, start + T + 1).view(T, 1, 1, 1)
    fires = (periods > 0) & (steps % periods.clamp(min=1) == 0)
    return pack(fires.permute(0, 1, 3, 2))


def total_periods(periods: Tensor, start: int, T: int) -> Tensor:
    """All spikes in the steps start .. start + T - 1: int64, no dimensions."""
    return total(expand_periods(periods, start, T))


def if_period_conv2d(
    periods, start, T, size, weight, bias, v, neuron, stride, padding, dilation
) -> tuple[Tensor, Tensor]:
    """if_conv2d of the spikes that periods [N, P, C_in] stand for, in the steps from ``start``."""
    words = expand_periods(periods, start, T)
    return if_conv2d(words, T, size, weight, bias, v, neuron, stride, padding, dilation, 1)


# A convolution or a matrix product of spikes and IF, of the same arguments as CpuKernels'.
if_conv2d = partial(unfused.if_conv2d, sys.modules[__name__])
if_linear = partial(unfused.if_linear, sys.modules[__name__])


def _bit(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def if_scan_backward(grad_spikes: Tensor, current: Tensor, neuron: Neuron) -> Tensor:
    """Gradient of currents [T, N, P, C], by the surrogate derivative, for neurons that started at rest."""
    current = current.float()
    potentials, v = torch.empty_like(current, memory_format=torch.contiguous_format), torch.zeros_like(current[0])
    for t in range(current.shape[0]):
        potentials[t] = v + current[t]
        _, v = reference.if_step(v, current[t], *neuron)
    gradient, grad = torch.empty_like(potentials), torch.zeros_like(v)
    for t in reversed(range(current.shape[0])):
        h = potentials[t]
        kept = grad if neuron.v_reset is None else torch.where(h >= neuron.theta, 0, grad)
        grad = grad_spikes[t].float() * reference.surrogate_derivative(h, neuron.theta) + kept
        gradient[t] = grad
    return gradient
