"""Rearranges words of spikes without a kernel: steps, samples, pixels and channels, in any backend's layout.

Of plain torch and the operators, so that torch.compile traces them.
"""

import math

import torch
from torch import Tensor

from ..kernels import ops
from ..kernels.cpu import words as over_channels
from ..kernels.gpu import words as words_over_time

Pair = tuple[int, int]  # of height and width
COUNTED = words_over_time.COUNTED


def pack_words(dense: Tensor) -> Tensor:
    """The words of bool spikes [T, N, ...]."""
    T, N = dense.shape[:2]
    C = dense.shape[2] if dense.ndim > 2 else 1
    return ops.pack(dense.reshape(T, N, C, math.prod(dense.shape[3:])))


def over_time(words: Tensor) -> bool:
    """Whether words are packed over time, as on a GPU, rather than over channels."""
    return words.dtype == torch.int32


def new_counts(tensors: int, device: torch.device) -> Tensor:
    """What :func:`proxykernels.kernels.ops.add_counts` adds to, of at most COUNTED tensors of words over time.

    int64 [COUNTERS, tensors, 2]; summed over the first dimension, the spikes of each and how many neurons these reach.
    """
    return torch.zeros(words_over_time.COUNTERS, tensors, 2, dtype=torch.int64, device=device)


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """The words of steps start .. stop - 1: the given tensor, if these are all, and otherwise a copy."""
    if (start, stop) == (0, T):
        return words
    return _layout(words).cut(words, T, start, stop)


def cat(words: list[Tensor], steps: list[int]) -> Tensor:
    """Words one after another in time; on a GPU every part but the last must hold whole words of 32 steps."""
    return _layout(words[0]).cat(words, steps)


def joins_in_time(words: Tensor, T: int) -> bool:
    """Whether :func:`cat` puts others behind words of T steps."""
    return not over_time(words) or T % words_over_time.BITS == 0


def cat_channels(words: list[Tensor], T: int, channels: list[int]) -> Tensor:
    """Words of C_1, C_2, ... channels as words of their sum."""
    if over_time(words[0]) or not any(C % 8 for C in channels[:-1]):  # whole bytes
        return torch.cat(words, -1)
    return ops.pack(torch.cat([ops.unpack(part, T, C, torch.bool) for part, C in zip(words, channels, strict=True)], 2))


def samples(words: Tensor, index: Tensor) -> Tensor:
    """The words of the samples ``index`` int64 [n]."""
    return words.index_select(_batch_dim(words), index)


def cat_samples(words: list[Tensor]) -> Tensor:
    """Words of several batches as words of one."""
    return torch.cat(words, _batch_dim(words[0]))


def pixels(words: Tensor, index: Tensor) -> Tensor:
    """The words of the pixels ``index`` int64 [p]."""
    return words.index_select(2, index)


def of_neurons(words: Tensor, neurons: Tensor) -> Tensor:
    """The words of the neurons ``neurons`` bool [N, C, P], and no spikes of the others."""
    if over_time(words):
        return words & -neurons.transpose(1, 2).int()  # -1 has all bits
    return words & ops.pack(neurons.unsqueeze(0))  # of one step


def place(words: Tensor, size: Pair, size_out: Pair, rows: slice, columns: slice) -> Tensor:
    """The words of images of ``size_out`` (H, W): those of images of ``size`` in some rows and columns, and silence."""
    placed = words.new_zeros(*words.shape[:2], *size_out, words.shape[3])
    placed[:, :, rows, columns] = words.unflatten(2, size)
    return placed.flatten(2, 3)


def spread(words: Tensor, index: Tensor, N: int) -> Tensor:
    """The words of N samples: those of ``words`` at ``index`` int64 [n], and no spikes elsewhere."""
    shape = list(words.shape)
    shape[_batch_dim(words)] = N
    return words.new_zeros(shape).index_copy_(_batch_dim(words), index, words)


def _batch_dim(words: Tensor) -> int:
    return 1 if over_time(words) else 0


def _layout(words: Tensor):
    return words_over_time if over_time(words) else over_channels
