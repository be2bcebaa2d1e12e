"""Sigma-delta neurons over all T steps in one launch; what arrives at them is a convolution of torch's.

The equations are in reference.py, codes in ../sigma_delta.py. A power of two is the exponent of a float, so that the
nearest one takes a sum of integers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import sigma_delta as definition
from ..sigma_delta import Counts, Pair, SigmaDelta, State, Window

# As of if_scan.py: a thread has four neurons, that is a 16-byte load a step.
BLOCK = 512
NUM_WARPS = 4


# Steps stay out of the specialisation key: another T is no other kernel.
@triton.jit(do_not_specialize=["T", "T_in", "exponents"])
def _sigma_delta_kernel(
    arrived_pointer,  # [N, T_in, places], float32: what arrives at each step, nothing after T_in; or what z is then
    highest_pointer,  # [channels], float32, the largest activation
    codes_pointer,  # [N, T, places], int8
    fired_pointer,  # [programs], int32: the spikes of each
    z_pointer,  # [N, places], float32: what has arrived before, replaced by that after the steps; None: 0, not kept
    a_pointer,  # the same of what was sent before
    T,
    T_in,
    places,  # neurons of a sample
    channels,
    exponents,
    lowest,  # float, 0 or -infinity: the least activation
    IS_Z: tl.constexpr,  # whether z is given, in the place of what arrives
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
    for t in range(0, T):
        if t < T_in:
            arrived = tl.load(arrived_row + offsets, mask=mask, other=0.0)
            z = arrived if IS_Z else z + arrived
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


def scan(
    arrived: Tensor, T: int, neuron: SigmaDelta, state: tuple[Tensor | None, Tensor] | None = None, is_z: bool = False
) -> tuple[Tensor, int]:
    """All T steps of neurons on what arrives, float32 [N, T_in, P, C]: codes int8 [N, T, P, C], and the spikes.

    ``state``: as in ../sigma_delta.py. ``is_z``: what has arrived up to each step is given; state has a alone.
    """
    N, T_in, P, C = arrived.shape
    codes = arrived.new_zeros((N, T, P, C), dtype=torch.int8)
    if codes.numel() == 0:  # an empty grid is an error of the driver
        return codes, 0
    programs = N * triton.cdiv(P * C, BLOCK)
    fired = torch.empty(programs, dtype=torch.int32, device=arrived.device)
    z, a = state or (None, None)
    # One program owns BLOCK neighbouring neurons of a sample for all steps.
    with torch.cuda.device_of(arrived):
        _sigma_delta_kernel[(programs,)](
            arrived_pointer=arrived.contiguous(),
            highest_pointer=neuron.highest.to(arrived.device).contiguous(),
            codes_pointer=codes,
            fired_pointer=fired,
            z_pointer=z,
            a_pointer=a,
            T=T,
            T_in=T_in,
            places=P * C,
            channels=C,
            exponents=neuron.exponents,
            lowest=float(neuron.lowest),
            IS_Z=is_z,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            # Spikes must not depend on a default that differs between Triton releases.
            enable_fp_fusion=False,
        )
    return codes, int(fired.sum())


def sigma_delta(
    x: Tensor | None, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None, added: Tensor | None, T: int,
    neuron: SigmaDelta | None, window: Window, state: State | None = None,
) -> tuple[Tensor, Counts]:  # fmt: skip
    """../sigma_delta.py has arguments and results."""
    arrived, additions = definition.all_that_arrives(x, size, weight, bias, added, window)
    if neuron is None:
        return definition.padded(arrived, T).contiguous(), Counts(0, additions)
    codes, spikes = scan(arrived, T, neuron, state)
    return codes, Counts(spikes, additions)


def pooled_sigma_delta(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int, neuron: SigmaDelta,
    state: State | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """../sigma_delta.py has arguments and results; torch pools."""
    z, a = state or (None, None)
    maxima = definition.maxima_so_far(x, size, size_out, kernel, stride, padding, z)
    return scan(maxima, T, neuron, None if a is None else (None, a), is_z=True)
