"""Spikes on a GPU: the time-packed layout, and the operations that need no kernel (packing.py packs and unpacks).

Words are int32 [ceil(T / 32), N, P, C] for N samples, P pixels (row-major) and C channels. Bit ``t % 32`` of
``words[t // 32]`` is the spike of step t; the bits of steps that do not exist are 0. Functions take C although the
shape of the words has it: in the channel-packed layout of a CPU it does not, and both layouts have the same interface.
neuron_ops.py has checked the arguments, except for what depends on the layout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BITS = 32  # steps in a word
COUNTED = 16  # tensors of words whose spikes one launch counts (running/stateful_layer.py)
COUNTERS = 1024  # programs of that launch, each with its own counts: about eight per multiprocessor of a large card


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """Cut time: words of steps ``start`` to ``stop - 1``, where 0 <= start <= stop <= T."""
    first, shift = divmod(start, BITS)
    size = _words(stop - start)
    result = words[first : first + size].clone()
    if shift:
        result = (result >> shift) & _low_bits(BITS - shift)  # >> copies the sign bit: remove it
        following = words[first + 1 : first + 1 + size]
        result[: following.shape[0]] |= following << (BITS - shift)
    if (stop - start) % BITS:
        result[-1] &= _low_bits((stop - start) % BITS)
    return result


def cat(words: Sequence[Tensor], T: Sequence[int]) -> Tensor:
    """Join words of T[0], T[1], ... steps in time."""
    if len(words) == 1:
        return words[0]
    if not any(steps % BITS for steps in T[:-1]):
        return torch.cat(list(words))
    joined = words[0].new_zeros(_words(sum(T)), *words[0].shape[1:])
    start = 0
    for part, steps in zip(words, T, strict=True):
        first, shift = divmod(start, BITS)
        joined[first : first + len(part)] |= part << shift
        if shift:
            following = joined[first + 1 : first + 1 + len(part)]
            following |= ((part >> (BITS - shift)) & _low_bits(shift))[: len(following)]
        start += steps
    return joined


def flatten(words: Tensor, C: int) -> Tensor:
    """Flatten as torch flattens [C, H, W]: words [ceil(T / 32), N, 1, C * P], feature c * P + p."""
    channels_first = words.transpose(2, 3).clone(memory_format=torch.contiguous_format)
    return channels_first.flatten(2).unsqueeze(2)


def _words(T: int) -> int:
    """The number of words that hold T steps."""
    return -(-T // BITS)


def _low_bits(n: int) -> int:
    """A mask of the n lowest bits, n < 32."""
    return (1 << n) - 1
