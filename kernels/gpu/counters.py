"""Counts the spikes in several tensors of words, and the neurons that they reach, in one launch.

Nothing is waited for, and no two programs write to the same place: each adds to counts of its own, which whoever reads
them sums up.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .words import BITS, COUNTERS

# What a program takes in a turn: words of so many pixels and channels. 1024 on 128 threads are 8 a thread, two loads of
# 16 bytes, of which each has the same pixel.
ROWS, COLUMNS, NUM_WARPS = 8, 128, 4
BLOCK = 1024  # neurons of a program that counts each


@triton.jit
def popcount(x):
    """The number of set bits of each int32, by sums in fields of 2, 4, 8, 16 and 32 bits; ``>>`` copies the sign, which
    the masks remove."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return (x + (x >> 16)) & 0x3F


# Another number of images does not compile anew; in a tuple Triton specialises every number.
@triton.jit(do_not_specialize=["images"])
def _counters_kernel(
    words,  # a tuple of pointers to words int32 [rows, C]
    images,
    sizes,  # of each, how many words an image has
    channels,  # C of each
    pixels,  # of each: row r is of pixel r % P
    reaches,  # of each a pointer int32 [P], how often a spike of a pixel counts; or None: not asked for
    counts_pointer,  # int64 [programs, TENSORS, 2]: spikes, and spikes times reach; added to
    TENSORS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    program = tl.program_id(0)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    counts_pointer += program * TENSORS * 2
    for k in tl.static_range(TENSORS):
        size, C, P = images.to(tl.int64) * sizes[k], channels[k], pixels[k]
        spikes = tl.zeros((ROWS, COLUMNS), tl.int32)  # of 32 bits: a program would need 2**26 turns to leave them
        reached = tl.zeros((ROWS, COLUMNS), tl.int32)
        across = tl.cdiv(C, COLUMNS)
        turns = (tl.cdiv(size, C * ROWS) * across).to(tl.int32)
        for turn in range(program, turns, tl.num_programs(0)):
            first_row = turn // across * ROWS  # fewer than 2**31: a division of 64 bits would be a call
            first_column = turn % across * COLUMNS
            first = first_row.to(tl.int64) * C + first_column
            place = row * C + column
            mask = (first_column + column < C) & (place < size - first)
            count = popcount(tl.load(words[k] + first + place, mask=mask, other=0))
            spikes += count
            if reaches[k] is not None:
                pixel = (first_row + row) % P
                reached += count * tl.load(reaches[k] + pixel)
        total = tl.sum(spikes.to(tl.int64))
        tl.store(counts_pointer + 2 * k, tl.load(counts_pointer + 2 * k) + total)
        if reaches[k] is not None:
            total = tl.sum(reached.to(tl.int64))
            tl.store(counts_pointer + 2 * k + 1, tl.load(counts_pointer + 2 * k + 1) + total)


def add_counts(words: Sequence[Tensor], reaches: Sequence[Tensor | None], counts: Tensor) -> None:
    """Add the spikes of each of ``words`` [.., P, C], and how many neurons they reach, to ``counts``.

    Args:
        words: at most words.COUNTED, over which the kernel is unrolled.
        reaches: of each, how many a spike of a pixel reaches, int32 [P]; None: not asked for.
        counts: int64 [COUNTERS, tensors, 2]; sums over the first dimension are the results.
    """
    words = [part.contiguous() for part in words]
    rows = [_rows(part, reach) for part, reach in zip(words, reaches, strict=True)]
    turns = [triton.cdiv(w.numel(), C * ROWS) * triton.cdiv(C, COLUMNS) for w, (_, C) in zip(words, rows, strict=True)]
    images = math.gcd(*(w.shape[0] * w.shape[1] for w in words)) or 1  # of all steps; in a simulation they are as many
    with torch.cuda.device_of(counts):
        _counters_kernel[(max(1, min(COUNTERS, max(turns))),)](
            words=tuple(words),
            images=images,
            sizes=tuple(part.numel() // images for part in words),
            channels=tuple(C for _, C in rows),
            pixels=tuple(P for P, _ in rows),
            reaches=tuple(reaches),
            counts_pointer=counts,
            TENSORS=len(words),
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )


# Neither T nor the size of a batch compiles anew.
@triton.jit(do_not_specialize=["words_of_neuron", "last_bits"])
def _count_kernel(
    words_pointer,  # int32 [W, neurons]
    counts_pointer,  # int32 [neurons]
    neurons,
    words_of_neuron,  # that are counted, the last one as far as last_bits
    last_bits,  # a mask
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    place = tl.arange(0, BLOCK)
    mask = place < neurons - first
    words_pointer += first
    count = tl.zeros((BLOCK,), tl.int32)
    for k in range(words_of_neuron):
        word = tl.load(words_pointer + place, mask=mask, other=0)
        count += popcount(tl.where(k == words_of_neuron - 1, word & last_bits, word))
        words_pointer += neurons
    tl.store(counts_pointer + first + place, count, mask=mask)


def count(words: Tensor, C: int, until: int) -> Tensor:
    """Each neuron's spikes in the steps before ``until``: int32 [N, C, P], of words [W, N, P, C]."""
    words = words.contiguous()
    shape = words.shape[1:]
    counted = min(triton.cdiv(until, BITS), words.shape[0])
    if not counted or not words.numel():
        return words.new_zeros(shape[0], shape[2], shape[1])
    bits = until - BITS * (counted - 1)
    counts = torch.empty(shape, dtype=torch.int32, device=words.device)
    with torch.cuda.device_of(words):
        _count_kernel[(triton.cdiv(shape.numel(), BLOCK),)](
            words_pointer=words,
            counts_pointer=counts,
            neurons=shape.numel(),
            words_of_neuron=counted,
            last_bits=-1 if bits >= BITS else (1 << bits) - 1,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return counts.transpose(1, 2).contiguous()


def total(words: Tensor) -> Tensor:
    """All spikes of words [W, N, P, C]: int64 without dimensions."""
    counts = torch.zeros(COUNTERS, 1, 2, dtype=torch.int64, device=words.device)
    add_counts([words], [None], counts)
    return counts[:, 0, 0].sum()


def total_of_pixels(words: Tensor) -> Tensor:
    """Spikes of each pixel of words [W, N, P, C], of all steps: int64 [P]."""
    return count(words, words.shape[3], BITS * words.shape[0]).sum((0, 1))


def _rows(words: Tensor, reach: Tensor | None) -> tuple[int, int]:
    """P and C as the kernel takes them; where no pixel differs, whatever fills its rows."""
    return (1, COLUMNS) if reach is None else (words.shape[2], max(1, words.shape[3]))
