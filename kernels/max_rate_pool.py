"""Max pooling of spike counts in plain torch: an output fires when the highest count in its window grows.

The C++ kernel is cpu/src/max_rate_pool.h.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def max_rate_pool2d(
    backend, words: Tensor, T: int, counts: Tensor, size, kernel_size, stride, padding
) -> tuple[Tensor, Tensor]:
    """The words of a backend, and the counts float32 [N, P, C] after all steps; as backends.Backend has it."""
    images = counts.transpose(1, 2).unflatten(2, tuple(size))
    counts = images.clone(memory_format=torch.contiguous_format)
    highest, fired = F.max_pool2d(counts, kernel_size, stride, padding), []
    for step in backend.unpack(words, T, counts.shape[1]).unflatten(3, tuple(size)):
        counts += step
        before, highest = highest, F.max_pool2d(counts, kernel_size, stride, padding)
        fired.append((highest > before).flatten(2))
    return backend.pack(torch.stack(fired)), counts.flatten(2).transpose(1, 2).contiguous()
