"""Counts the spikes in several tensors of words, and the neurons that they reach, in one launch.

The host does not wait for the device. Each program adds to its own counts, so no two programs write to the same place;
the reader of the counts sums them up.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .words import BITS, COUNTERS

# A program takes a tile of ROWS pixels and COLUMNS channels at a time. 1024 words on 128 threads are 8 a thread: two
# loads of 16 bytes, each within one pixel.
ROWS, COLUMNS, NUM_WARPS = 8, 128, 4
BLOCK = 1024  # neurons of a program of _count_kernel


@triton.jit
def popcount(x):
    """The number of set bits of each int32, by sums in fields of 2, 4, 8, 16 and 32 bits. ``>>`` copies the sign bit;
    the masks remove the copies."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return (x + (x >> 16)) & 0x3F


# The number of images is passed by itself and not specialised, so that a new one does not recompile the kernel; Triton
# specialises every number in a tuple.
@triton.jit(do_not_specialize=["images"])
def _counters_kernel(
    words,  # a tuple of pointers to words int32 [rows, C]
    images,
    sizes,  # for each tensor, the words of an image
    channels,  # C of each tensor
    pixels,  # P of each tensor: row r belongs to pixel r % P
    reaches,  # for each tensor, a pointer to int32 [P]: how often a spike of a pixel counts; None: not wanted
    counts_pointer,  # int64 [programs, TENSORS, 2]: spikes, and spikes times reach; increased
    TENSORS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    program = tl.program_id(0)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    counts_pointer += program * TENSORS * 2
    for k in tl.static_range(TENSORS):
        size, C, P = images.to(tl.int64) * sizes[k], channels[k], pixels[k]
        spikes = tl.zeros((ROWS, COLUMNS), tl.int32)  # 32 bits overflow only after 2**26 tiles
        reached = tl.zeros((ROWS, COLUMNS), tl.int32)
        across = tl.cdiv(C, COLUMNS)
        tiles = (tl.cdiv(size, C * ROWS) * across).to(tl.int32)
        for tile in range(program, tiles, tl.num_programs(0)):
            first_row = tile // across * ROWS  # below 2**31; a 64-bit division would be a function call
            first_column = tile % across * COLUMNS
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
        words: at most words.COUNTED tensors; the kernel is unrolled over them.
        reaches: for each tensor, how many neurons a spike of a pixel reaches, int32 [P]; None: not wanted.
        counts: int64 [COUNTERS, tensors, 2]; the results are the sums over the first dimension.
    """
    words = [part.contiguous() for part in words]
    rows = [_rows(part, reach) for part, reach in zip(words, reaches, strict=True)]
    tiles = [triton.cdiv(w.numel(), C * ROWS) * triton.cdiv(C, COLUMNS) for w, (_, C) in zip(words, rows, strict=True)]
    images = math.gcd(*(w.shape[0] * w.shape[1] for w in words)) or 1  # in a simulation all tensors have equally many
    launch(
        _counters_kernel,
        max(1, min(COUNTERS, max(tiles))),
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
    )


# Neither a new T nor a new batch size recompiles the kernel.
@triton.jit(do_not_specialize=["words_of_neuron", "last_bits"])
def _count_kernel(
    words_pointer,  # int32 [W, neurons]
    counts_pointer,  # int32 [neurons]
    neurons,
    words_of_neuron,  # how many words of a neuron are counted
    last_bits,  # the bits of the last word that are counted
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
    """Each neuron's number of spikes in the steps before ``until``, int32 [N, C, P], from words [W, N, P, C]."""
    words = words.contiguous()
    shape = words.shape[1:]
    counted = min(triton.cdiv(until, BITS), words.shape[0])
    if not counted or not words.numel():
        return words.new_zeros(shape[0], shape[2], shape[1])
    bits = until - BITS * (counted - 1)
    counts = torch.empty(shape, dtype=torch.int32, device=words.device)
    launch(
        _count_kernel,
        triton.cdiv(shape.numel(), BLOCK),
        results=(counts,),
        words_pointer=words,
        counts_pointer=counts,
        neurons=shape.numel(),
        words_of_neuron=counted,
        last_bits=-1 if bits >= BITS else (1 << bits) - 1,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return counts.transpose(1, 2).contiguous()


def total(words: Tensor) -> Tensor:
    """The number of all spikes in words [W, N, P, C], an int64 scalar tensor."""
    counts = torch.zeros(COUNTERS, 1, 2, dtype=torch.int64, device=words.device)
    add_counts([words], [None], counts)
    return counts[:, 0, 0].sum()


def total_of_pixels(words: Tensor) -> Tensor:
    """The number of spikes of each pixel over all steps, int64 [P], from words [W, N, P, C]."""
    return count(words, words.shape[3], BITS * words.shape[0]).sum((0, 1))


def _rows(words: Tensor, reach: Tensor | None) -> tuple[int, int]:
    """P and C as the kernel takes them; without a reach pixels do not matter, and rows are as long as a tile."""
    return (1, COLUMNS) if reach is None else (words.shape[2], max(1, words.shape[3]))
