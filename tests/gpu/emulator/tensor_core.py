"""NVIDIA's tensor cores: which thread holds which number, and how sums round.

Fragments: PTX ISA, "Matrix fragments for mma.m16n8k16" and "wgmma.mma_async.m64nNk16": wgmma's four warps have 16 rows
each, and a warp's fragments are those of mma. Descriptors: PTX ISA, "Matrix descriptor format" of wgmma.
"""

import numpy as np

# ---- fragments: registers [warps, 32 lanes] of uint32 and matrices [warps, rows, columns]

_row, _pair = np.arange(32) // 4, np.arange(32) % 4  # of a lane: its row of 8, and its pair of columns


def a_matrix(registers):
    """float16 [warps, 16, 16] of four registers: rows 0 and 8 on, then the same with columns 8 on."""
    matrix = np.empty((len(registers[0]), 16, 16), np.float16)
    for i, register in enumerate(registers):
        pairs = np.ascontiguousarray(register).view(np.float16).reshape(-1, 8, 8)
        row, column = 8 * (i % 2), 8 * (i // 2)
        matrix[:, row : row + 8, column : column + 8] = pairs
    return matrix


def b_matrix(registers):
    """float16 [warps, 16, 8] of two registers: rows 0 and 8 on; a lane holds two rows of one column."""
    pairs = [np.ascontiguousarray(register).view(np.float16).reshape(-1, 8, 8).swapaxes(1, 2) for register in registers]
    return np.concatenate(pairs, 1)


def c_matrix(registers):
    """float32 [warps, 16, n] of n / 2 registers: of each 8 columns two of rows 0 on, two of rows 8 on."""
    stacked = np.stack([np.broadcast_to(register, registers[0].shape) for register in registers])
    blocks = stacked.view(np.float32).reshape(-1, 2, 2, len(registers[0]), 8, 4)  # block, half, column, warp, row, pair
    return blocks.transpose(3, 1, 4, 0, 5, 2).reshape(len(registers[0]), 16, -1)


def c_registers(matrix):
    """The inverse of c_matrix: uint32 [threads] each."""
    warps, _, columns = matrix.shape
    blocks = matrix.reshape(warps, 2, 8, columns // 8, 4, 2).transpose(3, 1, 5, 0, 2, 4)
    return list(np.ascontiguousarray(blocks).reshape(columns // 2, -1).view(np.uint32))


# ---- shared memory of wgmma


def descriptor_addresses(descriptor: int, rows: int, transposed: int):
    """Byte addresses of float16 numbers [rows, 16] of a 64-bit descriptor; the 16 are the inner dimension."""
    start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    swizzle = descriptor >> 62
    if transposed or descriptor >> 49 & 7:
        raise NotImplementedError("a transposed operand, or a base offset")
    row, k = np.arange(rows)[:, None], np.arange(16)[None, :]
    if swizzle == 0:  # matrices of 8 rows of 16 bytes, each contiguous
        return start + row // 8 * stride + row % 8 * 16 + k // 8 * leading + k % 8 * 2
    width = {1: 128, 2: 64, 3: 32}[swizzle]  # bytes of a row; groups of 8 rows are contiguous
    address = start + row // 8 * stride + row % 8 * width + k * 2
    return address ^ ((address >> 3) & (width - 16))  # the bits from 7 on choose the 16 bytes within the row


# ---- sums


def multiply(a, b, c, products: str):
    """float32 a @ b + c of float16 a [warps, m, 16] and b [warps, 16, n].

    ``products``: "exact" rounds the exact sum once, to the nearest. Otherwise "bits/terms", such as "24/8": products of
    ``terms`` inputs and the accumulator are cut to ``bits`` bits below the largest one's exponent, added, and the sum
    is cut to a float32. This is what tests of the hardware found (Fasi et al. 2021 and later work): Ampere "24/8",
    Hopper "25/16"; NVIDIA documents none of it.
    """
    if products == "exact":
        return (np.matmul(a.astype(np.float64), b.astype(np.float64)) + c).astype(np.float32)
    bits, terms = (int(part) for part in products.split("/"))
    for first in range(0, 16, terms):
        c = _cut_sum(a[:, :, first : first + terms], b[:, first : first + terms], c, bits)
    return c


def _cut_sum(a, b, c, bits: int):
    a, b, c = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    terms = np.concatenate([a[:, :, :, None] * b[:, None], c[:, :, None, :]], 2)  # [warps, m, terms + 1, n]
    # frexp: a number in [1/2, 1); a product of two such counts as one in [1, 4), as its exponents' sum says
    exponents = np.frexp(a)[1][:, :, :, None] + np.frexp(b)[1][:, None] - 2
    exponents = np.where(terms[:, :, :-1] != 0, exponents, -1000)
    c_exponent = np.where(c != 0, np.frexp(c)[1] - 1, -1000)
    largest = np.maximum(exponents.max(2), c_exponent)
    unit = np.ldexp(1.0, largest - bits)
    total = np.trunc(terms / unit[:, :, None]).sum(2) * unit
    result = total.astype(np.float32)
    too_far = np.abs(result.astype(np.float64)) > np.abs(total)
    return np.where(too_far, np.nextafter(result, np.float32(0)), result)
