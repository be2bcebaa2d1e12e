"""Synapses with a memory of the spikes that came."""

import math

import torch
from torch import Tensor, nn

from .. import checks
from ..spikes import Spikes
from .base import WithoutSynapses, kept_values


class SynapseFilter(WithoutSynapses):
    """A trace of the spikes at each synapse, computed by PyTorch: y[t] = y[t-1] - (1 - x[t]) y[t-1] / tau + x[t].

    It decays in steps without a spike, and a spike adds 1 to it (arXiv:1903.06379). Made by :func:`from_spikingjelly`
    of SpikingJelly's SynapseFilter. The layer has a state, but no neurons, so networks may be run in parts.

    Args:
        tau: time constant in steps, above 1. learnable: whether it is trained, as 1 / sigmoid(w), ``w`` a parameter.

    Shapes: x (T, N, ...), Spikes or a tensor of values from 0 to 1; y [T, N, ...]; state v [N, ...], the last y.

    Raises:
        ValueError: tau is 1 or less.
    """

    def __init__(self, tau: float = 100.0, *, learnable: bool = False):
        super().__init__()
        if not 1 < tau < math.inf:
            raise ValueError(f"tau must be a number of steps above 1, got {tau}")
        start = torch.tensor(-math.log(tau - 1), dtype=torch.float32, device="cpu")
        self.w = nn.Parameter(start) if learnable else None
        self._tau = float(tau)

    @property
    def tau(self) -> float:
        """The time constant in steps."""
        return self._tau if self.w is None else 1 / self.w.detach().sigmoid().item()

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, None, "(T, N, ...)")
        x = x.dense() if isinstance(x, Spikes) else x
        x = x if x.is_floating_point() else x.float()
        y = torch.zeros_like(x[0]) if v is None else kept_values(v, tuple(x.shape[1:]), x.device)
        rate = 1.0 / self._tau if self.w is None else self.w.sigmoid()
        steps = []
        for step in x:
            y = y - (1.0 - step) * y * rate + step  # in SpikingJelly's order: the same bits
            steps.append(y)
        return torch.stack(steps), y.float()

    def affine(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return f"tau={self.tau:g}" + (", learnable=True" if self.w is not None else "")
