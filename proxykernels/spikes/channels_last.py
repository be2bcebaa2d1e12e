"""Converts between the shapes of users, [N, C, ...], and the order of the kernels, [N, P, C] with P pixels."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..kernels import heap


def channels(shape: Sequence[int]) -> int:
    """Number of channels in the shape of one step, [N, C, ...]; 1 for [N]."""
    return shape[1] if len(shape) > 1 else 1


def to_channels_last(x: Tensor, leading: int = 1) -> Tensor:
    """[N, C, ...] as [N, P, C], or with ``leading`` 2 [T, N, C, ...] as [T, N, P, C]; no copy if x is channels last."""
    x = x[(..., *[None] * (leading + 2 - x.ndim))]
    return x.flatten(leading + 1).transpose(-1, -2)


def from_channels_last(x: Tensor, shape: Sequence[int]) -> Tensor:
    """[N, P, C] as a tensor of ``shape`` [N, C, ...], channels last in memory."""
    N, C, *size = *shape, *[1] * (2 - len(shape))
    y = x.view(N, *size, C).movedim(-1, 1)
    return y if len(shape) > 1 else y.squeeze(1)


@lru_cache(256)
def _start_on_cpu(N: int, P: int, C: int, v: float) -> Tensor:
    """The same potential for all neurons. Cached, so it must not be written to."""
    with torch.inference_mode(False):
        return torch.full((C,), v, dtype=torch.float32, device=heap.CPU).expand(N, P, C)


def start(
    v: Tensor | float | None, shape: Sequence[int], device: torch.device, neuron, *, kept: bool = False
) -> Tensor:
    """The start state of neurons of ``shape`` [N, C, ...]: [N, P, C], or [N, states, P, C] with several states.

    ``v``: that state in the layout of users, or a potential (None: the resting one), where other states start at 0.
    ``kept``: whether the same tensor may be returned again, on a CPU and if autograd and the like do not follow.
    """
    if not isinstance(v, Tensor):
        whole = shape[0], math.prod(shape[2:]), shape[1] if len(shape) > 1 else 1
        rest = float(neuron.rest if v is None else v)
        if kept:
            potentials = _start_on_cpu(*whole, rest)
        elif device.type != "cpu":
            potentials = torch.full(whole, rest, dtype=torch.float32, device=device)
        else:  # not full size, since kernels write to a copy; on a GPU that would cost another launch
            potentials = torch.full(whole[2:], rest, dtype=torch.float32, device=device).expand(whole)
        if neuron.states == 1:
            return potentials
        return torch.stack([potentials, *[torch.zeros_like(potentials)] * (neuron.states - 1)], 1)
    return to_channels_last(v.float(), 1 if neuron.states == 1 else 2)


def state_of(v: Tensor, shape: Sequence[int], neuron) -> Tensor:
    """The state in the layout of users: [N, C, ...], or [N, states, C, ...] with several states."""
    if neuron.states == 1:
        return v.view(tuple(shape)) if len(shape) < 3 else from_channels_last(v, shape)
    flat = from_channels_last(v.flatten(0, 1), (v.shape[0] * neuron.states, *shape[1:]))
    return flat.unflatten(0, (v.shape[0], neuron.states))
