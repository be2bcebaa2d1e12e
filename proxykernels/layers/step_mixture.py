"""Sums over time steps, later ones too."""

import torch
from torch import Tensor, nn

from .base import WithoutSynapses
from .step_affine import values_and_steps


class StepMixture(WithoutSynapses):
    """Each step as a weighted sum of all of them, y[t] = sum_u weight[t, u] x[u], computed by PyTorch.

    Made by :func:`from_spikingjelly` of PSN (arXiv:2304.12760), whose neurons see later steps too. So a call must have
    all steps; the state is their number, and a call that goes on from there is refused.

    Args:
        weight: [steps, steps].

    Shapes: x (steps, N, ...), Spikes or a tensor; y [steps, N, ...]; state v [N].

    Raises:
        ValueError: weight is not square; x has another number of steps, or goes on from others.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
            raise ValueError(f"weight must have the shape [steps, steps], got {list(weight.shape)}")
        self.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.weight)

    def _fire(self, x, v, batch_statistics):
        x, before = values_and_steps(x, v)
        T = len(x)
        if T != self.steps or bool(before.any()):
            behind = f" behind {int(before.max())} others" if bool(before.any()) else ""
            raise ValueError(
                f"x has {T} steps{behind}, and each of {self.steps} steps takes all of them: run {self.steps} steps "
                f"in one call, from rest, simulate(net, x, {self.steps}, chunk={self.steps})"
            )
        return torch.mm(self.weight.to(x.dtype), x.flatten(1)).view(x.shape), before + T

    def affine(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return f"steps={self.steps}"
