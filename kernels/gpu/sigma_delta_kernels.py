"""The kernels of sigma-delta neurons: the neurons over all T steps, the values of codes, and their sums over the steps.

The equations are in reference.py, the codes in ../sigma_delta_codes.py. A power of two is a float whose mantissa is 0,
so the nearest one is found by adding to the float's bits as an integer.
"""

import triton
import triton.language as tl


# A new batch size or number of steps does not recompile the kernel.
@triton.jit(do_not_specialize=["rows", "steps"])
def _values_kernel(
    x_pointer,  # [N, steps, P, C], codes int8 or values float32, of any strides
    values_pointer,  # float32 [N, steps, P, C], written; None: not wanted
    reach_pointer,  # int32 [P], how many windows contain a pixel; None: one
    additions_pointer,  # int64 [programs], written: the number of weights added
    rows,  # N * steps * P
    steps,
    P,
    C,
    stride_n,
    stride_t,
    stride_p,
    stride_c,
    fan_out,  # neurons that each input of a window reaches
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < rows.to(tl.int64) * C
    row, channel = place // C, place % C
    image, pixel = row // P, row % P
    x_pointer += image // steps * stride_n + image % steps * stride_t + pixel * stride_p + channel * stride_c
    x = tl.load(x_pointer, mask=mask, other=0)
    if values_pointer is not None:
        if x.dtype == tl.int8:
            code = x.to(tl.int32)
            size = tl.where(code == 0, 0, (128 - tl.abs(code)) << 23)
            value = (size | (code & -2147483648)).to(tl.float32, bitcast=True)
        else:
            value = x
        tl.store(values_pointer + place, value, mask=mask)
    reached = tl.full((BLOCK,), 1, tl.int32)
    if reach_pointer is not None:
        reached = tl.load(reach_pointer + pixel, mask=mask, other=0)
    additions = tl.sum(tl.where(x != 0, reached, 0).to(tl.int64), axis=0)
    tl.store(additions_pointer + tl.program_id(0), additions * fan_out)


@triton.jit(do_not_specialize=["T", "T_in"])
def _running_sums_kernel(
    x_pointer,  # [N, T_in, places], codes int8 or values float32
    sums_pointer,  # float32 [N, T, places], written
    sent_pointer,  # float32 [N, places]: the sums before the steps, updated in place; None: they start at 0, not kept
    T,
    T_in,
    places,
    BLOCK: tl.constexpr,
):
    programs = tl.cdiv(places, BLOCK)  # of a sample
    sample = (tl.program_id(0) // programs).to(tl.int64)
    offsets = tl.program_id(0) % programs * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < places
    total = tl.zeros((BLOCK,), tl.float32)
    if sent_pointer is not None:
        total = tl.load(sent_pointer + sample * places + offsets, mask=mask, other=0.0)
    x_row = x_pointer + sample * T_in * places
    sums_row = sums_pointer + sample * T * places
    for t in range(0, T):
        if t < T_in:
            x = tl.load(x_row + offsets, mask=mask, other=0)
            if x.dtype == tl.int8:
                code = x.to(tl.int32)
                size = tl.where(code == 0, 0, (128 - tl.abs(code)) << 23)
                total += (size | (code & -2147483648)).to(tl.float32, bitcast=True)
            else:
                total += x
        tl.store(sums_row + offsets, total, mask=mask)
        x_row += places
        sums_row += places
    if sent_pointer is not None:
        tl.store(sent_pointer + sample * places + offsets, total, mask=mask)


# The numbers of steps are not in the specialisation key: a new T does not recompile the kernel.
@triton.jit(do_not_specialize=["T", "T_in", "T_added", "exponents"])
def _sigma_delta_kernel(
    arrived_pointer,  # [N, T_in, places], float32: the input of each step (none after T_in); if IS_Z, z at each step
    bias_pointer,  # [channels], float32, added at the first step; None: none
    added_pointer,  # [N, T_added, places], float32: further input; None: none
    highest_pointer,  # [channels], float32, the largest activation
    codes_pointer,  # [N, T, places], int8, written
    fired_pointer,  # [programs], int32, written: the number of spikes
    z_pointer,  # [N, places], float32: the sum of all input so far, updated in place; None: starts at 0, not kept
    a_pointer,  # the same for the sum of what was sent
    T,
    T_in,
    T_added,
    places,  # neurons of a sample
    channels,
    exponents,
    lowest,  # float, 0 or -infinity: the lowest activation
    IS_Z: tl.constexpr,  # whether z is given instead of the input
    BLOCK: tl.constexpr,
):
    programs = tl.cdiv(places, BLOCK)  # of a sample
    sample = (tl.program_id(0) // programs).to(tl.int64)
    start = tl.program_id(0) % programs * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    mask = offsets < places
    highest = tl.load(highest_pointer + offsets % channels, mask=mask, other=0.0)
    least = (128 - exponents) << 23
    z = tl.zeros((BLOCK,), tl.float32)
    a = tl.zeros((BLOCK,), tl.float32)
    if z_pointer is not None:
        z = tl.load(z_pointer + sample * places + offsets, mask=mask, other=0.0)
    if a_pointer is not None:
        a = tl.load(a_pointer + sample * places + offsets, mask=mask, other=0.0)
    fired = tl.zeros((BLOCK,), tl.int32)
    arrived_row = arrived_pointer + sample * T_in * places
    codes_row = codes_pointer + sample * T * places
    if added_pointer is not None:
        added_row = added_pointer + sample * T_added * places
    for t in range(0, T):
        arrived = tl.zeros((BLOCK,), tl.float32)
        if t < T_in:
            arrived = tl.load(arrived_row + offsets, mask=mask, other=0.0)
            if IS_Z:
                z = arrived
        if bias_pointer is not None:
            if t == 0:
                arrived += tl.load(bias_pointer + offsets % channels, mask=mask, other=0.0)
        if added_pointer is not None:
            if t < T_added:
                arrived += tl.load(added_row + offsets, mask=mask, other=0.0)
            added_row += places
        if not IS_Z:
            z += arrived
        left = tl.maximum(tl.minimum(z, highest), lowest) - a
        bits = left.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        power = tl.minimum((size + 0x400000) & 0x7F800000, 0x3F800000)  # three quarters round up; at most 1
        fires = power >= least
        sent = tl.where(fires, power | (bits ^ size), 0)
        a += sent.to(tl.float32, bitcast=True)
        code = 128 - (power >> 23)
        code = tl.where(fires, tl.where(bits < 0, -code, code), 0)
        tl.store(codes_row + offsets, code.to(tl.int8), mask=mask)
        fired += (fires & mask).to(tl.int32)
        arrived_row += places
        codes_row += places
    if z_pointer is not None:
        tl.store(z_pointer + sample * places + offsets, z, mask=mask)
    if a_pointer is not None:
        tl.store(a_pointer + sample * places + offsets, a, mask=mask)
    tl.store(fired_pointer + tl.program_id(0), tl.sum(fired, axis=0))
