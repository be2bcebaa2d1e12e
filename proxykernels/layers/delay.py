"""Delays: what arrives some steps later."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import heap
from ..spikes import Spikes, pack, spike_autograd
from ..spikes.spikes import cat_steps, rearrange
from .base import WithoutSynapses, kept_values


class Delay(WithoutSynapses):
    """Gives at each step what it was given some steps before, and zeros before the start: y[t] = x[t - delay].

    The layer has a state, but no neurons: what it was given in the last steps.

    Args:
        delay: number of steps, at least 0; or one for each channel: a list of integers, or a tensor [C].

    Shapes: x (T, N, C, ...), Spikes or a tensor; y of the same shape and kind; state v [N, D, C, ...], the inputs of
    the last D steps, the oldest first, in float32. D is the largest delay, and at least 1. For D = 1 the state is
    [N, C, ...].

    Raises:
        TypeError, ValueError: ``delay`` is not made of integers, or is negative; x has other channels.
    """

    delay: int | Tensor

    def __init__(self, delay: int | Sequence[int] | Tensor):
        super().__init__()
        if checks.is_integer(delay):
            _check_steps(torch.tensor([int(delay)], dtype=torch.int64, device=heap.CPU))  # type: ignore[arg-type]
            self.delay = int(delay)  # type: ignore[arg-type]
        else:
            self.register_buffer("delay", _of_channels(delay))

    @property
    def steps(self) -> int:
        """Number of steps that the state holds: the largest delay, at least 1."""
        return max(1, self.delay if isinstance(self.delay, int) else int(self.delay.max()))

    def of_channels(self, C: int) -> Tensor:
        """The delay of each of C channels, int64 [C], on the CPU."""
        if isinstance(self.delay, int):
            return torch.full((C,), self.delay, dtype=torch.int64, device="cpu")
        if len(self.delay) != C:
            raise ValueError(f"delay has {len(self.delay)} values, one for each channel, and x has {C} channels")
        return self.delay.cpu().clone()

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, None, "(T, N, C, ...)")
        C = x.shape[2] if len(x.shape) > 2 else 1
        delays = None if isinstance(self.delay, int) else self.of_channels(C)
        past = self._past(x, v)
        if not isinstance(x, Spikes):
            x = x if x.is_floating_point() else x.float()
            return self._shifted(x, past, delays), self._state(past, x)
        of_last = x[max(0, x.T - self.steps) :].dense() if x.T else x.dense()
        after = self._state(past, of_last)
        # On a CPU words are of one step. If none of x is left, only `rearrange` connects the output with its gradient.
        if delays is None and x.device.type == "cpu" and (x.T > self.steps or not x._differentiable):
            return self._shifted_words(x, past), after
        return rearrange(x, lambda bits: self._shifted(bits, past, delays), x.shape), after

    def _past(self, x: Spikes | Tensor, v: Tensor | None) -> Tensor:
        """The inputs [D, N, ...] of the last steps."""
        shape = (x.shape[1], self.steps, *x.shape[2:])
        if v is None:
            return torch.zeros((self.steps, shape[0], *shape[2:]), dtype=torch.float32, device=x.device)
        v = kept_values(v, shape if self.steps > 1 else (shape[0], *shape[2:]), x.device)
        return v.unsqueeze(0) if self.steps == 1 else v.transpose(0, 1)

    def _state(self, past: Tensor, x: Tensor) -> Tensor:
        """The state after steps [T, N, ...], or after the last ones of them."""
        last = torch.cat([past, x.to(past.dtype)])[-self.steps :]
        return last[0].clone() if self.steps == 1 else last.transpose(0, 1).contiguous()

    def _shifted(self, x: Tensor, past: Tensor, delays: Tensor | None) -> Tensor:
        """Steps [T, N, ...] behind those before them."""
        T, D = len(x), self.steps
        whole = torch.cat([(past != 0) if x.dtype == torch.bool else past.to(x.dtype), x])
        if delays is None:
            return whole[D - int(self.delay) :][:T]  # type: ignore[arg-type]  # it is one number
        channels, steps = torch.arange(len(delays), device=x.device), torch.arange(T, device=x.device)
        then = D + steps - delays.to(x.device)[:, None]
        return whole.movedim(2, 0)[channels[:, None], then].movedim(0, 2)

    def _shifted_words(self, x: Spikes, past: Tensor) -> Spikes:
        delay: Any = self.delay
        before = past[len(past) - delay :][: x.T] if delay else past[:0]
        if not len(before):
            return x
        handle = spike_autograd.Pack.apply(before) if before.requires_grad else None
        parts = [x._like(pack(before.detach() != 0)._kept, before.shape, handle)]
        if x.T > len(before):
            parts.append(x[: x.T - len(before)])
        return cat_steps(parts)

    def affine(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return str(self.delay) if isinstance(self.delay, int) else f"[{len(self.delay)}]"


def _of_channels(delay: Any) -> Tensor:
    """A delay for each channel, int64 [C]."""
    if isinstance(delay, Tensor) and (delay.requires_grad or delay.is_floating_point()):
        raise TypeError(
            "delay must be integers, numbers of steps, got a "
            f"{'tensor that needs a gradient' if delay.requires_grad else f'tensor of {delay.dtype}'}: delays are not "
            "learnable here; learn them elsewhere, and round them: delay.detach().round().long()"
        )
    listed = delay.tolist() if isinstance(delay, Tensor) else delay
    if not isinstance(listed, list | tuple) or not listed or not all(map(checks.is_integer, listed)):
        raise TypeError(f"delay must be an integer number of steps, or one for each channel, got {delay!r}")
    steps = torch.tensor([int(n) for n in listed], dtype=torch.int64, device=heap.CPU)
    _check_steps(steps)
    return steps


def _check_steps(steps: Tensor) -> None:
    if steps.min() < 0:
        raise ValueError(f"delay must be at least 0 steps, got {int(steps.min())}")
