"""Packed spikes as the A operand of a matrix product: each bit of a word becomes a number, in registers.

A row of the operand is a row of the im2col matrix, an output pixel at a step; a column is an input. Tensor cores take
the operand as A fragments, from the registers of the threads that compute it. Only the words go through shared memory,
never the 32 times as many numbers.

The rows are ordered as [HALVES, PIXELS / TILE_PIXELS, HALF_STEPS, TILE_PIXELS]:

    HALVES        2: all rows of the first half of the steps come before those of the second half; 1: not divided
    HALF_STEPS    steps in a half, STEPS / HALVES; step t is [t // HALF_STEPS, :, t % HALF_STEPS]
    TILE_PIXELS   neighbouring pixels whose rows of one half fill a tile of 16 rows; 1: each pixel by itself

With 8 steps and 16 pixels, HALVES is 2, and HALF_STEPS and TILE_PIXELS are 4. Rows marked * are of one thread, which
has pixel 1 at steps 0, 2, 4 and 6:

      row        step   pixels
       0 ..  3    0     0 1*2 3   +
       4 ..  7    1     0 1 2 3   | a tile of 16 rows: the first half of
       8 .. 11    2     0 1*2 3   | the steps of TILE_PIXELS pixels
      12 .. 15    3     0 1 2 3   +
      16 .. 31  0 .. 3  4 ..  7   the next tile
      32 .. 63  0 .. 3  8 .. 15   two more
      64 .. 67    4     0 1*2 3   +
      68 .. 71    5     0 1 2 3   | the second half of the steps
      72 .. 75    6     0 1*2 3   | of the same pixels
      76 .. 79    7     0 1 2 3   +
      80 .. 127 4 .. 7  4 .. 15

With 32 steps TILE_PIXELS is 1: rows 0 to 15 are steps 0 to 15 of pixel 0, rows 16 to 31 those of pixel 1, and steps 16
to 31 follow behind all pixels.

This order suits the A fragments of mma and wgmma, in which a thread has rows r and r + 8 of each 16 rows, and with 128
rows also r + 64: these are steps of one pixel. So a thread loads one word for four rows, and with 4 steps all its sums
belong to one neuron.
"""

import triton
import triton.language as tl


@triton.jit
def read_steps(pointer, T, STEPS: tl.constexpr, HALVES: tl.constexpr):
    """The steps of the operand's rows, as bit numbers within a word: int32 [HALVES, HALF_STEPS].

    They are the default value of a load that is always masked out, since T >= 0. Triton (3.6 to 3.9) gives the words
    the layout of the operand only if everything that the operand is computed from is a load or a constant. With a
    range, which is neither, the numbers would go through shared memory one by one.
    """
    HALF_STEPS: tl.constexpr = STEPS // HALVES
    step = tl.arange(0, HALVES)[:, None] * HALF_STEPS + tl.arange(0, HALF_STEPS)[None, :]
    return tl.load(pointer + tl.zeros_like(step), mask=step < -T, other=step)


