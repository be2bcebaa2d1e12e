"""Sigma-delta neurons over all T steps in one launch; torch's convolution computes their input.

The equations are in reference.py, the codes in ../sigma_delta_codes.py. A power of two is a float whose mantissa is 0,
so the nearest one is found by adding to the float's bits as an integer. The host does not wait for the device: counts
stay there, as tensors.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import sigma_delta_codes as definition
from ..recording import Choice, note
from ..sigma_delta_codes import Counts, Pair, Senders, State, Window
from ..unfused import exact
from .launch import launch

# As in scans.py: a thread has four neurons, so one 16-byte load per step.
BLOCK = 512
NUM_WARPS = 4

# One for each launch of a kernel here.
VALUES, SCAN, SUMS = Choice("Triton values"), Choice("Triton scan"), Choice("Triton sums")
CONVOLUTION = Choice("dense", "torch convolves the changes of all steps at once")


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
    sent_pointer,  # [N, T, places], written: codes int8, or values float32 of graded neurons
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
    threshold,  # float: the least change that graded neurons send
    rounds,  # float, added and taken away to round the activations of graded neurons of 8 bits; 0: not rounded
    IS_Z: tl.constexpr,  # whether z is given instead of the input
    GRADED: tl.constexpr,
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
    sent_row = sent_pointer + sample * T * places
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
        activation = tl.maximum(tl.minimum(z, highest), lowest)
        if GRADED:
            activation = (activation + rounds) - rounds
        left = activation - a
        if GRADED:
            fires = tl.abs(left) >= threshold
            tl.store(sent_row + offsets, tl.where(fires, left, 0.0), mask=mask)
            a = tl.where(fires, activation, a)
            fires = fires & (left != 0)
        else:
            bits = left.to(tl.int32, bitcast=True)
            size = bits & 0x7FFFFFFF
            power = tl.minimum((size + 0x400000) & 0x7F800000, 0x3F800000)  # three quarters round up; at most 1
            fires = power >= least
            sent = tl.where(fires, power | (bits ^ size), 0)
            a += sent.to(tl.float32, bitcast=True)
            code = 128 - (power >> 23)
            code = tl.where(fires, tl.where(bits < 0, -code, code), 0)
            tl.store(sent_row + offsets, code.to(tl.int8), mask=mask)
        fired += (fires & mask).to(tl.int32)
        arrived_row += places
        sent_row += places
    if z_pointer is not None:
        tl.store(z_pointer + sample * places + offsets, z, mask=mask)
    if a_pointer is not None:
        tl.store(a_pointer + sample * places + offsets, a, mask=mask)
    tl.store(fired_pointer + tl.program_id(0), tl.sum(fired, axis=0))


def scan(
    arrived: Tensor, T: int, neuron: Senders, state: tuple[Tensor | None, Tensor] | None = None,
    bias: Tensor | None = None, added: Tensor | None = None, is_z: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run all T steps of neurons on their input ``arrived``, float32 [N, T_in, P, C].

    Returns codes int8 [N, T, P, C], of graded neurons values float32, and the number of spikes. ``state``: as in
    ../sigma_delta_codes.py. ``bias`` [C] is added at the first step, ``added`` [N, steps, P, C] at every step.
    ``is_z``: ``arrived`` is the sum of all input up to each step, and only a of the state is used.
    """
    N, T_in, P, C = arrived.shape
    sent = torch.empty((N, T, P, C), dtype=neuron.type, device=arrived.device)
    programs = N * triton.cdiv(P * C, BLOCK)
    fired = torch.empty(programs, dtype=torch.int32, device=arrived.device)
    z, a = state or (None, None)
    if sent.numel():  # an empty grid is an error of the driver
        note(SCAN)
        # One program owns BLOCK neighbouring neurons of a sample for all steps.
        launch(
            _sigma_delta_kernel,
            programs,
            results=(sent, fired),
            arrived_pointer=arrived.contiguous(),
            bias_pointer=None if bias is None else bias.float().contiguous(),
            added_pointer=None if added is None else added.contiguous(),
            highest_pointer=neuron.highest.to(arrived.device).contiguous(),
            sent_pointer=sent,
            fired_pointer=fired,
            z_pointer=z,
            a_pointer=a,
            T=T,
            T_in=T_in,
            T_added=0 if added is None else added.shape[1],
            places=P * C,
            channels=C,
            exponents=neuron.exponents,
            lowest=float(neuron.lowest),
            threshold=neuron.threshold or 0.0,
            rounds=1.5 * 2**23 * (neuron.unit or 0.0),
            IS_Z=is_z,
            GRADED=neuron.threshold is not None,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return sent, fired


def values(x: Tensor, fan_out: int, reach: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The values of codes (or of values in float32), [N, steps, P, C] of any strides, made contiguous; and the number
    of weights that are added for them.

    Args:
        fan_out: neurons that each input of a window reaches.
        reach: int32 [P], how many windows contain each pixel; None: 1.
    """
    N, steps, P, C = x.shape
    found = x if x.dtype == torch.float32 and x.is_contiguous() else None
    made = torch.empty(x.shape, dtype=torch.float32, device=x.device) if found is None else found
    programs = triton.cdiv(x.numel(), BLOCK)
    additions = torch.empty(programs, dtype=torch.int64, device=x.device)
    if programs:
        note(VALUES)
        launch(
            _values_kernel,
            programs,
            results=(made if found is None else None, additions),
            x_pointer=x,
            values_pointer=made if found is None else None,
            reach_pointer=reach,
            additions_pointer=additions,
            rows=N * steps * P,
            steps=steps,
            P=P,
            C=C,
            stride_n=x.stride(0),
            stride_t=x.stride(1),
            stride_p=x.stride(2),
            stride_c=x.stride(3),
            fan_out=fan_out,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return made, additions


def sums_so_far(x: Tensor, sent: Tensor | None, T: int | None = None) -> Tensor:
    """The sums of all that was sent up to each of T steps: ../sigma_delta_codes.py."""
    (N, steps, P, C), x = x.shape, x.contiguous()
    T = steps if T is None else T
    sums = torch.empty(N, T, P, C, dtype=torch.float32, device=x.device)
    if sums.numel():
        note(SUMS)
        launch(
            _running_sums_kernel,
            N * triton.cdiv(P * C, BLOCK),
            results=(sums,),
            x_pointer=x,
            sums_pointer=sums,
            sent_pointer=sent,
            T=T,
            T_in=steps,
            places=P * C,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    return sums


def sigma_delta(
    x: Tensor | None, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None, added: Tensor | None, T: int,
    neuron: Senders | None, window: Window, state: State | None = None,
) -> tuple[Tensor, Counts]:  # fmt: skip
    """../sigma_delta_codes.py documents arguments and results."""
    additions: int | Tensor = 0
    given = added if x is None else x
    if x is None:
        assert added is not None
        arrived, added = added, None
    elif weight is None:
        arrived, additions = values(x, 1)
    else:
        arrived, additions = _convolved(x, size, weight, window)
    if neuron is not None:
        sent, spikes = scan(arrived, T, neuron, state, bias, added)
        return sent, Counts(spikes, additions)
    if bias is not None:  # only a convolution has one, and its result is a new tensor
        arrived[:, :1].add_(bias.float())
    if added is not None:
        arrived = definition.padded(arrived, added.shape[1]) + added
    arrived = definition.padded(arrived, T).contiguous()
    return arrived.clone() if arrived is given else arrived, Counts(0, additions)


def _convolved(x: Tensor, size: Pair, weight: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The result of a convolution, [N, steps, P_out, C_out], and the number of weights that are added for it."""
    reach = _reach(size, tuple(weight.shape[2:]), window, x.device)
    dense, additions = values(x, len(weight) // window[3], reach)
    images = dense.flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2)  # channels last in memory
    note(CONVOLUTION)
    with exact(x.device):
        y = definition.convolved(images, weight, window)
    return y.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2]), additions


@lru_cache(256)
def _reach(size: Pair, kernel: tuple[int, ...], window: Window, device: torch.device) -> Tensor:
    """How many windows contain each pixel, int32 [P], on a device. Callers must not modify it."""
    with torch.inference_mode(False):
        return definition.windows_of_pixels(size, kernel, *window[:3]).flatten().int().to(device)


def pooled_sigma_delta(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int, neuron: Senders,
    state: State | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """../sigma_delta_codes.py documents arguments and results; torch pools."""
    z, a = state or (None, None)
    maxima = definition.maxima_of(sums_so_far(x, z), size, size_out, kernel, stride, padding)
    return scan(maxima, T, neuron, None if a is None else (None, a), is_z=True)


def running_maximum(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, state: State | None
) -> Tensor:
    """../sigma_delta_codes.py documents arguments and results."""
    sums = sums_so_far(x, None if state is None else state[0])
    return definition.changes_of(definition.maxima_of(sums, size, size_out, kernel, stride, padding), state)
