"""What the logits of a converted network are read from: running/result.py has the equation."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import heap
from .operations import Operation


class Readout(NamedTuple):
    """logit = scale (threshold count + v - start) / t, not below ``lowest`` and not above ``highest``.

    ``threshold``, ``start`` and ``scale`` are float32, one a channel, contiguous, shaped for states [N, ...].
    """

    threshold: Tensor
    start: Tensor
    scale: Tensor
    lowest: float
    highest: float

    def logits(self, counts: Tensor, state: Tensor, steps: Tensor | int, start: Tensor | None = None) -> Tensor:
        """float32 [N, ...], shaped as ``counts``.

        Args:
            counts: int32 [N, ...], of spikes. state: float32 [N, ...], of the layer's shape. steps: int64 [N], or one
                number for all. start: the state that the counts started from; None: rest.
        """
        if isinstance(steps, Tensor):
            steps = steps.view(-1, *[1] * (state.ndim - 1))
        charge = self.threshold * counts.view_as(state) + (state - (self.start if start is None else start))
        outputs = self.scale * charge / steps
        if (self.lowest, self.highest) != (-math.inf, math.inf):
            outputs = outputs.clamp(self.lowest, self.highest)
        return outputs.view_as(counts)


def readout_of(op: Operation) -> Readout | None:
    """Of the last layer of neurons; None: it was not converted, or loses charge."""
    neurons = op.neurons
    if neurons is None or not neurons.has_logits:
        return None
    shape = -1, *[1] * (len(op.shape) - 1)
    threshold, start, scale = (
        torch.as_tensor(part, dtype=torch.float32, device=heap.CPU).expand(op.image[0]).contiguous().view(shape)
        for part in (neurons.channels[0], neurons.start[0], neurons.scale)
    )
    if not neurons.rectifies:
        return Readout(threshold, start, scale, -math.inf, math.inf)
    return Readout(threshold, start, scale, 0.0, math.inf if neurons.limit is None else float(neurons.limit))
