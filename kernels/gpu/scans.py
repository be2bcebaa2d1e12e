"""Neurons over all T steps in one launch, on currents that already exist. scans_backward.py goes back through them.

Spikes are written as time-packed words: int32 [ceil(T / 32), N, P, C] for N samples, P pixels and C channels. Bit
``t % 32`` of ``words[t // 32]`` is the spike of step t; the bits of steps that do not exist are 0. Neurons that fire
several times in a step write how often, and those that never fire their potentials: float32 [T, N, P, C]. The equations
are in neuron_steps.py.

Recurrent neurons have the currents of their input: I[t] = current[t] + R s[t-1]. A program owns one sample, with its
neurons' states in registers. What fired in a step is listed in memory, and the next step adds a row of R, what a neuron
sends, for each entry. So the work is in proportion to the spikes, as on a CPU. The rows of a layer of some hundred
neurons stay in the caches. Nothing is shared between programs, so none waits for another.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import Neuron
from .launch import launch
from .neuron_steps import arguments, by_sample, by_state, potential_step, read_states, write_states

# _if_scan_kernel is limited by memory bandwidth: it reads each current once and writes one bit for it. 512
# neurons on 128 threads are 4 per thread: one 16-byte load per step for float32. Compiled for sm_80 and
# sm_90, a thread takes 32 registers (at most 40 at odd sizes), which allows full occupancy. The loads of
# different steps overlap, because currents do not depend on earlier steps. Larger blocks would not load
# wider, and a small layer (32 samples of 1152 neurons: 72 programs) would have even fewer programs.
BLOCK = 512
NUM_WARPS = 4


@triton.jit
def neurons_of_program(neurons, channels, BLOCK: tl.constexpr):
    """A program's first neuron; and the offset from it, the existence and the channel of each of its neurons.

    The 64-bit part of each address is a scalar, so that the offsets in a block have 32 bits.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < neurons - start
    channel = ((start % channels).to(tl.int32) + offsets) % channels
    return start, offsets, mask, channel


# T is not in the specialisation key: otherwise T = 1 and multiples of 16 would be compiled separately.
# The stride and the number of neurons are in it: knowing that they are multiples of 16 allows wide
# loads, and they do not change with T.
@triton.jit(do_not_specialize=["T"])
def _if_scan_kernel(
    current_pointer,  # [T, neurons], float32, float16 or bfloat16; stride current_stride over time
    v_pointer,  # [STATES, neurons] float32, states before the first step
    neuron,  # the neurons' parameters: neuron_steps.py
    spikes_pointer,  # words [ceil(T / 32), neurons] int32, or numbers [T, neurons] float32
    v_last_pointer,  # [STATES, neurons] float32, states after the last step
    T,
    neurons,
    channels,
    current_stride,
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
    NUMBERS: tl.constexpr,  # whether STEP gives what is written: how often a neuron fires, or its potential
    BLOCK: tl.constexpr,
):
    start, offsets, mask, channel = neurons_of_program(neurons, channels, BLOCK)
    loaded = LOAD(neuron, 0, channel, None)
    state = read_states(v_pointer + start, neurons, offsets, mask, STATES)
    current_row = current_pointer + start
    spikes_row = spikes_pointer + start
    for first in range(0, T, 32):
        word = tl.zeros((BLOCK,), tl.int32)
        for bit in range(0, tl.minimum(T - first, 32)):  # the last word may have fewer steps
            current = tl.load(current_row + offsets, mask=mask, other=0.0).to(tl.float32)
            state, fired = STEP(state, current, neuron, loaded)
            if NUMBERS:
                tl.store(spikes_row + offsets, fired, mask=mask)
                spikes_row += neurons
            else:
                word |= (fired >= 0.0).to(tl.int32) << bit
            current_row += current_stride
        if not NUMBERS:
            tl.store(spikes_row + offsets, word, mask=mask)
            spikes_row += neurons
    write_states(v_last_pointer + start, neurons, offsets, state, mask, STATES)


def if_scan(current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None) -> tuple[Tensor, Tensor]:
    """Run all T steps of neurons on given currents in one launch.

    The public function has checked the arguments. T may change from call to call without a
    recompilation, and the launch can be captured in a CUDA graph.

    Args:
        current: currents [T, N, P, C], or a constant current [N, P, C]; float32, float16 or bfloat16.
            A time stride of 0 is not copied, nor is any other if each step is contiguous.
        v: states before the first step, float32 [N, P, C] or [N, states, P, C]; not modified.
        neuron: the neurons' model and parameters, for C channels.
        T: the number of steps of a constant current.

    Returns:
        Words int32 [ceil(T / 32), N, P, C], or of neurons that fire several times in a step float32 [T, N, P, C]; and
        the states after the last step, float32, of the shape of v. All are new and contiguous.
    """
    current = current if T is None else current.expand(T, *current.shape)
    return _scan(current, v, neuron, neuron.counts)


