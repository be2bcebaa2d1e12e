"""Spikes packed over channels, uint8 [N, T, P, ceil(C / 8)], in plain torch: operations that need no kernel.

:class:`Fallback` has the reference code, for CPU tensors if the C++ library was not built, or on request.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..by_reference import ByReference
from ..neuron_models import Neuron

UNSIGNED = torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64
SIGNED = torch.int8, torch.int16, torch.int32, torch.int64
PACKABLE = {  # dtypes that can be packed without a conversion -> the bits of 1
    **dict.fromkeys(UNSIGNED + SIGNED, 1),
    torch.float16: 0x3C00,
    torch.bfloat16: 0x3F80,
    torch.float32: 0x3F800000,
    torch.float64: 0x3FF << 52,
}


def pixel_bytes(C: int) -> int:
    """Bytes of the spikes of one pixel."""
    return (C + 7) // 8


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """The steps start .. stop - 1."""
    return words[:, start:stop].contiguous()


def cat(words: list[Tensor], steps: list[int]) -> Tensor:
    """Concatenates spikes in time."""
    return words[0] if len(words) == 1 else torch.cat(words, 1)


class Fallback(ByReference):
    """A backend (kernels/backends.py); arguments and results as in backend.CpuKernels. Nothing here is fast."""

    cut, cat = staticmethod(cut), staticmethod(cat)

    def __init__(self, why: str = "no C++ kernels here"):
        super().__init__(why)

    def pack(self, dense: Tensor) -> Tensor:
        """Bool [T, N, C, P] to packed spikes uint8 [N, T, P, ceil(C / 8)]."""
        x = F.pad(dense.permute(1, 0, 3, 2).to(torch.uint8), (0, -dense.shape[2] % 8))
        return (x.unflatten(3, (-1, 8)) << _bit(x)).sum(-1, dtype=torch.uint8)

    def pack_binary(self, dense: Tensor) -> tuple[Tensor, bool]:
        """Values [T, N, C, H, W] to packed spikes, and whether they are all 0 and 1."""
        return self.pack(dense.flatten(3).bool()), bool(torch.equal(dense, dense.bool().to(dense.dtype)))

    def unpack(self, words: Tensor, T: int, C: int, dtype: torch.dtype = torch.bool) -> Tensor:
        """Packed spikes to 0 and 1 [T, N, C, P]."""
        x = ((words.unsqueeze(-1) >> _bit(words)) & 1).flatten(3)
        return x[..., :C].permute(1, 0, 3, 2).to(dtype).contiguous()

    def count(self, words: Tensor, C: int, until: int) -> Tensor:
        """Spikes of each neuron before step ``until``: int32 [N, C, P]."""
        return self.unpack(words, words.shape[1], C)[:until].sum(0, dtype=torch.int32)

    def first_and_last(self, values: np.ndarray) -> tuple[int, int]:
        return int(values.min()), int(values.max())

    def pack_events(self, fields, first: int, share: tuple[int, int], T: int, size: tuple[int, int]) -> Tensor | None:
        """Pack events one by one, by the definition."""
        words = torch.zeros(1, T, *size, 1, dtype=torch.uint8, device="cpu")
        for t, x, y, p in zip(*(field.tolist() for field in fields), strict=True):
            step = (t - first) * share[0] // share[1]
            if not (0 <= step < T and 0 <= x < size[1] and 0 <= y < size[0] and -1 <= p <= 1):
                return None
            words[0, step, y, x] |= 2 if p > 0 else 1
        return words.flatten(2, 3)

    def total_of_pixels(self, words: Tensor) -> Tensor:
        """The number of spikes of each pixel, over all samples, steps and channels: int64 [P]."""
        return ((words.unsqueeze(-1) >> _bit(words)) & 1).sum((0, 1, 3, 4))

    def flatten(self, words: Tensor, C: int) -> Tensor:
        """[N, T, P, ceil(C / 8)] to [N, T, 1, ceil(C * P / 8)], in the order of torch's flatten."""
        return self.pack(self.unpack(words, words.shape[1], C).flatten(2).unsqueeze(3))

    def max_pool2d(self, words: Tensor, C: int, size, kernel_size, stride, padding) -> Tensor:
        """The OR over each window of images of ``size`` (H, W)."""
        x = self.unpack(words, words.shape[1], C).float().unflatten(3, size)
        return self.pack(reference.max_pool2d(x, kernel_size, stride, padding).flatten(3).bool())

    def find_periods(self, current: Tensor, T: int, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """Neurons from v_reset, with hard reset, on a constant current [N, P, C]: int16 periods, potentials."""
        words, v = self.if_scan(current, torch.full_like(current, neuron.scalars[0], dtype=torch.float32), neuron, T)
        spikes = self.unpack(words, T, current.shape[2]).permute(0, 1, 3, 2).byte()
        return torch.where(spikes.any(0).bool(), spikes.argmax(0) + 1, 0).short(), v

    def expand_periods(self, periods: Tensor, start: int, T: int) -> Tensor:
        """Periods [N, P, C] to packed spikes of the steps start .. start + T - 1."""
        steps = torch.arange(start + 1, start + T + 1, dtype=torch.int64, device=periods.device).view(T, 1, 1, 1)
        fires = (periods > 0) & (steps % periods.clamp(min=1) == 0)
        return self.pack(fires.permute(0, 1, 3, 2))

    def total_periods(self, periods: Tensor, start: int, T: int) -> Tensor:
        """Spikes of each pixel in the steps start .. start + T - 1: int64 [P]."""
        return self.total_of_pixels(self.expand_periods(periods, start, T))

    def if_period_conv2d(
        self, periods, start, T, size, weight, bias, v, neuron, stride, padding, dilation
    ) -> tuple[Tensor, Tensor]:
        """if_conv2d of the spikes that periods [N, P, C_in] stand for, in the steps from ``start``."""
        words = self.expand_periods(periods, start, T)
        return self.if_conv2d(words, T, size, weight, bias, v, neuron, stride, padding, dilation, 1)

    def period_conv2d_currents(self, periods, start, T, *layer) -> Tensor:
        """conv2d_currents of the spikes that periods [N, P, C_in] stand for."""
        return self.conv2d_currents(self.expand_periods(periods, start, T), T, *layer, 1)


def _bit(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
