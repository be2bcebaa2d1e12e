"""The reference on packed spikes, in plain torch. CPU tensors use it if the C++ library was not built.

The layout is that of backend.CpuKernels. Nothing here is fast.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import recurrent, reference, sigma_delta_codes, unfused
from ..in_torch import InTorch
from ..neuron_models import Neuron
from ..recording import SCAN, Choice, note, recording
from ..reference_gradients import surrogate_scan
from ..surrogates import Surrogate
from . import words

UNFUSED = Choice("dense", "no C++ kernels here")


class Fallback(InTorch):
    """A backend (kernels/backends.py); arguments and results as in CpuKernels."""

    cut, cat = staticmethod(words.cut), staticmethod(words.cat)
    running_maximum = staticmethod(sigma_delta_codes.running_maximum)
    pooled_sigma_delta = staticmethod(sigma_delta_codes.pooled_sigma_delta)
    sums_so_far = staticmethod(sigma_delta_codes.sums_so_far)
    sigma_delta = staticmethod(sigma_delta_codes.sigma_delta)

    def recurrent_scan(self, *neurons) -> tuple[Tensor, Tensor]:
        """Recurrent neurons on currents [T, N, 1, C]."""
        return recurrent.recurrent_scan(self.pack, *neurons)

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
        """By the definition, one event after the other."""
        words = torch.zeros(1, T, *size, 1, dtype=torch.uint8, device="cpu")
        for t, x, y, p in zip(*(field.tolist() for field in fields), strict=True):
            step = (t - first) * share[0] // share[1]
            if not (0 <= step < T and 0 <= x < size[1] and 0 <= y < size[0] and -1 <= p <= 1):
                return None
            words[0, step, y, x] |= 2 if p > 0 else 1
        return words.flatten(2, 3)

    def total_of_pixels(self, words: Tensor) -> Tensor:
        """Spikes of each pixel, of all samples, steps and channels: int64 [P]."""
        return ((words.unsqueeze(-1) >> _bit(words)) & 1).sum((0, 1, 3, 4))

    def flatten(self, words: Tensor, C: int) -> Tensor:
        """[N, T, P, ceil(C / 8)] to [N, T, 1, ceil(C * P / 8)], in the order of torch's flatten."""
        return self.pack(self.unpack(words, words.shape[1], C).flatten(2).unsqueeze(3))

    def max_pool2d(self, words: Tensor, C: int, size, kernel_size, stride, padding) -> Tensor:
        """The OR over each window of images of ``size`` (H, W)."""
        x = self.unpack(words, words.shape[1], C).float().unflatten(3, size)
        return self.pack(reference.max_pool2d(x, kernel_size, stride, padding).flatten(3).bool())

    def if_scan(self, current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None) -> tuple[Tensor, Tensor]:
        """IF on currents [T, N, P, C], or for T steps on a constant current [N, P, C]: spikes, and potentials [N, P, C]
        after the last step."""
        note(SCAN)
        current = current if T is None else current.expand(T, *current.shape)
        spikes, v = reference.scan(current.transpose(2, 3), v.transpose(-1, -2), neuron)
        return self.pack(spikes.bool()), v.transpose(-1, -2).contiguous()

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

    def scan_backward(
        self,
        grad_spikes: Tensor,
        grad_v: Tensor | None,
        current: Tensor,
        v: Tensor,
        neuron: Neuron,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Back through all T steps, by the definition's autograd; see backends.Backend."""

        def gradients() -> tuple[Tensor, ...]:
            given = [x.detach().float().requires_grad_() for x in (current, v, neuron.channels)]
            currents = given[0].expand(grad_spikes.shape).transpose(2, 3)
            state = given[1].transpose(-2, -1)
            fired, after = surrogate_scan(currents, state, neuron._replace(channels=given[2]), surrogate)
            last = torch.zeros_like(after) if grad_v is None else grad_v.float().transpose(-2, -1)
            outer = grad_spikes.float().transpose(2, 3), last
            return torch.autograd.grad((fired, after), given, outer, materialize_grads=True)

        with ThreadPoolExecutor(1) as thread:  # in this one a mode of torch, such as FlopCounterMode, may stop autograd
            found = thread.submit(gradients).result()
        of_bias = found[0].double().flatten(0, -2).sum(0)
        return (
            found[0].contiguous(),
            found[1].contiguous(),
            torch.cat([of_bias.unsqueeze(0), found[2].double().reshape(-1, len(of_bias))]),
        )

    def conv2d_current_sums(self, words, T, size, weight, bias, *window) -> Tensor:
        """Sums of the currents of if_conv2d in each channel, and of their squares: float64 [2, C_out]."""
        currents = unfused.conv2d_currents(self, words, T, words.shape[0], size, weight, bias, *window).double()
        return torch.stack([x.sum((0, 1, 2)) for x in (currents, currents * currents)])

    def conv2d_currents(self, words, T, size, weight, bias, v, neuron, *window) -> Tensor:
        """The currents [T, N, P, C] of a convolution of packed spikes."""
        note(UNFUSED)
        with recording():
            return unfused.conv2d_currents(self, words, T, v.shape[0], size, weight, bias, *window)

    def period_conv2d_currents(self, periods, start, T, *layer) -> Tensor:
        """The same of the spikes that periods [N, P, C_in] stand for."""
        return self.conv2d_currents(self.expand_periods(periods, start, T), T, *layer, 1)

    def if_conv2d(self, *layer) -> tuple[Tensor, Tensor]:
        """A convolution of packed spikes and IF."""
        note(UNFUSED)
        with recording():
            return unfused.if_conv2d(self, *layer)


def _bit(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
