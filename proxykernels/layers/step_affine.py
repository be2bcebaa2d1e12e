"""Parameters for each time step."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..spikes import Spikes
from .base import WithoutSynapses, kept_values


def values_and_steps(x: Spikes | Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """The input of a layer that counts steps as floats, [T, N, ...], and how many steps each sample has had, [N]."""
    checks.steps_of(x, None, "(T, N, ...)")
    values = x.dense() if isinstance(x, Spikes) else x
    values = values if values.is_floating_point() else values.float()
    N = values.shape[1]
    return values, values.new_zeros(N) if v is None else kept_values(v, (N,), values.device)


class StepAffine(WithoutSynapses):
    """A factor and an offset of each step: y[t] = weight[t] x[t] + bias[t], computed by PyTorch.

    Made by :func:`from_spikingjelly` and :func:`from_snntorch` of normalisations, gains and embeddings that a model has
    for each of its steps (BNTT, TEBN). The state is the number of steps so far, so networks may be run in parts.

    Args:
        weight, bias: [steps, ...], of which each step broadcasts against x[t] [N, ...], as PyTorch does it, and is the
            same for all samples: [steps, C, 1, 1] has one value a channel of images; None: there is none.

    Shapes: x (T, N, ...), Spikes or a tensor; y [T, N, ...]; state v [N].

    Raises:
        ValueError: both are None, or have other numbers of steps; x goes on for more steps than there are parameters.
    """

    def __init__(self, weight: Tensor | None = None, bias: Tensor | None = None):
        super().__init__()
        given = [values for values in (weight, bias) if values is not None]
        if not given or len({len(values) for values in given}) > 1:
            raise ValueError(
                f"weight and bias must have the same number of steps in front, and one must be given, got "
                f"{[list(values.shape) for values in given]}"
            )
        self.weight, self.bias = (None if values is None else _parameter(values) for values in (weight, bias))

    @property
    def steps(self) -> int:
        """The number of steps that there are parameters of."""
        values: Any = self.bias if self.weight is None else self.weight
        return len(values)

    def _fire(self, x, v, batch_statistics):
        x, before = values_and_steps(x, v)
        T = len(x)
        at = torch.arange(T, device=x.device)[:, None] + before.long()
        if at.numel():
            checks.known_step(int(at.max()), self.steps)
        y = x if self.weight is None else x * self._of(self.weight, at, x)
        return y if self.bias is None else y + self._of(self.bias, at, x), before + T

    def _of(self, values: Tensor, at: Tensor, x: Tensor) -> Tensor:
        """The values of each step and sample, [T, N, ...]."""
        values = values[at].to(x.dtype)
        return values.view(*at.shape, *[1] * (x.ndim - values.ndim), *values.shape[2:])

    def affine(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


def _parameter(values: Tensor) -> nn.Parameter:
    """A copy without axes of one value in front, of samples for example."""
    while values.ndim > 2 and values.shape[1] == 1:
        values = values.squeeze(1)
    return nn.Parameter(values.detach().clone(), values.requires_grad)
