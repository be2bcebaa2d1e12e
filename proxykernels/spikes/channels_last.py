"""Converts between the shapes of users, [N, C, ...], and the order of the kernels, [N, P, C] with P pixels."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..kernels import heap


def channels(shape: Sequence[int]) -> int:
    """Channels of one step's shape [N, C, ...]; of [N] one."""
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
    """The same potential of all neurons, made once: nobody writes to it."""
    with torch.inference_mode(False):
        return torch.full((C,), v, dtype=torch.float32, device=heap.CPU).expand(N, P, C)


def start(
    v: Tensor | float | None, shape: Sequence[int], device: torch.device, neuron, *, kept: bool = False
) -> Tensor:
    """The state to start from of neurons of ``shape`` [N, C, ...]: [N, P, C], with several states [N, states, P, C].

    ``v``: that state as users have it, or a potential (None: at rest); other states are 0 then. ``kept``: whether the
    same tensor may serve several calls, on a CPU where nobody follows.
    """
    if not isinstance(v, Tensor):
        whole = shape[0], math.prod(shape[2:]), shape[1] if len(shape) > 1 else 1
        rest = float(neuron.rest if v is None else v)
        if kept:
            potentials = _start_on_cpu(*whole, rest)
        elif device.type != "cpu":
            potentials = torch.full(whole, rest, dtype=torch.float32, device=device)
        else:  # kernels write to a copy; on a GPU this would be a launch more
            potentials = torch.full(whole[2:], rest, dtype=torch.float32, device=device).expand(whole)
        if neuron.states == 1:
            return potentials
        return torch.stack([potentials, *[torch.zeros_like(potentials)] * (neuron.states - 1)], 1)
    return to_channels_last(v.float(), 1 if neuron.states == 1 else 2)


def state_of(v: Tensor, shape: Sequence[int], neuron) -> Tensor:
    """The state in the shape of users: [N, C, ...], with several states [N, states, C, ...]."""
    if neuron.states == 1:
        return v.view(tuple(shape)) if len(shape) < 3 else from_channels_last(v, shape)
    flat = from_channels_last(v.flatten(0, 1), (v.shape[0] * neuron.states, *shape[1:]))
    return flat.unflatten(0, (v.shape[0], neuron.states))