def potentials(current: Tensor, v: Tensor, neuron: Neuron) -> Tensor:
    """The potentials, float32 [T, N, P, C], of leaky neurons that never fire; arguments as of if_scan."""
    return _scan(current, v, neuron, True, STEP=potential_step)[0]


def _scan(current: Tensor, v: Tensor, neuron: Neuron, numbers: bool, **changed: Any) -> tuple[Tensor, Tensor]:
    """if_scan of currents [T, N, P, C]; ``numbers``: whether numbers are written, not words; ``changed``: of what
    neuron_steps.arguments gives."""
    T, N, P, channels = len(current), v.shape[0], *v.shape[-2:]
    neurons, shape = N * P * channels, (T if numbers else triton.cdiv(T, 32), N, P, channels)
    dtype = torch.float32 if numbers else torch.int32
    if T == 0 or v.numel() == 0:  # an empty grid is an error of the driver
        return v.new_zeros(shape, dtype=dtype), v.clone(memory_format=torch.contiguous_format)

    if current.stride(0) == 0:
        # Copying the expanded tensor would write the same current T times.
        current = current[0].contiguous().expand(current.shape)
    elif not current[0].is_contiguous():
        current = current.contiguous()
    v = by_state(v, neuron)
    spikes = torch.empty(shape, dtype=dtype, device=v.device)
    v_last = torch.empty_like(v)

    # One program owns BLOCK neighbouring neurons for all T steps.
    launch(
        _if_scan_kernel,
        triton.cdiv(neurons, BLOCK),
        results=(spikes, v_last),
        current_pointer=current,
        v_pointer=v,
        spikes_pointer=spikes,
        v_last_pointer=v_last,
        T=T,
        neurons=neurons,
        channels=channels,
        # With one step the stride is irrelevant; 0 reuses the kernel of constant currents.
        current_stride=current.stride(0) if T > 1 else 0,
        **arguments(neuron) | changed,
        NUMBERS=numbers,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )
    return spikes, by_sample(v_last, neuron)


MOST_NEURONS = 2048  # of a sample: a program holds all of them; layers with more take the step loop
ROWS = tl.constexpr(8)  # of weights that are loaded before the first is added: a load takes longer than an addition


def block_of(C: int) -> int:
    """The number of neurons that a program computes, C rounded up."""
    return max(32, triton.next_power_of_2(C))


def by_step(x: Tensor) -> Tensor:
    """Values [T, N, 1, C] in which each step is contiguous. A time stride of 0 stays, so that it costs no copy."""
    if x.stride(0) == 0:
        return x[0].contiguous().expand(x.shape)
    return x if x[0].is_contiguous() else x.contiguous()


