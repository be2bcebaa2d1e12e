"""Currents normalised by the statistics of their batch, as BatchNorm does in training."""

from typing import Any

import torch
from torch import Tensor

from .. import checks
from .base import each_step


def normalised(bn: Any, currents: Tensor) -> Tensor:
    """Currents [T, N, C, ...] after ``bn``, which takes the values of all steps for one batch.

    Constant currents are normalised once: all their steps have the mean and the variance of one. But ``bn`` corrects
    the running variance, V * count / (count - 1), for the values of the one step: it is scaled to those of all.
    """
    T, count = len(currents), currents[0, :, 0].numel()
    if count == 1 and T > 1:
        currents = currents.contiguous()  # one value has no variance, and bn refuses it
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
