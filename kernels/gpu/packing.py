"""Packs dense spikes into words, and unpacks them, in one launch each. words.py has the layout.

Numbers are read and written as integers of their size, so that one kernel serves all types: a spike has the bits of the
number 1. A program handles a tile of pixels and channels for the steps of one word. Channels are contiguous in words,
and pixels mostly in dense spikes, so a tile of words is transposed, once for 32 steps.
"""

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cpu.words import PACKABLE
from ..weight_layouts import LARGEST
from .launch import launch
from .words import BITS

NUM_WARPS = 4
TILE, ACROSS = 1024, 32  # neurons of a program's tile, and its channels if an image has as many
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# The bits of the largest value whose sums are finite in float32 (weight_layouts.is_finite).
LARGEST_BITS = {
    torch.float16: 0x7BFF,
    torch.bfloat16: struct.unpack("<i", struct.pack("<f", LARGEST))[0] >> 16,
    torch.float32: struct.unpack("<i", struct.pack("<f", LARGEST))[0],
    torch.float64: struct.unpack("<q", struct.pack("<d", LARGEST))[0],
}
REAL, INFINITE = 1, 3  # what a program found: a value other than 0 and 1; a value that is not finite


@triton.jit
def _tile(P, C, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's image (numbered through all words of time), its pixels and its channels."""
    across = tl.cdiv(C, CHANNELS)
    tiles = tl.cdiv(P, PIXELS) * across
    tile = tl.program_id(0) % tiles
    pixel = tile // across * PIXELS + tl.arange(0, PIXELS)
    channel = tile % across * CHANNELS + tl.arange(0, CHANNELS)
    return (tl.program_id(0) // tiles).to(tl.int64), pixel, channel


# Neither a new T or batch size, nor another type of the same size, recompiles the kernel.
@triton.jit(do_not_specialize=["one", "largest", "unsigned", "T", "N"])
def _pack_kernel(
    dense_pointer,  # integers [T, N, C, H, W] of any strides
    words_pointer,  # int32 [ceil(T / 32), N, H * W, C], written
    found_pointer,  # int32 [programs], written: 0, REAL or INFINITE; None: all values are known to be 0 and 1
    one,  # the bits of 1
    largest,  # the bits of the largest finite value
    unsigned,  # all bits but the sign
    T,
    N,
    C,
    P,
    W,
    stride_t,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    IS_FLOAT: tl.constexpr,
    ALONG_C: tl.constexpr,  # whether channels are contiguous
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image, pixel, channel = _tile(P, C, PIXELS, CHANNELS)
    first = (image // N).to(tl.int32) * 32
    dense_pointer += image % N * stride_n + first.to(tl.int64) * stride_t
    of_pixel = (pixel // W).to(tl.int64) * stride_h + (pixel % W).to(tl.int64) * stride_w
    of_channel = channel.to(tl.int64) * stride_c
    if ALONG_C:
        offsets = of_pixel[:, None] + of_channel[None, :]
        mask = (pixel < P)[:, None] & (channel < C)[None, :]
    else:
        offsets = of_channel[:, None] + of_pixel[None, :]
        mask = (channel < C)[:, None] & (pixel < P)[None, :]
    word = tl.zeros(offsets.shape, tl.int32)
    found = tl.zeros(offsets.shape, tl.int32)
    for bit in range(tl.minimum(T - first, 32)):
        value = tl.load(dense_pointer + offsets, mask=mask, other=0)
        spike = (value == one.to(value.dtype)).to(tl.int32)
        word |= spike << bit
        if found_pointer is not None:
            size = value & unsigned.to(value.dtype)
            found |= (size != 0).to(tl.int32) & (spike ^ 1)
            if IS_FLOAT:
                found |= tl.where(size > largest.to(value.dtype), 3, 0)
        dense_pointer += stride_t
    if not ALONG_C:
        word = tl.trans(word)
    output = pixel[:, None] * C + channel[None, :]
    tl.store(words_pointer + image * P * C + output, word, mask=(pixel < P)[:, None] & (channel < C)[None, :])
    if found_pointer is not None:
        tl.store(found_pointer + tl.program_id(0), tl.max(tl.max(found, axis=1), axis=0))


@triton.jit(do_not_specialize=["one", "T", "N"])
def _unpack_kernel(
    words_pointer,  # int32 [ceil(T / 32), N, P, C]
    dense_pointer,  # integers [T, N, C, P], written
    one,  # the bits of 1
    T,
    N,
    P,
    C,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image, pixel, channel = _tile(P, C, PIXELS, CHANNELS)
    mask = (pixel < P)[:, None] & (channel < C)[None, :]
    word = tl.load(words_pointer + image * P * C + pixel[:, None] * C + channel[None, :], mask=mask, other=0)
    word = tl.trans(word)
    mask = (channel < C)[:, None] & (pixel < P)[None, :]
    first = (image // N).to(tl.int32) * 32
    step = N.to(tl.int64) * C * P
    dense_pointer += first * step + image % N * C * P
    offsets = channel[:, None] * P + pixel[None, :]
    for bit in range(tl.minimum(T - first, 32)):
        spike = tl.where(((word >> bit) & 1) != 0, one, 0).to(dense_pointer.dtype.element_ty)
        tl.store(dense_pointer + offsets, spike, mask=mask)
        dense_pointer += step


def pack(dense: Tensor) -> Tensor:
    """Pack dense spikes, bool [T, N, C, P], into words int32 [ceil(T / 32), N, P, C]."""
    return _pack(dense.unsqueeze(3), None)


def pack_and_look(dense: Tensor) -> tuple[Tensor, bool, bool]:
    """Pack values [T, N, C, H, W] of a type in PACKABLE. Returns the words; whether all values are 0 or 1; and whether
    all are finite in the sense of is_finite. Waits for the device once."""
    found = torch.empty(_grid(dense)[0], dtype=torch.int32, device=dense.device)
    words = _pack(dense, found)
    seen = int(found.amax()) if dense.numel() else 0
    return words, not seen, seen < INFINITE


def pack_binary(dense: Tensor) -> tuple[Tensor, bool]:
    """Pack values [T, N, C, H, W]. Returns the words, and whether all values are 0 or 1."""
    return pack_and_look(dense)[:2]


def unpack(words: Tensor, T: int, C: int, dtype: torch.dtype = torch.bool) -> Tensor:
    """Unpack words [ceil(T / 32), N, P, C] into dense spikes, 0 and 1 [T, N, C, P]."""
    if dtype not in PACKABLE:
        return unpack(words, T, C).to(dtype)
    _, N, P, _ = words.shape
    dense = torch.empty(T, N, C, P, dtype=dtype, device=words.device)
    if dense.numel():  # an empty grid is an error of the driver
        programs, pixels, channels = _tiles(-(-T // BITS) * N, P, C)
        launch(
            _unpack_kernel,
            programs,
            looked_at=True,
            words_pointer=words.contiguous(),
            dense_pointer=dense.view(INTEGERS[dtype.itemsize]),
            one=PACKABLE[dtype],
            T=T,
            N=N,
            P=P,
            C=C,
            PIXELS=pixels,
            CHANNELS=channels,
            num_warps=NUM_WARPS,
        )
    return dense


def _pack(dense: Tensor, found: Tensor | None) -> Tensor:
    T, N, C, H, W = dense.shape
    words = torch.empty(triton.cdiv(T, BITS), N, H * W, C, dtype=torch.int32, device=dense.device)
    if not words.numel():
        return words
    programs, pixels, channels = _grid(dense)
    integers, bits = INTEGERS[dense.dtype.itemsize], 8 * dense.dtype.itemsize
    is_float = dense.is_floating_point()
    launch(
        _pack_kernel,
        programs,
        looked_at=True,
        dense_pointer=dense.view(integers),
        words_pointer=words,
        found_pointer=found,
        one=PACKABLE[dense.dtype],
        largest=LARGEST_BITS.get(dense.dtype, 0),
        unsigned=(1 << (bits - 1)) - 1 if is_float else -1,
        T=T,
        N=N,
        C=C,
        P=H * W,
        W=W,
        stride_t=dense.stride(0),
        stride_n=dense.stride(1),
        stride_c=dense.stride(2),
        stride_h=dense.stride(3),
        stride_w=dense.stride(4),
        IS_FLOAT=is_float,
        ALONG_C=dense.stride(2) == 1 or H * W == 1,
        PIXELS=pixels,
        CHANNELS=channels,
        num_warps=NUM_WARPS,
    )
    return words


def _grid(dense: Tensor) -> tuple[int, int, int]:
    """:func:`_tiles` for values [T, N, C, H, W]."""
    T, N, C, H, W = dense.shape
    return _tiles(triton.cdiv(T, BITS) * N, H * W, C)


def _tiles(images: int, P: int, C: int) -> tuple[int, int, int]:
    """The number of programs, and the pixels and channels of each."""
    most_pixels, most_channels = triton.next_power_of_2(max(P, 1)), triton.next_power_of_2(max(C, 1))
    pixels = min(most_pixels, TILE // min(ACROSS, most_channels))
    channels = min(most_channels, TILE // pixels)
    return images * triton.cdiv(P, pixels) * triton.cdiv(C, channels), pixels, channels
