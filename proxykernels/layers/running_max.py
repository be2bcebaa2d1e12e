"""Max pooling of real values over time: the maximum of their sums so far, not of each step's values."""

import torch

from .. import checks
from ..spikes import Spikes
from .base import kept_values
from .pooling import MaxOfSums


class RunningMaxPool2d(MaxOfSums):
    """Max pooling of real values whose mean over time matters, as after layers without neurons in converted networks.

    c_i[t] is the sum of input i up to step t. The outputs add up to max_i c_i, so their mean is the maximum of the
    means:

        y[t] = max_i c_i[t] - max_i c_i[t-1]

    A maximum of each step would be larger, since values fluctuate from step to step. :class:`MaxRatePool2d` is the same
    for spikes. The layer has a state, but no neurons.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), a tensor or Spikes; y [T, N, C, H_out, W_out], a tensor; state v [N, C, H, W]: the sums.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or x another shape.
    """

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, 3 + self.dims, f"(T, N, C, {'H, W' if self.dims == 2 else 'L'})")
        x = x.dense() if isinstance(x, Spikes) else x
        x = x if x.dtype in (torch.float32, torch.float64) else checks.counts(x)
        if v is None and checks.is_constant(x) and len(x):  # all maxima grow evenly
            y = self.affine(x[0])
            return checks.repeated(y, len(x)) if checks.is_repeated(x) else y.unsqueeze(0), len(x) * x[0]
        sums = x.new_zeros(x.shape[1:]) if v is None else kept_values(v, x.shape[1:], x.device)
        steps, before = [], self.affine(sums)
        for step in x:
            sums = sums + step
            after = self.affine(sums)
            steps.append(after - before)
            before = after
        return torch.stack(steps) if steps else before.new_zeros(0, *before.shape), sums


class RunningMaxPool1d(RunningMaxPool2d):
    """Max pooling of real values along one axis; equation: :class:`RunningMaxPool2d`.

    Args:
        kernel_size, stride, padding, ceil_mode: as in nn.MaxPool1d (stride defaults to kernel_size).

    Shapes: x (T, N, C, L), a tensor or Spikes; y [T, N, C, L_out], a tensor; state v [N, C, L]: the sums.

    Raises:
        TypeError, ValueError: as :class:`RunningMaxPool2d`.
    """

    dims = 1