def warps_of(block: int) -> int:
    """The number of warps: two neurons a thread, up to 8 warps."""
    return min(8, max(1, block // 64))


@triton.jit
def add_rows(condition, lists, which_list, factor_pointer, weight_pointer, channel, C, BLOCK: tl.constexpr):
    """The sum of the rows of a matrix [C, C] whose channels have a condition, in order.

    Args:
        lists: int16 [2, BLOCK], memory for the channels. ``which_list`` of them must alternate from step to step, since
            other threads may still read that of the step before.
        factor_pointer: one factor a row, float32 [C], by which the row is multiplied; None: 1.
    """
    # The list is made where it is read: Triton 3.6 and 3.7 take a count that a loop hands on for the one before the
    # loop.
    list_pointer = lists + which_list * BLOCK
    place = tl.cumsum(condition.to(tl.int32), 0)
    tl.store(list_pointer + place - 1, channel.to(tl.int16), mask=condition)
    count = tl.sum(condition.to(tl.int32), 0)
    tl.debug_barrier()  # until all threads can read it
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, ROWS):
        # Four channels a load; what is behind the list is read, and not used.
        four = list_pointer.to(tl.pointer_type(tl.int64)) + first // 4
        packed = tl.load(four)
        for k in tl.static_range(ROWS):
            if k and k % 4 == 0:
                packed = tl.load(four + k // 4)
            listed = first + k < count
            row = tl.where(listed, ((packed >> 16 * (k % 4)) & 0xFFFF).to(tl.int32), 0)
            columns = tl.where(listed, C, 0)
            values = tl.load(weight_pointer + row.to(tl.int64) * C + channel, mask=channel < columns, other=0.0)
            if factor_pointer is not None:
                values *= tl.load(factor_pointer + row, mask=listed, other=0.0)
            total += values
    return total


@triton.jit(do_not_specialize=["T"])
def _recurrent_scan_kernel(
    current_pointer,  # [T, samples, C]; stride current_stride over time
    v_pointer,  # [samples, STATES + 1, C] float32, states before the first step, and last the spikes before it
    neuron,  # the neurons' parameters: neuron_steps.py
    weight_pointer,  # float32 [C, C], of which row j has what neuron j sends, or [C]
    list_pointer,  # int16 [samples, 2, BLOCK], of a step and of the step before
    spikes_pointer,  # words [ceil(T / 32), samples, C] int32
    v_last_pointer,  # as v_pointer, after the last step
    T,
    C,
    current_stride,
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    mask = channel < C
    loaded = LOAD(neuron, 0, channel, mask)
    first_row = v_pointer + sample * ((STATES + 1) * C)
    state = read_states(first_row, C, channel, mask, STATES)
    spike = tl.load(first_row + STATES * C + channel, mask=mask, other=0.0) != 0.0
    lists = list_pointer + sample * (2 * BLOCK)
    which_list = 0
    own = tl.load(weight_pointer + channel, mask=mask, other=0.0)
    current_row = current_pointer + sample * C
    word_row = spikes_pointer + sample * C
    for first in range(0, T, 32):
        word = tl.zeros((BLOCK,), tl.int32)
        for bit in range(0, tl.minimum(T - first, 32)):
            if FULL:
                which_list = 1 - which_list
                back = add_rows(spike, lists, which_list, None, weight_pointer, channel, C, BLOCK)
            else:
                back = tl.where(spike, own, 0.0)
            current = tl.load(current_row + channel, mask=mask, other=0.0).to(tl.float32)
            state, above_threshold = STEP(state, current + back, neuron, loaded)
            spike = (above_threshold >= 0.0) & mask
            word |= spike.to(tl.int32) << bit
            current_row += current_stride
        tl.store(word_row + channel, word, mask=mask)
        word_row += tl.num_programs(0).to(tl.int64) * C
    last_row = v_last_pointer + sample * ((STATES + 1) * C)
    write_states(last_row, C, channel, state, mask, STATES)
    tl.store(last_row + STATES * C + channel, spike.to(tl.float32), mask=mask)


def recurrent_scan(current: Tensor, v: Tensor, neuron: Neuron, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """Run all T steps of at most MOST_NEURONS recurrent neurons a sample in one launch.

    Args:
        current: [T, N, 1, C], what the input makes. A time stride of 0 costs no copy.
        v: float32 [N, states + 1, 1, C], of which the last are the spikes of the step before; not modified.
        recurrent: [C, C], of which row i has the weights of what neuron i receives, or one value a neuron [C].

    Returns:
        Words int32 [ceil(T / 32), N, 1, C], and the states after the last step.
    """
    T, (N, _, _, C) = len(current), v.shape
    if T == 0 or v.numel() == 0:  # an empty grid is an error of the driver
        words = v.new_zeros((triton.cdiv(T, 32), N, 1, C), dtype=torch.int32)
        return words, v.clone(memory_format=torch.contiguous_format)
    current = by_step(current)
    full = recurrent.ndim == 2
    weight = (recurrent.t() if full else recurrent).detach().float().contiguous()
    start, block = v.float().contiguous(), block_of(C)
    last = torch.empty_like(start)
    spikes = torch.empty(triton.cdiv(T, 32), N, 1, C, dtype=torch.int32, device=v.device)
    launch(
        _recurrent_scan_kernel,
        N,
        results=(spikes, last),
        current_pointer=current,
        v_pointer=start,
        weight_pointer=weight,
        list_pointer=torch.empty(N, 2, block, dtype=torch.int16, device=v.device),
        spikes_pointer=spikes,
        v_last_pointer=last,
        T=T,
        C=C,
        current_stride=current.stride(0) if T > 1 else 0,
        **arguments(neuron),
        FULL=full,
        BLOCK=block,
        num_warps=warps_of(block),
    )
    return spikes, last
