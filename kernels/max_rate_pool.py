"""Max pooling of spike counts: an output fires when the highest count in its window grows.

On packed spikes the window's inputs are compared by their lags, the highest count minus their own, held as bit planes
and counted up and down for eight channels at a time: the output fires if an input without a lag does.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .unfused import output_size


def dense(spikes: Tensor, counts: Tensor, kernel_size, stride, padding) -> Tensor:
    """Output spikes, bool [T, N, C, P_out], of bool spikes [T, N, C, H, W] after float32 counts [N, C, H, W]."""
    counts = counts.clone(memory_format=torch.channels_last)
    highest, fired = F.max_pool2d(counts, kernel_size, stride, padding), []
    for step in spikes:
        counts += step
        before, highest = highest, F.max_pool2d(counts, kernel_size, stride, padding)
        fired.append((highest > before).flatten(2))
    return torch.stack(fired)


def packed(words: Tensor, planes: Tensor, size, kernel_size, stride, padding) -> Tensor:
    """Output spikes uint8 [N, T, P_out, B] of spikes packed over channels, uint8 [N, T, P, B].

    ``planes``: the bits of :func:`lags`, uint8 [bits, N, K, P_out, B], changed in place: enough for all lags to come.
    """
    N, T, _, B = words.shape
    wide = next(t for t in (torch.int64, torch.int32, torch.int16, torch.uint8) if B % t.itemsize == 0)
    images = words.contiguous().view(wide).unflatten(2, size)
    inputs = torch.stack(windows(images, kernel_size, stride, padding), 2).flatten(
        3, 4
    )  # [N, T, K, P_out, B in wide integers]
    planes = planes.contiguous().view(wide)
    fired = torch.empty_like(inputs[:, :, 0])
    for t, spikes in enumerate(inputs.unbind(1)):
        first = spikes & ~reduce(torch.bitwise_or, planes)
        y = reduce(torch.bitwise_or, first.unbind(1))
        fired[:, t] = y
        y = y.unsqueeze(1)
        up, down = y & ~spikes, spikes & ~y
        for plane in planes:
            flipped = up | down
            up &= plane
            down &= ~plane
            plane ^= flipped
    return fired.view(torch.uint8)


def lags(counts: Tensor, kernel_size, stride, padding) -> Tensor:
    """Highest count of each window minus each input's: int32 [K, N, C, P_out]; counts float32 [N, C, H, W]."""
    highest = F.max_pool2d(counts, kernel_size, stride, padding)
    return torch.stack([highest - part for part in windows(counts, kernel_size, stride, padding)]).flatten(3).int()


def windows(x: Tensor, kernel_size, stride, padding) -> list[Tensor]:
    """The K inputs of each window, from x [N, M, H, W, ...]: K tensors [N, M, H_out, W_out, ...]; 0 outside."""
    height, width = output_size(x.shape[2:4], kernel_size, stride, padding, (1, 1))
    x = F.pad(x, (0, 0) * (x.ndim - 4) + (padding[1], padding[1], padding[0], padding[0]))
    return [
        x[:, :, i : i + (height - 1) * stride[0] + 1 : stride[0], j : j + (width - 1) * stride[1] + 1 : stride[1]]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]
