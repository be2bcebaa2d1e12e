"""What the generated code calls: instructions that numpy has no operator for, on arrays of one element a thread."""

import numpy as np


def divide(a, b):
    """Towards zero, as C and PTX do."""
    if not np.all(b):
        raise ZeroDivisionError("a division by zero")
    if a.dtype.kind == "u":
        return a // b
    quotient = np.abs(a.astype("i8")) // np.abs(b.astype("i8"))
    return np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype)


def remainder(a, b):
    return a - divide(a, b) * b


def shift_left(a, b):
    bits = 8 * a.dtype.itemsize
    return np.where(b < bits, a << (b & (bits - 1)).astype(a.dtype), a.dtype.type(0))


def shift_right(a, b):
    """By more bits than there are: 0, or copies of the sign."""
    bits = 8 * a.dtype.itemsize
    return (
        a >> np.minimum(b, bits - 1).astype(a.dtype)
        if a.dtype.kind == "i"
        else np.where(b < bits, a >> (b & (bits - 1)).astype(a.dtype), a.dtype.type(0))
    )


def join(low, high):
    kind = np.dtype(f"u{2 * low.dtype.itemsize}")
    return low.astype(kind) | (high.astype(kind) << kind.type(8 * low.dtype.itemsize))


def halves(function, a, b):
    """A function of 16-bit numbers, on two in each 32 bits."""
    a, b = (np.ascontiguousarray(x).view("u2").reshape(-1, 2) for x in (a, b))
    return function(a, b).view("u4").reshape(-1)


def pairs(function, *operands):
    """A function of float32 numbers, on two in each 64 bits."""
    both = (np.ascontiguousarray(x).view("f4").reshape(-1, 2) for x in operands)
    return np.ascontiguousarray(function(*both), "f4").view("u8").reshape(-1)


def shift_both(low, high, b):
    """The upper 32 bits of (high, low) shifted to the left by b modulo 32."""
    both = high.astype("u8") << 32 | low.astype("u8")
    return (both << (b & 31).astype("u8") >> 32).astype("u4")


def permute_bytes(a, b, selector):
    both = a.astype("u8") | (b.astype("u8") << np.uint64(32))
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, selector.shape), "u4")
    for i in range(4):
        choice = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = ((both >> ((choice & 7) * 8).astype("u8")) & np.uint64(255)).astype("u4")
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        result |= np.where(choice & np.uint32(8), sign, byte) << np.uint32(8 * i)
    return result


def reversed_bits(a):
    a = (a >> np.uint32(1) & np.uint32(0x55555555)) | (a & np.uint32(0x55555555)) << np.uint32(1)
    a = (a >> np.uint32(2) & np.uint32(0x33333333)) | (a & np.uint32(0x33333333)) << np.uint32(2)
    a = (a >> np.uint32(4) & np.uint32(0x0F0F0F0F)) | (a & np.uint32(0x0F0F0F0F)) << np.uint32(4)
    return a.byteswap()


def logic3(a, b, c, table):
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), "u4")
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


def fma(a, b, c):
    """a * b + c of float32, rounded once. In float64 the product is exact; an inexact sum is rounded to odd there, so
    that rounding it to float32 gives what rounding the exact sum would."""
    product, c = a.astype("f8") * b.astype("f8"), c.astype("f8")
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    is_even = np.ascontiguousarray(total).view("u8") & np.uint64(1) == 0
    neighbour = np.nextafter(total, np.copysign(np.inf, lost))
    return np.where(is_even & (lost != 0) & np.isfinite(total), neighbour, total).astype("f4")


def unknown(kind: str) -> np.ndarray:
    """What is in a register that was not written yet: a guarded instruction keeps it where the guard is false."""
    return np.ones(1, "?") if kind == "?" else np.full(8, 0xAB, "u1").view(kind)[:1]
