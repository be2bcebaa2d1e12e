"""Layers of which every step takes all steps of a call."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from .base import WithoutSynapses
from .step_affine import values_and_steps

Pair = tuple[Tensor, Tensor]


class OfAllSteps(WithoutSynapses):
    """Base of layers that must have all steps in one call.

    The state is the number of steps so far, and a call that goes on from there is refused.

    Attributes:
        steps: the number of steps of a call; None: any number.
    """

    steps: int | None

    def _fire(self, x, v, batch_statistics):
        x, before = values_and_steps(x, v)
        T = len(x)
        if self.steps not in (None, T) or bool(before.any()):
            behind = f" behind {int(before.max())} others" if bool(before.any()) else ""
            steps, each = self.steps or "all", "each step" if self.steps is None else f"each of {self.steps} steps"
            raise ValueError(
                f"x has {T} steps{behind}, and {each} takes all of them: run {steps} steps in one call, from rest, "
                f"simulate(net, x, {self.steps or 'T'}), without a chunk of fewer steps"
            )
        return self._of_all(x), before + T

    def _of_all(self, x: Tensor) -> Tensor:
        """y [T, N, ...] of all steps x [T, N, ...]."""
        raise NotImplementedError

    def affine(self, x: Tensor) -> Tensor:
        return x


class StepMixture(OfAllSteps):
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
    def steps(self) -> int:  # type: ignore[override]
        """The number of steps."""
        return len(self.weight)

    def _of_all(self, x):
        return torch.mm(self.weight.to(x.dtype), x.flatten(1)).view(x.shape)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class AllSteps(OfAllSteps):
    """What operations of torch make of all steps together, such as of their sum.

    Made by :func:`from_spikingjelly` of few-spike neurons in multi-step mode. A call must have all steps; the state is
    their number, and a call that goes on from there is refused.

    Args:
        function: a module that takes a tensor (steps, N, ...) and gives one of the same shape.
        steps: their number; None: any.

    Shapes: x (steps, N, ...), Spikes or a tensor; y as ``function`` gives it; state v [N].
    """

    def __init__(self, function: nn.Module, steps: int | None = None):
        super().__init__()
        checks.module("function", function)
        self.function, self.steps = function, steps

    def _of_all(self, x):
        return self.function(x)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class StepAttention(OfAllSteps):
    """Multiplies values by gates that are computed of all steps, as MA-SNN does (arXiv:2209.13929), by PyTorch.

    Made by :func:`from_spikingjelly` of MultiDimensionalAttention and TemporalWiseAttention. One gate a step, then one
    a channel, then one a pixel, each of what the gates before it left:

        gate = sigmoid(W2 relu(W1 mean(x)) + W2 relu(W1 max(x)))     of a step or a channel, over everything else
        gate = sigmoid(conv([mean(x), max(x)]))                      of a pixel, over steps and channels

    A call must have all steps; the state is their number, and a call that goes on from there is refused.

    Args:
        temporal: W1 [hidden, steps] and W2 [steps, hidden]; None: there are no gates of steps, and steps may be any.
        channel: W1 [hidden, C] and W2 [C, hidden]; None: there are no gates of channels.
        spatial: weight [1, 2, k, k] of the convolution; None: there are no gates of pixels.
        rectifies: whether a ReLU follows.

    Shapes: x (steps, N, C, H, W), Spikes or a tensor; without ``spatial`` any (steps, N, C, ...); y as x, a tensor;
    state v [N].

    Raises:
        ValueError: all are None, or a shape does not fit; x has another number of steps, or goes on from others.
    """

    def __init__(
        self,
        temporal: Pair | None = None,
        channel: Pair | None = None,
        spatial: Tensor | None = None,
        *,
        rectifies: bool = False,
    ):
        super().__init__()
        if temporal is None and channel is None and spatial is None:
            raise ValueError("one of temporal, channel and spatial must be given")
        for name, pair in (("temporal", temporal), ("channel", channel)):
            self.register_parameter(f"{name}_in", None if pair is None else _parameter(pair[0]))
            self.register_parameter(f"{name}_out", None if pair is None else _parameter(pair[1]))
            if pair is not None and (pair[0].ndim != 2 or pair[1].shape != pair[0].t().shape):
                shapes = " and ".join(str(list(weight.shape)) for weight in pair)
                raise ValueError(f"{name} must have the shapes [hidden, n] and [n, hidden], got {shapes}")
        if spatial is not None and (spatial.ndim != 4 or spatial.shape[:2] != (1, 2) or not spatial.shape[2] % 2):
            raise ValueError(f"spatial must have the shape [1, 2, k, k] with an odd k, got {list(spatial.shape)}")
        self.register_parameter("spatial", None if spatial is None else _parameter(spatial))
        self.rectifies = rectifies

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of steps; None: any number."""
        weight: Any = self.temporal_in
        return None if weight is None else weight.shape[1]

    def _of_all(self, x):
        y = x.transpose(0, 1)  # [N, T, C, ...]
        if self.temporal_in is not None:
            y = _gates(y.flatten(2), self.temporal_in, self.temporal_out).view(*y.shape[:2], *[1] * (y.ndim - 2)) * y
        if self.channel_in is not None:
            gates = _gates(y.transpose(1, 2).flatten(2), self.channel_in, self.channel_out)
            y = gates.view(len(y), 1, gates.shape[1], *[1] * (y.ndim - 3)) * y
        if self.spatial is not None:
            of_pixels = y.flatten(1, 2)
            both = torch.cat([of_pixels.mean(1, keepdim=True), of_pixels.amax(1, keepdim=True)], 1)
            weight: Any = self.spatial.to(y.dtype)
            gates = torch.conv2d(both, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
            y = gates.sigmoid().unsqueeze(1) * y
        y = y.transpose(0, 1)
        return y.relu() if self.rectifies else y.contiguous()

    def extra_repr(self) -> str:
        kinds = ("temporal", self.temporal_in), ("channel", self.channel_in), ("spatial", self.spatial)
        return f"{', '.join(name for name, weight in kinds if weight is not None)}, steps={self.steps}"


def _gates(values: Tensor, inward: Any, outward: Any) -> Tensor:
    """The gate of each of n rows [N, n, values]: [N, n]."""
    inward, outward = inward.to(values.dtype), outward.to(values.dtype)
    of_mean, of_most = ((reduced @ inward.t()).relu() @ outward.t() for reduced in (values.mean(2), values.amax(2)))
    return torch.sigmoid(of_mean + of_most)


def _parameter(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(), weight.requires_grad)
