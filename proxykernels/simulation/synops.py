"""Synaptic operations: what a simulation would cost on hardware that works spike by spike."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from .. import checks
from ..spikes import Spikes

# 32-bit floating point in 45 nm CMOS, 0.9 V: an addition takes 0.9 pJ, a multiplication 3.7 pJ. Horowitz, "Computing's
# energy problem (and what we can do about it)", ISSCC 2014, doi 10.1109/ISSCC.2014.6757323. Memory is not counted.
ACCUMULATE_JOULES = 0.9e-12
MULTIPLY_ACCUMULATE_JOULES = 4.6e-12


@dataclass
class SynOps:
    """Operations of a simulation, over all its samples and steps.

    Attributes:
        accumulates: layer name -> additions of a weight to a potential: one for each spike and each neuron that it
            reaches (padding is not reached).
        multiply_accumulates: layer name -> multiplications of a real-valued input (an image, averages) by a weight,
            with the addition; an input that is held is multiplied once for all steps.
    """

    accumulates: dict[str, int] = field(default_factory=dict)
    multiply_accumulates: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.accumulates.values()) + sum(self.multiply_accumulates.values())

    @property
    def joules(self) -> float:
        """The energy estimate usual in the field: 0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate (45 nm CMOS,
        Horowitz, ISSCC 2014), memory not counted."""
        additions, products = sum(self.accumulates.values()), sum(self.multiply_accumulates.values())
        return ACCUMULATE_JOULES * additions + MULTIPLY_ACCUMULATE_JOULES * products


def accumulates(synapse: nn.Module, x: Spikes) -> Tensor:
    """Additions that the spikes x (T, N, ...) cause behind a Conv2d, Linear or any module of one output an input."""
    if isinstance(synapse, nn.Linear):
        return x._total() * synapse.out_features
    if not isinstance(synapse, nn.Conv2d):
        return x._total()
    # Most pixels reach equally many outputs; only the others, a border usually, are counted apart.
    most, others = _pixels_by_reach(
        synapse.kernel_size, synapse.stride, synapse.dilation, tuple(synapse._reversed_padding_repeated_twice),
        tuple(x.shape[3:]), x.device,
    )  # fmt: skip
    reached = most * x._total()
    for reach, pixels in others:
        reached = reached + (reach - most) * x._at(pixels)._total()
    return reached * (synapse.out_channels // synapse.groups)


def multiply_accumulates(synapse: nn.Module, x: Tensor, y_shape: tuple[int, ...]) -> int:
    """Products of real values x [T, N, ...] that give currents of ``y_shape`` (T, N, ...): none for an identity."""
    if not isinstance(synapse, nn.Conv2d | nn.Linear):
        return 0
    steps = 1 if checks.is_held(x) else len(x)
    return steps * torch.Size(y_shape[1:]).numel() * synapse.weight[0].numel()


@lru_cache(maxsize=256)
def _pixels_by_reach(kernel, stride, dilation, padding, size, device) -> tuple[int, list[tuple[int, Tensor]]]:
    """How many outputs of one channel most pixels of an image reach; how many others do, and which those are.

    ``padding``: left, right, top, bottom.
    """
    height, width = (
        _reach(kernel[axis], stride[axis], dilation[axis], before, after, size[axis])
        for axis, before, after in ((0, *padding[2:]), (1, *padding[:2]))
    )
    reach = (height.unsqueeze(1) * width).flatten()
    values, counts = reach.unique(return_counts=True)
    most = values[counts.argmax()].item()
    return most, [(v, (reach == v).nonzero().squeeze(1).to(device)) for v in values.tolist() if v != most]


def _reach(kernel: int, stride: int, dilation: int, left: int, right: int, size: int) -> Tensor:
    """How many outputs along one axis each of ``size`` input pixels reaches: int64 [size]."""
    outputs = (size + left + right - dilation * (kernel - 1) - 1) // stride + 1
    read = (torch.arange(outputs).unsqueeze(1) * stride + torch.arange(kernel) * dilation - left).flatten()
    return torch.bincount(read[(read >= 0) & (read < size)], minlength=size)