@triton.jit
def expand(
    word,
    step,
    PIXELS: tl.constexpr,
    STEPS: tl.constexpr,
    HALVES: tl.constexpr,
    TILE_PIXELS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TYPE: tl.constexpr,
    PTX: tl.constexpr,
    ONE_STEP: tl.constexpr,
):
    """Expand words [PIXELS, BLOCK_K] int32 to rows of spikes [STEPS * PIXELS, BLOCK_K].

    A spike is 1 if TYPE is int8, and 2 if TYPE is float16, because 2.0 is the number in which only bit 14 is set.
    ``step``: the result of read_steps. PTX: makes four bytes or two float16 numbers of a register at a time; the
    compiler would make them one by one. Each is shifted by its own step, so they may belong to any steps. ONE_STEP:
    assumes that they are inputs of one step and, if HALF_STEPS is 16, that four bytes are followed by those of the same
    inputs eight steps later; that takes about half the instructions. The compiler chooses which numbers share a
    register; block_sizes.SEEN lists where it is known to choose these.
    """
    HALF_STEPS: tl.constexpr = STEPS // HALVES
    ONE_PIXEL: tl.constexpr = (HALVES, PIXELS, HALF_STEPS, BLOCK_K)
    SEVERAL: tl.constexpr = (HALVES, PIXELS // TILE_PIXELS, HALF_STEPS, TILE_PIXELS, BLOCK_K)
    SHAPE: tl.constexpr = ONE_PIXEL if TILE_PIXELS == 1 else SEVERAL
    if TILE_PIXELS == 1:
        word = tl.broadcast_to(word[None, :, None, :], SHAPE)
        step = step[:, None, :, None]
    else:
        word = tl.broadcast_to(tl.reshape(word, (1, PIXELS // TILE_PIXELS, 1, TILE_PIXELS, BLOCK_K)), SHAPE)
        step = step[:, None, :, None, None]
    if PTX and not ONE_STEP and TYPE == tl.int8:
        spike = tl.inline_asm_elementwise(
            """{
            .reg .b32 low, second, high, fourth;
            shr.u32 low, $1, $5;
            shr.u32 second, $2, $6;
            shr.u32 high, $3, $7;
            shr.u32 fourth, $4, $8;
            prmt.b32 low, low, second, 0x0040;
            prmt.b32 high, high, fourth, 0x0040;
            prmt.b32 low, low, high, 0x5410;
            and.b32 $0, low, 0x01010101;
            }""",
            "=r,r,r,r,r,r,r,r,r",
            [word, tl.broadcast_to(step, SHAPE)],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    elif PTX and not ONE_STEP:
        spike = tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high;
            shr.u32 low, $1, $3;
            shr.u32 high, $2, $4;
            prmt.b32 low, low, high, 0x5410;
            shl.b32 low, low, 14;
            and.b32 $0, low, 0x40004000;
            }""",
            "=r,r,r,r,r",
            [word, tl.broadcast_to(step, SHAPE)],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    elif PTX and TYPE == tl.int8 and HALF_STEPS < 16:
        if STEPS <= 8:  # constant, so that the same permutation serves all steps of a word
            bytes = tl.full(SHAPE, 0x0040, tl.int32)
            shift = tl.broadcast_to(step, SHAPE)
        else:
            bytes = tl.broadcast_to((step // 8) * 0x0011 + 0x0040, SHAPE)
            shift = tl.broadcast_to(step % 8, SHAPE)
        spike = tl.inline_asm_elementwise(
            """{ // of one step
            .reg .b32 low, high;
            prmt.b32 low, $1, $2, $5;
            prmt.b32 high, $3, $4, $5;
            prmt.b32 low, low, high, 0x5410;
            shr.u32 low, low, $9;
            and.b32 $0, low, 0x01010101;
            }""",
            "=r" + ",r" * 12,
            [word, bytes, shift],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    elif PTX and TYPE == tl.int8:
        # From four words: the bytes with this step, and those with the step eight later, for the next four numbers.
        bytes = tl.broadcast_to((step // 8) * 0x1111 + 0x5140, SHAPE)
        shift = tl.broadcast_to(step % 8, SHAPE)
        spike = tl.inline_asm_elementwise(
            """{ // of one step
            .reg .b32 low, high;
            prmt.b32 low, $2, $3, $10;
            prmt.b32 high, $4, $5, $10;
            shr.u32 low, low, $18;
            shr.u32 high, high, $18;
            and.b32 low, low, 0x01010101;
            and.b32 high, high, 0x01010101;
            prmt.b32 $0, low, high, 0x5410;
            prmt.b32 $1, low, high, 0x7632;
            }""",
            "=&r,=&r" + ",r" * 24,
            [word, bytes, shift],
            dtype=tl.int8,
            is_pure=True,
            pack=8,
        )
    elif PTX:
        # From two words: the halves with this step, rotated until its bit is bit 14.
        if STEPS <= 16:
            half = tl.full(SHAPE, 0x5410, tl.int32)
        else:
            half = tl.broadcast_to((step // 16) * 0x2222 + 0x5410, SHAPE)
        rotation = tl.broadcast_to(14 - step % 16, SHAPE)
        spike = tl.inline_asm_elementwise(
            """{ // of one step
            .reg .b32 both;
            prmt.b32 both, $1, $2, $3;
            shf.l.wrap.b32 both, both, both, $5;
            and.b32 $0, both, 0x40004000;
            }""",
            "=r,r,r,r,r,r,r",
            [word, half, rotation],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    elif TYPE == tl.int8:
        spike = ((word >> step) & 1).to(tl.int8)
    else:
        spike = (((word >> step) & 1) << 14).to(tl.int16).to(tl.float16, bitcast=True)
    return tl.reshape(spike, (STEPS * PIXELS, BLOCK_K))


@triton.jit
def times_64(spike, PTX: tl.constexpr):
    """Spikes times 64: int8 0 and 64."""
    if PTX:
        result = tl.inline_asm_elementwise("shl.b32 $0, $1, 6;", "=r,r", [spike], dtype=tl.int8, is_pure=True, pack=4)
    else:
        result = spike << 6
    return result


@triton.jit
def wait_for_products(sums):
    """The float accumulator of wgmma, after its products are done.

    The tensor cores of sm_90 read the registers of spikes while the threads go on, and Triton 3.6 to 3.8 lets the next
    spikes overwrite them too early (triton-lang/triton#9433, fixed by #9530). The compiler does wait for a product
    whose sums are read; reading them here costs one instruction.
    """
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [sums], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def fence(scalar):
    """Make what copies have written to shared memory visible to the tensor cores of sm_90.

    NVIDIA's manual (PTX ISA, async proxy) requires a fence between the two, which Triton sets from 3.7.1 on
    (triton-lang/triton#10537).
    """
    tl.inline_asm_elementwise(
        "fence.proxy.async.shared::cta; mov.b32 $0, $1;", "=r,r", [scalar], dtype=tl.int32, is_pure=False, pack=1
    )
