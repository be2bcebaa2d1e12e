"""Averages of spikes become part of the weights behind them, where they have no fewer pixels: VGG's, of small images.

A mean is a product with a matrix of its own. So both are one product with other weights, of the spikes themselves,
which adds few of them; what takes the averages multiplies all of them, which are real values, at every step. What is
counted is the network as it is written, with its averages: so a run by layers counts the same.
"""

from collections import Counter
from dataclasses import replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import heap
from ..kernels.table import Kind
from .operations import Operation, Window
from .plan import Plan


def without_averages(plan: Plan) -> Plan:
    """A plan that computes the same with such averages left out."""
    readers = Counter(window.slot for op in plan.operations for window in op.windows)
    left_out = {
        window.slot
        for op in plan.operations
        if op.kind == Kind.FIRE and len(op.windows) == 1
        for window in op.windows
        if readers[window.slot] == 1 and _can_be_merged(plan, window)
    }
    slots = [0]  # the new number of each
    for slot in range(1, len(plan.operations) + 1):
        slots.append(slots[-1] + (slot not in left_out))

    def renumbered(window: Window) -> Window:
        window = _merged(plan, window) if window.slot in left_out else window
        return replace(window, slot=slots[window.slot])

    operations = [
        replace(op, windows=tuple(map(renumbered, op.windows)))
        for slot, op in enumerate(plan.operations, 1)
        if slot not in left_out
    ]
    return replace(plan, operations=operations)


def _can_be_merged(plan: Plan, window: Window) -> bool:
    """Whether weights for all pixels of an average of spikes can be weights for the spikes, and no more than before.

    Not those of the input: it may be values in one run, and spikes in another of the same engine.
    """
    if window.weight is None or window.groups != 1 or not window.slot:
        return False
    pool = plan.operations[window.slot - 1]
    whole = (window.kernel, window.padding, window.dilation) == (pool.image[1:], (0, 0), (1, 1))
    if pool.kind != Kind.AVERAGE_POOL or not whole:
        return False
    (of_pool,) = pool.windows
    few = prod(plan.source(of_pool)[1:]) <= prod(pool.image[1:])
    return few and of_pool.slot > 0 and not plan.is_real(of_pool)


def _merged(plan: Plan, window: Window) -> Window:
    """The window that reads the spikes instead of their average."""
    pool = plan.operations[window.slot - 1]
    (of_pool,), weight = pool.windows, window.weight
    height, width = plan.source(of_pool)[1:]
    assert weight is not None
    merged = weight.flatten(2) @ _means(pool, height, width)
    weights = merged.unflatten(2, (height, width))
    return Window(of_pool.slot, (height, width), weight=weights, averages=prod(weight.shape[1:]))


def _means(pool: Operation, height: int, width: int) -> Tensor:
    """What an average computes of an image of one channel, [outputs, inputs]."""
    (window,), size = pool.windows, pool.image[1:]
    pixels = torch.eye(height * width, dtype=torch.float32, device=heap.CPU).view(-1, 1, height, width)
    if pool.adaptive:
        return F.adaptive_avg_pool2d(pixels, size).flatten(1).t()
    means = (
        F.avg_pool2d(
            pixels, window.kernel, window.stride, window.padding, ceil_mode, pool.count_padding, pool.divisor or None
        )
        for ceil_mode in (False, True)
    )
    return next(found for found in means if found.shape[2:] == size).flatten(1).t()
