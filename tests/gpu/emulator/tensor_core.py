"""NVIDIA's tensor cores: which thread holds which number, and how sums round.

Fragments: PTX ISA, "Matrix fragments for mma.m16n8k16" of float16, of "mma.m16n8k32" of int8, and of
"wgmma.mma_async.m64nNk16" and k32: wgmma's four warps have 16 rows each, and a warp's fragments are those of mma.
Either way the inner dimension is 32 bytes, here K numbers, of which a lane has 4 bytes one after another. Descriptors:
PTX ISA, "Matrix descriptor format" of wgmma.
"""

import numpy as np

from .memory import Fault

# ---- fragments: registers [warps, 32 lanes] of uint32 and matrices [warps, rows, columns]

_row, _pair = np.arange(32) // 4, np.arange(32) % 4  # of a lane: its row of 8, and its pair of columns


def a_matrix(registers, kind=np.float16):
    """``kind`` [warps, 16, K] of four registers: rows 0 and 8 on, then the same with the columns of 16 bytes later."""
    half = 16 // np.dtype(kind).itemsize
    matrix = np.empty((len(registers[0]), 16, 2 * half), kind)
    for i, register in enumerate(registers):
        row, column = 8 * (i % 2), half * (i // 2)
        matrix[:, row : row + 8, column : column + half] = _lanes(register, kind)
    return matrix


def b_matrix(registers, kind=np.float16):
    """``kind`` [warps, K, 8] of two registers: rows 0 and 16 bytes on; a lane holds rows of one column."""
    return np.concatenate([_lanes(register, kind).swapaxes(1, 2) for register in registers], 1)


def _lanes(register, kind):
    """What each of 8 times 4 lanes has, [warps, 8, numbers in 16 bytes]."""
    return np.ascontiguousarray(register).view(kind).reshape(-1, 8, 16 // np.dtype(kind).itemsize)


def c_matrix(registers, kind=np.float32):
    """float32, or int32, [warps, 16, n] of n / 2 registers: of each 8 columns two of rows 0 on, two of rows 8 on."""
    stacked = np.stack([np.broadcast_to(register, registers[0].shape) for register in registers])
    blocks = stacked.view(kind).reshape(-1, 2, 2, len(registers[0]), 8, 4)  # block, half, column, warp, row, pair
    return blocks.transpose(3, 1, 4, 0, 5, 2).reshape(len(registers[0]), 16, -1)


def c_registers(matrix):
    """The inverse of c_matrix: uint32 [threads] each."""
    warps, _, columns = matrix.shape
    blocks = matrix.reshape(warps, 2, 8, columns // 8, 4, 2).transpose(3, 1, 5, 0, 2, 4)
    return list(np.ascontiguousarray(blocks).reshape(columns // 2, -1).view(np.uint32))


# ---- shared memory of wgmma


def descriptor_addresses(descriptor: int, rows: int, transposed: int, size: int = 2):
    """Byte addresses of numbers of ``size`` bytes [rows, K] of a 64-bit descriptor."""
    start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    swizzle = descriptor >> 62
    if transposed or descriptor >> 49 & 7:
        raise NotImplementedError("a transposed operand, or a base offset")
    row, byte = np.arange(rows)[:, None], np.arange(0, 32, size)[None, :]
    if swizzle == 0:  # matrices of 8 rows of 16 bytes, each contiguous
        return start + row // 8 * stride + row % 8 * 16 + byte // 16 * leading + byte % 16
    width = {1: 128, 2: 64, 3: 32}[swizzle]  # bytes of a row; groups of 8 rows are contiguous
    address = start + row // 8 * stride + row % 8 * width + byte
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


def multiply_int8(a, b, c):
    """int32 a @ b + c of int8 a [warps, m, 32] and b [warps, 32, n]. mma saturates and wgmma wraps: neither may be."""
    total = np.matmul(a.astype(np.int64), b.astype(np.int64)) + c
    if (total != total.astype(np.int32)).any():
        raise Fault("a sum of whole numbers leaves 32 bits")
    return total.astype(np.int32)


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
