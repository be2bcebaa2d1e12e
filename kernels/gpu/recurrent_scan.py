"""Recurrent neurons over all T steps in one launch, on the currents of their input: I[t] = current[t] + R s[t-1].

A program owns one sample, with its neurons' states in registers. What fired in a step is listed in memory, and the next
step adds a row of R, what a neuron sends, for each entry. So the work is in proportion to the spikes, as on a CPU. The
rows of a layer of some hundred neurons stay in the caches. Nothing is shared between programs, so none waits for
another. recurrent_backward.py goes back through the steps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import Neuron
from .neuron_steps import arguments, read_states, write_states

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
def list_channels(condition, channel, list_pointer):
    """Write the channels for which a condition holds, in order, where all threads can read them; returns how many."""
    place = tl.cumsum(condition.to(tl.int32), 0)
    tl.store(list_pointer + place - 1, channel, mask=condition)
    return tl.sum(condition.to(tl.int32), 0)


@triton.jit
def add_rows(list_pointer, count, factor_pointer, weight_pointer, channel, C, BLOCK: tl.constexpr):
    """The sum of the listed rows of a matrix [C, C], in the order of the list.

    ``factor_pointer``: one factor a row, float32 [C], by which the row is multiplied; None: 1.
    """
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, ROWS):
        for k in tl.static_range(ROWS):
            listed = first + k < count
            row = tl.load(list_pointer + first + k, mask=listed, other=0)
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
    list_pointer,  # int32 [samples, 2, BLOCK], of a step and of the step before
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
                # Two lists alternate, since other threads may still read that of the step before. Each is made where it
                # is read: Triton 3.6 and 3.7 take a count that a loop hands on for the one before the loop.
                which_list = 1 - which_list
                count = list_channels(spike, channel, lists + which_list * BLOCK)
                tl.debug_barrier()
                back = add_rows(lists + which_list * BLOCK, count, None, weight_pointer, channel, C, BLOCK)
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
    with torch.cuda.device_of(v):
        _recurrent_scan_kernel[(N,)](
            current_pointer=current,
            v_pointer=start,
            weight_pointer=weight,
            list_pointer=torch.empty(N, 2, block, dtype=torch.int32, device=v.device),
            spikes_pointer=spikes,
            v_last_pointer=last,
            T=T,
            C=C,
            current_stride=current.stride(0) if T > 1 else 0,
            **arguments(neuron),
            FULL=full,
            BLOCK=block,
            num_warps=warps_of(block),
            # Spikes must not depend on a default that differs between Triton releases.
            enable_fp_fusion=False,
        )
    return spikes, last
