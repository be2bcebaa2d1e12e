"""Currents normalised by the statistics of their batch, as BatchNorm does in training."""

from typing import Any

import torch
from torch import Tensor

from .. import checks
from .base import each_step


def normalised(bn: Any, currents: Tensor) -> Tensor:
    """Currents [T, N, C, ...] after ``bn``, which treats the values of all steps as one batch.

    Constant currents are normalised once, since all steps have the same mean and variance. But ``bn`` then computes the
    unbiased running variance, V * count / (count - 1), with the count of one step; that is corrected to T steps.
    """
    T, count = len(currents), currents[0, :, 0].numel()
    if count == 1 and T > 1:
        currents = currents.contiguous()  # bn refuses a single value, which has no variance
    running = bn.running_var if bn.training else None
    if running is None or T == 1 or not checks.is_constant(currents):
        return each_step(bn, currents)
    before = running.clone()
    y = each_step(bn, currents)
    momentum = 1 / bn.num_batches_tracked if bn.momentum is None else bn.momentum
    with torch.no_grad():
        added = running - (1 - momentum) * before
        running.data.sub_(added * ((T - 1) / (T * count - 1)))  # autograd keeps it, but does not read it
    return y
